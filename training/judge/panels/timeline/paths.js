// 5. From noise to an action, in the same plane.
"use strict";

const WAYS = ["qgf", "ood"]; // as the arrays have them
const NAMED = { qgf: "QGF", ood: "OOD" };
const column = (rows, i) => rows.map((at) => at[i]);
const chained = (paths) => [0, 1].map((i) => paths.flatMap((path) => [...column(path, i), null]));

panels.paths = (now) => {
  const { stop } = looked,
    unpacked = Object.fromEntries(["a", "asked", "push"].map((name) => [name, unpack(now.paths[name])]));
  WAYS.forEach((way, w) => {
    const id = `paths-${way}`,
      { traces, axes } = ground(now, 0.6),
      ink = color(way);
    const a = unpacked.a[w][stop],
      push = unpacked.push[w][stop],
      asked = way === "qgf" ? unpacked.asked[stop] : a.map((path) => path.slice(0, -1)),
      guided = push.flatMap((path, n) =>
        path.flatMap(([x, y], k) => (x === null ? [] : [[asked[n][k], [x, y]]])),
      );
    const queries = guided.map(([at]) => at),
      arrows = guided.flatMap(([at, by]) => [at, at.map((x, i) => x + by[i]), [null, null]]);
    plot(
      id,
      [
        ...traces,
        line(...chained(unpacked.a[0][0]), "unguided", { color: color("none"), width: 1.5, dash: "dot" }),
        line(
          ...chained(a),
          "a_t",
          { color: color("ink"), width: 1.5 },
          { mode: "lines+markers", marker: { size: 3.5, color: color("ink") } },
        ),
        points(...[0, 1].map((i) => column(queries, i)), `asked here (${way === "qgf" ? "a_hat" : "a_t"})`, {
          symbol: MARKS[way],
          color: ink,
          size: 6,
          opacity: 0.8,
        }),
        line(
          ...[0, 1].map((i) => column(arrows, i)),
          "push",
          { color: ink, width: 1.5 },
          {
            mode: "lines+markers",
            hoverinfo: "skip",
            marker: {
              symbol: "arrow",
              angleref: "previous",
              color: ink,
              size: arrows.map((_, i) => (i % 3 === 1 ? 8 : 0)),
            },
          },
        ),
        points(
          ...[0, 1].map((i) => a.map((path) => path.at(-1)[i])),
          "the action",
          { symbol: "circle", size: 11, color: ink, line: { width: 1.5, color: color("paper") } },
          {
            text: a.map((_, n) => {
              const [q, distance] = [now.paths.q, now.paths.distance].map((of) => of[w][stop][n]);
              return `ends at Q ${fixed(q, 3)}, ${fixed(distance)} from the data`;
            }),
            hoverinfo: "text",
          },
        ),
      ],
      { ...axes, height: squareHeight(id) },
    );
  });
  const ends = (w, s) => {
    const far = now.paths.distance[w][s];
    const off = radius === null ? "–" : `${far.filter((x) => x === null || x > radius).length} of ${far.length}`;
    return [now.paths.q[w][s].map((x) => fixed(x, 3)).join(" "), far.map((x) => fixed(x)).join(" "), off];
  };
  const free = stops[stop].beta === "inf";
  $("paths-table").innerHTML =
    head(["", "Q of the actions", "from the data", "off the data"]) +
    row(["unguided", ...ends(0, 0)]) +
    (free ? "" : WAYS.map((way, w) => row([NAMED[way], ...ends(w, stop)])).join(""));
};

$("beta").addEventListener("input", ({ target }) => look({ stop: Number(target.value) }));
for (const button of document.querySelectorAll("[data-stop]"))
  button.addEventListener("click", () => look({ stop: Number(button.dataset.stop) }));

const usual = stops.findIndex(({ names }) => names.includes("default"));
look({ ...worst(), stop: Math.max(usual, 0) });
