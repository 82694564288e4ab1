"""The guided sampler with its reverse pass written out, in plain tensor operations.

The algorithm of `training.sampling` with estimator `qgf`, without autograd: for ONNX Runtime, for
one CUDA graph of all steps, and for a reader who wants to see it. Imported where torch is wanted.
Shapes: B batch, D = H * A, E members, W width of a hidden layer, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qgf_ros.guidance.backends.explicit_nets import CriticGradient, VelocityByStep
from qgf_ros.guidance.protocols import FIELDS

INPUTS = (
    "obs",
    "noise",
    "w",
    "guide",
    "low",
    "high",
    "disagreement",
    "ratio_cap",
    "fixed",
    "committed",
)
OUTPUTS = FIELDS


class GuidedSampler(nn.Module):
    """Guided and unguided actions from the same noise, T steps unrolled; weights are copies.

    Takes the dtype of the tensors it is made from.
    """

    left: Tensor  # (T,)

    def __init__(
        self,
        velocity: Mapping[str, Tensor],
        critic: Mapping[str, Tensor],
        times: Tensor,
        aggregation: str = "min",
        bounded: bool = False,
    ):
        """velocity, critic: named as in `training.learn.models.MLP`, and in a policy; times: (T, 16),
        what the flow is told at each step; bounded: the critic's output goes through a sigmoid."""
        super().__init__()
        self.steps = len(times)
        self.velocity = VelocityByStep(velocity, times)
        self.critic = CriticGradient(critic, self.velocity.size, aggregation, bounded)
        k = torch.arange(self.steps).to(self.velocity.w_action)
        self.register_buffer("left", 1 - k / self.steps)  # of the time, at each step

    def forward(
        self,
        obs: Tensor,
        noise: Tensor,
        w: Tensor,
        guide: Tensor,
        low: Tensor,
        high: Tensor,
        disagreement: Tensor,
        ratio_cap: Tensor,
        fixed: Tensor,
        committed: Tensor,
        limited: bool = True,
    ) -> tuple[Tensor, ...]:
        """A sample for each of B rows. `unguarded` has the arguments after w that leave the method
        as it is; the guards are explained in `training.guards`, committed in `sampling.sample`.

        Args:
            obs: (B, O), or (O,) for all rows.
            noise, w: (B, D) ~ N(0, I); (B,) = 1/beta >= 0.
            guide: (T, D) bool, which numbers are guided in which steps.
            low, high: (D,), the box of the support guard, infinite for none.
            disagreement, ratio_cap: (), infinite for none.
            fixed, committed: (D,) bool, which numbers are held, and (D,) at what.
            limited: False leaves out what low, high, disagreement and ratio_cap are about.

        Returns:
            In order of `OUTPUTS`: action (B, D), its q (B,), action_unguided (B, D), its
            q_unguided (B,), q_std (B,) the members' standard deviation (of the E, not an estimate)
            at `action`, gradient_norm (B,) and guidance_ratio (B,) as in `sampling.Sample`, and
            acted (B,), which guards took something away: 1 support, 2 disagreement, 4 ratio_cap,
            summed. Rows with w = 0: both halves bit-equal.
        """
        same, a, steps = self.prepare(
            obs, noise, w, guide, low, high, disagreement, ratio_cap, fixed, committed, limited
        )
        velocities, gradients = [], []
        for left, (seen, mask) in zip(self.left.unbind(), steps, strict=True):
            a, v, stages = self.step(a, left, seen, mask, **same)
            velocities.append(v)
            gradients.append(stages)
        walked = [torch.cat(stage, dim=1) for stage in zip(*gradients, strict=True)]
        seen = same["critic_seen"]
        return self.finish(a, torch.cat(velocities, dim=1), walked, obs, w, seen, fixed, committed)

    def prepare(
        self,
        obs: Tensor,
        noise: Tensor,
        w: Tensor,
        guide: Tensor,
        low: Tensor,
        high: Tensor,
        disagreement: Tensor,
        ratio_cap: Tensor,
        fixed: Tensor,
        committed: Tensor,
        limited: bool = True,
    ) -> tuple[dict[str, Any], Tensor, list[tuple[Tensor, Tensor]]]:
        """As `forward` -> what all steps are given, where they begin (2B, D), and for each of them
        what the flow sees and what is guided (B, D). The upper half of the 2B rows is guided, the
        lower is not."""
        critic_seen = self.critic.observe(obs)
        applied = ((w > 0).view(-1, 1, 1) & guide & ~fixed).flatten(1)  # (B, T * D)
        a = torch.cat([noise, noise])
        same: dict[str, Any] = {
            "fixed": fixed,
            "line": committed - a,
            "weight": w.unsqueeze(1),
            "still": torch.zeros_like(noise),
            "critic_seen": critic_seen,
            "transposed": self.critic.transposed(),
            "limits": (low, high, disagreement, ratio_cap) if limited else (),
        }
        flow_seen = _each_twice(self.velocity.observe(obs), obs)
        masks = applied.split(self.velocity.size, dim=1)
        return same, a, list(zip(flow_seen.unbind(), masks, strict=True))

    def finish(
        self,
        a: Tensor,
        velocities: Tensor,
        stages: list[Tensor],
        obs: Tensor,
        w: Tensor,
        critic_seen: Tensor,
        fixed: Tensor,
        committed: Tensor,
    ) -> tuple[Tensor, ...]:
        """a: (2B, D) after all steps; velocities and stages: what `step` gave, (B, T * D) each ->
        as `forward`."""
        rows, guided = w.shape[0], w > 0  # len() would fix the batch size in an export
        a = torch.where(fixed, committed, a.clamp(-1, 1))
        unguided = a[rows:]
        # Equal rows may still differ in the last bit by where they stand in a matrix product.
        action = torch.where(guided.unsqueeze(1), a[:rows], unguided)
        q = self.critic(_each_twice(critic_seen, obs), torch.cat([action, unguided]))
        best = self.critic.aggregate(q)
        # Asked for, where the members agree, within the box, and shortened.
        gradient_norm = self._mean_norm(stages[-1])
        speed = self._mean_norm(velocities)
        ratio = w * gradient_norm / speed.clamp_min(torch.finfo(a.dtype).tiny)
        q_std = q[:, :rows].std(dim=0, unbiased=False)
        q_guided = torch.where(guided, best[:rows], best[rows:])
        acted = torch.zeros_like(w)
        for flag, x, y in zip((2, 1, 4), stages, stages[1:]):
            acted = acted + flag * (x != y).any(dim=1).to(w.dtype)
        return action, q_guided, unguided, best[rows:], q_std, gradient_norm, ratio, acted

    def step(
        self,
        a: Tensor,
        left: Tensor,
        seen: Tensor,
        mask: Tensor,
        *,
        fixed: Tensor,
        line: Tensor,
        weight: Tensor,
        still: Tensor,
        critic_seen: Tensor,
        transposed: list[Tensor],
        limits: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """a: (2B, D) before one Euler step, at 1 - left -> a after it, the upper half's velocity
        (B, D), and the gradient there (B, D): as asked for, and as each of the limits leaves it."""
        v = torch.where(fixed, line, self.velocity(seen, a))
        rows = weight.shape[0]
        a_hat = torch.addcmul(a[:rows], v[:rows], left).clamp(-1, 1)
        g, q = self.critic.gradient(critic_seen, a_hat, transposed)
        stages = [torch.where(mask, g, 0.0)]  # chosen, not multiplied: 0 * inf is not 0
        if limits:
            stages += _limit(stages[0], q, a_hat, v[:rows], weight, *limits)
        drift = v + torch.cat([weight * stages[-1], still])
        return torch.add(a, drift, alpha=1 / self.steps), v[:rows], stages

    def unguided(
        self, obs: Tensor, noise: Tensor, fixed: Tensor, committed: Tensor
    ) -> tuple[Tensor, ...]:
        """As `forward` for w = 0, without the critic's gradient."""
        a, line = noise, committed - noise
        for seen in self.velocity.observe(obs).unbind():
            v = torch.where(fixed, line, self.velocity(seen, a))
            a = torch.add(a, v, alpha=1 / self.steps)
        action = torch.where(fixed, committed, a.clamp(-1, 1))
        q = self.critic(self.critic.observe(obs), action)
        best = self.critic.aggregate(q)
        none = torch.zeros_like(best)
        return action, best, action, best, q.std(dim=0, unbiased=False), none, none, none

    def unguarded(self) -> tuple[Tensor, ...]:
        """The arguments of `forward` from guide to committed: no guard, and nothing committed."""
        like = self.velocity.w_action
        far = like.new_full((self.velocity.size,), math.inf)
        none = torch.zeros_like(far, dtype=torch.bool)
        guide = torch.ones(self.steps, self.velocity.size, dtype=torch.bool)
        limit = like.new_tensor(math.inf)
        return guide, -far, far, limit, limit.clone(), none, torch.zeros_like(far)

    def _mean_norm(self, vectors: Tensor) -> Tensor:
        """(B, T * D) -> (B,): the mean of the T vectors' L2 norms."""
        return vectors.unflatten(1, (self.steps, self.velocity.size)).norm(dim=-1).mean(dim=-1)


def _limit(
    g: Tensor,
    q: Tensor,
    a_hat: Tensor,
    v: Tensor,
    weight: Tensor,
    low: Tensor,
    high: Tensor,
    disagreement: Tensor,
    ratio_cap: Tensor,
) -> list[Tensor]:
    """What disagreement, support and ratio_cap leave of g (B, D), one after another, (B, D) each.

    q: (E, B, 1), the members' Q at a_hat; v: (B, D); weight: (B, 1).
    """
    agree = (disagreement == math.inf) | (q.std(dim=0, unbiased=False) <= disagreement)
    agreed = torch.where(agree, g, 0.0)
    # Not up where a_hat is at the box's upper edge or beyond, not down at its lower one.
    inside = torch.minimum(agreed, torch.where(a_hat < high, math.inf, 0.0))
    inside = torch.maximum(inside, torch.where(a_hat > low, -math.inf, 0.0))
    push = weight * inside.norm(dim=-1, keepdim=True)
    limit = ratio_cap * v.norm(dim=-1, keepdim=True)
    return [agreed, inside, torch.where(push > limit, inside * (limit / push), inside)]


def _each_twice(seen: Tensor, obs: Tensor) -> Tensor:
    """(..., B, W) -> (..., 2B, W); as it is where one observation is for all rows."""
    return torch.cat([seen, seen], dim=1) if obs.dim() == 2 else seen
