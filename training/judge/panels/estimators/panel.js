// Panel 6: other ways of asking the critic.
"use strict";

const ESTIMATORS = {
  qgf: ["qgf", "diamond", "solid"],
  qgf_jacobian: ["bump", "triangle-down", "dashdot"],
  qgf_chain: ["green", "cross", "longdash"],
  bptt: ["bptt", "triangle-up", "dash"],
  ood: ["ood", "square", "dot"],
};

panels.estimators = () => {
  const { times, cosine, guided, best_of_n, recorded, radius, absent } = told.estimators;
  if (absent) return;
  const curve = (name, x, y, more) => {
    const [shade, symbol, dash] = ESTIMATORS[name];
    const marker = { symbol, size: 7, color: color(shade) };
    return line(x, y, name, { color: color(shade), dash }, { mode: "lines+markers", marker, ...more });
  };
  const ways = Object.keys(ESTIMATORS).filter((name) => guided[name]?.length);
  plot(
    "estimators-cosine",
    ways.map((name) => curve(name, times, cosine[name].map((c) => c.mean))),
    { x: { title: { text: "flow time t" }, range: [-0.02, 1] }, y: { title: { text: "cosine" } }, margin: ROOMY },
  );
  const of = (rows, what) => rows.map((r) => r[what].mean);
  const named = (rows, text) => ({ text: rows.map(text), hovertemplate: "%{text}<br>distance %{x:.3f}, Q %{y:.3f}" });
  plot(
    "estimators-reach",
    [
      ...ways.map((name) =>
        curve(name, of(guided[name], "distance"), of(guided[name], "q"), named(guided[name], (r) => `${name}, ratio ${r.asked}`)),
      ),
      line(
        of(best_of_n, "distance"),
        of(best_of_n, "q"),
        "best of N",
        { color: color("none") },
        {
          mode: "lines+markers+text",
          textposition: "top left",
          cliponaxis: false,
          marker: { size: 7 },
          ...named(best_of_n, (r) => `N=${r.candidates}`),
        },
      ),
      points([recorded.distance.mean], [recorded.q.mean], "recorded", { symbol: "star", size: 12, color: color("ink") }),
    ],
    {
      x: { title: { text: "RMS distance to the data" } },
      y: { title: { text: "Q" } },
      margin: ROOMY,
      shapes: [mark({ yref: "paper", x0: radius, x1: radius, y0: 0, y1: 1 })],
    },
  );
};
