// Where the knobs stand, what follows from it, and the hands on them.
"use strict";

const told = JSON.parse($("document").textContent);
const { betas, steps: STEPS } = told;
const weight = (index) => (betas[index] === null ? 0 : 1 / betas[index]);
const narrow = told.flows.line.critics.narrow;
const knobs = {
  flow: "line",
  index: 6,
  T: STEPS,
  height: narrow.height,
  width: narrow.width,
  k: 5,
  line: [-0.5],
  plane: [1.5, 1.5],
};
const LIMITS = { height: [0, 15, 0.5], width: [0.2, 1.2, 0.05] };

function worldOf(name, critic, T) {
  const flow = told.flows[name];
  return {
    ...flow,
    T,
    sigma: told.sigma,
    near: told.near,
    critic: { ...critic, optimum: flow.optimum, centre: flow.centre },
  };
}
const nameOfCritic = ({ height, width }) =>
  Object.entries(told.flows.line.critics).find(([, c]) => c.height === height && c.width === width)?.[0];
const same = (a, b) => norm(add(a, b, -1)) < 1e-9;
const startNumber = (name) => told.flows[name].starts.findIndex((a) => same(a, knobs[name]));

// Our code's stretches along the path from the picked start; null where it was not asked.
const mapsOf = (name) => {
  const number = startNumber(name);
  return knobs.T === STEPS && number >= 0
    ? (map) => told.flows[name].stretch[map].map((at) => at[number])
    : null;
};

function view() {
  const { flow, index, T, height, width, k } = knobs,
    critic = { height, width },
    name = nameOfCritic(critic);
  const ours = T === STEPS && name ? told.flows[flow].critics[name] : null,
    number = startNumber(flow);
  const world = worldOf(flow, critic, T);
  return {
    world,
    plane: flow === "plane",
    start: knobs[flow],
    w: weight(index),
    index,
    betas,
    k,
    curves: curves.now,
    flat: worldOf("plane", critic, T),
    flatStart: knobs.plane,
    flatMaps: mapsOf("plane"),
    maps: mapsOf(flow),
    sweepAt: (x) => (flow === "plane" ? [x, world.sweep[0][1]] : [x]),
    guards: { qgf: {}, support: { box: world.box }, ratio_cap: { cap: 1 } },
    product: ours && {
      index,
      sweep: world.sweep,
      gradients: (way) => ours.gradients[way],
      shares: (way) => ours.shares[way],
      ends: (way) => (way === "none" ? ours.ends.qgf[0] : ours.ends[way][index])[number],
    },
  };
}

// Turns knobs: `change` has new values for some of them.
function turn(change) {
  for (const [name, [low, high, step]] of Object.entries(LIMITS))
    if (name in change)
      change[name] = +Math.min(high, Math.max(low, Math.round(change[name] / step) * step)).toFixed(4);
  if (change.critic)
    Object.assign(
      change,
      (({ height, width }) => ({ height, width }))(told.flows.line.critics[change.critic]),
    );
  if (change.T) change.k = Math.round((knobs.k / knobs.T) * change.T);
  if (change.start) {
    const { starts } = told.flows[knobs.flow],
      far = (a) => norm(add(a, change.start, -1));
    change[knobs.flow] = starts.reduce((best, a) => (far(a) < far(best) ? a : best));
  }
  for (const name of Object.keys(knobs)) if (name in change) knobs[name] = change[name];
  restartCurves();
  showKnobs();
  document.documentElement.dataset.busy = "true"; // for tests
  askAll();
}

const UNITS = {
  index: () =>
    weight(knobs.index)
      ? `${betas[knobs.index]} (w = ${short(weight(knobs.index))})`
      : "∞ (w = 0: no guidance)",
  height: () => `${knobs.height} (units of Q)`,
  width: () => `${knobs.width} (units of a)`,
  k: () => `${knobs.k} of ${knobs.T} (t = ${short(knobs.k / knobs.T)})`,
};
const VALUES = { x: () => knobs[knobs.flow][0], y: () => knobs.plane[1] };
function showKnobs() {
  for (const input of document.querySelectorAll("[data-knob]")) {
    const name = input.dataset.knob,
      value = VALUES[name]?.() ?? knobs[name];
    if (name === "k") input.max = knobs.T - 1;
    if (name === "x")
      Object.assign(
        input,
        knobs.flow === "line" ? { min: -3, max: 3, step: 0.1 } : { min: -2, max: 2, step: 0.5 },
      );
    if (input.type === "radio") input.checked = input.value === value;
    else input.value = value;
  }
  for (const output of document.querySelectorAll("[data-shows]")) {
    const name = output.dataset.shows;
    output.textContent = UNITS[name]?.() ?? short(VALUES[name]?.() ?? knobs[name]);
  }
  for (const element of document.querySelectorAll("[data-only]"))
    element.hidden = element.dataset.only !== knobs.flow;
  const { critic, T } = worldOf(knobs.flow, knobs, knobs.T);
  const limit = (a) => {
    const bend = curvature(critic, a);
    return bend > 0 ? `above beta = ${short(bend / (2 * T), 2)}` : "at any beta";
  };
  $("stable-said").textContent =
    `Guidance in ${T} steps settles at the best peak ${limit(critic.optimum)}` +
    (critic.height > 0
      ? `, on top of the false one ${limit(critic.centre)}; below it jumps to and fro.`
      : "; below it jumps to and fro.");
}

document.addEventListener("input", ({ target }) => {
  const name = target.dataset.knob;
  if (!name) return;
  const value = name === "flow" ? target.value : Number(target.value);
  if (name === "x" || name === "y")
    turn({
      start:
        knobs.flow === "line" ? [value] : name === "x" ? [value, knobs.plane[1]] : [knobs.plane[0], value],
    });
  else turn({ [name]: value });
});
document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-set]");
  if (button) turn(JSON.parse(button.dataset.set));
});
for (const way of ORDER)
  $(`path-${way}`).addEventListener("click", (event) => {
    const at = toData($(`path-${way}`), event);
    turn({ start: knobs.flow === "line" ? [at[1]] : at });
  });
const base = () => {
  const { critic } = worldOf(knobs.flow, knobs, STEPS);
  return profile({ critic });
};
handle(
  "critic-profile",
  "top",
  "drag: height",
  () => {
    const p = base();
    return [p.zero + p.far, knobs.height - p.far ** 2];
  },
  ([, y]) => turn({ height: y + base().far ** 2 }),
);
handle(
  "critic-profile",
  "side",
  "drag: width",
  () => {
    const p = base(),
      s = p.far + knobs.width;
    return [p.zero + s, knobs.height * Math.exp(-0.5) - s ** 2];
  },
  ([x]) => turn({ width: x - base().zero - base().far }),
);

restartCurves();
showKnobs();
slice();
