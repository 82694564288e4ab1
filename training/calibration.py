"""What held-out episodes say of a trained flow and critic, and the scale of beta that follows."""

from __future__ import annotations

import math

import torch

from qgf_ros.policy import Beta, Sanity
from training.config import FitConfig
from training.critics import ChunkBatch
from training.critics.base import Learner
from training.flow import flow_loss
from training.models import Critic, VelocityField, aggregate
from training.sampling import sample

# Guidance as strong as these shares of the flow (the ratio rho of method: w |g| / |v|).
SUGGESTED_RATIOS = (1.0, 0.5, 0.25)
DEFAULT_RATIO = 0.5
LARGEST_RATIO = 4.0  # the floor of beta: beyond it the critic, not the data, makes the action


@torch.no_grad()
def held_out(learner: Learner, select: ChunkBatch, config: FitConfig) -> dict[str, float]:
    """Figures on episodes that were not trained on. Small is better.

    td_error, the RMS of Q less what it is trained to predict, is left out where no such row is.
    """
    velocity, critic = learner.velocity, learner.target_critic
    rows = _some(select, 4096, config.seed)
    random = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(rows.action.shape, generator=random)
    seen = rows.seen_by_flow
    loss, _ = flow_loss(
        velocity, seen, rows.action, noise, torch.rand(len(noise), generator=random)
    )
    q = aggregate(critic(rows.obs, rows.action), config.aggregation)
    error = (q - learner.target(rows))[rows.valid > 0]
    drawn = sample(velocity, critic, seen, noise, 0.0, steps=config.denoise_steps)
    figures = {"flow_loss": float(loss)}
    if len(error):
        figures["td_error"] = float(error.square().mean().sqrt())
    return figures | {"sampled_action_error": float((drawn.action - rows.action).abs().mean())}


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
    drawn = sample(
        velocity, critic, rows.seen_by_flow, noise, gentle,
        steps=config.denoise_steps, aggregation=config.aggregation,
    )  # fmt: skip
    ratio = float((drawn.guidance_ratio / gentle).mean())  # rho per unit of w
    norms = drawn.gradient_norm
    if not ratio > 0:
        return Beta(math.inf, 1.0), Sanity(-math.inf, math.inf, math.inf)
    betas = {
        rho: _two_digits(ratio / rho) for rho in (*SUGGESTED_RATIOS, DEFAULT_RATIO, LARGEST_RATIO)
    }
    q = aggregate(critic(rows.obs, rows.action), config.aggregation)
    spread = max(1.0, float(q.max() - q.min()))
    sanity = Sanity(
        float(q.min()) - 2 * spread, float(q.max()) + 2 * spread, 100 * float(norms.quantile(0.99))
    )
    suggested = tuple(betas[rho] for rho in SUGGESTED_RATIOS)
    return Beta(betas[DEFAULT_RATIO], betas[LARGEST_RATIO], suggested), sanity


def _some(batch: ChunkBatch, count: int, seed: int) -> ChunkBatch:
    return batch[some_rows(len(batch), count, seed)]


def some_rows(size: int, count: int, seed: int) -> torch.Tensor:
    """At most `count` of the rows 0..size-1, in random order."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
