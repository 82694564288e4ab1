"""Ways to train a critic from recorded chunks, one file each, and the batch they all read."""

from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class ChunkBatch:
    """B recorded chunks of H actions: what was seen, done, earned, and seen H steps later."""

    obs: Tensor  # (B, O), normalised
    action: Tensor  # (B, D = H * A), normalised to [-1, 1]
    reward: Tensor  # (B,), sum over the chunk of discount^i r_{t+i}, in scaled return
    mask: Tensor  # (B,), 1 where the value of next_obs counts, 0 after a terminal state
    next_obs: Tensor  # (B, O), the observation at t + H
    valid: Tensor  # (B,), weight of the row in the critic's and value's losses, 0 or 1

    def __post_init__(self):
        for field in fields(self):
            rows = len(getattr(self, field.name))
            if rows != len(self.obs):
                raise ValueError(f"{field.name} has {rows} rows, obs has {len(self.obs)}")
        for name in ("reward", "mask", "valid"):  # (B, 1) would broadcast to (B, B) in a loss
            if getattr(self, name).dim() != 1:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, not (B,)")
