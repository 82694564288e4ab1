"""How noise became an action, and where the critic was asked on the way.

The reference sampler itself is run, with eyes on what it asks of flow and critic: nothing of it is
written anew. `qgf` asks at the denoised action a_hat, `ood` at the noisy a_t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qgf_ros.policy.description import Beta
from training.judge.analysis.base import Model
from training.judge.panels.timeline.landscape import Plane, slopes, to_data
from training.judge.panels.timeline.packing import pack, short

WAYS = ("qgf", "ood")
NOISES = 3  # paths of each moment
STEPS = 12  # of a path that are shown at most; of more, some evenly
APART = 2.0  # a larger gap between two stops gets one between them
EDGE = 20.0  # RMS from the origin where what runs away is cut off


@dataclass(frozen=True)
class Stop:
    """A place of the slider."""

    beta: float
    names: tuple[str, ...]  # floor, suggested, default; none for one in between


def stops(beta: Beta) -> list[Stop]:
    """From no guidance to the floor that the node holds, at most about twice as hard each time; the
    values with a name are the policy's."""
    named = [("floor", beta.min), *(("suggested", b) for b in beta.suggested)]
    named += [("default", beta.default)] if beta.default < math.inf else []
    hard = sorted({b for _, b in named}, reverse=True)
    between = [math.sqrt(a * b) for a, b in zip(hard, hard[1:]) if a > APART * b * 1.2]
    gentle = [hard[0] * k for k in (2, 4)]
    values = [
        math.inf,
        *sorted({*hard, *(float(f"{b:.2g}") for b in between + gentle)}, reverse=True),
    ]
    names = {b: tuple(n for n, value in named if value == b) for b in values}
    return [Stop(b, names[b]) for b in values]


@dataclass(frozen=True, eq=False)
class Path:
    """B samples on their way, T steps; D numbers each."""

    a: Tensor  # (B, T + 1, D): a_t from the noise to the action
    asked: Tensor  # (B, T, D): where the critic was asked; NaN where it was not
    push: Tensor  # (B, T, D): what guidance moved the sample by in each step, w g / T
    q: Tensor  # (B,) aggregated Q of the action


def path(model: Model, way: str, obs: Tensor, noise: Tensor, weight: float) -> Path:
    """What the reference sampler does from noise (B, D) at obs (B, O)."""
    on_the_way: list[Tensor] = []
    asked: list[Tensor] = []

    def velocity(obs: Tensor, a: Tensor, time: Tensor) -> Tensor:
        on_the_way.append(a)
        return model.velocity(obs, a, time)

    def critic(obs: Tensor, action: Tensor) -> Tensor:
        asked.append(action.detach())
        return model.critic(obs, action)

    done = replace(model, velocity=velocity, critic=critic).sample(obs, noise, weight, way)
    a = torch.stack([*on_the_way, done.action], 1)
    if weight == 0:
        nowhere = torch.full_like(a[:, 1:], math.nan)
        return Path(a, nowhere, nowhere, done.q)
    at = torch.stack(asked[:-1], 1)  # the last one was asked about the action
    flat = at.view(-1, at.shape[-1])
    slope = slopes(model, obs.repeat_interleave(at.shape[1], 0), flat).view_as(at)
    return Path(a, at, slope * weight / model.steps, done.q)


def paths(
    model: Model,
    betas: Sequence[float],
    planes: Sequence[Plane],
    obs: Tensor,
    noise: Tensor,
    near: Sequence[Tensor],
) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """Paths of M moments for the page, and (.., D) where they ended; obs (M, O), noise (N, D).

    In arrays the ways come first, then betas, noises and steps; x and y last. `asked` is of qgf
    alone, for ood asks on the path.
    """
    last = model.steps - 1
    steps = torch.linspace(0, last, min(model.steps, STEPS)).round().long()
    points = torch.cat([steps, torch.tensor([model.steps])])  # and the action
    rows, starts = obs.repeat_interleave(len(noise), 0), noise.repeat(len(obs), 1)
    found: list[dict[str, list[Tensor]]] = [
        {name: [] for name in ("a", "asked", "push", "q", "end")} for _ in planes
    ]
    for way in WAYS:
        for beta in betas:
            run = path(model, way, rows, starts, 1 / beta)
            for i, (plane, into) in enumerate(zip(planes, found)):
                own = slice(i * len(noise), (i + 1) * len(noise))
                into["a"].append(plane.shadow(run.a[own][:, points]).clamp(-EDGE, EDGE))
                into["asked"].append(plane.shadow(run.asked[own][:, steps]).clamp(-EDGE, EDGE))
                into["push"].append(plane.direction(run.push[own][:, steps]).clamp(-EDGE, EDGE))
                into["q"].append(run.q[own])
                into["end"].append(run.a[own, -1])
    shape = (len(WAYS), len(betas))
    documents = []
    for into, chunks in zip(found, near):
        stacked = {k: torch.stack(v).unflatten(0, shape) for k, v in into.items()}
        documents.append(
            {"a": pack(stacked["a"]), "push": pack(stacked["push"])}
            | {"asked": pack(stacked["asked"][WAYS.index("qgf")])}
            | {"q": short(stacked["q"]), "distance": short(to_data(stacked["end"], chunks))}
        )
    return documents, [torch.stack(into["end"]).flatten(0, -2) for into in found]
