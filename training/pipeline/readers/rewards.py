"""What an episode was worth: its rewards, how it ended and when, and what that can teach a critic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qgf_ros.spaces.condition import Condition
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.outcome import EndSource
from training.pipeline.episodes import Episode
from training.pipeline.goals import goal_columns
from training.pipeline.labels import Label
from training.pipeline.streams import Stream


@dataclass(frozen=True)
class End:
    """How an episode ended, and when somebody said so."""

    won: bool | None  # None: it was cut; or nobody knows
    at: int | None = None  # ns, by receipt; None: with its last command
    over: bool = False  # nothing comes after it, though nobody says whether it was won


def ending(
    streams: dict[str, Stream],
    contract: Contract,
    label: Label | None,
    cut: bool,
    noticed: Counter[str],
    over: int | None = None,
) -> End:
    """How an episode ended. What comes first ends it; at one time, failure does.

    A label says how, not when: without a moment of its own, the topic's counts.

    Args:
        streams: `success` and `failure` within the episode, in order of receipt, where there are.
        cut: the recording says that it ended before its outcome.
        noticed: counts where a field test was broken off by missing messages.
        over: ns, when the recording entered a terminal state. For a reward that ends the episode,
            won or not; for other objectives only an outcome does.
    """
    outcome, told = contract.outcome, []
    for name, source in (("success", outcome.success), ("failure", outcome.failure)):
        stream = streams.get(name)
        if source is not None and stream is not None and len(stream):
            found = _first(name, stream, source, contract.max_age(source), noticed)
            told += [found] if found is not None else []
    first = min(told, key=lambda e: (e.at, e.won), default=None)
    at = first.at if first is not None else None
    if label is not None and label.outcome:
        return End({"success": True, "failure": False}.get(label.outcome), at)
    if outcome.objective == "reward" and over is not None and (at is None or over < at):
        return End(True if outcome.assume_success else None, over, over=True)
    if first is not None:
        return first
    return End(True if outcome.assume_success and not cut else None)


def _first(
    name: str, stream: Stream, source: EndSource, max_age: float, noticed: Counter[str]
) -> End | None:
    """What a source says of the end, or None where it says nothing of it."""
    if source.condition is None:
        true = stream.values[:, 0] != 0
        if name == "success":  # its first message ends the episode, and says how
            return End(bool(true[0]), int(stream.receipt[0]))
        return End(False, int(stream.receipt[true.argmax()])) if true.any() else None
    known, _, done = held(name, stream, source.condition, max_age, noticed)
    return End(name == "success", int(known[done.argmax()])) if done.any() else None


def held(
    name: str, stream: Stream, condition: Condition, max_age: float, noticed: Counter[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a field test says of each message of a source, by stamp: (N,) ns, when it could be known
    with all that it is concluded from; (N,) whether it holds; (N,) for as long as it says."""
    order = np.argsort(stream.stamp, kind="stable")
    stamp, holds = stream.stamp[order], condition.holds(stream.values[order])
    gap = np.diff(stamp) > max_age * 1e9
    noticed[f"field test interrupted, messages missing: {name}"] += int(
        (gap & holds[1:] & holds[:-1]).sum()
    )
    # Each message is counted from the first one of its unbroken run.
    begins = holds & ~np.concatenate([[False], holds[:-1] & ~gap])
    since = stamp[np.maximum.accumulate(np.where(begins, np.arange(len(stamp)), 0))]
    done = holds & (stamp - since >= round(condition.seconds * 1e9))
    return np.maximum.accumulate(stream.receipt[order]), holds, done


