"""Whether what a camera shows is of the same moment as the state beside it, told from motion alone.

Of the images the change from one to the next counts, of the state how far its numbers move, each as a path
that grows: what both grow by in a period is compared at every lag, block by block of a recording. The lag is
where the mean of the blocks' correlations is highest, and its uncertainty how far that moves when other
blocks are drawn (a bootstrap: what is recorded together is not independent, so no formula for it holds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qgf_ros.spaces.messages import BY_JOINT
from training.doctor.cameras import LABELS
from training.doctor.roles import positions, quantity, role
from training.pipeline.delay import LONGEST, lag_curve
from training.pipeline.streams import Signal, Stream, Survey

BLOCK = 10.0  # s
FEWEST = 4  # blocks; fewer say nothing of how sure it is
MOST = 4096  # blocks of a dataset that are kept
STEP = 0.005  # s between two lags
LAGS = STEP * np.arange(-round(LONGEST / STEP), round(LONGEST / STEP) + 1)
ALIKE = 0.3  # correlation from which image and state show the same motion
SURE = 0.1  # s of uncertainty, above which nothing is said
DRAWN = 200
SPIKE = 0.99  # what changes more than this share of all steps counts as much: a cut, a flash, a reset


@dataclass(frozen=True)
class Lag:
    """seconds: positive where images show what the state said before. error: one standard error [s].
    correlation: of the two motions at that lag."""

    seconds: float
    error: float
    correlation: float


def curves(survey: Survey, starts: np.ndarray) -> dict[str, np.ndarray]:
    """By camera (blocks, lags) float32: the correlation of its motion with the state's at `LAGS`; NaN where
    it is not known. starts: (E,) ns, of the episodes of a bag, between which everything may jump."""
    cameras = [s for s in survey.signals.values() if role(s.topic, s.type) == "camera"]
    if not cameras or (survey.one_episode and not survey.rate):
        return {}
    moved = _moved(survey, starts)
    if moved is None:
        return {}
    found = {}
    for camera in cameras:
        seen = _path(camera.stream, [LABELS.index("change")], starts, differences=True)
        blocks = _blocks(moved, seen)
        if len(blocks):
            found[camera.topic] = blocks
    return found


def lag(blocks: np.ndarray) -> Lag | None:
    """Of (blocks, lags); None where there is too little motion to say so."""
    blocks = blocks[np.isfinite(blocks).any(axis=1)]
    if len(blocks) < FEWEST:
        return None
    seconds, correlation = _peak(_mean(blocks))
    if not correlation >= ALIKE:
        return None
    rng = np.random.default_rng(0)
    drawn = [_peak(_mean(blocks[rng.integers(0, len(blocks), len(blocks))]))[0] for _ in range(DRAWN)]
    error = float(np.std(drawn))  # NaN where one of them has no peak
    return Lag(seconds, error, correlation) if error <= SURE else None


def _mean(blocks: np.ndarray) -> np.ndarray:
    known = np.isfinite(blocks)
    count = known.sum(axis=0)
    total = np.where(known, blocks, 0).sum(axis=0)
    return np.where(count >= len(blocks) / 2, total / np.maximum(count, 1), np.nan)


def _peak(curve: np.ndarray) -> tuple[float, float]:
    """Where it is highest [s], and how high; NaN where that is at its end, and a peak may be beyond."""
    if np.isnan(curve).all():
        return float("nan"), float("nan")
    k = int(np.nanargmax(curve))
    if not 0 < k < len(curve) - 1 or not np.isfinite(curve[k - 1 : k + 2]).all():
        return float("nan"), float("nan")
    before, top, after = curve[k - 1 : k + 2]
    bend = before - 2 * top + after
    return float(LAGS[k] + (0.5 * (before - after) / bend * STEP if bend < 0 else 0.0)), float(top)


def _moved(survey: Survey, starts: np.ndarray) -> Stream | None:
    """How far the joints have moved in all: of the signal that has most numbers which can move."""
    states = [s for s in survey.signals.values() if role(s.topic, s.type) == "state" and len(s.stream) > 1]
    numbers = {s.topic: _places(s) for s in states}
    states = [s for s in states if numbers[s.topic]]
    if not states:
        return None
    state = max(states, key=lambda s: (s.type in BY_JOINT, len(numbers[s.topic])))
    return _path(state.stream, numbers[state.topic], starts)


def _places(s: Signal) -> list[int]:
    """Of the numbers that say where something is."""
    wanted = positions(s.labels) if s.type in BY_JOINT else s.labels
    return [k for k, n in enumerate(s.labels) if n in wanted and quantity(s.topic, n) in ("position", "")]


def _path(stream: Stream, columns: list[int], starts: np.ndarray, differences: bool = False) -> Stream:
    """One column that grows by what `columns` change, each in units of how much it varies; differences: by
    what they say themselves."""
    order = np.argsort(stream.stamp, kind="stable")
    stamp, values = stream.stamp[order], stream.values[order][:, columns]
    fine = np.isfinite(values).all(axis=1)
    if not differences:
        stamp, values, order = stamp[fine], values[fine], order[fine]
    spread = values.std(axis=0) if len(values) else np.ones(len(columns))
    if differences:
        step = np.nan_to_num(values[:, 0])
    elif (spread > 0).any():
        moving = spread > 0
        changes = np.diff(values[:, moving], axis=0, prepend=values[:1, moving])
        step = np.abs(changes / spread[moving]).sum(axis=1)
    else:
        step = np.zeros(len(values))
    episode = np.searchsorted(starts, stream.receipt[order], side="right")
    step[1:][np.diff(episode) != 0] = 0
    if some := step[step > 0].tolist():
        step = np.minimum(step, np.quantile(some, SPIKE))
    return Stream(stamp, stamp, np.cumsum(step)[:, None])


def _blocks(moved: Stream, seen: Stream) -> np.ndarray:
    """(blocks, lags) float32"""
    if min(len(moved), len(seen)) < 2:
        return np.empty((0, len(LAGS)), np.float32)
    first, last = max(moved.stamp[0], seen.stamp[0]), min(moved.stamp[-1], seen.stamp[-1])
    count = max(1, int((last - first) * 1e-9 / BLOCK))
    edges = np.linspace(first, last, count + 1)
    found = []
    for begin, end in zip(edges, edges[1:]):
        told, shown = (_between(s, begin, end) for s in (moved, seen))
        if min(len(told), len(shown)) < FEWEST:
            continue
        # Two images are the shortest time in which anything can be seen to move.
        period = float(np.median(np.diff(shown.stamp))) * 1e-9
        if period <= 0:
            continue
        at, curve = lag_curve(told, shown, period)
        known = np.isfinite(curve)
        if known.sum() > 2:
            there = np.interp(LAGS, at[known], curve[known], np.nan, np.nan)
            found.append(there.astype(np.float32))
    return np.array(found, np.float32).reshape(-1, len(LAGS))


def _between(stream: Stream, begin: float, end: float) -> Stream:
    low, high = np.searchsorted(stream.stamp, [begin, end])
    return Stream(stream.stamp[low:high], stream.receipt[low:high], stream.values[low:high])


def kept(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Those of all recordings, at most MOST, spread over them."""
    every = np.concatenate(blocks)
    return every[:: -(-len(every) // MOST)]
