// 4. Q in a plane through the chunk.
"use strict";

const LEADS = {
  guided: "the way from the unguided to the guided chunk",
  gradient: "the gradient of Q at the unguided chunk",
  spread: "the direction in which the flow's own samples differ most",
  any: "some direction: the flow's samples do not differ",
  none: "nothing, a chunk here is a single number",
};
const SHORT = {
  guided: "towards the guided chunk",
  gradient: "along the gradient of Q",
  spread: "where the flow's samples differ",
  any: "some direction",
  none: "",
};

// A square of the plane: contours of Q, what is off the data in grey, the range of actions dotted.
function ground({ x, y, q, distance, range, axes }, strength = 1) {
  const rows = unpack(q),
    count = rows.length,
    xs = spaced(...x, count),
    ys = spaced(...y, count),
    still = { x: xs, y: ys, hoverinfo: "skip", showscale: false };
  const contours = {
    ...still,
    type: "contour",
    z: rows,
    ncontours: 12,
    contours: { coloring: "fill" },
    line: { width: 0 },
    opacity: 0.6 * strength,
    colorscale: [
      [0, faint("green", 0)],
      [1, faint("green", 1)],
    ],
  };
  const labels = {
    ...contours,
    contours: { coloring: "lines", showlabels: true, labelfont: { size: 10, color: color("ink") } },
    line: { width: 0.8 },
    opacity: 0.7 * strength,
    colorscale: ["0", "1"].map((end) => [end, color("soft")]),
  };
  const off = {
    ...still,
    type: "contour",
    z: unpack(distance),
    contours: { type: "constraint", operation: "<", value: radius },
    fillcolor: faint("line", 0.68),
    line: { width: 1.5, color: color("none"), dash: "dash" },
  };
  const closed = [...range, range[0] ?? [null, null]];
  const border = line(
    ...[0, 1].map((i) => closed.map((corner) => corner[i])),
    "range of actions",
    { color: color("soft"), width: 1.5, dash: "dot" },
    { hoverinfo: "skip" },
  );
  return {
    traces: [contours, ...(radius === null ? [] : [off]), labels, border],
    axes: {
      x: { range: x, title: { text: SHORT[axes[0].to], standoff: 6 } },
      y: { range: y, title: { text: SHORT[axes[1].to], standoff: 4 } },
    },
  };
}
// As high as it is wide: a step is as long in both directions.
const squareHeight = (id) => $(id).clientWidth - MARGIN.l - MARGIN.r + MARGIN.t + MARGIN.b;

// Chunks that are not in the plane: the further off, the smaller.
const shadows = (rows, name, marker) =>
  points(
    rows.map(([x]) => x),
    rows.map(([, y]) => y),
    name,
    { ...marker, size: rows.map(([, , off]) => Math.max(3, 10 * (1 - off / (2.5 * (radius ?? 0.2))))) },
    { text: rows.map(([, , off]) => `${name}, ${fixed(off)} off the plane`), hoverinfo: "text" },
  );
const single = ({ x, y, q, off, distance }, name, marker) =>
  points([x], [y], name, { size: 13, line: { width: 1.5, color: color("paper") }, ...marker }, {
    text: [`${name}: Q ${fixed(q, 3)}, ${fixed(distance)} from the data, ${fixed(off)} off the plane`],
    hoverinfo: "text",
  });
function chunksOf(now) {
  const { recorded, unguided, guided } = now.marks;
  return [
    single(recorded, "recorded", { symbol: "x", color: color("ink") }),
    single(unguided, "unguided", { symbol: MARKS.none, color: color("none") }),
    ...(guides ? [single(guided, "guided", { symbol: MARKS.qgf, color: color("qgf") })] : []),
  ];
}

const within = (distance) =>
  radius === null || distance === null ? "–" : distance > radius ? '<span class="bad">off</span>' : "near";
panels.landscape = (now) => {
  const { traces, axes } = ground(now),
    { bump } = now;
  const peak = bump && [
    points([bump.x], [bump.y], bump.peak ? "false peak?" : "rises off the data", {
      symbol: bump.peak ? "star" : "triangle-up",
      size: 18,
      color: color("bump"),
      line: { width: 1.5, color: color("ink") },
    }),
  ];
  plot(
    "landscape-plot",
    [
      ...traces,
      shadows(unpack(now.near), "recorded nearby", { symbol: "circle", color: faint("ink", 0.55) }),
      shadows(unpack(now.cloud), "unguided sample", { symbol: "circle-open", color: color("none") }),
      ...chunksOf(now),
      ...(peak ?? []),
    ],
    { ...axes, height: squareHeight("landscape-plot") },
  );
  const made = ({ made_of }) =>
    listed(Object.entries(made_of).map(([name, share]) => `${name} (${percent(share)})`));
  say(
    "landscape-axes",
    `Q in the picture: ${fixed(now.q.low, 3)} to ${fixed(now.q.high, 3)}. ` +
      `Across: ${LEADS[now.axes[0].to]}, made of ${made(now.axes[0])}. Up: ${LEADS[now.axes[1].to]}` +
      (now.axes[1].to === "none" ? "." : `, made of ${made(now.axes[1])}.`),
  );
  say("landscape-said", aboutBump(now));
  const rows = [
    ["recorded", now.marks.recorded],
    ["unguided", now.marks.unguided],
    ...(guides ? [["guided", now.marks.guided]] : []),
    ["best near the data", now.best_near],
    [bump?.peak === false ? "highest off the data" : "peak off the data", bump],
  ];
  $("landscape-table").innerHTML =
    head(["chunk", "Q", "from the data", "", "off the plane"]) +
    rows
      .filter(([, found]) => found)
      .map(([name, found]) =>
        row([
          name,
          fixed(found.q, 3),
          fixed(found.distance),
          within(found.distance),
          fixed(found.off ?? 0),
        ]),
      )
      .join("");
};

function aboutBump({ bump, best_near, marks, q }) {
  if (q.low === q.high)
    return "Q is the same everywhere: the critic has no gradient here, and nothing to guide with.";
  if (radius === null)
    return "There is no other episode to compare with: what is off the data cannot be told.";
  if (!best_near)
    return (
      "No part of this plane is near the data: the policy's own unguided chunk is " +
      `${fixed(marks.unguided.distance)} away from what was recorded in such states, and 99\u00a0% of ` +
      `recorded chunks keep within ${fixed(radius)}. Whatever Q says here, nobody tried it.`
    );
  if (!bump)
    return (
      `Here Q is highest near the data (${fixed(best_near.q, 3)}): nothing in this plane leads guidance ` +
      "away from it."
    );
  const more =
    `Q ${fixed(bump.q, 3)}, ${fixed(bump.q - best_near.q, 3)} above the best near the data, at ` +
    `${fixed(bump.distance)} from it (the limit is ${fixed(radius)})`;
  return bump.peak
    ? `The star is a spurious bump: a peak of Q where nobody recorded anything: ${more}. ` +
        "Guidance that is strong enough climbs it."
    : `Q rises off the data, up to the edge of the picture (triangle): ${more}. ` +
        "Guidance that is strong enough follows.";
}
