// Panel 2: what each beta gains and costs.
"use strict";

let along = "beta"; // or ratio

panels.sweep = () => {
  const { betas, groups, policy, stable, absent } = told.sweep;
  if (absent) return;
  // Harder guidance lies to the right: x is -log10 beta, or log10 of the guidance ratio measured.
  const xs = (rows) => rows.map((r) => (along === "beta" ? -Math.log10(r.beta) : Math.log10(r.ratio.mean)));
  const guided = (group) => groups[group].rows.filter((r) => r.beta !== "inf" && (along === "beta" || r.ratio.mean > 0));
  const select = guided("select"),
    report = guided("report"),
    x = xs(select);
  const at = (beta) => {
    const order = select.map((r, i) => [-Math.log10(r.beta), x[i]]);
    return interpolated(order, -Math.log10(beta));
  };
  const range = [Math.min(...x) - 0.05, Math.max(...x) + 0.05];
  const ticks = [-4, -3, -2, -1, 0, 1, 2].flatMap((d) => [1, 3].map((m) => m * 10 ** d));
  const axis = {
    title: { text: along === "beta" ? "beta (smaller guides harder)" : "guidance ratio" },
    range,
    tickvals: ticks.map((t) => (along === "beta" ? -1 : 1) * Math.log10(t)),
    ticktext: ticks.map((t) => String(Number(t.toPrecision(1)))),
  };
  const upright = (beta, name, style) =>
    mark({ yref: "paper", x0: at(beta), x1: at(beta), y0: 0, y1: 1, line: { color: color(name), width: 1.5, ...style } });
  const shapes = [
    { ...band(at(policy.floor), range[1], 0, 1, "soft", 0.14), yref: "paper" },
    ...policy.suggested.map((b) => upright(b, "green", { width: b === policy.default ? 3 : 1.5 })),
    ...(stable.beta > 0 ? [upright(stable.beta, "bptt", { dash: "dash" })] : []),
  ];
  const level = (y) => mark({ xref: "paper", x0: 0, x1: 1, y0: y, y1: y });
  const { radius, median } = groups.select;
  const none = groups.select.rows[0];
  const titles = { gain: "Q gain", beyond: "share beyond", distance: "distance", jerk: "jerk ratio" };
  const more = { distance: [level(radius), level(median)], gain: [level(0)] };
  for (const what of Object.keys(titles)) {
    const of = (rows, end) => rows.map((r) => r[what][end]);
    plot(
      `sweep-${what}`,
      [
        ...between(x, of(select, "low"), of(select, "high"), "qgf"),
        line(x, of(select, "mean"), "select", { color: color("qgf") }, { ...hover(select), mode: "lines+markers", marker: { size: 6 } }),
        points(xs(report), of(report, "mean"), "report", { symbol: "circle-open", size: 9, color: color("bump"), line: { width: 2 } }, hover(report)),
        line(range, [none[what].mean, none[what].mean], "unguided", { color: color("none"), width: 1.5, dash: "dot" }),
      ],
      { x: axis, y: { title: { text: titles[what] }, rangemode: "tozero", ...(what === "beyond" ? { tickformat: ".0%" } : {}) }, margin: ROOMY, shapes: [...shapes, ...(more[what] ?? [])] },
    );
  }
};

const hover = (rows) => ({
  text: rows.map((r) => `beta ${Number(r.beta.toPrecision(2))}, ratio ${r.ratio.mean?.toFixed(2) ?? "–"}`),
  hovertemplate: "%{text}<br>%{y:.3g}",
});

// y at x on the line through pairs that rise in x; its ends beyond them.
function interpolated(pairs, x) {
  if (x <= pairs[0][0]) return pairs[0][1];
  for (let i = 1; i < pairs.length; i++) {
    const [x0, y0] = pairs[i - 1],
      [x1, y1] = pairs[i];
    if (x <= x1) return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
  }
  return pairs.at(-1)[1];
}

document.addEventListener("change", ({ target }) => {
  if (target.name !== "along") return;
  along = target.value;
  ask("sweep");
});
