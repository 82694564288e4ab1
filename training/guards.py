"""Guards at the sampler: what of the critic's gradient reaches the action.

The method itself has none of these (arXiv 2606.11087); they are options of ours, all off by
default. A critic with a false peak outside the data can pull samples to it, and on the testbed
(`lab/testbed.py`) it does: the support guard stops that at no cost where the critic is sound, the
cap on the ratio stops it too and costs most of the gain.

They act from the coarse to the fine, and what one has taken away no later one gives back:

    window        which steps     before any gradient is taken: skipped steps cost no critic
    disagreement  which rows      all of a row's gradient or none of it
    mask          which numbers   the robot's dimensions, before the data has a say
    support       which numbers   per dimension, where a_hat is outside the range of the data
    neighbours    which direction away from the data for such a state; within what is left
    ratio_cap     what length     last, so that it measures what is applied
    keep_best     which samples   when all steps are done (`sampling.sample`)

Each guard is a pure function of tensors, the same to the bit where it does not take hold.
Shapes: B batch, O observation, D = H * A, E members, M recorded anchors, K of them near a state.
Knows nothing about the estimator or the flow; actions, observations: normalised.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgf_ros.files.strict_yaml import build
from qgf_ros.guidance import protocols as robot
from qgf_ros.policy.folder import Policy

BLOCK = 512  # rows at a time where every anchor is compared with every other


@dataclass(frozen=True)
class Box:
    """The range of the data, per dimension of the flattened chunk, in normalised actions."""

    low: tuple[float, ...]  # D numbers, or one for all dimensions
    high: tuple[float, ...]  # as many

    def __post_init__(self):
        pairs = list(zip(self.low, self.high))
        if not pairs or len(self.low) != len(self.high) or not all(lo <= hi for lo, hi in pairs):
            raise ValueError(
                f"support box: low is {self.low}, high is {self.high}; "
                "they need as many numbers each, at least one, and low <= high in every dimension"
            )

    @classmethod
    def of(cls, actions: Tensor | np.ndarray, quantile: float = 0.01) -> "Box":
        """From `quantile` to 1 - `quantile` of recorded chunks (N, D), in every dimension.

        By default 0.01 and not less: the normaliser makes the quantiles 0.001 and 0.999 -1 and 1,
        where a_hat is clipped anyway, so a box of these could never take hold. 0 is the whole
        range. Raises ValueError where `actions` is not finite, not (N, D) or empty.
        """
        chunks = _rows(actions, "actions").double().numpy()
        if not 0 <= quantile < 0.5:
            raise ValueError(f"support box: quantile is {quantile}; allowed: 0 up to below 0.5")
        low, high = np.quantile(chunks, (quantile, 1 - quantile), axis=0)
        return cls(tuple(low.tolist()), tuple(high.tolist()))

    def to_dict(self) -> dict[str, list[float]]:
        """Plain numbers and lists, fit for YAML and JSON."""
        return {name: list(numbers) for name, numbers in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Box":
        """The inverse of `to_dict`. Raises UsageError on an entry missing, unknown or wrong."""
        return build(cls, data, "support box")


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class Neighbours:
    """Recorded chunks, by the state they were recorded in: the support that depends on it.

    Where a box knows what the robot ever does, this knows what it does in such a state.
    """

    obs: Tensor  # (M, O)
    actions: Tensor  # (M, D)
    k: int  # K, states that count as "such a state"; 1..M
    radius: float  # >= 0, L2 in normalised actions: nearer than this to a chunk is in the data

    def __post_init__(self):
        if self.obs.dim() != 2 or self.actions.dim() != 2 or len(self.obs) != len(self.actions):
            shapes = tuple(self.obs.shape), tuple(self.actions.shape)
            raise ValueError(f"neighbours: obs, actions are {shapes}; needed: (M, O) and (M, D)")
        if not 1 <= self.k <= len(self.obs):
            raise ValueError(f"neighbours: k is {self.k}; allowed: 1 to {len(self.obs)} anchors")
        if not self.radius >= 0:
            raise ValueError(f"neighbours: radius is {self.radius}; it must be at least 0")

    @classmethod
    def of(
        cls,
        obs: Tensor | np.ndarray,
        actions: Tensor | np.ndarray,
        k: int = 32,
        quantile: float = 0.99,
        limit: int = 4096,
        seed: int = 0,
        episode: Tensor | np.ndarray | None = None,
    ) -> "Neighbours":
        """Anchors from recorded obs (N, O) and chunks (N, D), and the radius the data has itself.

        radius: the `quantile` (0..1] of the distances that the guard would find for the anchors'
        own chunks, each left out (leave one out). episode: (N,) of any numbers; where given, the
        whole episode is left out: chunks a tick apart are nearly the same, and a radius from
        them would call most of what the next episode does foreign.
        limit: at most so many anchors, drawn by `seed`: a step costs B * limit distances once.
        Raises ValueError on shapes, numbers that are not finite, or too few anchors for k.
        """
        obs, actions = _rows(obs, "obs").float(), _rows(actions, "actions").float()
        owner = torch.arange(len(obs)) if episode is None else torch.as_tensor(episode)
        if not len(obs) == len(actions) == len(owner):
            sizes = f"{len(obs)} obs, {len(actions)} actions, {len(owner)} episode numbers"
            raise ValueError(f"neighbours: {sizes}; they need as many rows each")
        if not 0 < quantile <= 1 or limit < 2:
            raise ValueError(f"neighbours: quantile {quantile}, limit {limit}; need (0, 1], >= 2")
        order = torch.randperm(len(obs), generator=torch.Generator().manual_seed(seed))
        keep = order[:limit].sort().values
        obs, actions, owner = obs[keep], actions[keep], owner[keep]
        if not 1 <= k < len(obs):
            raise ValueError(f"neighbours: k is {k}; allowed: 1 to {len(obs) - 1}, one is left out")
        found = []
        for rows in torch.arange(len(obs)).split(BLOCK):
            apart = _distances(obs[rows], obs)
            apart[owner[rows, None] == owner] = math.inf
            near = apart.topk(k, largest=False)
            distance = (actions[near.indices] - actions[rows, None]).norm(dim=-1)
            distance[near.values.isinf()] = math.inf
            found.append(distance.amin(dim=1))
        left_out = torch.cat(found)
        if left_out.isinf().any():
            raise ValueError(
                "neighbours: all anchors are of one episode; give more, or episode=None"
            )
        return cls(obs, actions, k, float(np.quantile(left_out.double().numpy(), quantile)))

    def candidates(self, obs: Tensor) -> Tensor:
        """The chunks (B, K, D) of the K anchors nearest to each obs (B, O), like it in dtype."""
        if obs.shape[-1] != self.obs.shape[-1]:
            raise ValueError(
                f"neighbours of {self.obs.shape[-1]} observations, given {obs.shape[-1]}"
            )
        near = _distances(obs, self.obs.to(obs)).topk(self.k, dim=1, largest=False).indices
        return self.actions.to(obs)[near]


@dataclass(frozen=True)
class Place:
    """Where the sampler stands as it is about to apply a gradient; all of the same B rows."""

    a_hat: Tensor  # (B, D), the denoised action, whichever estimator gave the gradient
    velocity: Tensor  # (B, D), of the flow
    weight: Tensor  # (B, 1), w
    members: Callable[[], Tensor]  # () -> (E, B), each member's Q at a_hat; called if needed only
    candidates: Tensor | None = None  # (B, K, D), from `Guards.candidates`


@dataclass(frozen=True)
class Guards:
    """Which guards are on, each by itself; as written here, all are off."""

    skip_first: int = 0  # steps from t = 0 on without guidance
    last: int | None = None  # >= 1: guidance in the last so many steps only
    disagreement: float | None = None  # largest std of the members' Q at a_hat, >= 0, units of Q
    mask: tuple[int, ...] = ()  # 1 guide, 0 do not; A numbers, the same in all H steps, or D
    support: Box | None = None
    neighbours: Neighbours | None = None
    ratio_cap: float | None = None  # largest w|g| / |v| of a step, >= 0; 1: as strong as the flow
    keep_best: bool = False  # the unguided sample where the guided one's Q is not larger

    def __post_init__(self):
        for name in ("disagreement", "ratio_cap"):
            given = getattr(self, name)
            if given is not None and not 0 <= given < math.inf:
                raise ValueError(f"{name} is {given}; it must be finite and at least 0, or None")
        if self.skip_first < 0 or (self.last is not None and self.last < 1):
            raise ValueError(
                f"skip_first is {self.skip_first}, last is {self.last}; "
                "needed: at least 0, and at least 1 or None"
            )
        if self.mask and (not set(self.mask) <= {0, 1} or not any(self.mask)):
            raise ValueError(
                f"mask is {self.mask}; needed: 0 or 1 for each of the action's numbers and at "
                "least one 1 (w = 0 switches guidance off), or () for no mask"
            )

    @classmethod
    def of(cls, guards: robot.Guards, policy: Policy) -> "Guards":
        """Those of a robot that runs this policy, but for keep_best: there it is chosen what is
        executed, among other candidates, and not here. Raises ValueError where they do not fit."""
        names, box = policy.contract.learnt_names, policy.description.support
        if guards.support and box is None:
            raise ValueError("support: the policy stores no box")
        return cls(
            skip_first=guards.skip_first,
            last=guards.last or None,
            disagreement=guards.disagreement if guards.disagreement < math.inf else None,
            mask=tuple(int(name in guards.only) for name in names) if guards.only else (),
            support=Box(box.low, box.high) if guards.support and box else None,
            ratio_cap=guards.ratio_cap if guards.ratio_cap < math.inf else None,
        )

    def window(self, steps: int) -> range:
        """The steps of 0..T-1 in which there is guidance. Raises ValueError where none is left."""
        guided = range(max(self.skip_first, steps - (self.last or steps)), steps)
        if not guided:
            raise ValueError(
                f"skip_first is {self.skip_first} of {steps} steps: none is left to guide in; "
                f"allowed: up to {steps - 1} (w = 0 switches guidance off)"
            )
        return guided

    def candidates(self, obs: Tensor) -> Tensor | None:
        """What `Place` is to be told of obs (B, O); the same in all steps of a sample."""
        return None if self.neighbours is None else self.neighbours.candidates(obs)

    def __call__(self, gradient: Tensor, place: Place) -> Tensor:
        """The guarded gradient (B, D) of one step, from the gradient (B, D) before the weight.

        Raises ValueError where a mask or box has another number of dimensions, or an ensemble
        that cannot disagree is asked whether it does.
        """
        if self.disagreement is not None:
            gradient = agreed(gradient, place.members(), self.disagreement)
        if self.mask:
            gradient = masked(gradient, self.mask)
        if self.support is not None:
            gradient = within_support(gradient, place.a_hat, self.support)
        if self.neighbours is not None:
            assert place.candidates is not None  # the sampler's part
            radius = self.neighbours.radius
            gradient = near_data(gradient, place.a_hat, place.candidates, radius)
        if self.ratio_cap is not None:
            gradient = capped(gradient, place.velocity, place.weight, self.ratio_cap)
        return gradient


def agreed(gradient: Tensor, members: Tensor, limit: float) -> Tensor:
    """Zero in rows where the members' Q (E, B) have a standard deviation (of the E) above limit.

    Zero too where it is not a number: nobody agrees there.
    """
    if len(members) < 2:
        raise ValueError(
            "disagreement: the critic has 1 member, which never disagrees; train one with 2 or "
            "more, or leave the guard off"
        )
    agree = members.std(dim=0, unbiased=False) <= limit
    return torch.where(agree[:, None], gradient, 0)


def masked(gradient: Tensor, mask: tuple[int, ...]) -> Tensor:
    """Zero in the dimensions d = h * A + a where mask is 0: mask[a] of A numbers, or mask[d]."""
    size = gradient.shape[-1]
    if size % len(mask):
        raise ValueError(
            f"mask of {len(mask)} numbers for actions of {size}; give one for each of the A "
            "numbers of an action, or for each of the flattened chunk"
        )
    keep = torch.tensor(mask, dtype=torch.bool, device=gradient.device)
    return torch.where(keep.repeat(size // len(mask)), gradient, 0)


def within_support(gradient: Tensor, a_hat: Tensor, box: Box) -> Tensor:
    """Without the part that pushes a_hat (B, D) further out where it already lies outside.

    Dimension by dimension: g_d = 0 where a_hat_d >= high_d and g_d > 0, or a_hat_d <= low_d and
    g_d < 0. What points back in, or along, stays; inside the box nothing changes. The edge counts
    as outside: where the data fills its range the box ends where a_hat is clipped.
    """
    low, high = a_hat.new_tensor(box.low), a_hat.new_tensor(box.high)
    if len(low) not in (1, a_hat.shape[-1]):
        raise ValueError(
            f"support box of {len(low)} dimensions for actions of {a_hat.shape[-1]}; "
            "give one range for all, or one for each of the flattened chunk"
        )
    outward = ((a_hat >= high) & (gradient > 0)) | ((a_hat <= low) & (gradient < 0))
    return torch.where(outward, 0, gradient)


def near_data(gradient: Tensor, a_hat: Tensor, candidates: Tensor, radius: float) -> Tensor:
    """Without the part that points away from the nearest candidate, where that is beyond radius.

    With u = a_hat - (the nearest of candidates (B, K, D)), where |u| > radius and g.u > 0:
    g - (g.u / u.u) u. What points towards it, or along, stays. Dimensions in which g is 0 are
    left out of u: a guard takes away, and what mask and support took stays away.
    """
    away = a_hat[:, None] - candidates  # (B, K, D)
    distance, nearest = away.norm(dim=-1).min(dim=1)
    u = away[torch.arange(len(away), device=away.device), nearest]
    u = torch.where(gradient == 0, 0, u)
    along = (gradient * u).sum(-1, keepdim=True)
    square = u.square().sum(-1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
    outward = (distance > radius)[:, None] & (along > 0)
    return torch.where(outward, gradient - along / square * u, gradient)


def capped(gradient: Tensor, velocity: Tensor, weight: Tensor, cap: float) -> Tensor:
    """Shortened, direction kept, so that w |g|_2 <= cap |v|_2 in every row. weight: (B, 1)."""
    push = weight * gradient.norm(dim=-1, keepdim=True)
    limit = cap * velocity.norm(dim=-1, keepdim=True)
    return torch.where(push > limit, gradient * (limit / push), gradient)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """L2 between all rows of a (B, O) and b (M, O) -> (B, M), to the last digits: torch's faster
    way by matrix products loses small distances to rounding."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _rows(data: Tensor | np.ndarray, name: str) -> Tensor:
    """`data` as a tensor; raises ValueError where it is not finite, not (N, ...) or empty."""
    rows = torch.as_tensor(data)
    if rows.dim() != 2 or not len(rows) or not bool(rows.isfinite().all()):
        raise ValueError(
            f"{name} has shape {tuple(rows.shape)}; needed: finite numbers (N, ...), N at least 1"
        )
    return rows
