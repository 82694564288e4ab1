"""What is known of a pair before anything moves, for `prediction.py`: the figures of a training
report and of `qgf analyze`, and a few that set guidance beside what was recorded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from prediction_pairs import Made, Pair
from torch import Tensor

from qgf_ros.console import plain
from training.judge.analysis.base import Model
from training.judge.analysis.reach import reach
from training.judge.analysis.sensitivity import sensitivity
from training.judge.analysis.stability import stability
from training.judge.metrics import judge
from training.judge.seen import Seen
from training.judge.subject import chosen, model_of
from training.learn.models import Critic
from training.pipeline.episodes import EpisodeArrays

STATES = 256
TURNED = 64  # of them, at which the gradient's sensitivity to noise is taken
POOL = 512  # held-out chunks that the radius of the data is from
RECORDED = 10_000  # recorded chunks that samples are compared with
FEW = 40  # episodes for the linear model of the prediction, which says nothing of a critic


def known(pair: Pair, own: Made) -> dict[str, Any]:
    """By split of the full data; `own`: the select split as its owner has it, spoilt as the data
    was that the critic learnt from."""
    data = own.data
    return plain(
        {
            "select": _known(own, data.select),
            "report": _known(own, data.report),
            "own": {"judge": _judged(own, pair.spoilt(data.select, 1))},
        }
    )


def _judged(own: Made, held: EpisodeArrays) -> dict[str, Any]:
    d, some = own.policy.description, own.data.trained[:FEW]
    return judge(
        own.nets, own.policy.codec, d.returns.scale, own.data.contract, some, held, own.config
    ).document


def _known(own: Made, held: EpisodeArrays) -> dict[str, Any]:
    policy, model = own.policy, model_of(own.policy)
    beta = policy.description.beta
    both = [*held, *own.data.trained]
    first, rest = range(len(held)), range(len(held), len(both))
    pool = chosen(policy, both, first, rest, "held out", "")
    order = torch.randperm(len(pool.recorded), generator=torch.Generator().manual_seed(0))
    recorded, states = pool.recorded[order[:RECORDED]], pool.pool[:STATES]
    betas = (beta.min, beta.default, *beta.suggested)
    return {
        "judge": _judged(own, held),
        "reach": reach(model, states, recorded, betas, 0, pool.pool[:POOL], (), (1, 4)),
        "stability": stability(model, states, beta),
        "sensitivity": sensitivity(model, states[:TURNED], sigmas=(0.1,)).estimators,
        "beside": _beside(own, model, held),
    }


@torch.no_grad()
def _beside(own: Made, model: Model, held: EpisodeArrays) -> dict[str, Any]:
    """At recorded states: how far guidance moves the sample, and whether towards what was done in
    episodes that succeeded."""
    d, policy = own.policy.description, own.policy
    seen = Seen(held, policy.codec, d.returns.scale, own.data.contract, own.config, 0)
    parts, batch = seen.cut(seen.some(POOL))
    noise = torch.randn(batch.action.shape, generator=torch.Generator().manual_seed(0))
    unguided = model.sample(batch.obs, noise, 0.0)
    won = np.array([held.success[i] is True for i in parts.episode])

    def at(beta: float) -> dict[str, float]:
        guided = model.sample(batch.obs, noise, 1 / beta)
        moved, wanted = guided.action - unguided.action, batch.action - unguided.action
        along = torch.cosine_similarity(moved, wanted, dim=1).double().numpy()
        jerk, recorded_jerk = (_rough(a, policy.action_dim) for a in (guided.action, batch.action))
        return {
            "beta": beta,
            "gain": float((guided.q - unguided.q).mean()),
            "moved": float(moved.square().mean().sqrt()),
            "farther": float(_rms(guided.action - batch.action) - _rms(wanted)),
            "jerk_ratio": jerk / recorded_jerk,
            "toward_success": _less(along[won], along[~won]),
        }

    return {
        "at": [at(b) for b in sorted({d.beta.min, *d.beta.suggested})],
        "agreement": _agreement(own.nets.critic, batch.obs, unguided.action),
    }


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(-1).sqrt().mean()


def _rough(action: Tensor, width: int) -> float:
    """RMS of the second differences within chunks (B, D)."""
    steps = action.view(len(action), -1, width)
    return float(steps.diff(n=2, dim=1).square().mean().sqrt())


def _less(first: np.ndarray, second: np.ndarray) -> float:
    """The first's mean less the second's; NaN where either is empty."""
    return float(first.mean() - second.mean()) if len(first) and len(second) else math.nan


def _agreement(critic: Critic, obs: Tensor, action: Tensor) -> float:
    """Mean cosine of the gradients of the ensemble's first two members."""
    with torch.enable_grad():
        asked = action.detach().requires_grad_()
        each = critic(obs, asked)[:2].sum(dim=1)
        first, second = (torch.autograd.grad(q, asked, retain_graph=True)[0] for q in each)
    return float(torch.cosine_similarity(first, second, dim=1).mean())
