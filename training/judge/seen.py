"""Held-out chunks as policy and critic see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer
from training.learn.config import FitConfig
from training.learn.critics.batch import ChunkBatch
from training.learn.objectives import objective_of
from training.pipeline.chunks import Chunks, ChunkTable
from training.pipeline.episodes import Episode, EpisodeArrays


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
        self.normalizer, self.scale, self.contract = normalizer, scale, contract
        self._batches = objective_of(contract).batches(self.table, normalizer, scale, config)
        self._rng = np.random.default_rng([20271, seed])

    def some(self, count: int) -> np.ndarray:
        """At most `count` chunks, in random order."""
        return self._rng.choice(len(self.table), min(count, len(self.table)), replace=False)

    def cut(self, rows: np.ndarray) -> tuple[Chunks, ChunkBatch]:
        """In robot units, and as tensors; with goals drawn as in training where there are goals."""
        return self._batches.cut(rows, self._rng, to_go=True)

    def previous(self, parts: Chunks) -> np.ndarray:
        """(N, A) the command before each chunk; 0 where the episode begins."""
        before = self.episodes.begin[parts.episode] + np.maximum(parts.tick - 1, 0)
        return np.where((parts.tick > 0)[:, None], self.episodes.action[before], 0.0)
