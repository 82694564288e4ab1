"""One picture of a running node for a terminal: what counts from two metres is large and in colour."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from statistics import fmean

from rich.text import Text

from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.watch.heard import HISTORY, MANY, Heard, Sampled, Speaker, clean, remedy
from qgf_ros.watch.marks import ZONE_BAR, BetaAxis, Join, bar, binned, letters, on_axis

BANNER = {
    "RUN": "black on green",
    "READY": "white on blue",
    "WAITING": "black on yellow",
    "HOLD": "black on yellow",
    "FAULT": "white on red",
}
ASIDE = "black on white"  # of the other states, and of what is stale
LOST = "white on red"
PAST = "bright_black"
ZONES = {"gentle": "green", "firm": "yellow", "beyond": "red", "unknown": "bright_black"}
MEANING = {
    "gentle": "gentle: the largest suggestion or above",
    "firm": "firm: within the suggestions",
    "beyond": "harder than any suggestion",
    "unknown": "",
}
WIDE = 100  # columns from which on there is room for what counts less
FACTS = 22  # columns beside the banner's letters
NAME = 11  # columns of a row's name
NONE = "–"
CURVE_LEAST, CURVE_MOST = 10, 80  # columns
WORDS_MOST = 7  # lines
FIXED = 19  # lines that are always there


def panel(heard: Heard, now: float, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` columns; what counts less comes last."""
    gap = [Text()] if height >= FIXED + WORDS_MOST + 3 else []
    sections = [_beta(heard, width), gap, _q(heard, now, width), gap, _rows(heard, now, width)]
    about_node = [line for section in sections for line in section]
    if heard.node.life(now) != "live":
        about_node = [Text(line.plain, style=PAST) for line in about_node]
    words = _words(heard, now, width, min(max(2, height - FIXED - len(gap) * 3), WORDS_MOST))
    lines = [*_banner(heard, now, width), *words, *gap, *about_node, _gate(heard, now)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def _banner(heard: Heard, now: float, width: int) -> Iterator[Text]:
    node = heard.node
    life = node.life(now)
    style = {"never": ASIDE, "stale": ASIDE, "gone": LOST}.get(life) or BANNER.get(
        node.state, ASIDE
    )
    word = {"never": "NO NODE", "gone": "GONE"}.get(life, node.state)
    facts = [node.name, *_facts(node, now)]
    room = width - FACTS - 3
    if room < FACTS:
        room, facts = max(width - 3, 1), []
    for i, drawn in enumerate(letters(word, room)):
        fact = facts[i] if i < len(facts) else ""
        line = f" {drawn:<{room}} {fact}"[:width]
        yield Text(f"{line:<{width}}", style=f"bold {style}")


def _facts(node: Speaker, now: float) -> list[str]:
    if node.said is None:
        return ["nothing heard yet"]
    s = node.said.msg
    if node.life(now) != "live":
        return [f"no word for {node.age(now):.1f} s", f"was {node.state}"]
    since = "" if math.isnan(node.since) else f"for {_duration(now - node.since)}"
    return ["enabled" if s.enabled else "not enabled", f"{s.achieved_rate:.1f} commands/s", since]


def _words(heard: Heard, now: float, width: int, room: int) -> list[Text]:
    """What is wrong and what to do about it: always `room` lines, so that nothing below moves."""
    lines = [
        Text(part, style=style)
        for style, text in _said(heard, now)
        for part in textwrap.wrap(text, width - 1, subsequent_indent="  ") or [""]
    ]
    if len(lines) > room:
        more = len(lines) - room + 1
        lines[room - 1 :] = [Text(f"… {more} lines more: make the terminal higher", style="yellow")]
    return lines + [Text()] * (room - len(lines))


def _said(heard: Heard, now: float) -> Iterator[tuple[str, str]]:
    node, life = heard.node, heard.node.life(now)
    missing = heard.waits_for(now)
    if life in ("gone", "ended"):
        how = "has ended" if life == "ended" else "is silent: killed, stopped, or not reachable"
        yield "bold red", f"{node.name} {how}."
        if heard.gate.life(now) == "live":
            reason = heard.gate.said.msg.reason if heard.gate.said else ""
            yield (
                "red",
                f"{heard.gate.name} is there, in {heard.gate.state} {clean(reason)}".rstrip(),
            )
        elif life == "gone":
            yield "red", "No qgf_gate is heard: only the robot's own controller can stop it."
    elif life == "live" and node.said is not None:
        s = node.said.msg
        if s.reason:
            yield "bold", f"{clean(s.reason)}: {clean(s.detail)}"
            if fix := remedy(s.reason):
                yield "cyan", f"→ {fix}"
        elif s.state == State.READY:
            yield "", f"Nothing moves before {node.name}/enable."
        for warning in s.warnings[:MANY]:
            fix = remedy(warning)
            yield "yellow", f"! {clean(warning)}{f' → {fix}' if fix else ''}"
    if missing:
        yield "bright_black", f"waits for {', '.join(missing)}"


def _beta(heard: Heard, width: int) -> list[Text]:
    """The number, marks, the bar, numbers below it: four lines."""
    info, beta, asked = heard.info, heard.beta, heard.beta_asked
    head = _row("beta")
    head.append(_number(beta), style=f"bold {ZONES[heard.zone]}")
    if asked == asked and asked != beta:
        head.append(f" → {_number(asked)} asked for (▽)", style="bold")
    head.append(f"   {MEANING[heard.zone]}", style=ZONES[heard.zone])
    if info is None or not on_axis(info.beta_min):
        return [head, Text(), Text(" " * NAME + "no policy is known yet" * (info is None)), Text()]
    suggested = sorted(filter(on_axis, info.beta_suggested))
    known = [b for b in (asked, beta) if on_axis(b) or b == math.inf]
    axis = BetaAxis(info.beta_min, suggested, known, width - NAME - 1)
    marks = [" "] * axis.columns
    for value in known:
        marks[axis.column(value)] = "▼" if value == beta else "▽"
    scale = Text(" " * NAME)
    for zone in axis.zones():
        scale.append(*(("·", "bright_black") if zone is None else (ZONE_BAR[zone], ZONES[zone])))
    shown = [info.beta_min, *suggested[:1], *suggested[-1:], info.beta_default, *suggested]
    labels = axis.labels(list(dict.fromkeys(filter(on_axis, shown))))
    return [
        head,
        Text(" " * NAME + "".join(marks), style="bold"),
        scale,
        Text(" " * NAME + labels),
    ]


def _q(heard: Heard, now: float, width: int) -> list[Text]:
    """Four numbers of the newest sample, each with its last twenty seconds."""
    old = heard.q_is_old(now)
    columns = min(max(width - NAME - 30, CURVE_LEAST), CURVE_MOST)

    def curve(pick: Callable[[Sampled], float], join: Join = fmean) -> list[float]:
        return binned(((s.at, pick(s)) for s in heard.samples), now, HISTORY, columns, join)

    plain, guided = curve(lambda s: s.q_unguided), curve(lambda s: s.q)
    gain, ratio = curve(lambda s: s.gain), curve(lambda s: s.ratio, max)
    newest = heard.samples[-1] if heard.samples and not old else None
    q_range, gain_range = _range([*plain, *guided]), _range([*gain, 0.0])
    ratio_range = (0.0, max([1.0, *filter(math.isfinite, ratio)]))
    lines = []
    for name, value, values, (low, high), bad in (
        ("Q unguided", newest and newest.q_unguided, plain, q_range, None),
        ("Q sampled", newest and newest.q, guided, q_range, None),
        ("gain", newest and newest.gain, gain, gain_range, lambda v: v < 0),
        ("ratio", newest and newest.ratio, ratio, ratio_range, lambda v: v > 1),
    ):
        wrong = bool(bad and value is not None and bad(value))
        line = _row(name)
        line.append(f"{_fixed(value):>7} ", style="bold red" if wrong else "bold")
        for v in values:
            style = "bright_black" if old else "red" if bad and bad(v) else "cyan"
            line.append(bar(v, low, high), style=style)
        if name == "ratio" and wrong:
            line.append("  the critic leads", style="bold red")
        elif any(map(math.isfinite, values)):
            line.append(f"  {_fixed(low)} to {_fixed(high)}", style="bright_black")
        lines.append(line)
    if old and heard.q is not None:
        lines[0] = _row("Q unguided")
        lines[0].append(f"no sample for {_duration(now - heard.q.at)}", style="bright_black")
    return lines


def _rows(heard: Heard, now: float, width: int) -> Iterator[Text]:
    s = heard.node.said.msg if heard.node.said is not None else None
    yield _sampling(heard, now, width)
    line = _row("chunk")
    if heard.q is None or heard.q_is_old(now):
        line.append(NONE)
    else:
        q = heard.q.msg
        line.append(
            f"seam jump {_fixed(q.seam_jump)}  clipped {_fixed(q.share_clipped)}  "
            f"critics' spread {_fixed(q.ensemble_spread)}"
        )
        if q.guards:
            line.append(f"  guards: {', '.join(map(clean, q.guards[:MANY]))}", style="yellow")
    yield line
    line = _row("commands")
    if s is None:
        line.append(NONE)
    else:
        period = heard.info.period if heard.info is not None else 0.0
        wanted = f" of {1 / period:.4g}" if period > 0 else ""
        line.append(f"{s.achieved_rate:.1f}{wanted} Hz")
        late, limited = heard.lately("overruns"), heard.lately("limit_hits")
        line.append(f"  overruns {s.overruns} (+{late})", style="yellow" * bool(late))
        line.append(f"  limited {s.limit_hits} (+{limited} in {HISTORY:.0f} s)")
        for name, sign, usual in (("limits_scale", "limits ×", 1.0), ("num_candidates", "N ", 1)):
            if (value := heard.asked.get(name, usual)) != usual:
                line.append(f"  {sign}{value:g}", style="bold")
    yield line
    line = _row("heard")
    if s is None:
        line.append(NONE)
    else:
        problem = Problem.parse(s.reason)
        about = problem.subjects if problem is not None else []
        for topic, age in list(zip(s.topics, s.topic_age))[:MANY]:
            bad = not math.isfinite(age) or topic in about
            line.append(f"{clean(topic)} {_ms(age)}  ", style="red" if bad else "")
        line.append(f"dropped {s.dropped}  outside {_number(s.state_score)}")
    yield line
    line = _row("policy")
    if (info := heard.info) is None:
        line.append(NONE)
    else:
        robot = f"  for {clean(info.robot)}" if width >= WIDE else ""
        line.append(f"{clean(info.name)} {clean(info.sha256)[:8]}{robot}  ")
        line.append(f"{clean(info.backend)} on {clean(info.device)}  ")
        line.append(f"{info.execute_steps} of {info.horizon} actions  T {info.denoise_steps}")
        if info.backend_note:
            line.append(f"  {clean(info.backend_note)}", style="yellow")
    yield line


def _sampling(heard: Heard, now: float, width: int) -> Text:
    line, budget = _row("sampling"), heard.budget_ms
    if heard.node.said is None:
        return line.append(NONE)
    s = heard.node.said.msg
    p99 = s.inference_p99_ms
    style = "red" if p99 > budget else "yellow" if p99 > budget / 2 else ""
    line.append(f"p50 {_fixed(s.inference_p50_ms)}  ")
    line.append(f"p99 {_fixed(p99)}", style=f"bold {style}".strip())
    line.append(f"  max {_fixed(s.inference_max_ms)} of {_number(budget)} ms")
    if heard.q is not None and not heard.q_is_old(now):
        q = heard.q.msg
        line.append(f"  state {_ms(q.observation_age)} old")
        line.append(f"  tick {_fixed(q.tick_ms)} ms" * (width >= WIDE))
    return line


def _gate(heard: Heard, now: float) -> Text:
    gate = heard.gate
    line, life = Text(f"{'gate':<{NAME}}"), gate.life(now)
    if gate.said is None:
        missing = "announced, not heard" if heard.gate_announced else "no qgf_gate; the node's own"
        return line.append(missing, style="yellow" if heard.gate_announced else "bright_black")
    s = gate.said.msg
    if life != "live":
        said = "has ended" if life == "ended" else f"no word for {_duration(gate.age(now))}"
        return line.append(f"{gate.name} {said}", style="bold red" if life != "stale" else "dim")
    passing = gate.state == "RUN"
    line.append(gate.state, style="bold green" if passing else "bold yellow")
    line.append(f"  passed {s.achieved_rate:.1f} Hz  limited {s.limit_hits}")
    if s.reason:
        line.append(f"  {clean(s.reason)}: {clean(s.detail)}", style="bold")
    for warning in s.warnings[:MANY]:
        line.append(f"  ! {clean(warning)}", style="yellow")
    return line


def _row(name: str) -> Text:
    return Text(f"{name:<{NAME}}")


def _range(values: Iterable[float]) -> tuple[float, float]:
    known = [v for v in values if math.isfinite(v)]
    return (min(known), max(known)) if known else (math.nan, math.nan)


def _number(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.3g}"


def _fixed(value: float | None) -> str:
    """A number that changes in its place."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _ms(seconds: float) -> str:
    """Of an age. A stamp may be a little ahead of a simulated clock."""
    return NONE if not math.isfinite(seconds) else f"{max(seconds, 0.0) * 1e3:.0f} ms"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )
