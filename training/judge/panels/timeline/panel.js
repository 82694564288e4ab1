// 3. Episodes along time, and the hands that pick a moment.
"use strict";

const SAID = { recorded: "ink", unguided: "none", guided: "qgf" };
const ENDED = {
  success: ["success", "ok", "which succeeded"],
  failure: ["failure", "bad", "which failed"],
  unknown: ["outcome not recorded", "soft", "whose outcome nobody recorded"],
};
const guides = told.timeline.beta !== "inf"; // else guided is unguided

panels.timeline = (now) => {
  const episode = episodes[looked.episode],
    time = episode.tick.map((tick) => tick * period),
    end = episode.ticks * period,
    [word, shade] = ENDED[episode.outcome];
  const shown = Object.entries(SAID).filter(([name]) => guides || name !== "guided");
  const bands = shown.flatMap(([name, ink]) =>
    between(time, episode[name].low, episode[name].high, ink, 0.16),
  );
  const lines = shown.map(([name, ink]) =>
    line(time, episode[name].q, name, { color: color(ink) }),
  );
  const known = episode.to_go.some((x) => x !== null);
  const toGo = line(time, episode.to_go, "return to go", { color: color("green"), width: 1.5, dash: "dot" });
  const all = [
    ...shown.flatMap(([name]) => [...episode[name].low, ...episode[name].high]),
    ...episode.to_go.filter((x) => x !== null),
  ];
  const low = Math.min(...all),
    high = Math.max(...all),
    room = 0.06 * (high - low) || 1,
    y = [low - 1.6 * room, high + 2 * room];
  const moments = episode.moments.map(({ at }) => secondsAt(episode, at));
  const ticks = points(
    moments,
    moments.map(() => y[0] + 0.5 * room),
    "a moment to look at",
    { symbol: "line-ns-open", size: 8, color: color("soft") },
    { hoverinfo: "x+name" },
  );
  const here = secondsAt(episode, now.at);
  plot("timeline-plot", [...bands, ...(known ? [toGo] : []), ...lines, ticks], {
    x: { range: [-0.01 * end, 1.03 * end], title: { text: "time in the episode [s]", standoff: 6 } },
    y: { range: y, title: { text: "Q (scaled return)", standoff: 4 } },
    height: 300,
    shapes: [
      { ...mark({ x0: end, x1: end, y0: y[0], y1: y[1] }), line: { color: color(shade), width: 2 } },
      { ...mark({ x0: here, x1: here, y0: y[0], y1: y[1] }), line: { color: color("bump"), width: 2.5 } },
    ],
    annotations: [
      {
        x: end,
        y: y[1],
        text: word,
        showarrow: false,
        xanchor: "right",
        yanchor: "top",
        xshift: -4,
        font: { color: color(shade), size: 13 },
      },
    ],
  });
};

function showKnobs() {
  const episode = episodes[looked.episode],
    now = view();
  $("episode").value = looked.episode;
  $("moment").max = episode.moments.length - 1;
  $("moment").value = looked.moment;
  $("moment").disabled = episode.moments.length < 2;
  say("moment-said", `${short(secondsAt(episode, now.at), 3)} s`);
  const q = (name) => fixed(episode[name].q[now.at], 3);
  say(
    "timeline-said",
    `At ${short(secondsAt(episode, now.at), 3)} s (tick ${episode.tick[now.at]} of ${episode.ticks}) ` +
      `of ${episode.name}, ${ENDED[episode.outcome][2]}: Q of the recorded chunk ${q("recorded")}, unguided ${q("unguided")}` +
      (guides ? `, guided ${q("guided")}.` : "."),
  );
  say("episode-name", episode.name);
  const { beta, names } = stops[looked.stop];
  $("beta").max = stops.length - 1;
  $("beta").value = looked.stop;
  say("beta-said", betaText(beta) + (names.length ? `: ${names.join(", ")}` : ""));
}

const nearestMoment = (seconds) =>
  episodes[looked.episode].moments.reduce((best, { at }, i, all) => {
    const far = (j) => Math.abs(secondsAt(episodes[looked.episode], all[j].at) - seconds);
    return far(i) < far(best) ? i : best;
  }, 0);
$("timeline-plot").addEventListener("click", (event) =>
  look({ moment: nearestMoment(toData($("timeline-plot"), event)[0]) }),
);
$("timeline-plot").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  look({ moment: looked.moment + step });
});
$("moment").addEventListener("input", ({ target }) => look({ moment: Number(target.value) }));
$("episode").addEventListener("change", ({ target }) => {
  const part = looked.moment / Math.max(1, episodes[looked.episode].moments.length - 1);
  const most = episodes[target.value].moments.length - 1;
  look({ episode: Number(target.value), moment: Math.round(part * most) });
});
episodes.forEach((episode, i) => {
  const option = document.createElement("option");
  option.value = i;
  option.textContent = `${ENDED[episode.outcome][0]}: ${episode.name}, ${short(episode.ticks * period, 3)} s`;
  $("episode").append(option);
});

// Where the critic promises most off the data: what a reader should have seen.
function worst() {
  let most = 0,
    at = { episode: 0, moment: Math.floor(episodes[0].moments.length / 2) };
  episodes.forEach(({ moments }, episode) =>
    moments.forEach(({ bump, best_near }, i) => {
      const height = bump?.peak ? bump.q - best_near.q : 0;
      if (height > most) [most, at] = [height, { episode, moment: i }];
    }),
  );
  return at;
}
