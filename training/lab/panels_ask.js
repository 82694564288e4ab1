// What the first panels draw. `view` is where the knobs stand: see knobs.js, which makes it.
"use strict";

const LABELS = { none: "none", bptt: "BPTT", ood: "OOD", qgf: "QGF" };
const ORDER = ["none", "bptt", "ood", "qgf"];
const axisOf = (points, d = 0) => points.map((a) => a[d]);
const point = (a) => (a ? (a.length === 1 ? short(a[0]) : `(${a.map((x) => short(x, 3)).join(", ")})`) : "–");

// The straight line from the best peak to the false one: its points by their distance from the peak
// (on the 1-D testbed by the action itself).
function profile(world) {
  const { optimum, centre } = world.critic,
    far = norm(add(centre, optimum, -1));
  const along = add(centre, optimum, -1).map((x) => x / far),
    zero = optimum.length === 1 ? optimum[0] : 0;
  return { zero, far, along, at: (p) => add(optimum, along, p - zero) };
}

Object.assign(panels, {
  // 1. The data, and a critic that is wrong where there is none.
  critic({ world, plane: isPlane }) {
    const p = profile(world),
      range = [p.zero - 4.2, p.zero + 3.6],
      x = spaced(...range, 300),
      { critic } = world;
    const density = x.map((s) => Math.exp(logDensity(world, p.at(s), 0))),
      top = p.zero + p.far;
    const peaks = line(
      x,
      density.map((d) => -9 + 6 * d),
      "data",
      { color: color("none"), width: 1 },
      { fill: "toself", fillcolor: color("none"), opacity: 0.5, hoverinfo: "skip" },
    );
    const outside = isPlane
      ? []
      : [
          band(range[0], world.box.low[0], -9, 17, "none", 0.1),
          band(world.box.high[0], range[1], -9, 17, "none", 0.1),
        ];
    plot(
      "critic-profile",
      [
        peaks,
        line(
          x,
          x.map((s) => Q(critic, p.at(s))),
          "Q",
          { color: color("bump"), width: 2.5 },
        ),
      ],
      {
        x: {
          range,
          title: { text: isPlane ? "from the best peak to the false one" : "action a", standoff: 6 },
        },
        y: { range: [-9, 17], title: { text: "Q", standoff: 4 } },
        height: 320,
        shapes: [
          ...outside,
          mark({ x0: p.zero, x1: p.zero, y0: -9, y1: Q(critic, critic.optimum) }),
          mark({ x0: top, x1: top, y0: -9, y1: Q(critic, critic.centre) }),
        ],
      },
    );
    if (isPlane) {
      const { contours, shapes } = plane(world);
      plot("critic-map", [contours], { ...PLANE, shapes });
    }
  },

  // 2. Four ways of asking, one path each, from the same noise.
  paths({ world, plane: isPlane, start, w, product }) {
    const T = world.T,
      rows = [["", "ends at, page", "ends at, qgf_ros", "Q there", "which is", "flow passes"]];
    const drawn = ORDER.map((way) => [way, sample(world, start, w, way)]);
    const far = Math.max(4.6, ...drawn.flatMap(([, { path }]) => path.map((a) => Math.min(12, a[0] + 0.3))));
    for (const [way, { path, asked, end }] of drawn) {
      const ink = color(way);
      const xy = (list, from) =>
        isPlane ? [axisOf(list), axisOf(list, 1)] : [list.map((_, k) => (k + from) / T), axisOf(list)];
      const links = [[], []]; // from a_t to where the critic is asked about it
      asked.forEach((at, k) => {
        links[0].push(...(isPlane ? [path[k][0], at[0]] : [k / T, k / T]), null);
        links[1].push(...(isPlane ? [path[k][1], at[1]] : [path[k][0], at[0]]), null);
      });
      const traces = [
        line(...links, "", { color: ink, width: 1 }, { hoverinfo: "skip", opacity: 0.5 }),
        line(
          ...xy(path, 0),
          `a_t, ${LABELS[way]}`,
          { color: color("ink"), width: 2 },
          { mode: "lines+markers", marker: { size: 4 } },
        ),
        points(...xy(asked, 0), "asked here", { symbol: MARKS[way], color: ink, size: 8 }),
      ];
      if (isPlane) {
        const { contours, shapes } = plane(world);
        plot(`path-${way}`, [contours, ...traces], { ...PLANE, shapes });
      } else {
        const peaks = world.means.map(([m]) =>
          band(0, 1.02, m - 2 * world.sigma, m + 2 * world.sigma, "none", 0.3),
        );
        const bump =
          world.critic.height > 0
            ? [band(0, 1.02, 3 - world.critic.width, 3 + world.critic.width, "bump", 0.25)]
            : [];
        plot(`path-${way}`, traces, {
          x: { range: [-0.03, 1.05], title: { text: "flow time t: noise to action", standoff: 6 } },
          y: { range: [-3.6, far], title: { text: "a", standoff: 4 } },
          height: 240,
          shapes: [...peaks, ...bump],
        });
      }
      const passes = w > 0 && way === "bptt" ? (T * (T + 1)) / 2 : T;
      rows.push([
        LABELS[way],
        point(end),
        point(product?.ends(way)),
        short(Q(world.critic, end)),
        fooled(world, end) ? "fooled" : found(world, end) ? "best peak" : "elsewhere",
        passes > T ? `${passes} + ${passes} back` : passes,
      ]);
    }
    $("path-table").innerHTML = head(rows[0]) + rows.slice(1).map(row).join("");
  },

  // 3. What beta does: to one way's samples, and to all ways' shares.
  beta({ world, plane: isPlane, w, index, betas, curves, product }) {
    const ends = world.particles.map((a) => sample(world, a, w, "qgf").end),
      [near, lost] = shares(world, ends);
    $("beta-said").textContent =
      `QGF, ${ends.length} starts: ${Math.round(near * 100)} % at the best peak, ${Math.round(lost * 100)} % fooled.`;
    if (isPlane) {
      const { contours, shapes } = plane(world);
      plot(
        "beta-ends",
        [
          contours,
          points(
            axisOf(ends),
            axisOf(ends, 1),
            "end",
            { color: color("qgf"), size: 4, opacity: 0.6 },
            { hoverinfo: "skip" },
          ),
        ],
        { ...PLANE, shapes },
      );
    } else {
      const x = spaced(-3.5, 5, 851),
        normal = (weight) => {
          const logs = x.map((a) => logDensity(world, [a], weight)),
            top = Math.max(...logs),
            total = logs.reduce((s, l) => s + Math.exp(l - top), 0) / 100;
          return logs.map((l) => Math.exp(l - top) / total);
        };
      const size = 0.125,
        bins = { start: -3.5, end: 5, size },
        tall = {};
      for (const [a] of ends)
        tall[Math.floor(a / size)] = (tall[Math.floor(a / size)] ?? 0) + 1 / (ends.length * size);
      const most = Math.max(2, ...Object.values(tall), ...normal(w)) * 1.05;
      plot(
        "beta-ends",
        [
          {
            type: "histogram",
            x: axisOf(ends),
            xbins: bins,
            histnorm: "probability density",
            marker: { color: color("qgf") },
            opacity: 0.55,
            name: "QGF",
            hoverinfo: "skip",
          },
          line(x, normal(0), "data", { color: color("none"), width: 2 }),
          line(x, normal(w), "aim: data x exp(Q / beta)", { color: color("ink"), width: 1.5, dash: "dash" }),
        ],
        {
          x: { range: [-3.5, 5], title: { text: "action a, where the sampler ends", standoff: 6 } },
          y: { range: [0, most], title: { text: "density", standoff: 4 } },
          height: 280,
          bargap: 0,
          shapes: [
            band(
              3 - world.critic.width,
              3 + world.critic.width,
              0,
              most,
              "bump",
              world.critic.height > 0 ? 0.25 : 0,
            ),
          ],
        },
      );
    }
    ["near", "fooled"].forEach((name, which) => {
      const traces = ORDER.flatMap((way) => {
        const x = curves[way].map((_, i) => i),
          style = { color: color(way), dash: DASHES[way] };
        const drawn = [
          line(
            x,
            curves[way].map((s) => 100 * s[which]),
            LABELS[way],
            style,
            { mode: "lines+markers", marker: { symbol: MARKS[way], size: 5 } },
          ),
        ];
        return product && way !== "none"
          ? [
              ...drawn,
              rings(
                x,
                x.map((i) => 100 * product.shares(way)[i][which]),
                way,
              ),
            ]
          : drawn;
      });
      plot(`beta-${name}`, traces, {
        x: {
          range: [-0.5, betas.length - 0.5],
          tickvals: betas.map((_, i) => i),
          ticktext: betas.map((b) => (b === null ? "∞" : String(b))),
          tickangle: -60,
          title: { text: "beta: gentle to hard", standoff: 4 },
        },
        y: { range: [-4, 104], title: { text: "% of starts", standoff: 4 } },
        height: 250,
        margin: { ...MARGIN, b: 62 },
        shapes: [mark({ x0: index, x1: index, y0: -4, y1: 104 })],
      });
    });
  },
});
