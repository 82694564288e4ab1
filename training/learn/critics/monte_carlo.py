"""Monte Carlo: Q learns the recorded episode's discounted return to go, and nothing else.

    Q:  mean of (Q_i(s, a) - G)^2,  G = sum over the rest of the episode of gamma^k r_{t+k}

No value network, no bootstrapping, nothing that can run away: for little data (Sutton and Barto,
2018, chapter 5). Like `sarsa` it is the value of the data's behaviour, with more variance. What a
cut episode would still have earned is not known; its chunks train the flow only.
"""

from dataclasses import replace

import numpy as np
from torch import Tensor

from qgf_ros.errors import DataRefused
from training.learn.critics import base
from training.learn.critics.batch import ChunkBatch
from training.pipeline.chunks import Chunks, ChunkTable


def whole_returns(parts: Chunks) -> Chunks:
    """The same chunks, with the return of the rest of the episode in place of the chunk's own.

    Nothing is left to bootstrap; where the return is not known the row is not valid.
    """
    known = np.isfinite(parts.to_go)
    return replace(
        parts,
        reward=np.where(known, parts.to_go, 0.0),
        mask=np.zeros_like(parts.mask),
        valid=parts.valid * known,
    )


class Learner(base.Learner):
    """Trains flow and critic, from batches of `whole_returns`."""

    has_value = False
    needs_to_go = True

    @classmethod
    def check(cls, table: ChunkTable) -> None:
        if not table.episodes.terminal.any():
            raise DataRefused(
                "critic monte_carlo needs episodes that ended in success or failure, and all of these "
                "were cut; record outcomes, or use critic iql or sarsa"
            )

    @staticmethod
    def taught(parts: Chunks) -> Chunks:
        return whole_returns(parts)

    def target(self, batch: ChunkBatch) -> Tensor:
        return batch.reward
