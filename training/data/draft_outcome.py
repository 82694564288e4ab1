"""The outcome of a drafted contract for tables that say themselves how episodes ended."""

from __future__ import annotations

import numpy as np

from training.data.doctor.dataset import Dataset
from training.data.draft_sources import MARK, Lines
from training.data.draft_text import scalar
from training.data.endings import REWARDS, kind_of


def table_outcome(data: Dataset) -> Lines | None:
    """Lines of YAML from the ending columns of a table and its rewards; None where it has none of
    the first, or rewards that never change."""
    columns = {s.topic: s for s in data.signals.values() if not s.type and s.messages}
    ends = [name for name in columns if kind_of(name)]
    reward = next((name for name in REWARDS if name in columns), "")
    if not ends or not reward:
        return None
    values = columns[reward].extremes.values
    with np.errstate(invalid="ignore"):
        if len(columns[reward].labels) != 1 or not np.nanmin(values) < np.nanmax(values):
            return None
    source = f"{{topic: reward, type: std_msgs/Float64, fields: [data], column: {scalar(reward)}}}"
    lines = [
        "outcome:",
        f"  objective: reward   {MARK} {reward} varies; {', '.join(ends)} say how episodes ended",
        f"  reward: {source}",
    ]
    success = next((n for n in ("success", "next.success") if n in columns), "")
    if success:
        lines.append(
            "  success: {topic: success, type: std_msgs/Bool, fields: [data], "
            f"column: {scalar(success)}}}"
        )
    return lines
