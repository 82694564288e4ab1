// The 2-D testbed seen from above.
"use strict";

// The plane: Q as contours, the peaks of the data as discs, the data's range as a box, the false peak.
const PLANE = { x: { range: [-3.1, 4.4] }, y: { range: [-2.6, 3.4] }, height: 320, equal: true };
function plane(world) {
  const ink = color("soft"),
    { centre, width, height } = world.critic,
    { low, high } = world.box;
  const x = spaced(-7, 8, 76),
    y = spaced(-7, 8, 76);
  const contours = {
    type: "contour",
    x,
    y,
    z: y.map((v) => x.map((u) => Q(world.critic, [u, v]))),
    showscale: false,
    hoverinfo: "skip",
    contours: { coloring: "lines", start: -14, end: 14, size: 2 },
    line: { width: 1 },
    opacity: 0.45,
    colorscale: [
      [0, ink],
      [1, ink],
    ],
  };
  const disc = ([cx, cy], r, name, opacity) => ({
    ...band(cx - r, cx + r, cy - r, cy + r, name, opacity),
    type: "circle",
  });
  const shapes = [
    ...world.means.map((mean) => disc(mean, 2 * world.sigma, "none", 0.45)),
    {
      type: "rect",
      x0: low[0],
      x1: high[0],
      y0: low[1],
      y1: high[1],
      layer: "below",
      line: { color: ink, width: 1, dash: "dot" },
    },
    ...(height > 0 ? [disc(centre, width, "bump", 0.3)] : []),
  ];
  return { contours, shapes };
}
