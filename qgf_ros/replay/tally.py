"""Sums of many segments, and the figures that they give, with intervals.

Intervals are 95 %, from a bootstrap over segments: neighbouring ticks look alike, and drawing them
one by one would claim more than the data says. The draws are the same for every beta and policy of
a replay, so that their differences are paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from qgf_ros.replay.drive import Track
from qgf_ros.replay.score import Sums
from qgf_ros.statistics import SEGMENTS, draws, ratio

MOST_SEGMENTS = 512  # more are added up in pairs, so that memory stays flat
LATENCY_EDGES = np.geomspace(1e-6, 10.0, 1401)  # s, each 1.2 % above the last


@dataclass
class Tally:
    """What one drive gave."""

    segments: list[Sums] = field(default_factory=list)
    ticks: int = 0
    samples: int = 0
    states: Counter[str] = field(default_factory=Counter)  # ticks not in RUN, by state and reason
    refused: Counter[str] = field(default_factory=Counter)
    guards: Counter[str] = field(default_factory=Counter)
    latency: np.ndarray = field(default_factory=lambda: np.zeros(len(LATENCY_EDGES) + 1, np.int64))
    slowest: float = 0.0  # s

    def add(self, sums: Sums, track: Track) -> None:
        """Adds a segment."""
        self.segments.append(sums)
        self.ticks += len(track.sent)
        self.samples += len(track.rows)
        self.states.update(track.states)
        self.refused.update(track.refused)
        seconds = np.array([row.sampled.inference_seconds for row in track.rows])
        np.add.at(self.latency, np.searchsorted(LATENCY_EDGES, seconds), 1)
        self.slowest = max(self.slowest, float(seconds.max(initial=0.0)))
        for row in track.rows:
            self.guards.update(row.sampled.guards)
        self._fold()

    def merge(self, other: Tally) -> None:
        """Adds what another process, or another bag, gave; in a fixed order the sum is the same."""
        self.segments += other.segments
        for name in ("ticks", "samples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("states", "refused", "guards"):
            getattr(self, name).update(getattr(other, name))
        self.latency = self.latency + other.latency
        self.slowest = max(self.slowest, other.slowest)
        self._fold()

    def _fold(self) -> None:
        while len(self.segments) > MOST_SEGMENTS:
            pairs = [self.segments[i : i + 2] for i in range(0, len(self.segments), 2)]
            self.segments = [added(pair) for pair in pairs]

    def latency_ms(self) -> dict[str, float]:
        """p50, p99 to 1.2 %, and the largest [ms]."""
        total = self.latency.cumsum()
        if not total[-1]:
            return dict.fromkeys(("p50", "p99", "max"), float("nan"))
        edges = np.append(LATENCY_EDGES, np.inf)
        p50, p99 = (float(edges[np.searchsorted(total, p * total[-1])]) for p in (0.5, 0.99))
        return {"p50": p50 * 1e3, "p99": min(p99, self.slowest) * 1e3, "max": self.slowest * 1e3}


def added(parts: list[Sums]) -> Sums:
    """The sum of several."""
    total: Sums = {}
    for part in parts:
        for name, values in part.items():
            total[name] = total[name] + values if name in total else values
    return total


class Resampled:
    """Sums over all segments (row 0) and over resamples of them, figure by figure."""

    def __init__(self, segments: list[Sums]) -> None:
        self._segments = segments or [{}]
        self._draws = draws(len(self._segments), SEGMENTS)

    def __contains__(self, name: str) -> bool:
        return any(name in s for s in self._segments)

    def sums(self, name: str, part: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> np.ndarray:
        """(1 + R, 2, ...) sums and counts. part: what of a figure's numbers (...) is looked at."""
        shape = next((s[name].shape for s in self._segments if name in s), (2,))
        none = np.zeros(shape)
        rows = np.stack([part(s.get(name, none)) for s in self._segments])
        return np.tensordot(self._draws, rows, axes=1)

    def mean(self, name: str) -> np.ndarray:
        """(1 + R,) over all of a figure's numbers."""
        total = self.sums(name).reshape(len(self._draws), 2, -1).sum(axis=2)
        return ratio(total[:, 0], total[:, 1])

    def rms(self, name: str, steps: int | None = None) -> np.ndarray:
        """(1 + R,) root of the mean; steps: of the first so many of (H, A) alone."""
        total = self.sums(name, lambda x: x[:, :steps] if steps and x.ndim == 3 else x)
        total = total.reshape(len(self._draws), 2, -1).sum(axis=2)
        return np.sqrt(ratio(total[:, 0], total[:, 1]))


Figures = Mapping[str, Callable[[Resampled, int], np.ndarray]]


def _errors(interval: str) -> Figures:
    def executed(r: Resampled, steps: int) -> np.ndarray:
        return r.rms(f"error/{interval}", steps)

    def gained(r: Resampled, steps: int) -> np.ndarray:
        return executed(r, steps) - r.rms(f"error_unguided/{interval}", steps)

    end = "" if interval == "all" else f"_{interval}"
    return {f"error{end}": executed, f"error_by_guidance{end}": gained}


def _means(*names: str) -> Figures:
    return {name: lambda r, steps, name=name: r.mean(name) for name in names}  # type: ignore[misc]


FIGURES: Figures = {
    **_errors("all"),
    **_errors("moving"),
    **_errors("grasping"),
    **_errors("ending"),
    "command_error": lambda r, steps: r.rms("command_error"),
    **_means("q_recorded", "q_unguided", "q_guided", "q_gain", "q_over_recorded"),
    **_means("distance", "distance_unguided", "farther"),
    **_means("disagreement", "guidance_ratio", "clipped", "guarded", "limited", "seam_jump"),
    "jerk": lambda r, steps: r.rms("jerk"),
    "jerk_ratio": lambda r, steps: ratio(r.rms("jerk"), r.rms("recorded_jerk")),
    **_means("held"),
}
# What means the same of any policy: Q and distances are on the scale of one policy's own returns
# and ranges.
COMPARED = tuple(
    name for name in FIGURES
    if name.startswith(("error", "command", "jerk")) or name in ("limited", "seam_jump", "held")
)  # fmt: skip
