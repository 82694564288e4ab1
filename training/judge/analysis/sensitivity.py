"""Noise sensitivity: how far the guidance turns when a_t moves a little.

    cos(g(a_t), g(a_t + eps)),   eps ~ N(0, sigma^2 I)

1: the gradient does not mind; 0: it is as good as random. A guided chain asks the estimator T
times along a path that guidance itself displaces, so an estimator that turns quickly pushes to and
fro. The paper (arXiv 2606.11087) finds PAPER_ORDER, least sensitive first; whether that holds for
a given policy is measured, not assumed. The cosine is blind to length, so the spread of |g| stands
beside it: a product of Jacobians may point steadily and be a thousand times too long here and there.
Knows nothing about success.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from qgf_ros.statistics import Interval, interval
from training.estimators import ESTIMATORS
from training.judge.analysis.base import Model, States

SIGMAS = (0.01, 0.03, 0.1, 0.3)  # of normalised actions; the noise itself has 1
PAPER_ORDER = ("qgf", "qgf_chain", "qgf_jacobian", "bptt")


@dataclass(frozen=True)
class Cosine:
    """One estimator. A zero gradient (all of a_hat saturated, under an estimator that differentiates
    the clip) has no cosine: it is left out of the means and counted in `zero`."""

    overall: Interval  # over all t and sigma
    by_sigma: tuple[Interval, ...]  # over all t
    by_time: tuple[tuple[Interval, ...], ...]  # [sigma][k]
    zero: float  # share of all pairs with a gradient of exactly 0
    zero_by_time: tuple[tuple[float, ...], ...]  # [sigma][k]
    norm_spread: float  # 99 % quantile of |g| over its median, all states and steps; 1: all alike
    not_finite: float  # share of all pairs with a gradient that overflowed


@dataclass(frozen=True)
class Pair:
    """Two estimators, in the paper's order."""

    first: str
    second: str
    overlap: bool  # of the two `overall` intervals
    difference: Interval  # of first - second, state by state: above 0 bears the paper out


@dataclass(frozen=True)
class Sensitivity:
    """All estimators, on the same states, paths and noise."""

    times: tuple[float, ...]  # t = k / T
    sigmas: tuple[float, ...]
    estimators: dict[str, Cosine]
    order: tuple[str, ...]  # by `overall`, least sensitive first
    paper_order: tuple[str, ...]
    reproduced: bool  # the means are in the paper's order
    pairs: tuple[Pair, ...]

    @property
    def middle(self) -> int:
        """Index of the middle sigma, the one to plot."""
        return len(self.sigmas) // 2


def sensitivity(
    model: Model, states: States, seed: int = 0, sigmas: Sequence[float] = SIGMAS
) -> Sensitivity:
    """Every estimator at each step of the unguided paths from one noise per state.

    eps is sigma times one unit draw per state and step, the same for all sigmas and estimators.
    """
    T, B = model.steps, len(states)
    unit = states.noise(seed + 1, T)
    scale = torch.tensor([0.0, *sigmas]).to(unit)[:, None, None]
    obs = states.obs.repeat(len(scale), 1)
    shape = (len(sigmas), T, B)
    cosines = {name: np.empty(shape) for name in ESTIMATORS}
    zero = {name: np.empty(shape, bool) for name in ESTIMATORS}
    norm = {name: np.empty((T, B)) for name in ESTIMATORS}
    for k, (a, _) in enumerate(model.path(states.obs, states.noise(seed))):
        near = (a + scale * unit[k]).flatten(0, 1)
        for name in ESTIMATORS:
            g = model.gradient(name, obs, near, k).unflatten(0, (-1, B))
            cosines[name][:, k], zero[name][:, k] = cosine(g[:1], g[1:])
            norm[name][k] = g[0].double().norm(dim=-1)

    def mean(values: np.ndarray) -> Interval:  # (.., B)
        return interval(values.reshape(-1, B).T, states.episode)

    curves = {
        name: Cosine(
            overall=mean(c),
            by_sigma=tuple(mean(row) for row in c),
            by_time=tuple(tuple(mean(cell) for cell in row) for row in c),
            zero=float(zero[name].mean()),
            zero_by_time=tuple(map(tuple, zero[name].mean(-1).tolist())),
            norm_spread=_spread(norm[name]),
            not_finite=float((np.isnan(c) & ~zero[name]).mean()),
        )
        for name, c in cosines.items()
    }
    order = _by_mean(curves, list(curves))
    return Sensitivity(
        times=tuple(k / T for k in range(T)),
        sigmas=tuple(sigmas),
        estimators=curves,
        order=order,
        paper_order=PAPER_ORDER,
        reproduced=_by_mean(curves, PAPER_ORDER) == PAPER_ORDER,
        pairs=tuple(
            Pair(
                a,
                b,
                curves[a].overall.overlaps(curves[b].overall),
                mean(cosines[a] - cosines[b]),
            )
            for a, b in combinations(PAPER_ORDER, 2)
        ),
    )


def cosine(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(.., B) cosine, NaN where there is none, and whether that is for a gradient of 0."""
    a, b = a.double(), b.double()  # float32 squares of small gradients would underflow to 0
    norms = a.norm(dim=-1) * b.norm(dim=-1)
    cosine = ((a * b).sum(-1) / norms).clamp(-1, 1)
    return torch.where(norms > 0, cosine, torch.nan), norms == 0


def _spread(norm: np.ndarray) -> float:
    if np.isnan(norm).all():
        return float("nan")
    middle, high = np.nanquantile(norm, (0.5, 0.99))
    return float(high / middle) if middle > 0 else float("nan")


def _by_mean(curves: dict[str, Cosine], names: Sequence[str]) -> tuple[str, ...]:
    """Largest mean first; without one, last; equal ones as given."""
    return tuple(sorted(names, key=lambda n: -np.nan_to_num(curves[n].overall.mean, nan=-2.0)))
