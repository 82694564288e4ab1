// The panels that say why, and what the guard changes; `view` as in panels_ask.js.
"use strict";

Object.assign(panels, {
  // 4. Why BPTT's gradient jumps: it follows where the chain ends.
  jumps({ world, plane: isPlane, k, sweepAt, product }) {
    const x = spaced(-3, 3, 301),
      at = x.map(sweepAt),
      t = k / world.T;
    const ends = at.map((a) => chain(world, a, k).at(-1)),
      hats = at.map((a) => denoised(world, a, t));
    const title = { text: isPlane ? `a_t along x, at y = ${sweepAt(0)[1]}` : "a_t", standoff: 6 };
    plot(
      "jumps-ends",
      [
        line(x, axisOf(ends), "end of the chain: BPTT asks here", {
          color: color("bptt"),
          dash: DASHES.bptt,
        }),
        line(x, x, "a_t: OOD asks here", { color: color("ood"), dash: DASHES.ood }),
        line(x, axisOf(hats), "a_hat: QGF asks here", { color: color("qgf") }),
      ],
      {
        x: { range: [-3, 3], title },
        y: { range: [-3, 3.4], title: { text: isPlane ? "asked at, x" : "asked at", standoff: 4 } },
        height: 250,
      },
    );
    const traces = ["bptt", "ood", "qgf"].flatMap((way) => {
      const drawn = [
        line(
          x,
          at.map((a) => WAYS[way](world, a, k).gradient[0]),
          LABELS[way],
          { color: color(way), dash: DASHES[way] },
        ),
      ];
      return product
        ? [...drawn, rings(axisOf(product.sweep), axisOf(product.gradients(way)[k]), way)]
        : drawn;
    });
    plot("jumps-gradient", traces, {
      x: { range: [-3, 3], title },
      y: { range: [-26, 26], title: { text: isPlane ? "gradient, x" : "gradient", standoff: 4 } },
      height: 250,
    });
    const steepest = x.reduce(
      (best, _, i) =>
        i && Math.abs(ends[i][0] - ends[i - 1][0]) > Math.abs(ends[best][0] - ends[best - 1][0]) ? i : best,
      1,
    );
    const ratio = Math.abs(ends[steepest][0] - ends[steepest - 1][0]) / (x[1] - x[0]);
    $("jumps-said").textContent =
      `At t = ${short(t)} the end of the chain moves up to ${short(ratio)} times as far as a_t does.`;
  },

  // 5. What a Jacobian does to a circle; always in the plane.
  circle({ flat, k, flatStart, flatMaps }) {
    const a = chain(flat, flatStart, 0)[k],
      J = { qgf: identity(2), hat: jacobianOfHat(flat, a, k / flat.T), chain: jacobianOfChain(flat, a, k) };
    const turn = spaced(0, 2 * Math.PI, 73).map((angle) => [Math.cos(angle), Math.sin(angle)]);
    const drawn = [
      ["qgf", "QGF: J = I", "qgf", "solid"],
      ["hat", "one step to a_hat", "green", "dot"],
      ["chain", "BPTT: the whole chain", "bptt", "dash"],
    ];
    const traces = drawn.map(([name, label, ink, dash]) => {
      const image = turn.map((u) => apply(J[name], u));
      return line(axisOf(image), axisOf(image, 1), label, { color: color(ink), dash, width: 2.5 });
    });
    const most = Math.max(1.25, 1.1 * stretches(J.hat)[0], 1.1 * stretches(J.chain)[0]);
    plot("circle-shape", traces, {
      x: { range: [-most, most] },
      y: { range: [-most, most] },
      height: 300,
      equal: true,
    });
    const { contours, shapes } = plane(flat),
      r = 0.25,
      ring = turn.map((u) => add(a, u, r));
    const ends = ring.map((u) => chain(flat, u, k).at(-1)),
      hats = ring.map((u) => denoised(flat, u, k / flat.T));
    plot(
      "circle-map",
      [
        contours,
        line(axisOf(ring), axisOf(ring, 1), "a_t and around it", { color: color("qgf") }),
        line(
          axisOf(hats),
          axisOf(hats, 1),
          "their a_hat",
          { color: color("green"), dash: "dot" },
          { mode: "lines+markers", marker: { size: 4 } },
        ),
        line(
          axisOf(ends),
          axisOf(ends, 1),
          "their ends",
          { color: color("bptt"), dash: "dash" },
          { mode: "lines+markers", marker: { size: 4 } },
        ),
      ],
      { ...PLANE, shapes },
    );
    const rows = [
      ["QGF: J = I", [1, 1], null],
      ["one step to a_hat", stretches(J.hat), "hat"],
      ["BPTT: the whole chain", stretches(J.chain), "chain"],
    ];
    $("circle-table").innerHTML =
      head(["", "long axis", "short axis", "long, qgf_ros", "short, qgf_ros"]) +
      rows
        .map(([label, s, name]) =>
          row([
            label,
            ...s.map((x) => short(x)),
            ...(name && flatMaps ? flatMaps(name)[k].map((x) => short(x)) : ["–", "–"]),
          ]),
        )
        .join("");
  },

  // 6. How amplification multiplies along the chain.
  chain({ world, start, maps }) {
    const path = chain(world, start, 0),
      T = world.T,
      k = spaced(0, T - 1, T),
      t = k.map((i) => i / T);
    const one = k.map((i) => stretches(jacobianOfStep(world, path[i], i / T))[0]);
    const all = k.map((i) => stretches(jacobianOfChain(world, path[i], i))[0]);
    const log = (list) => list.map((x) => Math.log10(Math.max(x, 1e-4))),
      hover = { hoverinfo: "text+name", hovertext: all.map((x) => short(x)) };
    const traces = [
      {
        type: "bar",
        x: t,
        y: log(one),
        name: "this step",
        marker: { color: color("none") },
        width: 0.6 / T,
        ...hover,
        hovertext: one.map((x) => short(x)),
      },
      line(
        t,
        log(all),
        "this step to the end",
        { color: color("bptt"), dash: DASHES.bptt },
        { mode: "lines+markers", marker: { symbol: MARKS.bptt, size: 7 }, ...hover },
      ),
      line([-0.05, 1], [0, 0], "QGF: J = I", { color: color("qgf") }, { hoverinfo: "name" }),
    ];
    if (maps)
      traces.push(
        rings(t, log(maps("chain").map((s) => s[0])), "bptt"),
        rings(t, log(maps("one").map((s) => s[0])), "none"),
      );
    plot("chain-factors", traces, {
      x: { range: [-0.05, 1], title: { text: "flow time t", standoff: 6 } },
      y: {
        range: [-3, 1.7],
        tickvals: [-3, -2, -1, 0, 1],
        ticktext: ["0.001", "0.01", "0.1", "1", "10"],
        title: { text: "longest stretch", standoff: 4 },
      },
      height: 280,
    });
    const most = all.indexOf(Math.max(...all));
    $("chain-said").textContent =
      `Here BPTT multiplies its gradient by ${short(all[0])} at t = 0 and by up to ${short(all[most])} at t = ${short(t[most])}.`;
  },

  // 7. What the support guard changes.
  guard({ world, plane: isPlane, w, guards, product }) {
    const p = profile(world),
      x = spaced(p.zero - 3, p.zero + 3, 241),
      hats = x.map(p.at);
    const along = (gradient) => dot(gradient, p.along),
      g = hats.map((a) => gradientOfQ(world.critic, a));
    const kept = g.map((value, i) => guarded(value, hats[i], value, 1, guards.support));
    const high = Math.max(8, ...g.map((v) => Math.abs(along(v)))) * 1.1;
    plot(
      "guard-gradient",
      [
        line(x, g.map(along), "gradient of Q", { color: color("none"), width: 2 }),
        line(x, kept.map(along), "what the guard lets through", { color: color("green"), width: 2.5 }),
      ],
      {
        x: {
          range: [x[0], x.at(-1)],
          title: { text: isPlane ? "a_hat along that line" : "a_hat", standoff: 6 },
        },
        y: { range: [-high, high], title: { text: "gradient", standoff: 4 } },
        height: 270,
        shapes: [mark({ x0: p.zero, x1: p.zero, y0: -high, y1: high })],
      },
    );
    const names = ["qgf", "support", "ratio_cap"],
      labels = ["QGF", "QGF, support guard", "QGF, ratio cap 1"];
    const counted = names.map((name) =>
      shares(
        world,
        world.particles.map((a) => sample(world, a, w, "qgf", guards[name]).end),
      ),
    );
    const ours = product ? names.map((name) => product.shares(name)[product.index]) : null;
    const bars = (which, label, ink, offset) => [
      {
        type: "bar",
        x: [0, 1, 2].map((i) => i + offset),
        y: counted.map((s) => 100 * s[which]),
        width: 0.34,
        name: label,
        marker: { color: color(ink) },
        hoverinfo: "y+name",
      },
      ...(ours
        ? [
            rings(
              [0, 1, 2].map((i) => i + offset),
              ours.map((s) => 100 * s[which]),
              "ink",
            ),
          ]
        : []),
    ];
    plot("guard-shares", [...bars(0, "at the best peak", "qgf", -0.19), ...bars(1, "fooled", "bump", 0.19)], {
      x: { range: [-0.5, 2.5], tickvals: [0, 1, 2], ticktext: ["no guard", "support", "ratio cap 1"] },
      y: { range: [0, 108], title: { text: "% of starts", standoff: 4 } },
      height: 270,
    });
    $("guard-table").innerHTML =
      head(["", "best peak, page", "qgf_ros", "fooled, page", "qgf_ros"]) +
      names
        .map((_, i) =>
          row([
            labels[i],
            ...[0, 1].flatMap((which) => [short(counted[i][which]), ours ? short(ours[i][which]) : "–"]),
          ]),
        )
        .join("");
  },
});
