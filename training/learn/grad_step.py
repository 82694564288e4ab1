"""GradStep: denoise without guidance, then climb Q at the finished action.

    a = clip(Euler steps 0..T-1 of the unguided flow, -1, 1)
    n times:  a <- clip(a + size * grad Q(s, a), -1, 1)

Below QGF in the paper (n = 3, size = 0.01): nothing brings the action back to the data once the
flow is done with it. Here to be compared with, not to be used. It has no temperature, and its
size has the inverse of Q's unit: the published 0.01 belongs to the published rewards.
"""

import math
from typing import Any

import torch
from torch import Tensor

from training.estimators.base import gradient_at
from training.learn.models import aggregate
from training.sampling import CriticFn, Sample, Velocity, sample

STEPS, SIZE = 3, 0.01  # as published


@torch.no_grad()
def grad_step(
    velocity: Velocity,
    critic: CriticFn,
    obs: Tensor,
    noise: Tensor,
    *,
    grad_steps: int = STEPS,
    size: float = SIZE,
    aggregation: str = "min",
    bound: float = 1.0,
    **options: Any,
) -> Sample:
    """One action for each row of `obs` (B, O) and `noise` (B, D) ~ N(0, I).

    grad_steps: n >= 0, 0 being the unguided policy to the bit; size: >= 0, normalised action per
    gradient; options: `steps` and `times`, and the others, as in `sampling.sample`.
    In the Sample, gradient_norm is the mean of |grad Q|_2 over the n steps, and guidance_ratio
    what it is in QGF, the way guidance asks for over the flow's: size * sum |grad Q| / mean |v|.
    Raises ValueError on a bad number of steps or size.
    """
    if grad_steps < 0 or not 0 <= size < math.inf:
        raise ValueError(f"grad_steps {grad_steps}, size {size}; needed: at least 0, and finite")
    speeds: list[Tensor] = []

    def watched(obs: Tensor, a: Tensor, time: Tensor) -> Tensor:
        v = velocity(obs, a, time)
        speeds.append(v.norm(dim=-1))
        return v

    def q(a: Tensor) -> Tensor:
        return aggregate(critic(obs, a), aggregation)

    options.update(aggregation=aggregation, bound=bound)
    a = sample(watched, critic, obs, noise, 0.0, **options).action
    total = torch.zeros_like(speeds[0])
    for _ in range(grad_steps):
        g = gradient_at(q, a)
        total += g.norm(dim=-1)
        a = (a + size * g).clamp(-bound, bound)
    flow = torch.stack(speeds).mean(dim=0).clamp_min(torch.finfo(a.dtype).tiny)
    return Sample(a, q(a), total / max(grad_steps, 1), size * total / flow)
