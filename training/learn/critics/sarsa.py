"""SARSA on action chunks: the value of the behaviour that recorded the data.

    Q:  mean of (Q_i(s, a) - y)^2,  y = r + gamma^H mask V(s')
    V:  mean of (1/2) d^2,  d = min_i Q_target_i(s, a) - V(s)

Implicit Q-learning with expectile 1/2: V is then the mean of Q over the recorded actions, which
makes y the expected SARSA target (van Seijen et al., ADPRL 2009), and guidance a single step of
policy improvement over the data, which is often enough (Brandfonbrener et al., arXiv 2106.08909)
and never believes a value that nobody in the data got.
"""

from torch import Tensor

from training.learn.critics import base
from training.learn.critics.base import Metrics, bootstrapped, expectile_loss
from training.learn.critics.batch import ChunkBatch
from training.learn.models import Value


class Learner(base.Learner):
    """Trains flow, critic and value together."""

    value: Value

    def target(self, batch: ChunkBatch) -> Tensor:
        return bootstrapped(self.value, batch, self.config)

    def value_loss(self, batch: ChunkBatch) -> tuple[Tensor | float, Metrics]:
        return expectile_loss(self.value, self.target_critic, batch, 0.5, self.config.aggregation)
