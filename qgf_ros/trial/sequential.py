"""Which beta does better, looked at after every block without paying for the looks.

In a block each beta still in the trial has one episode, in random order. For two of them d is 1, 0 or
-1: the success of the one less that of the other. Against "the mean of d is at most m" a capital is
put on d, a share c of it at a time,

    K_t = mean over c of prod_{i <= t} (1 + c * (d_i - m) / (1 + m)),    c in BETS,

which while that is true is not expected to grow. By Ville's inequality it ever reaches 1/a with a
probability of at most a, however often it is looked at and whenever the trial ends. The m that are
not refuted form a confidence sequence of the mean. (Waudby-Smith and Ramdas, Estimating means of
bounded random variables by betting, JRSS-B 86, 2024.) That a block is shuffled makes the mean of d 0
between two beta of one effect, whatever drifts from block to block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ERROR = 0.05  # chance that any beta is ever called worse than one that is not better
BETS = np.array([0.25, 0.5, 0.75, 0.9])
MEANS = np.linspace(-0.999, 1.0, 2000)  # candidates for the mean of d

Block = Mapping[float, bool]  # beta -> whether its episode was a success


@dataclass(frozen=True)
class Stop:
    """A beta that left the trial."""

    block: int  # after which it was taken out, from 1
    worse_than: float


def level(betas: int) -> float:
    """Of one one-sided test, so that all ordered pairs together keep to ERROR."""
    return ERROR / (betas * (betas - 1))


def differences(blocks: Sequence[Block], one: float, other: float) -> np.ndarray:
    """(n,) in {-1, 0, 1}: success of `one` less that of `other`, in blocks that have both."""
    return np.array([float(b[one]) - float(b[other]) for b in blocks if one in b and other in b])


def capital(d: np.ndarray, means: np.ndarray) -> np.ndarray:
    """(n, m) log capital after each of n blocks against "the mean is at most m", for each of `means`
    in (-1, 1]; the largest so far."""
    gain = (d[:, None] - means) / (1 + means)  # at least -1
    paths = np.cumsum(np.log1p(BETS[:, None, None] * gain), axis=1)  # (c, n, m)
    return np.maximum.accumulate(np.logaddexp.reduce(paths, axis=0) - math.log(len(BETS)), axis=0)


def refuted(d: np.ndarray, means: np.ndarray, error: float) -> np.ndarray:
    """(n, m) whether "the mean is at most m" was beyond doubt after each block."""
    return capital(d, means) >= math.log(1 / error)


def interval(d: np.ndarray, error: float) -> tuple[float, float]:
    """The confidence sequence for the mean of d now; each end is wrong with chance `error` at most,
    at any time."""
    return _low(d, error), -_low(-d, error)


def _low(d: np.ndarray, error: float) -> float:
    if not len(d):
        return -1.0
    beyond = refuted(d, MEANS, error)[-1]  # the capital falls with m
    return round(float(MEANS[beyond].max(initial=-1.0)), 3)


def judge(blocks: Sequence[Block], betas: Sequence[float]) -> dict[float, Stop]:
    """Who left the trial, and when. Deterministic: a resumed trial comes to the same.

    A beta is taken out when one that is still in it is better beyond doubt.
    """
    error = level(len(betas))
    found = []
    for better, worse in itertools.permutations(betas, 2):
        shared = [n for n, block in enumerate(blocks, 1) if better in block and worse in block]
        beyond = refuted(differences(blocks, better, worse), np.zeros(1), error)[:, 0]
        found += [(shared[i], better, worse) for i in np.flatnonzero(beyond)[:1]]
    stops: dict[float, Stop] = {}
    # Nobody takes another out in the block that ends its own part: it won the one, and lost the other.
    for number, better, worse in sorted(found, key=lambda f: f[0]):
        if better not in stops and worse not in stops:
            stops[worse] = Stop(number, better)
    return stops
