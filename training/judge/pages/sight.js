// Which panel is drawn when: in sight at once, out of sight as soon as it comes in. A panel is
// `panels.name = (now) => ...` and stands in the element [data-panel=name]; `now` is what the page's
// view() gives.
"use strict";

const panels = {};
const asked = new Set(),
  waiting = new Set(),
  inSight = new Set();
function ask(...names) {
  for (const name of names) (inSight.has(name) ? asked : waiting).add(name);
  if (asked.size) requestAnimationFrame(draw);
}
function draw() {
  if (!asked.size) return;
  const now = view();
  for (const name of asked) panels[name](now);
  asked.clear();
}
const askAll = () => ask(...Object.keys(panels));
function drawAll() {
  Object.keys(panels).forEach((name) => {
    waiting.delete(name);
    asked.add(name);
  });
  draw();
}

const sight = new IntersectionObserver(
  (entries) =>
    entries.forEach(({ target, isIntersecting }) => {
      const name = target.dataset.panel;
      if (!isIntersecting) {
        inSight.delete(name);
        return;
      }
      inSight.add(name);
      if (waiting.delete(name)) ask(name);
    }),
  { rootMargin: "200px" },
);
for (const panel of document.querySelectorAll("[data-panel]")) {
  waiting.add(panel.dataset.panel);
  sight.observe(panel);
}

// All anew for another width, other colours, and paper.
let wide = document.body.clientWidth;
addEventListener("resize", () => {
  if (document.body.clientWidth === wide) return;
  wide = document.body.clientWidth;
  askAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", askAll);
addEventListener("beforeprint", () => {
  document.documentElement.classList.add("paper");
  drawAll();
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("paper");
  askAll();
});
