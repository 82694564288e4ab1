"""One source of observations onto ticks. `hold` is what the node does, and all that it can do;
the others look at the message after the tick as well."""

from __future__ import annotations

import numpy as np

from qgf_ros.spaces.observations.source import ObservationSource
from training.pipeline.streams import Stream


def hold(
    stream: Stream, ticks: np.ndarray, delay: float, max_age: float, slack: int
) -> tuple[np.ndarray, np.ndarray]:
    """The newest that had been received by each tick, and whether it was no older than `max_age`.

    Args:
        stream: (N > 0, d) in order of receipt.
        ticks: (T,) ns.
        delay, max_age: s, of the source.
        slack: ns, how much later than a tick still counts as there.

    Returns:
        (T, d) values, (T,) bool.
    """
    pick = np.searchsorted(stream.receipt, ticks + slack, side="right") - 1
    holder = _holders(stream.stamp)[np.maximum(pick, 0)]
    # Whole ns, and a stamp ahead of its receipt makes nothing younger, as in the node.
    known = np.minimum(stream.stamp, stream.receipt)[holder]
    age = ticks - known + round(delay * 1e9)
    return stream.values[holder], (pick >= 0) & (age <= round(max_age * 1e9))


def _holders(stamp: np.ndarray) -> np.ndarray:
    """For each message, which one counts after it: a late one does not replace a newer one, and
    of equal stamps the last does."""
    holds = stamp >= np.maximum.accumulate(stamp)
    return np.maximum.accumulate(np.where(holds, np.arange(len(stamp)), 0))


def between(
    source: ObservationSource, stream: Stream, ticks: np.ndarray, max_age: float, slack: int
) -> tuple[np.ndarray, np.ndarray]:
    """The value at each tick by stamp, out of the messages before and after it, and whether these
    are close enough: no further apart than `max_age`, less the source's delay.

    Args:
        stream: (N > 0, d) numbers of messages, not yet encoded.
        slack: ns, how far before the first message or after the last a tick counts as at it.

    Returns:
        (T, d) values, those not fresh without meaning; (T,) bool.
    """
    order = np.argsort(stream.stamp, kind="stable")
    stamp, values = stream.stamp[order], stream.values[order]
    last = np.append(stamp[1:] > stamp[:-1], True)  # of equal stamps, as in `hold`
    stamp, values = stamp[last], values[last]
    at = np.where(np.abs(ticks - stamp[0]) <= slack, stamp[0], ticks)
    at = np.where(np.abs(ticks - stamp[-1]) <= slack, stamp[-1], at)
    after = np.minimum(np.searchsorted(stamp, at), len(stamp) - 1)
    before = np.maximum(np.searchsorted(stamp, at, side="right") - 1, 0)
    furthest = round((max_age - source.delay) * 1e9)
    fresh = (at >= stamp[0]) & (at <= stamp[-1]) & (stamp[after] - stamp[before] <= furthest)
    if source.resample == "nearest":
        nearer = np.where(stamp[after] - at < at - stamp[before], after, before)
        return values[nearer], fresh
    share = np.where(fresh, (at - stamp[before]) / np.maximum(stamp[after] - stamp[before], 1), 0)
    return source.kind.between(source, values[before], values[after], share[:, None]), fresh