def rewards(stream: Stream | None, ticks: np.ndarray, period: int, end: int | None) -> np.ndarray:
    """Reward of each period: said at its end, so it belongs to the tick one period before. What is
    said as the episode ends belongs to the last one, which is seldom a whole period long.

    Args:
        ticks: (T,) ns, evenly spaced by `period`.
        end: ns, when the episode ended; None: it was cut.
    """
    reward = np.zeros(len(ticks))
    if stream is not None and len(stream):
        step = (stream.stamp - ticks[0] + period // 2) // period - 1
        if end is not None:
            step[stream.stamp >= end - period // 4] = len(ticks) - 1
        inside = (step >= -1) & (step <= len(ticks))  # what came long before belongs to nobody
        if end is not None:  # a reward topic need not stop with the episode
            inside &= stream.stamp <= end + period // 4
        np.add.at(reward, np.clip(step[inside], 0, len(ticks) - 1), stream.values[inside, 0])
    return reward


LABEL = "label recordings (`qgf data label`), or name a success topic, column or field test in outcome.success"
FAILURES = (
    "record and label unguided rollouts of the trained policy, whose failures it can learn from"
)
GOALS = (
    "objective reach_goal, which needs no outcome: whatever was reached could have been the goal"
)


def diagnose_outcomes(episodes: Sequence[Episode], contract: Contract) -> list[str]:
    """What in these episodes leaves a critic little or nothing to learn, and what can be done.

    One sentence for each; none where there is enough. Behaviour cloning is not concerned.
    """
    if not episodes:
        return []
    objective = contract.outcome.objective
    if objective == "reach_goal":
        return _diagnose_goals(episodes, contract)
    count = len(episodes)
    won, lost = (sum(e.success is v for e in episodes) for v in (True, False))
    said = []
    if not any(e.terminal for e in episodes):
        said.append(
            f"none of the {count} episodes has an outcome: all count as cut, and what came after them "
            f"is guessed (bootstrapped). What helps: {LABEL}; {GOALS}"
        )
    elif won == count:
        only = f"all {count} episodes are successes: nothing tells a good action from a bad one"
        if objective == "time_to_success":
            said.append(
                f"{only} but how soon success came after it, with discount below 1. What helps: {FAILURES}; {GOALS}"
            )
        else:
            said.append(
                f"{only} but the rewards. What helps: objective time_to_success, which prefers what "
                f"succeeds sooner (discount below 1); {FAILURES}; {GOALS}"
            )
    elif lost == count:
        said.append(
            f"all {count} episodes are failures: there is nothing good to imitate, and no difference "
            f"to learn. What helps: recordings that succeed; look at the source of success; {LABEL}"
        )
    low, high = min(e.reward.min() for e in episodes), max(e.reward.max() for e in episodes)
    ended = [e.reward.sum(dtype=np.float64) for e in episodes if e.terminal]
    # The same reward in every period is enough where some episodes end sooner than others.
    if objective == "reward" and low == high and (not ended or np.ptp(ended) == 0):
        said.append(
            f"the reward is {low:g} in every period: it is constant. What helps: look at the "
            "source of the reward; objective time_to_success, with outcomes"
        )
    lengths = {len(e) for e in episodes if e.terminal}
    if len(ended) > 1 and np.ptp(ended) <= 1e-6 * max(1.0, np.abs(ended).max()):
        same = f"all {len(ended)} episodes that ended have the same return, {ended[0]:g}"
        if objective == "time_to_success" and len(lengths) > 1:
            said.append(f"{same}: a discount of 1 would leave nothing to learn. Keep it below 1")
        else:
            said.append(f"{same}. What helps: {FAILURES}; a reward that tells them apart")
    return said


def _diagnose_goals(episodes: Sequence[Episode], contract: Contract) -> list[str]:
    assert contract.outcome.goal is not None
    _, achieved = goal_columns(contract)
    radius = contract.outcome.goal.radius
    low, high = (
        f([f(e.obs[:, achieved], axis=0) for e in episodes], axis=0) for f in (np.min, np.max)
    )
    if (high - low > radius).any():
        return []
    return [
        f"what outcome.goal.achieved names ({', '.join(contract.outcome.goal.achieved)}) never moved "
        f"further than radius {radius:g}: every goal is reached at once. What helps: a smaller radius; "
        "recordings in which it moves; look at the names"
    ]
