"""Guards at the sampler: what of the critic's gradient reaches the action.

The method itself has none of these (arXiv 2606.11087); they are options of ours, all off by
default. A critic with a false peak outside the data can pull samples to it, and on the testbed
(`testbed.py`) it does: the support guard stops that at no cost where the critic is sound, the
cap on the ratio stops it too and costs most of the gain. Neither helps against a weight so large
that the Euler steps themselves diverge.

Each guard is a pure function from a gradient (B, D) to a gradient (B, D), the same to the bit
where it does not take hold. Knows nothing about Q, the estimator or the observation.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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


@dataclass(frozen=True)
class Guards:
    """Which guards are on; None is off. With several, the support first, then the cap."""

    support: Box | None = None
    ratio_cap: float | None = None  # largest w|g| / |v| of a step, >= 0; 1: as strong as the flow

    def __post_init__(self):
        cap = self.ratio_cap
        if cap is not None and not 0 <= cap < math.inf:
            raise ValueError(f"ratio_cap is {cap}; it must be finite and at least 0, or None")

    def __call__(self, gradient: Tensor, a_hat: Tensor, velocity: Tensor, weight: Tensor) -> Tensor:
        """The guarded gradient (B, D).

        gradient: (B, D), before the weight; a_hat: (B, D), the denoised action, whichever
        estimator gave the gradient; velocity: (B, D); weight: w as (B, 1).
        Raises ValueError where the box has another number of dimensions.
        """
        if self.support is not None:
            gradient = within_support(gradient, a_hat, self.support)
        if self.ratio_cap is not None:
            gradient = capped(gradient, velocity, weight, self.ratio_cap)
        return gradient


def within_support(gradient: Tensor, a_hat: Tensor, box: Box) -> Tensor:
    """Without the part that pushes a_hat (B, D) further out where it already lies outside.

    Dimension by dimension: g_d = 0 where a_hat_d > high_d and g_d > 0, or a_hat_d < low_d and
    g_d < 0. What points back in, or along, stays; inside the box nothing changes.
    """
    low, high = a_hat.new_tensor(box.low), a_hat.new_tensor(box.high)
    if len(low) not in (1, a_hat.shape[-1]):
        raise ValueError(
            f"support box of {len(low)} dimensions for actions of {a_hat.shape[-1]}; "
            "give one range for all, or one for each of the flattened chunk"
        )
    outward = ((a_hat > high) & (gradient > 0)) | ((a_hat < low) & (gradient < 0))
    return torch.where(outward, 0, gradient)


def capped(gradient: Tensor, velocity: Tensor, weight: Tensor, cap: float) -> Tensor:
    """Shortened, direction kept, so that w |g|_2 <= cap |v|_2 in every row. weight: (B, 1)."""
    push = weight * gradient.norm(dim=-1, keepdim=True)
    limit = cap * velocity.norm(dim=-1, keepdim=True)
    return torch.where(push > limit, gradient * (limit / push), gradient)
