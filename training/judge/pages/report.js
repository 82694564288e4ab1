// What the panels share: the document, and which moment of which episode is looked at.
"use strict";

const told = JSON.parse($("document").textContent);

// Numbers that training/judge/panels/timeline/packing.py packed, as nested arrays; null for what is not finite.
function unpack({ shape, bits, low, high, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)),
    none = 2 ** bits - 1,
    unit = (high - low) / (none - 1);
  let at = 0;
  const next = () => {
    const code = bits === 8 ? bytes[at] : bytes[at] + 256 * bytes[at + 1];
    at += bits / 8;
    return code === none ? null : low + code * unit;
  };
  const rows = ([count, ...rest]) =>
    Array.from({ length: count }, () => (rest.length ? rows(rest) : next()));
  return rows(shape);
}

// What the data says is put into the page as text, never as HTML.
const say = (id, text) => ($(id).textContent = text);
const listed = (words) => words.join(", ").replace(/, ([^,]*)$/, " and $1");
// So many decimals, with a minus sign that text does not break at; a dash for what is not known.
const fixed = (x, decimals = 2) =>
  x === null ? "–" : x.toFixed(decimals).replace(/^-(?=0\.?0*$)/, "").replace("-", "\u2212");
const percent = (x) => `${Math.round(100 * x)}\u00a0%`;

// Which moment of which episode, and which stop of beta.
const { episodes, stops, period, radius } = told.timeline;
const looked = { episode: 0, moment: 0, stop: 0 };
const view = () => episodes[looked.episode].moments[looked.moment];
const secondsAt = (episode, at) => episode.tick[at] * period;
const betaText = (beta) => (beta === "inf" ? "∞ (no guidance)" : short(beta));

function look(change) {
  Object.assign(looked, change);
  const count = episodes[looked.episode].moments.length,
    keep = (value, most) => Math.min(Math.max(value, 0), most);
  looked.moment = keep(looked.moment, count - 1);
  looked.stop = keep(looked.stop, stops.length - 1);
  showKnobs();
  ask("paths", ...("episode" in change || "moment" in change ? ["timeline", "landscape"] : []));
}
