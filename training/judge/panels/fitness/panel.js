// Panel 1: is this critic fit to guide?
"use strict";

const ROOMY = { ...MARGIN, l: 58 }; // for numbers of two decimals beside a title

panels.fitness = () => {
  const { preference, calibration, progress, climb } = told.fitness.figures;
  if ($("fitness-preference")) binned("fitness-preference", preference, "preference of Q", "what followed");
  if ($("fitness-calibration")) binned("fitness-calibration", calibration, "Q", "return that followed");
  if ($("fitness-progress")) alongEpisodes(progress);
  if ($("fitness-climb")) climbed(climb);
};

function binned(id, bins, x, y) {
  const xs = bins.map((b) => b.q),
    ys = bins.map((b) => b.to_go),
    ends = [Math.min(...xs), Math.max(...xs)];
  const style = { mode: "lines+markers", marker: { size: 7 }, hoverinfo: "x+y" };
  plot(
    id,
    [
      line(ends, ends, "", { color: color("soft"), width: 1, dash: "dot" }, { hoverinfo: "skip" }),
      line(xs, ys, "", { color: color("qgf") }, style),
    ],
    { x: { title: { text: x } }, y: { title: { text: y } }, margin: ROOMY },
  );
}

function alongEpisodes(rows) {
  const traces = [];
  for (const [outcome, name, label, dash] of [
    ["won", "green", "succeeded", "solid"],
    ["lost", "bptt", "did not", "dash"],
  ]) {
    const there = rows.filter((r) => r[outcome]),
      x = there.map((r) => r.share),
      of = (what) => there.map((r) => r[outcome][what]);
    traces.push(...between(x, of("low"), of("high"), name));
    traces.push(line(x, of("mean"), label, { color: color(name), dash }));
  }
  plot("fitness-progress", traces, {
    x: { title: { text: "share of the episode" }, range: [0, 1] },
    y: { title: { text: "Q" } },
    margin: ROOMY,
  });
}

function climbed(rows) {
  const x = rows.map((r) => r.stride);
  const of = (what) => rows.map((r) => r.q[what]);
  plot(
    "fitness-climb",
    [
      ...between(x, of("low"), of("high"), "bump"),
      line(x, of("mean"), "Q", { color: color("bump") }, { mode: "lines+markers", marker: { size: 6 } }),
    ],
    {
      x: { title: { text: "climbed, in radii of the data" } },
      y: { title: { text: "Q less the best nearby" } },
      margin: ROOMY,
      shapes: [mark({ xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0 })],
    },
  );
}
