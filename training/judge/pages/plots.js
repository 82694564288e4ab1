// Drawing: plotly in the page's colours, at the page's width, and handles that can be dragged.
"use strict";

const $ = (id) => document.getElementById(id);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const MARGIN = { l: 46, r: 12, t: 8, b: 38 };
const MARKS = { none: "circle", bptt: "triangle-up", ood: "square", qgf: "diamond" };
const DASHES = { none: "solid", bptt: "dash", ood: "dot", qgf: "solid" };

// axis: { title, range, ... } of plotly; `height` in px; `equal`: one unit is as long on both axes.
// Nothing zooms, so that a finger on a figure scrolls the page.
function plot(id, traces, { x, y, height = 260, equal = false, ...rest }) {
  const element = $(id),
    ink = color("ink"),
    line = color("line");
  const axis = (given) => ({
    fixedrange: true,
    gridcolor: line,
    zerolinecolor: line,
    linecolor: line,
    automargin: false,
    ticks: "",
    title: { text: "", standoff: 6 },
    ...given,
    tickfont: { size: 11 },
  });
  const width = element.clientWidth;
  if (!width) return; // nobody sees it
  if (equal) {
    // widen one of the ranges
    const size = [width - MARGIN.l - MARGIN.r, height - MARGIN.t - MARGIN.b],
      spans = [x.range, y.range].map(([a, b]) => b - a);
    const unit = Math.max(spans[0] / size[0], spans[1] / size[1]);
    [x, y] = [x, y].map((given, i) => {
      const more = (unit * size[i] - spans[i]) / 2;
      return { ...given, range: [given.range[0] - more, given.range[1] + more] };
    });
  }
  const layout = {
    width,
    height,
    margin: MARGIN,
    xaxis: axis(x),
    yaxis: axis(y),
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    dragmode: false,
    font: { color: ink, size: 12, family: "system-ui, sans-serif" },
    hovermode: "closest",
    hoverlabel: { bgcolor: color("paper"), font: { color: ink } },
    ...rest,
  };
  Plotly.react(element, traces, layout, { displayModeBar: false, doubleClick: false });
  element.frame = { x: x.range, y: y.range, width, height };
  element.moved?.();
}

// Where (x, y) of the data is in the element [px], and back.
function toPixels(element, [x, y]) {
  const { x: xs, y: ys, width, height } = element.frame;
  return [
    MARGIN.l + ((x - xs[0]) / (xs[1] - xs[0])) * (width - MARGIN.l - MARGIN.r),
    MARGIN.t + ((ys[1] - y) / (ys[1] - ys[0])) * (height - MARGIN.t - MARGIN.b),
  ];
}
function toData(element, event) {
  const box = element.getBoundingClientRect(),
    { x: xs, y: ys, width, height } = element.frame;
  return [
    xs[0] + ((event.clientX - box.left - MARGIN.l) / (width - MARGIN.l - MARGIN.r)) * (xs[1] - xs[0]),
    ys[1] - ((event.clientY - box.top - MARGIN.t) / (height - MARGIN.t - MARGIN.b)) * (ys[1] - ys[0]),
  ];
}

// A round handle on the figure `id`, at place() in data units; move([x, y]) while it is dragged.
// For pointers only: each has a slider beside it for keys and screen readers.
function handle(id, name, label, place, move) {
  const element = $(id),
    knob = document.createElement("div");
  knob.className = "handle";
  knob.id = `${id}-${name}`;
  knob.title = label;
  knob.setAttribute("aria-hidden", "true");
  element.append(knob);
  const previous = element.moved;
  element.moved = () => {
    previous?.();
    const [left, top] = toPixels(element, place());
    knob.style.left = `${left}px`;
    knob.style.top = `${top}px`;
  };
  knob.addEventListener("pointerdown", (event) => {
    knob.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  knob.addEventListener("pointermove", (event) => {
    if (knob.hasPointerCapture(event.pointerId)) move(toData(element, event));
  });
}

// Traces that several figures use.
const line = (x, y, name, style, more = {}) => ({
  type: "scatter",
  mode: "lines",
  x,
  y,
  name,
  line: { width: 2, ...style },
  hoverinfo: "x+y+name",
  ...more,
});
const points = (x, y, name, marker, more = {}) => ({
  type: "scatter",
  mode: "markers",
  x,
  y,
  name,
  marker: { size: 7, ...marker },
  hoverinfo: "x+y+name",
  ...more,
});
// Our own code's numbers: rings around the page's.
const rings = (x, y, way) =>
  points(x, y, "qgf_ros", { symbol: "circle-open", size: 10, color: color(way), line: { width: 1.5 } });
const band = (x0, x1, y0, y1, name, opacity = 0.14) => ({
  type: "rect",
  x0,
  x1,
  y0,
  y1,
  layer: "below",
  line: { width: 0 },
  fillcolor: color(name),
  opacity,
});
// A theme's colour, see-through.
function faint(name, opacity) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(longHex(color(name)).slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}
const longHex = (hex) => (hex.length === 4 ? hex.replace(/[0-9a-f]/gi, "$&$&") : hex);

// The area between two lines.
function between(x, low, high, name, opacity = 0.19) {
  const edge = { mode: "lines", type: "scatter", x, line: { width: 0 }, hoverinfo: "skip" };
  return [
    { ...edge, y: low },
    { ...edge, y: high, fill: "tonexty", fillcolor: faint(name, opacity) },
  ];
}
const mark = (shape) => ({ type: "line", line: { color: color("soft"), width: 1, dash: "dot" }, ...shape });
const spaced = (low, high, count) =>
  Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

// Numbers in text, and rows of a table; cells are HTML.
const short = (x, digits = 4) =>
  x === undefined || x === null
    ? "–"
    : Math.abs(x) >= 1e4
      ? x.toExponential(1)
      : String(+x.toPrecision(digits));
const row = (cells) =>
  `<tr>${cells.map((c, i) => `<td class="${i ? "n" : "word"}">${c}</td>`).join("")}</tr>`;
const head = (cells) =>
  `<tr>${cells.map((c, i) => `<th class="${i ? "n" : "word"}">${c}</th>`).join("")}</tr>`;
