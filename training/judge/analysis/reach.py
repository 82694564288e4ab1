"""What guidance reaches: Q of the final action against its distance to the data, beside best-of-N.

Q here is that of the critic that guides. It says how well an estimator optimises that critic, not
whether the action is good: that is why the distance stands beside it. Best-of-N only ever picks
what the flow itself drew, so what lies above it at the same distance is a gain, and what lies above
it further out may be the critic's error. Weights differ in meaning between estimators; their common
axis is the guidance ratio rho = w |g| / |v|, without units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from qgf_ros.errors import DataRefused
from qgf_ros.statistics import Interval, interval, share
from training.estimators import ESTIMATORS
from training.judge.analysis.base import Model, States
from training.sampling import Sample

# See `training.judge.calibration` for what a policy suggests of these.
RATIOS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
CANDIDATES = (1, 2, 4, 8, 16, 32)
NEIGHBOURS = 32  # recorded states; few enough to be alike, enough to show what was done there
GENTLE = 1e-6  # a weight that asks for the gradient and leaves the path as it is
POOL = 2048  # held-out chunks that set the natural distance; all of a large set would take minutes
OUTSIDE = 0.99  # quantile of recorded chunks


@dataclass(frozen=True)
class Point:
    """One way of sampling, over all states."""

    name: str  # an estimator, best_of_n or recorded
    candidates: int  # N
    ratio: float  # rho that the weight was chosen for; 0 unguided
    weight: float  # w
    beta: float  # 1 / w
    guidance_ratio: Interval  # rho as measured; it sinks where guidance arrives at an optimum
    q: Interval  # aggregated Q, scaled return
    gain: Interval  # of Q over the unguided sample from the same noise
    distance: Interval  # to the data: RMS per dimension, normalised action
    outside: Interval  # share of samples beyond `Reach.radius`
    not_finite: float  # share of samples that overflowed; left out of all means
    best_of: int  # largest N whose mean Q best-of-N this one has reached; 0: below unguided


@dataclass(frozen=True)
class Reach:
    """All ways of sampling, on the same states; first candidates and guided start at one noise."""

    radius: float  # 99 % quantile of the distance of held-out recorded chunks to the data
    radius_median: float
    neighbours: int
    recorded: Point  # what the data did in these states
    best_of_n: tuple[Point, ...]  # N = 1 is the unguided policy
    guided: dict[str, tuple[Point, ...]]  # estimator -> by rising ratio; empty: no gradient at all
    at_policy_betas: tuple[Point, ...]  # qgf, at the betas that the policy names


def natural(pool: States, recorded: States) -> tuple[float, float]:
    """Distance to the data that 99 % of the recorded chunks `pool` keep, and the median."""
    away = distance(pool.action, nearest(pool, recorded)).double()
    return float(away.quantile(OUTSIDE)), float(away.median())


def lost_share(s: Sample) -> float:
    """Of samples whose numbers or Q are not finite."""
    return float(_lost(s).double().mean())


def _lost(s: Sample) -> Tensor:
    return ~(s.action.isfinite().all(-1) & s.q.isfinite())


def measured(
    s: Sample, unguided: Tensor, near: Tensor, radius: float, episode: Tensor
) -> dict[str, Interval]:
    """guidance_ratio, q, gain over the Q `unguided` (B,), distance to the chunks `near` (B, K, D) and
    the share outside of their radius; of the samples that are not lost."""
    lost, away = _lost(s), distance(s.action, near)

    def kept(values: Tensor) -> Tensor:
        return values.double().masked_fill(lost, torch.nan)

    values = {
        "guidance_ratio": s.guidance_ratio,
        "q": s.q,
        "gain": s.q - unguided,
        "distance": away,
    }
    found = {name: interval(kept(x), episode) for name, x in values.items()}
    return found | {"outside": share(kept(away > radius), episode)}


@torch.no_grad()
def reach(
    model: Model,
    states: States,
    recorded: States,
    betas: Sequence[float] = (),
    seed: int = 0,
    pool: States | None = None,
    ratios: Sequence[float] = RATIOS,
    candidates: Sequence[int] = CANDIDATES,
) -> Reach:
    """Samples in every way in `states` and measures against `recorded`.

    betas: the policy's own, for qgf. pool: held-out states that set the radius, `states` by
    default; more of them make its 99 % quantile steadier.
    Raises DataRefused where a state has no recorded one of another episode to compare with.
    """
    near = nearest(states, recorded)
    pool = states if pool is None else pool
    radius, median = natural(pool, recorded)
    drawn = dict(zip(candidates, nested(model, states, candidates, seed)))
    unguided = drawn[candidates[0]].q
    ladder = [(n, interval(s.q, states.episode).mean) for n, s in drawn.items()]

    def point(name: str, s: Sample, weight: float = 0.0, ratio: float = 0.0, n: int = 1) -> Point:
        found = measured(s, unguided, near, radius, states.episode)
        q = found["q"]
        return Point(
            name=name,
            candidates=n,
            ratio=ratio,
            weight=weight,
            beta=1 / weight if weight else math.inf,
            not_finite=lost_share(s),
            **found,
            best_of=max((n for n, reached in ladder if reached <= q.mean), default=0),
        )

    noise = states.noise(seed)
    guided, per_weight = {}, {}
    for name in ESTIMATORS:
        per_weight[name] = ratio_per_weight(model, states, noise, name)
        weights = [(r, r / per_weight[name]) for r in ratios if per_weight[name] > 0]
        guided[name] = tuple(
            point(name, model.sample(states.obs, noise, w, name), w, r) for r, w in weights
        )
    own = [1 / b for b in sorted(set(betas), reverse=True) if b < math.inf]
    nothing = torch.zeros(len(states))
    done = Sample(states.action, model.q(states.obs, states.action), nothing, nothing)
    return Reach(
        radius=radius,
        radius_median=median,
        neighbours=near.shape[1],
        recorded=point("recorded", done),
        best_of_n=tuple(point("best_of_n", s, n=n) for n, s in drawn.items()),
        guided=guided,
        at_policy_betas=tuple(
            point("qgf", model.sample(states.obs, noise, w), w, w * per_weight["qgf"]) for w in own
        ),
    )


def nested(
    model: Model, states: States, candidates: Sequence[int] = CANDIDATES, seed: int = 0
) -> list[Sample]:
    """Best-of-N for each N, of the first N of the same unguided samples: Q never falls with N.

    The first sample of a state starts at `states.noise(seed)`, as the guided ones do.
    """
    most, B = max(candidates), len(states)
    noise = torch.cat([states.noise(seed)[None], states.noise(seed + 2, most - 1)])
    parts = [model.sample(states.obs, row, 0.0) for row in noise]
    rows = Sample(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Sample)))
    q = rows.q.view(most, B)
    return [rows[q[:n].argmax(0) * B + torch.arange(B)] for n in candidates]


def ratio_per_weight(model: Model, states: States, noise: Tensor, estimator: str) -> float:
    """Mean guidance ratio rho per unit of w along (all but) unguided paths; 0: no gradient."""
    drawn = model.sample(states.obs, noise, GENTLE, estimator)
    ratio = drawn.guidance_ratio / GENTLE
    return float(ratio[ratio.isfinite()].double().mean().nan_to_num(0.0))


def nearest(states: States, recorded: States, count: int = NEIGHBOURS) -> Tensor:
    """(B, count, D): what was done in the recorded states that are nearest, of other episodes.

    Euclidean in normalised observations. Fewer than `count` are filled up with inf.
    """
    count = min(count, len(recorded))
    out = []
    for rows in torch.arange(len(states)).split(max(1, 2**24 // len(recorded))):
        query = states[rows]
        # not by matrix products: those would put equal states at distances of 1e-3
        gap = torch.cdist(
            query.obs, recorded.obs, compute_mode="donot_use_mm_for_euclid_dist"
        ).masked_fill(query.episode[:, None] == recorded.episode, math.inf)
        gap, index = gap.topk(count, largest=False)
        if bool(gap[:, 0].isinf().any()):
            raise DataRefused(
                "a held-out state can be compared with other episodes only, and there is none; "
                "give data of at least two episodes"
            )
        out.append(recorded.action[index].masked_fill(gap.isinf()[..., None], math.inf))
    return torch.cat(out)


def distance(action: Tensor, near: Tensor) -> Tensor:
    """(B,) RMS per dimension from action (B, D) to the nearest of near (B, count, D)."""
    return (action[:, None] - near).square().mean(-1).sqrt().amin(1)
