"""The 1-D testbed: a flow known in closed form and critics that lie outside the data.

Data: peaks at -2, 0 and 1, a third each, sigma 0.15. Noise: N(0, 1). The critics agree that
a = 1 is the best action of the data and have a false peak at a = 3, where there is no data:

    Q(a) = -(a - 1)^2 + h exp(-(a - 3)^2 / (2 s^2))     narrow: h = 9, s = 0.5; wide: 12, 0.7

What a sampler does here has nothing to do with training: it shows whether guidance stays with
the data. Nothing is clipped. Float64 throughout. Shapes: B particles, D = 1, O = 0.

With a_t = (1 - t) a_0 + t a_1, peak k contributes N(t mu_k, S) to a_t, S = (1-t)^2 + t^2 sigma^2,
so with shares w_k in proportion to pi_k N(a_t; t mu_k, S)

    E[a_1 | a_t] = sum_k w_k (mu_k + t sigma^2 (a_t - t mu_k) / S)
    v(a_t, t)    = (E[a_1 | a_t] - a_t) / (1 - t)

and one Euler step to t = 1, the sampler's a_hat, is the posterior mean exactly. The formulas hold
in any number of dimensions; `PLANE_*` is a flow in two, with the bump as far off as on the line.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.guards import Box, Guards
from training.sampling import sample

MEANS = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)  # of equal weight
PLANE_MEANS = torch.tensor([[-1.5, -0.5], [-0.2, 1.1], [1.0, 0.0]], dtype=torch.float64)
SIGMA = 0.15
OPTIMUM = 1.0  # where Q is largest among the data
NEAR = 0.5  # a sample this close to the optimum has found it
FOOLED = 2.0  # a sample beyond this has followed the critic out of the data

SUPPORT_GUARD = Guards(support=Box(low=(-2.0,), high=(1.0,)))  # the data's range
PLANE_SUPPORT_GUARD = Guards(support=Box(low=(-1.5, -0.5), high=(1.0, 1.1)))
RATIO_CAP_1 = Guards(ratio_cap=1.0)


@dataclass(frozen=True)
class BumpCritic:
    """Q(a) as above: right inside the data, with a false peak outside, at a = 3 by default."""

    height: float  # h, in units of Q
    width: float  # s, in units of a
    optimum: tuple[float, ...] = (OPTIMUM,)  # (D,), the best action of the data
    centre: tuple[float, ...] = (3.0,)  # (D,), of the false peak

    def __call__(self, obs: Tensor, action: Tensor) -> Tensor:
        """obs: unused; action: (B, D) -> (1, B), an ensemble of one."""
        apart = (action - action.new_tensor(self.centre)).square().sum(-1)
        missed = (action - action.new_tensor(self.optimum)).square().sum(-1)
        return (self.height * torch.exp(-apart / (2 * self.width**2)) - missed)[None]


NARROW = BumpCritic(height=9, width=0.5)
WIDE = BumpCritic(height=12, width=0.7)
PLANE_NARROW, PLANE_WIDE = (
    replace(critic, optimum=(1.0, 0.0), centre=(2.6, 1.2)) for critic in (NARROW, WIDE)
)


@dataclass(frozen=True)
class Shares:
    """Where the samples ended, as shares in [0, 1]; the rest is on the wrong peaks or diverged."""

    near_optimum: float  # |a - 1| < 0.5
    fooled: float  # a > 2


def posterior_mean(a: Tensor, time: Tensor, means: Tensor = MEANS[:, None]) -> Tensor:
    """E[a_1 | a_t = a]: a (B, D), time (B,) in [0, 1], 0 = noise, means (K, D) -> (B, D)."""
    means, t = means.to(a), time[:, None]
    variance = (1 - t) ** 2 + t**2 * SIGMA**2
    off = a[:, None] - t[:, None] * means  # (B, K, D)
    share = torch.softmax(-off.square().sum(-1) / (2 * variance), dim=1)
    each = means + (t * SIGMA**2 / variance)[:, None] * off
    return (share[:, :, None] * each).sum(dim=1)


def velocity(obs: Tensor, a: Tensor, time: Tensor, means: Tensor = MEANS[:, None]) -> Tensor:
    """v(a_t, t) in closed form: a (B, D), time (B,) in [0, 1), 0 = noise -> (B, D). obs: unused."""
    return (posterior_mean(a, time, means) - a) / (1 - time[:, None])


def data(n: int, generator: torch.Generator) -> Tensor:
    """n clean actions (n, 1) of the mixture."""
    peak = MEANS[torch.randint(len(MEANS), (n, 1), generator=generator)]
    return peak + SIGMA * torch.randn(n, 1, dtype=torch.float64, generator=generator)


def run(
    critic: BumpCritic,
    steps: int,
    weight: float,
    estimator: str = "qgf",
    guard: Guards | None = None,
    particles: int = 20_000,
    seed: int = 0,
) -> Shares:
    """The shares of `particles` guided samples, by `training.sampling.sample` with no bound.

    steps: T; weight: w = 1/beta; estimator: a name of `training.estimators`. The same seed is the
    same noise, whatever the rest. The share's standard error is below 0.004 at 20000 particles.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(particles, 1, dtype=torch.float64, generator=generator)
    a = sample(
        velocity,
        critic,
        noise.new_zeros(particles, 0),
        noise,
        weight,
        steps=steps,
        estimator=estimator,
        bound=math.inf,
        times=torch.arange(steps, dtype=torch.float64) / steps,
        guards=guard,
    ).action
    near = ((a - OPTIMUM).abs() < NEAR).double().mean()
    return Shares(near_optimum=float(near), fooled=float((a > FOOLED).double().mean()))
