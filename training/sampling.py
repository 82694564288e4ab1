"""The reference sampler: the published algorithm in plain PyTorch. Every faster one is held to it.

Q-Guided Flow (arXiv 2606.11087): integrate the flow from noise to an action, and push each step
along the gradient of Q. Shapes: B batch, D = H * A, N candidates; actions are normalised.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training import estimators
from training.guards import Guards, Place
from training.learn.models import aggregate, check_aggregation, time_table

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # (obs, a_t, time) -> (B, D)
CriticFn = Callable[[Tensor, Tensor], Tensor]  # (obs, action) -> (E, B)


@dataclass(frozen=True)
class Sample:
    """Actions and what is known about them; all of one batch of B rows."""

    action: Tensor  # (B, D), within the bound
    q: Tensor  # (B,), aggregated Q of `action`, scaled return
    gradient_norm: Tensor  # (B,), mean over the steps of |g|_2, guarded; 0 where w = 0: none taken
    guidance_ratio: Tensor  # (B,), rho = w * mean|g| / mean|v|: 0 no guidance, 1 as strong as flow

    def __getitem__(self, rows: Tensor) -> "Sample":
        """The rows of that index."""
        return Sample(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def better(self, other: "Sample") -> "Sample":
        """Row by row this one where its Q is larger, else (equal, or not a number) the other."""
        mine = self.q > other.q
        return Sample(
            torch.where(mine[:, None], self.action, other.action),
            torch.where(mine, self.q, other.q),
            torch.where(mine, self.gradient_norm, other.gradient_norm),
            torch.where(mine, self.guidance_ratio, other.guidance_ratio),
        )


@torch.no_grad()
def sample(
    velocity: Velocity,
    critic: CriticFn,
    obs: Tensor,
    noise: Tensor,
    weight: float | Tensor,
    *,
    steps: int = 10,
    estimator: str = "qgf",
    aggregation: str = "min",
    bound: float = 1.0,
    times: Tensor | None = None,
    guards: Guards | None = None,
    committed: Tensor | None = None,
) -> Sample:
    """One action for each row of `obs` (B, O) and `noise` (B, D) ~ N(0, I).

    weight: w = 1/beta >= 0, one number or (B,); rows at 0 (beta = infinity) are the unguided
    policy to the bit, and if all are, the critic's gradient is never taken.
    critic: the target critic. bound: actions are clipped to [-bound, bound], inf for none.
    times: (T, ...) what `velocity` is told at each step, `time_table(steps)` by default.
    guards: limits on the gradient (`guards.py`), ours and not the paper's; None for none. With
    `keep_best`, a row that falls back to the unguided sample reports that one's q and no gradient.
    committed: (m,), m < D: the first m numbers of every row are going to be executed anyway, and
    the others are sampled to follow them. They run on the straight path from their noise to the
    committed values, v = committed - noise, without guidance, and end there to the bit.
    Runs in the dtype of `noise`. Raises ValueError on an unknown name, a bad weight or shape, or
    guards that do not fit.
    """
    gradient = estimators.get(estimator)
    check_aggregation(aggregation)
    w = _column(weight, noise)
    times = (time_table(steps) if times is None else times).to(noise)
    if len(times) != steps or steps < 1:
        raise ValueError(f"times has {len(times)} rows for {steps} steps")
    guards = Guards() if guards is None else guards
    window = guards.window(steps)

    held = _committed(committed, noise)
    count = held.shape[1]
    line = held - noise[:, :count]

    def velocity_at(a: Tensor, k: int) -> Tensor:
        v = velocity(obs, a, times[k].expand(len(a), *times.shape[1:]))
        return torch.cat([line, v[:, count:]], dim=1) if count else v

    def q(a: Tensor) -> Tensor:
        return aggregate(critic(obs, a), aggregation)

    guided = w > 0
    any_guided = bool(guided.any())
    candidates = guards.candidates(obs) if any_guided else None
    gradient_norm = noise.new_zeros(len(noise))
    velocity_norm = noise.new_zeros(len(noise))
    a = noise
    for k in range(steps):
        v = drift = velocity_at(a, k)
        velocity_norm += v.norm(dim=-1) / steps
        if any_guided and k in window:
            step = estimators.Step(velocity_at, q, a, v, k, steps, bound)
            a_hat = step.denoised(a, v)
            g = gradient(step)
            g = torch.cat([torch.zeros_like(line), g[:, count:]], dim=1) if count else g
            g = guards(g, Place(a_hat, v, w, partial(critic, obs, a_hat), candidates))
            g = torch.where(guided, g, 0)  # chosen, not multiplied: 0 * inf is not 0
            drift = torch.where(guided, v + w * g, v)
            gradient_norm += g.norm(dim=-1) / steps
        a = a + drift / steps
    action = torch.cat([held, a.clamp(-bound, bound)[:, count:]], dim=1)
    ratio = w[:, 0] * gradient_norm / velocity_norm.clamp_min(torch.finfo(a.dtype).tiny)
    drawn = Sample(action, q(action), gradient_norm, ratio)
    if not (guards.keep_best and any_guided):
        return drawn
    how: dict[str, Any] = dict(steps=steps, aggregation=aggregation, bound=bound, times=times)
    return drawn.better(sample(velocity, critic, obs, noise, 0.0, committed=committed, **how))


def best_of_n(
    velocity: Velocity,
    critic: CriticFn,
    obs: Tensor,
    noise: Tensor,
    n: int,
    weight: float | Tensor = 0.0,
    **options: Any,
) -> Sample:
    """Of n samples per observation, the one with the largest aggregated Q.

    obs: (B, O); noise: (B * n, D), each observation's n rows in a block; weight: a number or
    (B,), 0 being best-of-N as published; options as in `sample`. -> a Sample of B rows.
    """
    if n < 1 or len(noise) != n * len(obs):
        raise ValueError(f"{len(noise)} noise rows for {len(obs)} observations of {n} candidates")
    if isinstance(weight, Tensor) and weight.dim():
        weight = weight.repeat_interleave(n)
    rows = sample(velocity, critic, obs.repeat_interleave(n, dim=0), noise, weight, **options)
    best = rows.q.view(-1, n).argmax(dim=1)
    return rows[torch.arange(len(obs), device=best.device) * n + best]


def _committed(committed: Tensor | None, noise: Tensor) -> Tensor:
    """The committed numbers of every row, (B, m), like `noise`; raises ValueError on a bad shape."""
    if committed is None:
        return noise[:, :0]
    if committed.dim() != 1 or not 0 < len(committed) < noise.shape[1]:
        raise ValueError(
            f"committed has shape {tuple(committed.shape)}; needed: (m,) with m from 1 to "
            f"{noise.shape[1] - 1}, so that something is left to sample"
        )
    return committed.to(noise).expand(len(noise), -1)


def _column(weight: float | Tensor, noise: Tensor) -> Tensor:
    """The guidance weights as a (B, 1) column like `noise`; raises ValueError on a bad one."""
    w = torch.as_tensor(weight, dtype=noise.dtype, device=noise.device)
    if w.dim() > 1 or (w.dim() == 1 and len(w) != len(noise)):
        raise ValueError(f"weight has shape {tuple(w.shape)}, not () or ({len(noise)},)")
    if not bool(((w >= 0) & (w < math.inf)).all()):
        raise ValueError(f"weight is {weight}; w = 1/beta must be finite and at least 0")
    return w.expand(len(noise))[:, None]
