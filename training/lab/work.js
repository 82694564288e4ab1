// What takes longer than a frame: the curves over beta, the comparison with our own code's numbers.
"use strict";

// Work that would make a slider stick goes on in slices between frames. BPTT, the dear one, is last.
function* countCurves(world, into) {
  for (const way of ["none", "qgf", "ood", "bptt"])
    for (let i = 0; i < betas.length; i++) {
      if (way === "none" && i) {
        into.none.push(into.none[0]);
        continue;
      }
      const ends = [];
      for (const a of world.particles) {
        ends.push(sample(world, a, way === "none" ? 0 : weight(i), way).end);
        if (ends.length % 20 === 0) yield;
      }
      into[way].push(shares(world, ends));
    }
}
const curves = { of: "", now: null, work: null };
function restartCurves() {
  const { flow, T, height, width } = knobs,
    of = JSON.stringify([flow, T, height, width]);
  if (of === curves.of) return;
  const now = Object.fromEntries(ORDER.map((way) => [way, []]));
  Object.assign(curves, { of, now, work: countCurves(worldOf(flow, { height, width }, T), now) });
}

// Every number of ours against the page's, in all of the places where it was computed.
const TOLERANCE = { ends: 1e-6, gradients: 1e-6, stretches: 1e-6, shares: 0.01 };
function* compare(into) {
  for (const [name, flow] of Object.entries(told.flows)) {
    const rows = Object.fromEntries(Object.keys(TOLERANCE).map((what) => [what, { count: 0, worst: 0 }]));
    const hold = (what, page, ours) =>
      ours.forEach((x, i) => {
        const off = Math.abs(page[i] - x);
        rows[what].count += 1;
        rows[what].worst = Math.max(rows[what].worst, off); // a NaN stays
      });
    for (const ours of Object.values(flow.critics)) {
      const world = worldOf(name, ours, STEPS);
      for (const way of ["bptt", "ood", "qgf"]) {
        for (let i = 0; i < betas.length; i++) {
          for (const [n, a] of flow.starts.entries())
            hold("ends", sample(world, a, weight(i), way).end, ours.ends[way][i][n]);
          yield;
        }
        for (let k = 0; k < STEPS; k++)
          flow.sweep.forEach((a, m) =>
            hold("gradients", WAYS[way](world, a, k).gradient, ours.gradients[way][k][m]),
          );
        yield;
      }
      for (const [guard, limits] of [
        ["support", { box: flow.box }],
        ["ratio_cap", { cap: 1 }],
        ["qgf", {}],
      ])
        for (let i = 0; i < betas.length; i++) {
          hold(
            "shares",
            shares(
              world,
              flow.particles.map((a) => sample(world, a, weight(i), "qgf", limits).end),
            ),
            ours.shares[guard][i],
          );
          yield;
        }
    }
    const world = worldOf(name, narrow, STEPS);
    for (const [n, start] of flow.starts.entries()) {
      chain(world, start, 0)
        .slice(0, -1)
        .forEach((a, k) => {
          hold("stretches", stretches(jacobianOfHat(world, a, k / STEPS)), flow.stretch.hat[k][n]);
          hold("stretches", stretches(jacobianOfStep(world, a, k / STEPS)), flow.stretch.one[k][n]);
          hold("stretches", stretches(jacobianOfChain(world, a, k)), flow.stretch.chain[k][n]);
        });
      yield;
    }
    into.push([name, rows]);
  }
}
const MEANING = {
  ends: "where paths end",
  gradients: "gradients along the sweep",
  stretches: "stretches of the maps",
  shares: "shares of 225 starts",
};
function tellAgreement(found) {
  $("agree-table").innerHTML =
    head(["", "numbers", "largest difference", "tolerance", "verdict"]) +
    found
      .flatMap(([name, rows]) =>
        Object.entries(rows).map(([what, { count, worst }]) => {
          const agrees = worst <= TOLERANCE[what];
          return row([
            `${name === "line" ? "1-D" : "2-D"}: ${MEANING[what]}`,
            count,
            worst === 0 ? 0 : worst.toExponential(1),
            TOLERANCE[what] < 1e-4 ? TOLERANCE[what].toExponential(0) : TOLERANCE[what],
            `<span class="verdict ${agrees ? "ok" : "bad"}">${agrees ? "agree" : "differ"}</span>`,
          ]);
        }),
      )
      .join("");
}

const agreement = [],
  comparing = compare(agreement);
let compared = false,
  drawnAt = 0;
function slice() {
  const until = performance.now() + 12;
  while (performance.now() < until) {
    if (curves.work) {
      if (curves.work.next().done) {
        curves.work = null;
        drawnAt = 0;
      }
      if (performance.now() - drawnAt > 300) {
        drawnAt = performance.now();
        ask("beta");
      }
    } else if (!compared) {
      if (comparing.next().done) {
        compared = true;
        tellAgreement(agreement);
      }
    } else break;
  }
  document.documentElement.dataset.busy = String(Boolean(curves.work || !compared || asked.size)); // for tests
  setTimeout(slice, curves.work || !compared ? 0 : 60);
}
