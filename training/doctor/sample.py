"""What is kept of many rows when there is no room for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """A uniform sample of rows: those with the smallest of random keys that every row has got.

    Samples of parts so become the sample of the whole, whatever the order of the parts.
    """

    rows: np.ndarray  # (k, d)
    keys: np.ndarray  # (k,) in [0, 1)

    @classmethod
    def of(cls, rows: np.ndarray, size: int, rng: np.random.Generator) -> Sample:
        """rows (N, d)."""
        return cls(rows, rng.random(len(rows)))._smallest(size)

    def merge(self, other: Sample, size: int) -> Sample:
        if len(self.keys) >= size:  # most of what comes late in a large dataset is not looked at
            fits = other.keys < self.keys.max()
            other = Sample(other.rows[fits], other.keys[fits])
        rows = np.concatenate([self.rows, other.rows])
        return Sample(rows, np.concatenate([self.keys, other.keys]))._smallest(size)

    def picked(self, columns: list[int]) -> Sample:
        return Sample(self.rows[:, columns], self.keys)

    def quantile(self, share: float | tuple[float, ...]) -> np.ndarray:
        """(d,) or (len(share), d): NaN where a column has no finite number."""
        return column_quantile(self.rows, share)

    def _smallest(self, size: int) -> Sample:
        if len(self.keys) <= size:
            return self
        pick = np.sort(np.argpartition(self.keys, size)[:size])
        return Sample(self.rows[pick], self.keys[pick])


def column_quantile(rows: np.ndarray, share: float | tuple[float, ...]) -> np.ndarray:
    """Quantiles of each column's finite numbers; NaN where it has none."""
    rows = np.where(np.isfinite(rows), rows, np.nan)
    empty = np.isnan(rows).all(axis=0) if len(rows) else np.ones(rows.shape[1], bool)
    filled = np.where(empty, 0.0, rows) if len(rows) else np.zeros((1, rows.shape[1]))
    return np.where(empty, np.nan, np.nanquantile(filled, share, axis=0))


@dataclass(frozen=True)
class Extremes:
    """The few smallest and largest numbers of each column, and where they were."""

    FEW = 3

    values: np.ndarray  # (m, d), NaN where there are not as many
    times: np.ndarray  # (m, d) s from the recording's beginning
    recordings: np.ndarray  # (m, d) int

    @classmethod
    def of(cls, values: np.ndarray, times: np.ndarray) -> Extremes:
        """values (N, d), times (N,) [s]."""
        shape = min(len(values), 2 * cls.FEW), values.shape[1]
        few, when = np.full(shape, np.nan), np.zeros(shape)
        for i, column in enumerate(values.T):  # by column: a recording may be large
            pick = np.flatnonzero(np.isfinite(column))
            if len(pick) > len(few):
                order = np.argpartition(column[pick], (cls.FEW - 1, len(pick) - cls.FEW))
                pick = pick[np.r_[order[: cls.FEW], order[-cls.FEW :]]]
            few[: len(pick), i], when[: len(pick), i] = column[pick], times[pick]
        return cls(few, when, np.zeros(shape, int))

    def numbered(self, recording: int) -> Extremes:
        return Extremes(self.values, self.times, np.full(self.values.shape, recording))

    def picked(self, columns: list[int]) -> Extremes:
        parts = (self.values, self.times, self.recordings)
        return Extremes(*(part[:, columns] for part in parts))

    def merge(self, other: Extremes) -> Extremes:
        parts = ((getattr(x, f) for x in (self, other)) for f in ("values", "times", "recordings"))
        return Extremes(*(np.concatenate(list(part)) for part in parts))._few()

    def _few(self) -> Extremes:
        if len(self.values) <= 2 * self.FEW:
            return self
        order = np.argsort(self.values, axis=0)  # NaN comes last
        finite = np.isfinite(self.values).sum(axis=0)
        low = np.arange(self.FEW)[:, None]
        high = np.maximum(finite - 1 - low, np.minimum(low + self.FEW, len(order) - 1))
        pick = np.take_along_axis(
            order, np.concatenate([np.broadcast_to(low, high.shape), high]), 0
        )
        return Extremes(
            *(np.take_along_axis(a, pick, 0) for a in (self.values, self.times, self.recordings))
        )
