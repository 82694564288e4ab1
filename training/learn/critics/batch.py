"""The batch that every kind of critic, and the flow, learns from."""

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
    flow_obs: Tensor | None = None  # (B, O), `obs` with the flow's goal where it has another one

    def __post_init__(self):
        for name, value in self._columns():
            if len(value) != len(self.obs):
                raise ValueError(f"{name} has {len(value)} rows, obs has {len(self.obs)}")
        for name in ("reward", "mask", "valid"):  # (B, 1) would broadcast to (B, B) in a loss
            if getattr(self, name).dim() != 1:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, not (B,)")

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: Tensor) -> "ChunkBatch":
        """The rows of that index."""
        return ChunkBatch(**{name: value[rows] for name, value in self._columns()})

    @property
    def seen_by_flow(self) -> Tensor:
        """(B, O), what the flow is conditioned on."""
        return self.obs if self.flow_obs is None else self.flow_obs

    def _columns(self) -> list[tuple[str, Tensor]]:
        named = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return [(name, value) for name, value in named if value is not None]
