"""Success for any goal: whatever was reached could have been the goal, so no outcome is needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from qgf_ros.spaces.actions.codec import ActionCodec
from qgf_ros.spaces.normalizer import Normalizer
from training.learn.batches import Batches, tensors
from training.learn.config import FitConfig
from training.learn.critics import learner_of
from training.learn.critics.batch import ChunkBatch
from training.learn.objectives import base
from training.pipeline.chunks import Chunks, ChunkTable
from training.pipeline.goals import Hindsight, Shares, shared_scale


class Objective(base.Objective):
    """Of a contract."""

    def normalizer(self, fitted: Normalizer) -> Normalizer:
        return shared_scale(fitted, self.contract)

    def returns(self, table: ChunkTable, config: FitConfig) -> tuple[float, bool]:
        # Returns are in [0, 1] by themselves.
        return config.return_scale or 1.0, Hindsight(table, self.contract).informative

    def batches(
        self, table: ChunkTable, codec: ActionCodec, scale: float, config: FitConfig
    ) -> Batches:
        return Relabelled(Hindsight(table, self.contract), codec, scale, config)


class Relabelled:
    """Chunks with goals drawn afresh for each batch, for the critic and for the flow."""

    def __init__(
        self, goals: Hindsight, codec: ActionCodec, scale: float, config: FitConfig
    ) -> None:
        self._goals, self._codec, self._scale = goals, codec, scale
        self.numbered = tuple(goals.table.episodes.frames)
        self._critic = learner_of(config.critic)
        self._of_critic = Shares(
            config.critic_future_goals, config.critic_random_goals, config.discount
        )
        self._of_flow = Shares(config.flow_future_goals, 0.0, discount=1.0)

    def __len__(self) -> int:
        return len(self._goals)

    def cut(
        self, rows: np.ndarray, rng: np.random.Generator, to_go: bool
    ) -> tuple[Chunks, ChunkBatch]:
        parts = self._goals.for_critic(
            rows, self._of_critic, rng, to_go or self._critic.needs_to_go
        )
        batch = tensors(self._critic.taught(parts), self._codec, self._scale)
        seen = self._goals.for_flow(rows, self._of_flow, rng)
        told = torch.from_numpy(self._codec.normalizer.normalize_obs(seen))
        return parts, replace(batch, flow_obs=told)
