"""Which recorded command is the one meant for a tick: one rule for training and for replay."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ros.control.checks.clocks import ahead
from qgf_ros.spaces.actions.spec import SilenceSpec

HOLD_PERIODS = 3  # a command counts as still in force for this many periods
LATEST = 10.0  # s from a command's stamp to its receipt: beyond it, they are of different clocks


def of_this_clock(stamp: Any, receipt: Any) -> Any:
    """Whether commands were stamped by the clock by which they were received; ns, bool. What is not
    says nothing of its own moment, but that something was commanded about its receipt."""
    return ~np.asarray(ahead(stamp, receipt)) & (receipt - stamp <= round(LATEST * 1e9))


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


def in_force(
    stamp: np.ndarray,
    values: np.ndarray,
    refused: np.ndarray,
    ticks: np.ndarray,
    period: int,
    silence: SilenceSpec | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What was commanded for each tick. A command that cannot be used is not bridged by an older
    one: where it is the one meant, nothing is known. Silence is what the contract says.

    Args:
        stamp: (N,) of the commands, in any order [ns].
        values: (N, d).
        refused: (K,) stamps of commands that cannot be used [ns].

    Returns:
        (M, d), without meaning where nothing is known; (M,) whether something is.
    """
    refused = refused[~np.isin(refused, stamp)]  # of one moment: the one that says something
    every = np.concatenate([stamp, refused])
    order = np.argsort(every, kind="stable")
    if not len(every):
        found, known = np.zeros((len(ticks), values.shape[1])), np.zeros(len(ticks), bool)
        lag = np.full(len(ticks), np.iinfo(np.int64).max)
    else:
        pick, known = meant_for(every[order], ticks, period)
        usable = order[pick] < len(stamp)
        known &= usable
        rows = np.where(usable, order[pick], 0)
        found = values[rows] if len(values) else np.zeros((len(ticks), values.shape[1]))
        lag = ticks - every[order][pick]
        if silence is not None:  # a command holds until then, and one to come is none yet
            known |= usable & (lag >= 0)
    if silence is not None:
        silent = (lag > round(silence.after * 1e9)) | (lag < -(period // 2))
        found, known = np.where(silent[:, None], silence.value, found), known | silent
    return found, known
