"""Recorded episodes, tick by tick: Q of what was done, of what the policy would do unguided and at
its default beta; and the moments at which a reader can look closer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.judge.analysis.base import Model, States
from training.judge.analysis.reach import nearest
from training.judge.panels.timeline.landscape import (
    Plane,
    landscape,
    marks,
    radius,
    slopes,
)
from training.judge.panels.timeline.packing import pack, short
from training.judge.panels.timeline.paths import NOISES, paths, stops
from training.judge.subject import Subject
from training.learn.batches import tensors
from training.learn.models import aggregate
from training.pipeline.chunks import ChunkTable
from training.pipeline.episodes import Episode

EACH = 4  # episodes of each outcome
TICKS = 200  # of an episode at most; longer ones are thinned out
MOMENTS = 56  # of all episodes together
CLOUD = 24  # samples that show what the flow by itself would do


def figures(subject: Subject, **_: Any) -> dict[str, Any]:
    """Episodes, the stops of the slider, and the moments, each with its landscape and paths.

    One noise for all: what changes from tick to tick is the situation, and what differs between
    two betas is guidance.
    """
    policy, group = subject.policy, subject.report
    random = torch.Generator().manual_seed(subject.seed)
    noise = torch.randn(CLOUD, policy.flat_dim, generator=random)
    picked = pick(subject.episodes, group.rows, subject.seed)
    default = policy.description.beta.default
    slider = stops(policy.description.beta)
    reach = radius(group.held)
    episodes, states = [], []
    for number in picked:
        told, seen = _episode(subject, number, noise[:1])
        wanted = min(len(seen), max(1, MOMENTS // len(picked)))
        told["moments"] = np.unique(
            np.linspace(0, len(seen) - 1, wanted).round().astype(int)
        ).tolist()
        episodes.append(told)
        states.append(seen[torch.tensor(told["moments"])])
    moments = _moments(subject, _joined(states), noise, reach, [s.beta for s in slider])
    rest = iter(moments)
    for told in episodes:
        told["moments"] = [{"at": at} | next(rest) for at in told["moments"]]
    return {
        "beta": default,
        "period": policy.contract.time.period,
        "stops": slider,
        "radius": reach,
        "numbers": policy.flat_dim,
        "noises": NOISES,
        "steps": subject.model.steps,
        "episodes": episodes,
    }


def pick(episodes: Sequence[Episode], rows: Sequence[int], seed: int) -> list[int]:
    """Some that succeeded, some that failed, drawn by seed; where nobody said, some of those."""
    order = np.random.default_rng([20276, seed]).permutation(np.array(rows, int)).tolist()
    by = {out: [i for i in order if episodes[i].success is out] for out in (True, False, None)}
    known = by[True][:EACH] + by[False][:EACH]
    return known + by[None][: max(0, 2 * EACH - len(known))]


def _episode(subject: Subject, number: int, noise: Tensor) -> tuple[dict[str, Any], States]:
    """Its line of time, and the states that stand in it."""
    policy, model, episode = subject.policy, subject.model, subject.episodes[number]
    returns = policy.description.returns
    table = ChunkTable([episode], policy.horizon, returns.discount)
    keep = np.arange(len(table))[:: math.ceil(len(table) / TICKS)]
    parts = table.cut(keep)
    batch = tensors(parts, policy.codec, returns.scale)
    states = States(batch.obs, batch.action, torch.full((len(parts),), number))
    start = noise.expand(len(states), -1)
    beta = policy.description.beta.default
    done = {
        "recorded": states.action,
        "unguided": model.sample(states.obs, start, 0.0).action,
        "guided": model.sample(states.obs, start, 1 / beta).action,
    }
    told: dict[str, Any] = {
        "name": episode.name,
        "outcome": {True: "success", False: "failure", None: "unknown"}[episode.success],
        "ticks": len(episode),
        "tick": keep.tolist(),
        "to_go": short(torch.from_numpy(parts.to_go) / returns.scale),
    }
    return told | {name: _said(model, states.obs, action) for name, action in done.items()}, states


@torch.no_grad()
def _said(model: Model, obs: Tensor, action: Tensor) -> dict[str, Any]:
    """Aggregated Q, and what the lowest and the highest member say."""
    members = model.critic(obs, action)
    q = aggregate(members, model.aggregation)
    return {"q": short(q), "low": short(members.amin(0)), "high": short(members.amax(0))}


def _moments(
    subject: Subject, states: States, noise: Tensor, reach: float, betas: Sequence[float]
) -> list[dict[str, Any]]:
    """Panels 4 and 5 of each state."""
    model, held = subject.model, subject.report.held
    names = subject.policy.contract.learnt_names
    M, D = states.action.shape
    start = noise[:1].expand(M, -1)
    beta = subject.policy.description.beta.default
    unguided = model.sample(states.obs, start, 0.0).action
    guided = model.sample(states.obs, start, 1 / beta).action
    slope = slopes(model, states.obs, unguided)
    cloud = model.sample(states.obs.repeat_interleave(CLOUD, 0), noise.repeat(M, 1), 0.0).action
    cloud = cloud.view(M, CLOUD, D)
    near = nearest(states, held.recorded) if held.comparable else torch.empty(M, 0, D)
    close = [row[row.isfinite().all(1)] for row in near]
    planes = [Plane.through(*row) for row in zip(unguided, guided, slope, cloud)]
    walked, ends = paths(model, betas, planes, states.obs, noise[:NOISES], close)
    found = []
    for i, plane in enumerate(planes):
        obs, three = states.obs[i], torch.stack([states.action[i], unguided[i], guided[i]])
        shown = torch.cat([three, cloud[i], ends[i]])
        said = marks(model, plane, obs, three, close[i])
        found.append(
            {
                "axes": [{"to": n, "made_of": s} for n, s in zip(plane.names, plane.shares(names))],
                "marks": dict(zip(("recorded", "unguided", "guided"), said)),
                "near": pack(_beside(plane, close[i])),
                "cloud": pack(_beside(plane, cloud[i])),
                **landscape(model, plane, obs, close[i], shown, reach),
                "paths": walked[i],
            }
        )
    return found


def _beside(plane: Plane, chunks: Tensor) -> Tensor:
    """(K, D) -> (K, 3): where in the plane, and how far from it."""
    return torch.cat([plane.shadow(chunks), plane.off(chunks)[:, None]], 1)


def _joined(states: Sequence[States]) -> States:
    return States(
        *(torch.cat([getattr(s, n) for s in states]) for n in ("obs", "action", "episode"))
    )
