"""What objectives share: chunks as they were recorded, whose rewards add up to a return."""

from __future__ import annotations

from qgf_ros.spaces.actions.codec import ActionCodec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer
from training.learn.batches import Batches, Recorded
from training.learn.config import FitConfig
from training.learn.critics import learner_of
from training.pipeline.chunks import ChunkTable
from training.pipeline.episodes import return_scale


class Objective:
    """Of a contract."""

    bounded = True  # returns are in [0, 1]

    def __init__(self, contract: Contract) -> None:
        self.contract = contract

    def normalizer(self, fitted: Normalizer) -> Normalizer:
        """The one to use where `fitted` is the data's."""
        return fitted

    def returns(self, table: ChunkTable, config: FitConfig) -> tuple[float, bool]:
        """What rewards are divided by, and whether the data shows any difference in return.

        Raises DataRefused where the critic needs outcomes that these recordings do not have.
        """
        learner_of(config.critic).check(table)
        spread = return_scale(table.episodes, config.discount)
        scale = 1.0 if config.bounded else config.return_scale or spread
        informative = (spread if config.bounded else scale) > 1e-9
        return (scale if informative else 1.0), informative

    def batches(
        self, table: ChunkTable, codec: ActionCodec, scale: float, config: FitConfig
    ) -> Batches:
        """The chunks of `table`, as they are learnt from."""
        return Recorded(table, codec, scale, config)
