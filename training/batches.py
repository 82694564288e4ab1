"""Chunks as the tensors of a training batch; with goals drawn afresh where the objective asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from qgf_ros.normalizer import Normalizer
from training.config import FitConfig
from training.critics import ChunkBatch, monte_carlo
from training.data.episodes import Chunks
from training.data.goals import Hindsight, Shares


def tensors(parts: Chunks, normalizer: Normalizer, scale: float) -> ChunkBatch:
    """All chunks as normalised float32 tensors; rewards in units of the return scale."""
    return ChunkBatch(
        obs=torch.from_numpy(normalizer.normalize_obs(parts.obs)),
        action=torch.from_numpy(normalizer.normalize_action(parts.action).reshape(len(parts), -1)),
        reward=torch.from_numpy((parts.reward / scale).astype(np.float32)),
        mask=torch.from_numpy(parts.mask.astype(np.float32)),
        next_obs=torch.from_numpy(normalizer.normalize_obs(parts.next_obs)),
        valid=torch.from_numpy(parts.valid.astype(np.float32)),
    )


def seen_by_critic(parts: Chunks, config: FitConfig) -> Chunks:
    """The chunks with the return that this kind of critic learns from."""
    return monte_carlo.whole_returns(parts) if config.critic == "monte_carlo" else parts


class Relabelled:
    """Batches of chunks with goals drawn afresh for each: `self[rows]`."""

    def __init__(
        self,
        goals: Hindsight,
        normalizer: Normalizer,
        scale: float,
        config: FitConfig,
        stream: int = 0,
    ) -> None:
        """stream: another one draws other goals."""
        self.goals = goals
        self._normalizer, self._scale, self._config = normalizer, scale, config
        self._of_critic = Shares(
            config.critic_future_goals, config.critic_random_goals, config.discount
        )
        self._of_flow = Shares(config.flow_future_goals, 0.0, discount=1.0)
        self._rng = np.random.default_rng([20267, config.seed, stream])

    def __len__(self) -> int:
        return len(self.goals)

    def __getitem__(self, rows: Tensor) -> ChunkBatch:
        """(B,) -> a batch of B."""
        index, config = rows.numpy(), self._config
        to_go = config.critic == "monte_carlo"
        parts = self.goals.for_critic(index, self._of_critic, self._rng, to_go)
        batch = tensors(seen_by_critic(parts, config), self._normalizer, self._scale)
        seen = self.goals.for_flow(index, self._of_flow, self._rng)
        return replace(batch, flow_obs=torch.from_numpy(self._normalizer.normalize_obs(seen)))
