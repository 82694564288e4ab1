"""Implicit Q-learning on action chunks (Kostrikov et al., arXiv 2110.06169, as QGF uses it).

    Q:  mean of (Q_i(s, a) - y)^2,  y = r + gamma^H mask V(s')
    V:  mean of |tau - 1(d < 0)| d^2,  d = min_i Q_target_i(s, a) - V(s)

V learns the upper expectile of Q over the recorded actions, Q learns to predict the chunk's
return plus V of where it ends: a better-than-data value without a question about any action
that is not in the data.
"""

from dataclasses import dataclass

from torch import Tensor

from training.learn.critics import base
from training.learn.critics.base import (
    CriticConfig,
    Metrics,
    bootstrapped,
    expectile_loss,
    regression,
)
from training.learn.critics.batch import ChunkBatch
from training.learn.models import Critic, Value


@dataclass(frozen=True, kw_only=True)
class IQLConfig(CriticConfig):
    """Hyper-parameters of one training step."""

    expectile: float = 0.9  # tau, in (0, 1); 0.5 is the mean, towards 1 the best of the data

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile is {self.expectile}; it must be in (0, 1)")


def critic_loss(
    critic: Critic, value: Value, batch: ChunkBatch, config: CriticConfig
) -> tuple[Tensor, Metrics]:
    """The loss of Q above; of a sigmoid critic the binary cross-entropy of Q_i and y."""
    return regression(critic, batch, bootstrapped(value, batch, config))


def value_loss(
    value: Value, target_critic: Critic, batch: ChunkBatch, config: IQLConfig
) -> tuple[Tensor, Metrics]:
    """The loss of V above."""
    return expectile_loss(value, target_critic, batch, config.expectile, config.aggregation)


class Learner(base.Learner):
    """Trains flow, critic and value together."""

    Settings = IQLConfig
    value: Value
    config: IQLConfig

    def target(self, batch: ChunkBatch) -> Tensor:
        return bootstrapped(self.value, batch, self.config)

    def value_loss(self, batch: ChunkBatch) -> tuple[Tensor | float, Metrics]:
        return value_loss(self.value, self.target_critic, batch, self.config)
