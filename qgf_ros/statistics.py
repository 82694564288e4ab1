"""Means, shares and their 95 % intervals: the one bootstrap and the one interval of a rate.

    interval, share   a mean over states, by a bootstrap over whole episodes
    drawn, between    the same for any figure that is made of sums: work it out for all resamples
    wilson            a rate of independent trials (Wilson, JASA 22, 1927)

States of one episode look alike, and drawing them one by one would claim more than the data says;
so what is drawn is the episode, or the segment of a replay. The draws are the same in every call of
as many of them, so intervals of different quantities belong together and differences are paired.
What a trial says while it goes on, looked at after every block, is in `trial/sequential.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

TAILS = (0.025, 0.975)
Z = 1.959964  # of 95 %
RESAMPLES = 1000
FEW = 20  # episodes, below which a bootstrap over them is rough
EPISODES, SEGMENTS = 20266, 20281  # seeds of the draws: of an analysis and of a replay


def few(count: int, what: str) -> str:
    """What to think of intervals from so few, of which `what` names one; nothing where they are enough."""
    if count == 1:
        return f"only 1 {what}: nothing says how far figures would be from it on another"
    return f"only {count} {what}s: the intervals are rough, and rather too narrow" if count < FEW else ""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval. NaN: no values, or a single episode to draw from."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low != self.low or self.high != self.high:
            return "not known" if self.mean != self.mean else f"{self.mean:.3f} (no interval)"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def overlaps(self, other: Interval) -> bool:
        return self.low <= other.high and other.low <= self.high

    def side(self, below: str, above: str) -> str:
        """Of a difference: `below` or `above` 0, and only where the interval leaves 0 out."""
        return below if self.high < 0 else above if self.low > 0 else "undecided"


UNKNOWN = Interval(math.nan, math.nan, math.nan)


@lru_cache(maxsize=4)
def draws(count: int, seed: int = EPISODES) -> np.ndarray:
    """(1 + R, count): how often each of `count` episodes counts: once, then in each of R resamples,
    which a single episode has none of."""
    once = np.ones((1, count))
    rng = np.random.default_rng(seed)
    many = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES if count > 1 else 0)
    return np.concatenate([once, many])


def drawn(episode: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Of (N,) episode numbers: 0..E-1 for each (N,), and their `draws` (1 + R, E)."""
    _, group = np.unique(np.asarray(episode), return_inverse=True)
    return group, draws(int(group.max()) + 1)


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where there is nothing."""
    return np.divide(total, count, where=count > 0, out=np.full(np.shape(total), np.nan))


def between(values: np.ndarray) -> Interval:
    """(1 + R,): a figure and its resamples -> with its interval. What is not finite is left out."""
    some = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(some, TAILS) if len(some) else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))


def interval(values: ArrayLike, episode: ArrayLike) -> Interval:
    """Mean of values (B,) or (B, M), NaN left out, over the states of `episode` (B,)."""
    x = np.asarray(values, np.float64).reshape(len(np.asarray(episode)), -1)
    there = ~np.isnan(x)
    group, counted = drawn(episode)
    groups, again = counted.shape[1], counted[1:]
    total = np.bincount(group, np.where(there, x, 0).sum(1), groups)
    count = np.bincount(group, there.sum(1), groups)
    if not count.sum():
        return UNKNOWN
    means = ratio(again @ total, again @ count)
    return between(np.append(total.sum() / count.sum(), means))


def share(of: ArrayLike, episode: ArrayLike) -> Interval:
    """Share of states (B,) for which `of` holds; NaN left out. Where all agree: `agreed`."""
    found = interval(of, episode)
    if found.mean not in (0.0, 1.0):
        return found
    return agreed(found.mean, len(np.unique(np.asarray(episode))))


def agreed(mean: float, trials: int) -> Interval:
    """Of a share that is 0 or 1. A bootstrap has nothing to draw from there and would claim
    certainty: the open end is the exact binomial (Clopper-Pearson) one for as many trials."""
    end = TAILS[0] ** (1 / trials)
    return Interval(0.0, 0.0, 1 - end) if mean == 0 else Interval(1.0, end, 1.0)


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share of independent trials; all there is for no trials."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = count / total, Z * Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)
