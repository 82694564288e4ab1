// Figures of `qgf data inspect`: one row for each name, the first on top.
"use strict";

const told = JSON.parse($("document").textContent);
const view = () => null;
const SIDE = { ...MARGIN, l: 190, b: 44 }; // for names
const brief = (name) => (name.length > 28 ? `${name.slice(0, 27)}…` : name);

// Lines from (x0, y) to (x1, y), or upright; null parts them.
const dashes = (pairs, style, upright = false) => {
  const [along, across] = [pairs.flatMap(([at, a, b]) => [a, b, null]), pairs.flatMap(([at]) => [at, at, null])];
  return line(upright ? across : along, upright ? along : across, "", style, { hoverinfo: upright ? "y" : "x" });
};
const dots = (pairs, symbol, name, size = 8) =>
  points(pairs.map(([, x]) => x), pairs.map(([at]) => at), "", { symbol, color: color(name), size, line: { width: 2, color: color(name) } }, { hoverinfo: "x" });

function named(id, { rows }, traces, x) {
  const ticks = rows.map((_, at) => at);
  plot(id, traces, {
    x,
    y: {
      range: [rows.length - 0.4, -0.6],
      tickvals: ticks,
      ticktext: rows.map(({ name }) => brief(name).replace(/[<&]/g, (c) => (c === "<" ? "&lt;" : "&amp;"))),
    },
    height: 70 + 24 * rows.length,
    margin: SIDE,
  });
}
// 1, 2, 5 of each power of ten.
const TENTHS = spaced(-3, 6, 10).flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
const each = (rows, of) => rows.map((row, at) => [at, ...of(row)]);

const KINDS = {
  recordings(id, { rows, gaps }) {
    const width = Math.max(1, Math.min(8, 560 / Math.max(1, rows.length)));
    const traces = [
      dashes(rows.map((seconds, at) => [at, 0, seconds]), { color: color("qgf"), width }, true),
      dashes(gaps, { color: color("bptt"), width: width + 1 }, true),
    ];
    const most = Math.max(...rows, ...gaps.map(([, , end]) => end), 0);
    plot(id, traces, {
      x: { title: { text: "recording" }, range: [-1, rows.length], tick0: 0, dtick: Math.ceil(rows.length / 20) || 1 },
      y: { title: { text: "s" }, range: [0, 1.05 * most || 1] },
    });
  },
  intervals(id, figure) {
    const { rows } = figure;
    const there = rows.map(({ gap }, at) => [at, gap]).filter(([, gap]) => gap !== null);
    const traces = [
      dashes(each(rows, (r) => [r.median, r.p99]), { color: color("qgf") }),
      dots(each(rows, (r) => [r.median]), "circle", "qgf"),
      dots(each(rows, (r) => [r.p99]), "line-ns", "qgf"),
      dots(there, "x-thin", "bptt"),
    ];
    named(id, figure, traces, { title: { text: "ms" }, type: "log", tickvals: TENTHS });
  },
  leads(id, figure) {
    const { rows } = figure;
    const bars = {
      type: "bar",
      orientation: "h",
      x: rows.map((r) => r.lead),
      y: rows.map((_, at) => at),
      marker: { color: rows.map((r) => color(r.clear ? "qgf" : "none")) },
      width: 0.6,
      hoverinfo: "x",
    };
    const quartiles = rows.map((r, at) => [at, ...r.quartiles]).filter(([, low]) => low !== null);
    named(id, figure, [bars, dashes(quartiles, { color: color("ink"), width: 1.4 })], {
      title: { text: "ms; positive: the command comes first" },
    });
  },
  ranges(id, figure) {
    const { rows } = figure;
    const traces = [
      dashes(each(rows, ({ quantiles: [low, , , , high] }) => [low, high]), { color: color("qgf"), width: 1.5 }),
      dashes(each(rows, ({ quantiles: [, quarter, , three] }) => [quarter, three]), { color: color("qgf"), width: 11 }),
      dots(each(rows, ({ quantiles: [, , middle] }) => [middle]), "line-ns", "ink"),
      dots(rows.flatMap(({ ends }, at) => ends.map((x) => [at, x])), "circle", "bptt", 4),
    ];
    named(id, figure, traces, { title: { text: figure.unit.replace(/</g, "&lt;") } });
  },
};

told.figures.forEach((figure, i) => (panels[`f${i}`] = () => KINDS[figure.kind](`figure-${i}`, figure)));
askAll();
