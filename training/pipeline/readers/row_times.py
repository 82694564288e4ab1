"""When the rows of a table were recorded: by the rate that a dataset states, and by its own clock where
that is another."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ros.errors import DataRefused
from qgf_ros.files.strict_yaml import clipped

DEPARTS = "timestamp departs from index / fps by more than half a period"
SAME_RATE = 1e-3  # relative: timestamps in float32 have no better rate
EVEN = 0.75  # share of the intervals that must be alike for a rate to be measured
MAX_TICKS = 10_000_000  # of one episode; at 1 kHz nearly three hours
# Columns that say where a row stands, and their values: the first that there is counts.
CLOCKS = {"timestamp": "timestamps", "frame_index": "frame_index values"}
MIN_RATE, MAX_RATE = 1e-3, 1e5  # Hz, of rows; what is stated beyond is another unit or damage


def rate_of(said: Any, what: str = "fps") -> float:
    """Rows per second, as a dataset states them. Raises ValueError where that is no sane rate."""
    if isinstance(said, np.ndarray) and said.shape in ((), (1,)):
        said = said.reshape(-1)[0]
    if isinstance(said, np.generic):
        said = said.item()
    number = isinstance(said, (int, float, np.floating)) and not isinstance(said, bool)
    if not (number and MIN_RATE <= said <= MAX_RATE):
        raise ValueError(
            f"{what} is {clipped(repr(said), 80)}; one number of rows per second is allowed, "
            f"{MIN_RATE:g} to {MAX_RATE:g}"
        )
    return float(said)


def on_grid(
    where: object, seconds: np.ndarray, fps: float, clock: str = "timestamp"
) -> tuple[np.ndarray, float, dict[str, int]]:
    """Tick of each row (N,) int64 by the dataset's own clock, -1 for rows that have none, ticks per
    second, and what there is to say about it.

    Rows stand at index / fps, exactly: float32 seconds are off by microseconds after a minute.
    Only where the clock departs from that by more than half a period is it believed: where it goes
    at another rate, that is the rate; rounded to whole periods, so that what was lost in between is
    a gap and not a jump. clock: what `seconds` are of, see CLOCKS.
    """
    count = np.arange(len(seconds))
    if not len(seconds):
        return count, fps, {}
    with np.errstate(invalid="ignore", over="ignore"):
        departs = ~(np.abs((seconds - seconds[0]) * fps - count) <= 0.5)
        if not departs.any():
            return count, fps, {}
        said = {DEPARTS: int(departs.sum())}
        rate = _measured(np.diff(seconds)) or fps
        if abs(rate / fps - 1) <= SAME_RATE:
            rate = fps
        ticks = (seconds - seconds[0]) * rate
    if not (np.isfinite(ticks).all() and ticks.max() <= MAX_TICKS):
        raise DataRefused(f"{where}: its {CLOCKS[clock]} make no sense: not finite, or days apart")
    if not (np.abs(ticks - count) <= 0.5).all():
        ticks = np.round(ticks).astype(np.int64)
        before = np.maximum.accumulate(np.concatenate([[-1], ticks[:-1]]))
        ticks = np.where(ticks > before, ticks, -1)
    else:
        ticks = count
    stays = int((ticks < 0).sum())
    if 2 * stays > len(ticks):
        raise DataRefused(
            f"{where}: {stays} of {len(ticks)} rows do not come a period of {1 / fps:.4g} s after the "
            f"row before by their {CLOCKS[clock]}; either those or fps are wrong"
        )
    if stays:
        said[f"{clock} does not come after the row before"] = stays
    return ticks, rate, said


def _measured(steps: np.ndarray) -> float:
    """Hz of timestamps that mostly come evenly, s apart; 0 where they do not."""
    middle = float(np.median(steps)) if len(steps) else 0.0
    if not 1 / MAX_RATE <= middle <= 1 / MIN_RATE:  # NaN, too
        return 0.0
    even = np.abs(steps - middle) <= 0.25 * middle
    return float(even.sum() / steps[even].sum()) if even.mean() >= EVEN else 0.0
