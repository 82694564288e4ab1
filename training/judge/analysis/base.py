"""What is analysed, and where: shared by the parts of the analysis."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from training import estimators
from training.learn.models import aggregate
from training.sampling import CriticFn, Sample, Velocity, sample

BLOCK = 2048  # rows per gradient; bounds memory and changes no result


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
