"""Q around one moment, in a plane through the chunk: where guidance would climb, and where there is
nothing but the critic's word for it.

A chunk has D = H * A numbers, a picture two. The plane goes through the unguided chunk; its axes
are the way to the guided one and the direction in which the flow's own samples differ most. What
lies in the plane is shown as it is; of all else the shadow, with its distance to the plane.

Distances are root mean squares over the D numbers, as in `analysis.reach`, in normalised actions: a
step of 1 along an axis is an RMS of 1. Beyond the range of actions a point of the plane stands for
the chunk that the sampler would clip it to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.estimators.base import gradient_at
from training.judge.analysis.base import Model
from training.judge.analysis.reach import POOL, natural
from training.judge.panels.timeline.packing import pack, short
from training.judge.subject import Held

GRID = 33  # points along a side
ROOM = 1.25  # of the square around all that is shown
NARROW = 0.6  # half a side is at least so many radii of the data, however close all samples are
FAR = 1.5  # nothing further from the origin stretches the square
VISIBLE = 0.02  # of the range of Q in the square: a bump that is not higher is none
TINY = 1e-4  # RMS below which a direction means nothing


@dataclass(frozen=True, eq=False)
class Plane:
    """Two directions through a chunk."""

    origin: Tensor  # (D,)
    axes: Tensor  # (2, D), orthonormal; a zero row where the chunk has no second direction
    names: tuple[str, str]  # what the axes lead to: guided | gradient | spread | any | none

    @classmethod
    def through(cls, unguided: Tensor, guided: Tensor, slope: Tensor, cloud: Tensor) -> Plane:
        """unguided, guided: (D,) from one noise; slope: (D,) gradient of Q at the first; cloud:
        (N, D) unguided samples from other noise. What is zero is passed over for the next."""
        unguided, guided, slope, cloud = (x.nan_to_num() for x in (unguided, guided, slope, cloud))
        gap = cloud - cloud.mean(0)
        _, size, widest = torch.linalg.svd(gap, full_matrices=False)
        slope = slope / slope.norm().clamp_min(1e-12)
        rest = [("spread", row * (s > TINY)) for s, row in zip(size[:2], widest)]
        rest += [("any", row) for row in torch.eye(len(unguided))[:3]]
        wanted = [("guided", guided - unguided), ("gradient", slope), *rest]
        first, along = next((name, x / x.norm()) for name, x in wanted if _length(x) > TINY)
        flat = [(name, x - (x @ along) * along) for name, x in rest]
        nothing = ("none", torch.zeros_like(along))
        second, across = next((pair for pair in flat if _length(pair[1]) > TINY), nothing)
        across = across / across.norm().clamp_min(TINY)
        return cls(unguided, torch.stack([along, across]), (first, second))

    def direction(self, vectors: Tensor) -> Tensor:
        """(..., D) -> (..., 2)."""
        return vectors @ self.axes.T / math.sqrt(len(self.origin))

    def shadow(self, chunks: Tensor) -> Tensor:
        """(..., D) -> (..., 2): where they are in the plane, or would fall on it."""
        return self.direction(chunks - self.origin)

    def off(self, chunks: Tensor) -> Tensor:
        """(..., D) -> (...): how far from the plane."""
        away = chunks - self.origin
        return _length(away - (away @ self.axes.T) @ self.axes)

    def chunk(self, places: Tensor) -> Tensor:
        """(..., 2) -> (..., D): the chunks that lie there."""
        return self.origin + places @ self.axes * math.sqrt(len(self.origin))

    def shares(self, names: tuple[str, ...]) -> list[dict[str, float]]:
        """What the axes are made of: for each the numbers of an action, the largest share first."""
        made = self.axes.square().view(2, -1, len(names)).sum(1)
        return [dict(sorted(zip(names, short(row)), key=lambda pair: -pair[1])[:3]) for row in made]


def radius(held: Held) -> float:
    """Distance to the data that 99 % of the held-out recorded chunks keep, as `analysis.reach` has
    it; NaN where there is no other episode to compare with."""
    return natural(held.pool[:POOL], held.recorded)[0] if held.comparable else math.nan


@torch.no_grad()
def landscape(
    model: Model, plane: Plane, obs: Tensor, near: Tensor, reach: Tensor, radius: float
) -> dict[str, Any]:
    """Q and the distance to the data over a square of the plane.

    obs: (O,); near: (K, D) chunks recorded in the nearest states, may be none; reach: (M, D) what
    the square has to show beside these, as far as it is not further than FAR.
    """
    shown = torch.cat([plane.shadow(near), plane.shadow(reach)])
    shown = torch.cat([shown[shown.isfinite().all(1)].clamp(-FAR, FAR), torch.zeros(1, 2)])
    low, high = shown.amin(0), shown.amax(0)
    half = max(float((high - low).max()) / 2 * ROOM, NARROW * (radius if radius > 0 else 0.1))
    middle = (low + high) / 2
    ticks = torch.linspace(-half, half, GRID)
    y, x = torch.meshgrid(ticks + middle[1], ticks + middle[0], indexing="ij")
    places = torch.stack([x, y], -1)  # (GRID, GRID, 2), rows along y
    chunks = plane.chunk(places.view(-1, 2)).clamp(-model.bound, model.bound)
    q = model.q(obs.expand(len(chunks), -1), chunks).view(GRID, GRID)
    away = to_data(chunks, near).view(GRID, GRID)
    return {
        "x": short(x[0, [0, -1]]),
        "y": short(y[[0, -1], 0]),
        "q": pack(q, 8),
        "distance": pack(away, 8),
        "range": short(torch.tensor(box(plane, places, model.bound))),
        "best_near": _highest(places, q, away, away <= radius),
        "bump": _bump(places, q, away, radius),
    }


def marks(
    model: Model, plane: Plane, obs: Tensor, chunks: Tensor, near: Tensor
) -> list[dict[str, Any]]:
    """What a picture says of single chunks (M, D): where, how far off, and their Q."""
    q = model.q(obs.expand(len(chunks), -1), chunks)
    values = [*plane.shadow(chunks).T, plane.off(chunks), q, to_data(chunks, near)]
    return [
        dict(zip(("x", "y", "off", "q", "distance"), row)) for row in short(torch.stack(values, 1))
    ]


def to_data(chunks: Tensor, near: Tensor) -> Tensor:
    """(...,) distance from chunks (..., D) to the nearest of near (K, D); NaN where K = 0."""
    if not len(near):
        return chunks[..., 0] * math.nan
    gap = torch.cdist(chunks, near, compute_mode="donot_use_mm_for_euclid_dist")
    return gap.amin(-1) / math.sqrt(chunks.shape[-1])


def slopes(model: Model, obs: Tensor, action: Tensor) -> Tensor:
    """(B, D): gradient of Q at obs (B, O), action (B, D)."""
    return gradient_at(lambda a: model.q(obs, a), action)


def _bump(places: Tensor, q: Tensor, away: Tensor, radius: float) -> dict[str, Any] | None:
    """The highest peak off the data with more Q than the plane has anywhere near it; without such
    a peak the highest point, where Q rises towards the edge; None where the data is highest."""
    inside = away <= radius
    if not inside.any() or inside.all():
        return None
    higher = ~inside & (q > q[inside].max() + VISIBLE * (q.max() - q.min()))
    if not higher.any():
        return None
    peaks = q == F.max_pool2d(q[None, None], 3, 1, 1)[0, 0]
    peaks[[0, -1]] = peaks[:, [0, -1]] = False
    found = higher & peaks
    is_peak = bool(found.any())
    return {"peak": is_peak} | (_highest(places, q, away, found if is_peak else higher) or {})


def _highest(places: Tensor, q: Tensor, away: Tensor, where: Tensor) -> dict[str, Any] | None:
    if not where.any():
        return None
    at = int(torch.where(where, q, -math.inf).argmax())
    row = torch.cat([places.view(-1, 2)[at], q.view(-1)[at : at + 1], away.view(-1)[at : at + 1]])
    return dict(zip(("x", "y", "q", "distance"), short(row)))


def box(plane: Plane, places: Tensor, bound: float) -> list[list[float]]:
    """Corners of the part of the square in which all numbers are within [-bound, bound]."""
    corners = [places[0, 0], places[0, -1], places[-1, -1], places[-1, 0]]
    shape = [[float(v) for v in corner] for corner in corners]
    scale = math.sqrt(len(plane.origin))
    for start, (u, v) in zip(plane.origin.tolist(), (plane.axes.T * scale).tolist()):
        for sign in (1, -1):
            room = bound * (1 + 1e-5) - sign * start
            shape = list(_cut(shape, sign * u, sign * v, room))
    return shape


def _cut(shape: list[list[float]], u: float, v: float, room: float) -> Iterator[list[float]]:
    """The corners of what is left of a convex shape where u x + v y <= room."""
    for (x0, y0), (x1, y1) in zip(shape, shape[1:] + shape[:1]):
        before, after = room - u * x0 - v * y0, room - u * x1 - v * y1
        if before >= 0:
            yield [x0, y0]
        if before * after < 0:
            part = before / (before - after)
            yield [x0 + part * (x1 - x0), y0 + part * (y1 - y0)]


def _length(vectors: Tensor) -> Tensor:
    return vectors.square().mean(-1).sqrt()
