"""The outcome of a drafted contract for tables that say themselves how episodes ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.doctor.dataset import Dataset
from training.doctor.summary import SignalSummary
from training.draft.sources import Lines
from training.draft.text import MARK, scalar
from training.pipeline.readers.endings import REWARDS, kind_of, read_endings


def table_outcome(data: Dataset) -> Lines | None:
    """Lines of YAML from the ending columns of a table, its rewards and successes; None where it has
    none of the first that say something, and rewards that never change."""
    columns = {s.topic: s for s in data.signals.values() if not s.type and s.messages}
    ends = [name for name in columns if kind_of(name)]
    if not ends:
        return None
    reward = next((name for name in REWARDS if name in columns), "")
    if reward and not (len(columns[reward].labels) == 1 and _varies(columns[reward])):
        reward = ""
    success = next((n for n in ("success", "next.success") if n in columns), "")
    over = "" if success else _over(columns, ends, bool(reward))
    if not reward and not over:
        return None
    if reward:
        why = f"{reward} varies" + ("" if over else f"; {', '.join(ends)} say how episodes ended")
        lines = ["outcome:", f"  objective: reward   {MARK} {why}"]
        lines.append(f"  reward: {_source('reward', 'std_msgs/Float64', reward)}")
    else:
        lines = [
            "outcome:",
            f"  objective: time_to_success   {MARK} 1 at success, worth less the later",
        ]
    if over:
        lines.append(
            f"  {MARK} {over} says that an episode is over, and not how: did they succeed there? Cut "
            "by a time-out, it is none"
        )
    if success or over:
        lines.append(f"  success: {_source('success', 'std_msgs/Bool', success or over)}")
    return lines


def _over(columns: Mapping[str, SignalSummary], ends: Sequence[str], rewards: bool) -> str:
    """The column that only says that an episode is over, where nothing else tells a terminal state
    from a time-out, or an outcome is asked for; "" without one, or where it never does."""
    following = any(n.startswith(("next_obs", "next.observation")) for n in columns)
    said = {n: np.array([float(kind_of(n) == "mask")]) for n in ends}
    known = not read_endings(said, 1, rewards=rewards, following=following).unsaid
    kinds = {"done", "terminals"} if rewards else {"done", "terminal"}
    if rewards and known:
        return ""
    return next((n for n in ends if kind_of(n) in kinds and _varies(columns[n])), "")


def _varies(s: SignalSummary) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(np.nanmin(s.extremes.values) < np.nanmax(s.extremes.values))


def _source(topic: str, kind: str, column: str) -> str:
    return f"{{topic: {topic}, type: {kind}, fields: [data], column: {scalar(column)}}}"
