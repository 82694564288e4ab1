"""What held-out episodes say of a trained flow and critic, and the scale of beta that follows."""

from __future__ import annotations

import math

import torch

from qgf_ros.policy import Beta, Sanity
from training.config import FitConfig
from training.critics import ChunkBatch
from training.critics.iql import IQLConfig
from training.flow import flow_loss
from training.models import Critic, Value, VelocityField, aggregate
from training.sampling import sample

# Guidance as strong as these shares of the flow (the ratio rho of method: w |g| / |v|).
SUGGESTED_RATIOS = (1.0, 0.5, 0.25)
DEFAULT_RATIO = 0.5
LARGEST_RATIO = 4.0  # the floor of beta: beyond it the critic, not the data, makes the action


@torch.no_grad()
def held_out(
    velocity: VelocityField,
    critic: Critic,
    value: Value,
    select: ChunkBatch,
    iql: IQLConfig,
    config: FitConfig,
) -> dict[str, float]:
    """Figures on episodes that were not trained on. Small is better."""
    rows = _some(select, 4096, config.seed)
    random = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(rows.action.shape, generator=random)
    loss, _ = flow_loss(
        velocity, rows.obs, rows.action, noise, torch.rand(len(noise), generator=random)
    )
    q = aggregate(critic(rows.obs, rows.action), iql.aggregation)
    target = rows.reward + iql.discount**iql.horizon * rows.mask * value(rows.next_obs)
    drawn = sample(velocity, critic, rows.obs, noise, 0.0, steps=config.denoise_steps)
    return {
        "flow_loss": float(loss),
        "td_error": float((q - target).square().mean().sqrt()),
        "sampled_action_error": float((drawn.action - rows.action).abs().mean()),
    }


@torch.no_grad()
def guidance_scale(
    velocity: VelocityField, critic: Critic, select: ChunkBatch, config: FitConfig
) -> tuple[Beta, Sanity]:
    """Betas at which guidance is a given share of the flow, and the bounds of a sane Q and gradient.

    The ratio rho = w |g| / |v| has no units, so the suggestions mean the same on every robot. The
    gradient is taken along gently guided paths (w = 0 would never ask for it).
    """
    rows = _some(select, 1024, config.seed)
    random = torch.Generator().manual_seed(config.seed + 1)
    noise = torch.randn(rows.action.shape, generator=random)
    gentle = 1e-6
    drawn = sample(velocity, critic, rows.obs, noise, gentle, steps=config.denoise_steps)
    ratio = float((drawn.guidance_ratio / gentle).mean())  # rho per unit of w
    norms = drawn.gradient_norm
    if not ratio > 0:
        return Beta(math.inf, 1.0), Sanity(-math.inf, math.inf, math.inf)
    betas = {
        rho: _two_digits(ratio / rho) for rho in (*SUGGESTED_RATIOS, DEFAULT_RATIO, LARGEST_RATIO)
    }
    q = aggregate(critic(rows.obs, rows.action), "min")
    spread = max(1.0, float(q.max() - q.min()))
    sanity = Sanity(
        float(q.min()) - 2 * spread, float(q.max()) + 2 * spread, 100 * float(norms.quantile(0.99))
    )
    suggested = tuple(betas[rho] for rho in SUGGESTED_RATIOS)
    return Beta(betas[DEFAULT_RATIO], betas[LARGEST_RATIO], suggested), sanity


def _some(batch: ChunkBatch, count: int, seed: int) -> ChunkBatch:
    rows = torch.randperm(len(batch.obs), generator=torch.Generator().manual_seed(seed))[:count]
    return ChunkBatch(*(getattr(batch, name)[rows] for name in ChunkBatch.__dataclass_fields__))


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
