"""What is analysed, where, and means with intervals: shared by the parts of the analysis."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from training import estimators
from training.learn.models import aggregate
from training.sampling import CriticFn, Sample, Velocity, sample

BLOCK = 2048  # rows per gradient; bounds memory and changes no result
RESAMPLES = 1000


@dataclass(frozen=True)
class Model:
    """A flow and the target critic, as the sampler runs them."""

    velocity: Velocity
    critic: CriticFn
    times: Tensor  # (T, ...), what the flow is told at step k = 0..T-1
    aggregation: str = "min"
    bound: float = 1.0  # of clean actions; inf for none

    @property
    def steps(self) -> int:
        """T."""
        return len(self.times)

    def velocity_at(self, obs: Tensor, a: Tensor, k: int) -> Tensor:
        """(B, D) flow at t = k / T."""
        return self.velocity(obs, a, self.times[k].to(a).expand(len(a), *self.times.shape[1:]))

    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        """(B,) aggregated Q, in scaled return."""
        return aggregate(self.critic(obs, action), self.aggregation)

    def sample(
        self, obs: Tensor, noise: Tensor, weight: float, estimator: str = "qgf"
    ) -> Sample:  # (B, O), (B, D)
        """The reference sampler, without guards."""
        return sample(
            self.velocity,
            self.critic,
            obs,
            noise,
            weight,
            steps=self.steps,
            estimator=estimator,
            aggregation=self.aggregation,
            bound=self.bound,
            times=self.times,
        )

    @torch.no_grad()
    def path(self, obs: Tensor, noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        """a_t and v, both (B, D), at each k = 0..T-1 of the unguided flow."""
        a, out = noise, []
        for k in range(self.steps):
            v = self.velocity_at(obs, a, k)
            out.append((a, v))
            a = a + v / self.steps
        return out

    def step(self, obs: Tensor, a: Tensor, v: Tensor, k: int) -> estimators.Step:
        """What an estimator is given at a_t = a."""
        return estimators.Step(
            lambda x, j: self.velocity_at(obs, x, j),
            lambda x: self.q(obs, x),
            a,
            v,
            k,
            self.steps,
            self.bound,
        )

    @torch.no_grad()
    def gradient(self, estimator: str, obs: Tensor, a: Tensor, k: int) -> Tensor:
        """(B, D) that estimator's gradient at a_t = a (B, D), before the weight."""
        gradient = estimators.get(estimator)
        return torch.cat([
            gradient(self.step(s, x, self.velocity_at(s, x, k), k))
            for s, x in zip(obs.split(BLOCK), a.split(BLOCK))
        ])  # fmt: skip


@dataclass(frozen=True)
class States:
    """B recorded states, what was done there, and in which episode; all normalised."""

    obs: Tensor  # (B, O)
    action: Tensor  # (B, D) in [-1, 1]
    episode: Tensor  # (B,) index; states of one episode are not independent

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: Tensor | slice) -> States:
        return States(*(getattr(self, f.name)[rows] for f in fields(self)))

    def noise(self, seed: int, *shape: int) -> Tensor:
        """(*shape, B, D) ~ N(0, I). The same seed is the same noise in every part."""
        random = torch.Generator().manual_seed(seed)
        drawn = torch.randn(*shape, *self.action.shape, generator=random, dtype=self.action.dtype)
        return drawn


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval. NaN: no values, or a single episode to draw from."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def overlaps(self, other: Interval) -> bool:
        return self.low <= other.high and other.low <= self.high


def interval(values: Tensor | np.ndarray, episode: Tensor | np.ndarray) -> Interval:
    """Mean of values (B,) or (B, M), NaN left out, over the states of `episode` (B,).

    Percentile bootstrap over whole episodes: neighbouring states look alike, and drawing them
    one by one would claim more than the data says. The draws are the same in every call of as many
    episodes, so intervals of different quantities belong together.
    """
    x = np.asarray(values, np.float64).reshape(len(episode), -1)
    there = ~np.isnan(x)
    _, group = np.unique(np.asarray(episode), return_inverse=True)
    groups = int(group.max()) + 1
    total = np.bincount(group, np.where(there, x, 0).sum(1), groups)
    count = np.bincount(group, there.sum(1), groups)
    if not count.sum():
        return Interval(np.nan, np.nan, np.nan)
    mean = float(total.sum() / count.sum())
    if groups < 2:
        return Interval(mean, np.nan, np.nan)
    draws = resamples(groups)
    drawn = draws @ count
    means = (draws @ total)[drawn > 0] / drawn[drawn > 0]
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(mean, float(low), float(high))


def share(of: Tensor, episode: Tensor) -> Interval:
    """Share of states (B,) for which `of` holds; NaN left out.

    Where all agree a bootstrap has nothing to draw from and would claim certainty: the end that is
    open is then the exact binomial (Clopper-Pearson) one for as many trials as episodes.
    """
    found = interval(of.double(), episode)
    open_end = 0.025 ** (1 / len(episode.unique()))
    if found.mean == 0:
        return Interval(0.0, 0.0, 1 - open_end)
    if found.mean == 1:
        return Interval(1.0, open_end, 1.0)
    return found


@lru_cache(maxsize=4)
def resamples(groups: int) -> np.ndarray:
    """(RESAMPLES, groups): how often each episode is in each resample."""
    rng = np.random.default_rng(20266)
    return rng.multinomial(groups, np.full(groups, 1 / groups), RESAMPLES).astype(np.float64)
