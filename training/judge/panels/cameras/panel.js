// What the cameras saw at the moment of the timeline, and where on it Q and the action hang.
"use strict";

const MAPPED = { q: "spreads of Q", action: "in the action" };
const LEAST = { q: 0.02, action: 0.005 }; // a change that is smaller never gets full colour
const INK = [255, 42, 157]; // red, green, blue: rare in pictures, whatever the page's colours are
const mapShown = () => document.querySelector("input[name=map]:checked")?.value ?? "";

// Half-transparent, a cell a pixel: the page makes it as large as the picture.
function overlay(rows, least) {
  const canvas = document.createElement("canvas"),
    most = Math.max(least, ...rows.flat().map((x) => x ?? 0));
  [canvas.width, canvas.height] = [rows[0].length, rows.length];
  const context = canvas.getContext("2d"),
    pixels = context.createImageData(canvas.width, canvas.height);
  rows.flat().forEach((x, i) => pixels.data.set([...INK, Math.round((210 * (x ?? 0)) / most)], 4 * i));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function drawFrames() {
  const seen = told.cameras.frames[looked.episode][looked.moment],
    which = mapShown();
  $("frames").replaceChildren(
    ...told.cameras.names.map((name) => {
      const { q, action, picture, map } = seen[name],
        figure = document.createElement("figure"),
        view = document.createElement("div"),
        words = document.createElement("figcaption"),
        title = document.createElement("strong");
      view.className = "view";
      if (picture) {
        const image = document.createElement("img");
        image.src = picture;
        image.alt = `what ${name} saw`;
        view.append(image);
      } else view.textContent = told.cameras.said ? "" : "not found again";
      title.textContent = name;
      const lines = [`masked: Q ${q > 0 ? "+" : ""}${fixed(q)} spreads`, `the action moves by ${fixed(action, 3)}`];
      if (which && picture) {
        const rows = map && unpack(map[which]);
        if (rows) view.append(overlay(rows, LEAST[which]));
        const most = rows && Math.max(...rows.flat().map((x) => x ?? 0));
        lines.push(rows ? `full colour: ${fixed(Math.max(most, LEAST[which]), 3)} ${MAPPED[which]}` : "no map here");
      }
      words.append(title, ...lines.flatMap((text) => [document.createElement("br"), text]));
      figure.append(view, words);
      return figure;
    }),
  );
}

// They belong to the moment, and are drawn with it.
const timelineAlone = panels.timeline;
panels.timeline = (now) => {
  timelineAlone(now);
  drawFrames();
};
for (const choice of document.querySelectorAll("input[name=map]"))
  choice.addEventListener("change", drawFrames);
