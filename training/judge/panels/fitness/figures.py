"""Is this critic fit to guide? Figures on held-out episodes, and a verdict from some of them.

    unfit       something that decides is bad: nothing speaks for the critic, or something against it
    fit         all that decides is good
    doubtful    otherwise

What decides is whether Q has been right: about actions (`preference`), about episodes
(`separation`) and about amounts (`calibration`), on enough data, with a gradient that can be used.
What the critic says of itself, off the data and between its members, tells how carefully to go; a
critic of shuffled rewards is as sure of itself as any.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from qgf_ros.statistics import UNKNOWN, Interval
from training.judge import critic_metrics
from training.judge.panels.fitness import soundness
from training.judge.panels.fitness.check import LONGER, MORE, SIGN, Check, Level, two, unknown
from training.judge.panels.fitness.evidence import Evidence
from training.judge.subject import FOREIGN, TRAINED, Subject

ENOUGH = 10  # held-out episodes of each outcome
# Of the differences that Q claims between actions: of what is right a share of 1 comes, of noise none.
COMES, NOISE = 0.5, 0.3
PREFERS = 0.1  # correlation below which a preference among actions is hardly one
SLOPES = (0.5, 2.0)  # of return on Q
EMPTY = 0.2  # slope below which what Q claims is hardly anything that comes
PROGRESS = 16  # points of an episode
# Why there are no episodes of which it is known that nothing was trained on them.
NOT_HELD_OUT = {
    TRAINED: "No episodes are held out: what a critic says of its own training data proves little.",
    FOREIGN: "Whether the policy was trained on any of these episodes nobody knows: give the data that "
    "it was made from, whole, and the episodes that were held out are found.",
}


@torch.no_grad()
def figures(subject: Subject, **_: Any) -> dict[str, Any]:
    """{verdict: fit | doubtful | unfit, reasons, todo, checks, figures}; NaN where nothing is known."""
    found = Evidence.of(subject)
    rise, climb = soundness.rise(subject)
    prefers, bins = _preference(found)
    amounts, reliability = _calibration(found)
    checks = [
        _data(subject, found),
        prefers,
        _separation(subject, found),
        amounts,
        soundness.gradient(subject),
        soundness.members(subject, found),
        soundness.off_data(subject, found),
        rise,
    ]
    verdict = judge(checks)
    wanted = {"unfit": ("bad",), "doubtful": ("warn", "unknown"), "fit": ("ok",)}[verdict]
    told = [c for c in checks if c.decides and c.level in wanted]
    return {
        "verdict": verdict,
        "reasons": [c.says for c in told],
        "todo": list(dict.fromkeys(todo for c in told for todo in c.todo)),
        "checks": [asdict(c) for c in checks],
        "held_out": {
            "episodes": len(found.episodes),
            "chunks": len(found.q),
            "succeeded": int(found.won.sum()),
            "failed": int(found.failed.sum()),
            "did_not": int(found.lost.sum()),
        },
        "figures": {
            "preference": bins,
            "calibration": reliability,
            "progress": _progress(subject, found),
            "climb": climb,
        },
    }


def judge(checks: list[Check]) -> str:
    """fit, doubtful or unfit, from the checks that decide."""
    levels = {c.level for c in checks if c.decides}
    return "unfit" if "bad" in levels else "fit" if levels == {"ok"} else "doubtful"


def _data(subject: Subject, found: Evidence) -> Check:
    won, failed, lost = (int(x.sum()) for x in (found.won, found.failed, found.lost))
    asks, want = "Held-out episodes", f"{ENOUGH} or more of each outcome"
    value = f"{len(found.episodes)}: {won} succeeded, {failed} failed, {lost - failed} went on"
    level: Level = "warn"
    if not subject.policy.description.returns.informative:
        level, says = "bad", "The training data held no difference in outcome: Q means nothing."
    elif not np.isfinite(found.to_go).any():
        level, says = "bad", found.lacking()
    elif not won or not lost:
        level = "bad"
        none = "success" if lost else "failure" if won else "known outcome"
        says = (
            f"No {none} among the {len(found.episodes)} held-out episodes: a critic that saw one kind of "
            "outcome knows what is faster, not what fails."
        )
    elif subject.why in NOT_HELD_OUT:
        says = NOT_HELD_OUT[subject.why]
    elif not failed:
        says = (
            f"No held-out episode is labelled a failure: {won} succeeded, and {lost} went on for long "
            "without success, of which nobody said that they failed."
        )
    else:
        level = _level(True, min(won, lost) >= ENOUGH)
        says = f"{won} held-out episodes succeeded and {lost} did not: {'enough' if level == 'ok' else 'few'} to go by."
    return Check("data", asks, value, want, level, says, () if level == "ok" else (MORE,))


def _preference(found: Evidence) -> tuple[Check, list[Any]]:
    """Among actions of one state, which is what a gradient with respect to the action is about.

    Less is asked of correlation than of the slope: luck in what followed makes it small. What lasts
    for whole episodes, a habit beside an easy object, is a sign of the outcome without being its
    cause; so the differences within episodes must bear it out.
    """
    asks = "Of the difference that Q claims between two actions of one state, how much comes?"
    want = f"{COMES} or more, {NOISE} within episodes, intervals above 0; below {NOISE} it is mostly noise"
    known = found.compared
    slope = correlation = within = UNKNOWN
    bins = []
    if known.any():
        result = critic_metrics.preference(
            (found.q - found.value)[known],
            found.to_go[known],
            np.column_stack([found.value, found.usual])[known],
            found.episode[known],
            found.tick[known],
        )
        names = ("slope", "correlation", "within")
        slope, correlation, within = (Interval(**result[k]) for k in names)
        bins = result["bins"]
    level = _level(
        slope.mean >= NOISE and correlation.mean >= PREFERS,
        slope.mean >= COMES and slope.low > 0 and within.mean >= NOISE and within.low > 0,
    )
    told = (
        f"{two(slope)} of what Q claims came ({two(within)} within episodes), "
        f"correlation {correlation.mean:.2f}"
    )
    says = {
        "ok": f"Where Q prefers an action to others in the same state, more follows: {told}.",
        "warn": f"Q seems to prefer the better actions, but not by as much as it claims, or not beyond doubt: {told}.",
        "bad": f"Nothing shows that Q prefers the better of two actions, and its gradient is mostly noise: {told}.",
    }[level]
    if np.isnan(correlation.mean):
        bins = []
        says = "Nothing shows that Q prefers the better of two actions: it, or what followed, does not differ."
    if not known.any():
        says = found.lacking()
    todo = () if level == "ok" else (LONGER, MORE)
    return Check("preference", asks, slope, want, level, says, todo), bins


def _separation(subject: Subject, found: Evidence) -> Check:
    asks = "Has an episode that succeeds a larger Q, half-way, than one that does not?"
    name, want = "separation", "share of pairs: interval above 0.5"
    if not found.won.any() or not found.lost.any():
        none = "failed" if found.won.any() else "succeeded"
        why = f"Whether Q tells success from failure is not known: no held-out episode {none}."
        return unknown(name, asks, want, why, (MORE,))

    def pairs(share: float) -> Interval:
        return critic_metrics.separation(
            *(found.q_at(subject, which, share) for which in (found.won, found.lost))
        )

    if not np.isfinite(found.q).all():
        return unknown(name, asks, want, "Q is not a finite number everywhere.", (LONGER,))
    start, middle = pairs(0.0), pairs(0.5)
    at = f"{middle.mean:.0%} of pairs ({middle.low:.0%} to {middle.high:.0%}) half-way, {start.mean:.0%} at the start"
    level = _level(middle.high >= 0.5, middle.low > 0.5)
    says, todo = {
        "ok": (f"Q tells episodes that succeed from others: right in {at}.", ()),
        "warn": (
            f"Q tells success from failure no better than a coin, as far as is known: right in {at}.",
            (MORE,),
        ),
        "bad": (f"Q is larger in episodes that fail: right in {at}.", (SIGN,)),
    }[level]
    return Check(name, asks, middle, want, level, says, todo)


def _calibration(found: Evidence) -> tuple[Check, list[Any]]:
    asks, name = "By how much more follows where Q is larger by 1?", "calibration"
    want = f"slope: {SLOPES[0]} to {SLOPES[1]}, interval above 0"
    known = found.followed
    if not known.any():
        return unknown(name, asks, want, found.lacking(), (MORE,)), []
    result = critic_metrics.calibration(found.q[known], found.to_go[known], found.episode[known])
    slope, bias, ranks = (Interval(**result[k]) for k in ("slope", "bias", "spearman"))
    level = _level(slope.mean >= EMPTY, slope.low > 0 and SLOPES[0] <= slope.mean <= SLOPES[1])
    says, todo = {
        "ok": ("Q says what comes", ()),
        "warn": ("Q hardly says what comes", (LONGER,)),
        "bad": ("Q is no guide to what comes", (SIGN if slope.mean < 0 else LONGER,)),
    }[level]
    if np.isnan(slope.mean):
        return Check(name, asks, slope, want, "bad", "Q does not vary.", (LONGER,)), []
    says += f": slope {two(slope)}, bias {bias.mean:+.2f}, rank correlation {ranks.mean:.2f}."
    return Check(name, asks, slope, want, level, says, todo), result["bins"]


def _level(tolerable: bool, good: bool) -> Level:
    return "ok" if tolerable and good else "warn" if tolerable else "bad"


def _progress(subject: Subject, found: Evidence) -> list[dict[str, Any]]:
    """Q of what was done along episodes that succeeded and ones that did not: mean and quartiles."""
    out = []
    for share in np.linspace(0, 1, PROGRESS):
        row: dict[str, Any] = {"share": float(share)}
        for name, which in (("won", found.won), ("lost", found.lost)):
            q = found.q_at(subject, which, float(share)) if which.any() else np.empty(0)
            q = q[np.isfinite(q)]
            if len(q):
                low, high = np.quantile(q, (0.25, 0.75))
                row[name] = {"mean": float(q.mean()), "low": float(low), "high": float(high)}
        out.append(row)
    return [row for row in out if len(row) > 1]
