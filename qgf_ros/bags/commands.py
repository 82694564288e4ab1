"""Which recorded command is the one meant for a tick: one rule for training and for replay."""

from __future__ import annotations

import numpy as np

HOLD_PERIODS = 3  # a command counts as still in force for this many periods


def meant_for(stamp: np.ndarray, ticks: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """The command stamped nearest to each tick, within half a period, or else the last before it.

    Args:
        stamp: (N,) of the commands, sorted, N > 0 [ns].
        ticks: (M,) [ns].

    Returns:
        (M,) index of the command, and (M,) whether there is one that is still in force.
    """
    after = np.minimum(np.searchsorted(stamp, ticks), len(stamp) - 1)
    before = np.maximum(np.searchsorted(stamp, ticks, side="right") - 1, 0)
    nearer = np.where(np.abs(stamp[after] - ticks) < np.abs(stamp[before] - ticks), after, before)
    pick = np.where(np.abs(stamp[nearer] - ticks) <= period // 2, nearer, before)
    lag = ticks - stamp[pick]
    return pick, (lag >= -(period // 2)) & (lag <= HOLD_PERIODS * period)
