"""Batches of chunks as tensors, cut out of the episodes when they are asked for."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from qgf_ros.policy.description import Support
from qgf_ros.spaces.actions.codec import ActionCodec
from training.learn.config import FitConfig
from training.learn.critics import learner_of
from training.learn.critics.batch import ChunkBatch
from training.pipeline.chunks import Chunks, ChunkTable

STATE_TAIL = 1e-4  # of the observations at either end, which do not widen the box of known states


class Batches(Protocol):
    """Recorded chunks, numbered 0..len-1.

    numbered: columns of the observation that hold numbers of frames, and no measurement."""

    numbered: tuple[int, ...]

    def __len__(self) -> int: ...

    def cut(
        self, rows: np.ndarray, rng: np.random.Generator, to_go: bool
    ) -> tuple[Chunks, ChunkBatch]:
        """The chunks `rows` (B,) in robot units, and as policy and critic see them; whatever is
        drawn for them is drawn from `rng`. to_go: also the return of the whole rest."""


def tensors(parts: Chunks, codec: ActionCodec, scale: float) -> ChunkBatch:
    """Normalised float32 tensors; rewards in units of the return scale."""
    return ChunkBatch(
        obs=torch.from_numpy(codec.normalizer.normalize_obs(parts.obs)),
        action=torch.from_numpy(
            codec.encode(parts.action, parts.origin).reshape(len(parts), -1)
        ),
        reward=torch.from_numpy((parts.reward / scale).astype(np.float32)),
        mask=torch.from_numpy(parts.mask.astype(np.float32)),
        next_obs=torch.from_numpy(codec.normalizer.normalize_obs(parts.next_obs)),
        valid=torch.from_numpy(parts.valid.astype(np.float32)),
    )


class Recorded:
    """Chunks as they were recorded."""

    def __init__(
        self, table: ChunkTable, codec: ActionCodec, scale: float, config: FitConfig
    ) -> None:
        self._table, self._codec, self._scale = table, codec, scale
        self.numbered = tuple(table.episodes.frames)
        self._critic = learner_of(config.critic)

    def __len__(self) -> int:
        return len(self._table)

    def cut(
        self, rows: np.ndarray, rng: np.random.Generator, to_go: bool
    ) -> tuple[Chunks, ChunkBatch]:
        parts = self._table.cut(rows, to_go or self._critic.needs_to_go)
        return parts, tensors(self._critic.taught(parts), self._codec, self._scale)


def some(batches: Batches, count: int, seed: int) -> ChunkBatch:
    """At most `count` of the chunks, in random order."""
    rng = np.random.default_rng([20267, seed])
    rows = rng.choice(len(batches), min(count, len(batches)), replace=False)
    return batches.cut(rows, rng, to_go=False)[1]


def state_box(seen: ChunkBatch) -> Support:
    """The range of each observed number (O,), normalised, but for one in 10,000 at either end.

    At least the outermost is left out: one bad row must not blind the node to all others. Where
    policy and critic were told different goals, both count.
    """
    parts = [p.double().numpy() for p in (seen.obs, seen.next_obs, seen.flow_obs) if p is not None]
    low = np.min([np.quantile(p, STATE_TAIL, axis=0, method="higher") for p in parts], axis=0)
    high = np.max([np.quantile(p, 1 - STATE_TAIL, axis=0, method="lower") for p in parts], axis=0)
    return Support(tuple(np.minimum(low, high).tolist()), tuple(high.tolist()))
