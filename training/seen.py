"""Held-out chunks as policy and critic see them, whichever way their batches were made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from qgf_ros.contract import Contract
from qgf_ros.normalizer import Normalizer
from training.batches import tensors
from training.config import FitConfig
from training.critics import ChunkBatch, monte_carlo
from training.data.chunks import Chunks, ChunkTable
from training.data.episodes import Episode, EpisodeArrays
from training.data.goals import Hindsight, Shares


class Seen:
    """Chunks of some episodes as policy and critic see them."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        normalizer: Normalizer,
        scale: float,
        contract: Contract,
        config: FitConfig,
        seed: int,
    ) -> None:
        self.episodes = EpisodeArrays.of(episodes)
        self.table = ChunkTable(self.episodes, contract.time.horizon, config.discount)
        self.normalizer, self.scale, self.contract, self.config = (
            normalizer,
            scale,
            contract,
            config,
        )
        self._goals = Hindsight(self.table, contract) if contract.outcome.goal else None
        self._rng = np.random.default_rng([20271, seed])

    def some(self, count: int) -> np.ndarray:
        """At most `count` chunks, in random order."""
        return self._rng.choice(len(self.table), min(count, len(self.table)), replace=False)

    def cut(self, rows: np.ndarray) -> tuple[Chunks, ChunkBatch]:
        """In robot units, and as tensors; with goals drawn as in training where there are goals."""
        config, flow_obs = self.config, None
        if self._goals is None:
            parts = self.table.cut(rows)
        else:
            of_critic = Shares(
                config.critic_future_goals, config.critic_random_goals, config.discount
            )
            parts = self._goals.for_critic(rows, of_critic, self._rng, to_go=True)
            told = self._goals.for_flow(rows, Shares(config.flow_future_goals, 0.0, 1.0), self._rng)
            flow_obs = torch.from_numpy(self.normalizer.normalize_obs(told))
        learnt = monte_carlo.whole_returns(parts) if config.critic == "monte_carlo" else parts
        batch = tensors(learnt, self.normalizer, self.scale)
        columns = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
        return parts, ChunkBatch(**columns | {"flow_obs": flow_obs})

    def previous(self, parts: Chunks) -> np.ndarray:
        """(N, A) the command before each chunk; 0 where the episode begins."""
        before = self.episodes.begin[parts.episode] + np.maximum(parts.tick - 1, 0)
        return np.where((parts.tick > 0)[:, None], self.episodes.action[before], 0.0)
