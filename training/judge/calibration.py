"""What held-out episodes say of a trained flow and critic, and the scale of beta that follows."""

from __future__ import annotations

import math

import torch

from qgf_ros.policy.description import Beta, Sanity
from training.judge.analysis.base import Model
from training.judge.analysis.stability import curvatures
from training.learn.config import FitConfig
from training.learn.critics.base import Learner
from training.learn.critics.batch import ChunkBatch
from training.learn.flow import flow_loss
from training.learn.models import Critic, VelocityField, aggregate, time_table
from training.sampling import sample

LARGEST_RATIO = 4.0  # of guidance to flow: beyond it the critic, not the data, makes the action
# Shares of states in which the Euler steps must stay stable, w * lambda / T < 2 (analysis.stability):
# from the floor of beta on, and from the smallest suggestion on.
FLOOR_STABLE, SUGGESTED_STABLE = 0.90, 0.99
SAMPLED = 1024  # chunks that the ratio is taken over
CURVED_STATES = 128  # that is looked at; Hessians take a moment


@torch.no_grad()
def held_out(learner: Learner, select: ChunkBatch, config: FitConfig) -> dict[str, float]:
    """Figures on chunks of episodes that were not trained on. Small is better.

    td_error is left out where nothing is known of the chunks' values.
    """
    random = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(select.action.shape, generator=random)
    seen, time = select.seen_by_flow, torch.rand(len(noise), generator=random)
    loss, _ = flow_loss(learner.flow, seen, select.action, noise, time)
    drawn = sample(
        learner.flow, learner.target_critic, seen, noise, 0.0, steps=config.denoise_steps
    )
    error = learner.td_error(select)
    return {
        "flow_loss": float(loss),
        **({} if math.isnan(error) else {"td_error": error}),
        "sampled_action_error": float((drawn.action - select.action).abs().mean()),
    }


@torch.no_grad()
def guidance_scale(
    velocity: VelocityField, critic: Critic, select: ChunkBatch, config: FitConfig
) -> tuple[Beta, Sanity]:
    """The scale of beta, and the bounds of a sane Q and gradient.

    Two things bound the weight from above: guidance as strong as the flow (the ratio rho =
    w |g| / |v| has no units, so it means the same on every robot; the gradient is taken along
    gently guided paths, for w = 0 would never ask for it), and the critic's curvature, beyond
    which the steps overshoot. The smallest suggested beta keeps to both; the others are twice and
    four times as gentle. The gentlest is the default: of more than 50 pairs of policy and critic
    it was the one that did least harm, and it mostly gained most (docs/prediction.md).
    select: held-out chunks, in random order.
    """
    rows = select[torch.arange(min(len(select), SAMPLED))]
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
    model = Model(velocity, critic, time_table(config.denoise_steps), config.aggregation)
    # lambda / (2 T): the smallest stable beta of each state.
    curved = curvatures(model, rows.seen_by_flow[:CURVED_STATES], noise[:CURVED_STATES])
    stable = curved.amax(0) / (2 * model.steps)
    floor = max(ratio / LARGEST_RATIO, float(stable.quantile(FLOOR_STABLE)))
    strong = max(ratio, float(stable.quantile(SUGGESTED_STABLE)))
    suggested = tuple(_two_digits(k * strong) for k in (1, 2, 4))
    q = aggregate(critic(rows.obs, rows.action), config.aggregation)
    spread = max(1.0, float(q.max() - q.min()))
    sanity = Sanity(
        float(q.min()) - 2 * spread, float(q.max()) + 2 * spread, 100 * float(norms.quantile(0.99))
    )
    return Beta(suggested[-1], min(_two_digits(floor), suggested[0]), suggested), sanity


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
