"""The largest stable weight, from the critic's own curvature.

    a <- a + w grad Q(a) / T    shrinks errors only where    w * lambda / T < 2,
    lambda = lambda_max(-Hessian_a Q(s, a_hat))

the condition of the explicit Euler method for the guidance by itself. Beyond it each step throws
the action to the other side of the peak of Q, further than before. It is a rule, not a proof: with
the flow the factor of a step is I + (J_v + w H (I + (1 - t) J_v)) / T, where the flow of narrow data
contracts (helps) and a few steps of a short chain need not grow large. Where min changes member Q
has a kink, which no Hessian shows: there actions chatter, they do not diverge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qgf_ros.policy.description import Beta
from qgf_ros.statistics import Interval, share
from training.judge.analysis.base import BLOCK, Model, States

QUANTILES = (0.5, 0.9, 0.99, 1.0)  # of states
STABLE_SHARE = (
    0.99  # of states that `stable_weight` leaves stable; the last per cent may be outliers
)
LANCZOS_STEPS = 32  # exact up to D = 32


@dataclass(frozen=True)
class Limit:
    """At a quantile of the states: that share of them has no larger curvature."""

    quantile: float
    curvature: float  # lambda, Q per squared normalised action; <= 0: no peak, any weight is stable
    weight: float  # largest stable w = 2 T / lambda
    beta: float  # smallest stable beta = lambda / (2 T)


@dataclass(frozen=True)
class AtBeta:
    """A beta that the policy names."""

    name: str  # floor, default or suggested
    beta: float
    unstable: Interval  # share of states with w * lambda / T >= 2


@dataclass(frozen=True)
class Stability:
    """Over the states, each with the largest curvature that it meets in its T steps."""

    limits: tuple[Limit, ...]
    by_time: tuple[tuple[float, ...], ...]  # [k][quantile] curvature at step k alone
    stable_weight: float  # at 99 % of the states
    stable_beta: float
    policy: tuple[AtBeta, ...]
    beta_sorted: tuple[float, ...]  # smallest stable beta of each state, for plots
    floor_is_stable: bool  # the policy's floor of beta is not below `stable_beta`


def stability(model: Model, states: States, beta: Beta, seed: int = 0) -> Stability:
    """Curvature at a_hat of every step of the unguided path of each state."""
    every = curvatures(model, states.obs, states.noise(seed))
    worst, T = every.amax(0), model.steps
    limits = tuple(_limit(q, float(worst.quantile(q)), T) for q in QUANTILES)
    stable = _limit(STABLE_SHARE, float(worst.quantile(STABLE_SHARE)), T)
    smallest = worst.clamp_min(0) / (2 * T)
    named = [("floor", beta.min), ("default", beta.default)]
    named += [("suggested", b) for b in beta.suggested]
    return Stability(
        limits=limits,
        by_time=tuple(tuple(map(float, row.quantile(_row(QUANTILES)))) for row in every),
        stable_weight=stable.weight,
        stable_beta=stable.beta,
        policy=tuple(
            AtBeta(name, b, share(smallest >= b, states.episode))
            for name, b in sorted(named, key=lambda pair: pair[1])
        ),
        beta_sorted=tuple(smallest.sort().values.tolist()),
        floor_is_stable=beta.min >= stable.beta,
    )


def curvatures(model: Model, obs: Tensor, noise: Tensor) -> Tensor:
    """(T, B): the curvature at a_hat of every step of the unguided path from noise (B, D)."""
    path = model.path(obs, noise)
    hat = [model.step(obs, a, v, k).denoised(a, v) for k, (a, v) in enumerate(path)]
    return curvature(model, obs.repeat(len(hat), 1), torch.cat(hat)).view(len(hat), -1)


def curvature(model: Model, obs: Tensor, action: Tensor, steps: int = LANCZOS_STEPS) -> Tensor:
    """(B,) float64: lambda_max(-Hessian_a Q) at obs (B, O), action (B, D).

    Lanczos with full reorthogonalisation on Hessian-vector products, all rows at once: exact for
    D <= `steps`, and from below beyond, where the extreme eigenvalue is the first to converge.
    """
    return torch.cat([
        _largest(model, s, a, min(steps, action.shape[1]))
        for s, a in zip(obs.split(BLOCK), action.split(BLOCK))
    ])  # fmt: skip


def _largest(model: Model, obs: Tensor, action: Tensor, steps: int) -> Tensor:
    with torch.enable_grad():
        a = action.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model.q(obs, a).sum(), a, create_graph=True)
    if not slope.requires_grad:  # Q is linear in the action
        return a.new_zeros(len(a), dtype=torch.float64)
    random = torch.Generator().manual_seed(20267)
    basis: list[Tensor] = []
    images: list[Tensor] = []  # -H v of each v in the basis
    new = torch.randn(a.shape, generator=random, dtype=a.dtype).double()
    for _ in range(steps):
        size = new.norm(dim=-1, keepdim=True)
        basis.append(_orthogonal(new, basis))
        # Where the space is used up, as with equal eigenvalues, what is left of `new` is rounding:
        # a fresh direction goes on with the eigenvalues not seen yet.
        fresh = torch.randn(a.shape, generator=random, dtype=a.dtype).double()
        weak = basis[-1].norm(dim=-1, keepdim=True) <= 1e-6 * size
        basis[-1] = torch.where(weak, _orthogonal(fresh, basis[:-1]), basis[-1])
        basis[-1] = basis[-1] / basis[-1].norm(dim=-1, keepdim=True)
        (image,) = torch.autograd.grad(
            slope, a, basis[-1].to(a), retain_graph=True, materialize_grads=True
        )
        new = -image.double()
        images.append(new)
    v, hv = torch.stack(basis, 1), torch.stack(images, 1)
    projected = v @ hv.transpose(1, 2)
    return torch.linalg.eigvalsh((projected + projected.transpose(1, 2)) / 2)[:, -1]


def _orthogonal(x: Tensor, basis: list[Tensor]) -> Tensor:
    """x (B, D) less its parts along the orthonormal basis; twice, once loses half of the digits."""
    if not basis:
        return x
    v = torch.stack(basis, 1)
    for _ in range(2):
        x = x - ((v @ x[..., None]).transpose(1, 2) @ v)[:, 0]
    return x


def _limit(quantile: float, curvature: float, steps: int) -> Limit:
    largest = 2 * steps / curvature if curvature > 0 else math.inf
    return Limit(quantile, curvature, largest, max(0.0, curvature) / (2 * steps))


def _row(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
