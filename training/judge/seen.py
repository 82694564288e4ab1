"""Held-out chunks as policy and critic see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgf_ros.spaces.actions.codec import ActionCodec
from qgf_ros.spaces.contract import Contract
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
        codec: ActionCodec,
        scale: float,
        contract: Contract,
        config: FitConfig,
        seed: int,
    ) -> None:
        self.episodes = EpisodeArrays.of(episodes)
        self.table = ChunkTable(self.episodes, contract.time.horizon, config.discount)
        self.codec, self.scale, self.contract = codec, scale, contract
        self._batches = objective_of(contract).batches(self.table, codec, scale, config)
        self._rng = np.random.default_rng([20271, seed])

    def some(self, count: int) -> np.ndarray:
        """At most `count` chunks, in random order."""
        return self._rng.choice(len(self.table), min(count, len(self.table)), replace=False)

    def cut(self, rows: np.ndarray) -> tuple[Chunks, ChunkBatch]:
        """In robot units, and as tensors; with goals drawn as in training where there are goals."""
        return self._batches.cut(rows, self._rng, to_go=True)
