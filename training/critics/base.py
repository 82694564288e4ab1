"""What all critics share: settings, the regression of Q, and one step of all networks.

A kind of critic says what Q learns to predict (`Learner.target`), and how V is learnt where it has
one (`Learner.value_loss`).
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.critics import ChunkBatch
from training.flow import flow_loss
from training.models import Critic, Value, VelocityField, aggregate, check_aggregation

Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """Hyper-parameters of one training step."""

    discount: float  # gamma per control period, in (0, 1]
    horizon: int  # H, control periods per chunk
    target_rate: float = 0.005  # share by which the target critic moves per step, in (0, 1]
    learning_rate: float = 3e-4  # Adam's, for all nets
    aggregation: str = "min"  # of the target critic's members, where V learns from them

    def __post_init__(self):
        check_aggregation(self.aggregation)
        for name, ok, allowed in (
            ("discount", 0 < self.discount <= 1, "in (0, 1]"),
            ("horizon", self.horizon >= 1, "at least 1"),
            ("target_rate", 0 < self.target_rate <= 1, "in (0, 1]"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
        ):
            if not ok:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {allowed}")


def regression(critic: Critic, batch: ChunkBatch, target: Tensor) -> tuple[Tensor, Metrics]:
    """mean over members and batch of valid * (Q_i - y)^2, target: (B,) y, a constant.

    Of a sigmoid critic, y in [0, 1]: valid * (-y log Q_i - (1 - y) log(1 - Q_i)), the binary
    cross-entropy. Its minimum too is the mean of y (it is a proper score), and its gradient does
    not vanish where the sigmoid is flat and wrong.
    """
    if critic.output == "sigmoid":
        logits = critic.logits(batch.obs, batch.action)
        each = F.binary_cross_entropy_with_logits(
            logits, target.expand_as(logits), reduction="none"
        )
        q = logits.detach().sigmoid()
    else:
        q = critic(batch.obs, batch.action)
        each = (q - target).square()
    loss = (each * batch.valid).mean()
    return loss, {"critic_loss": loss.detach(), "q": q.detach().mean(), "target": target.mean()}


def expectile_loss(
    value: Value, target_critic: Critic, batch: ChunkBatch, expectile: float, aggregation: str
) -> tuple[Tensor, Metrics]:
    """mean of valid * |expectile - 1(d < 0)| d^2, d = aggregated target Q - V at the data."""
    with torch.no_grad():
        q = aggregate(target_critic(batch.obs, batch.action), aggregation)
    v = value(batch.obs)
    d = q - v
    slope = torch.where(d < 0, 1 - expectile, expectile)
    loss = (batch.valid * slope * d.square()).mean()
    metrics = {"value_loss": loss.detach(), "v": v.detach().mean()}
    return loss, metrics | {"advantage": d.detach().mean()}


def bootstrapped(value: Value, batch: ChunkBatch, config: CriticConfig) -> Tensor:
    """y = r + gamma^H mask V(s'): (B,), the chunk's return and what V expects after it."""
    with torch.no_grad():
        next_v = value(batch.next_obs)
        return batch.reward + config.discount**config.horizon * batch.mask * next_v


class Learner(ABC):
    """Trains flow and critic together; nets, target critic and Adam state live here."""

    def __init__(
        self,
        velocity: VelocityField,
        critic: Critic,
        value: Value | None,
        config: CriticConfig,
        target_critic: Critic | None = None,
    ):
        """target_critic: a copy of the critic where none is given. The nets change in place."""
        self.velocity, self.critic, self.value, self.config = velocity, critic, value, config
        self.target_critic = target_critic or copy.deepcopy(critic)
        self.target_critic.requires_grad_(False)
        # One optimiser: no parameter is in two nets, and Adam treats each number by itself.
        nets = [net for net in (velocity, critic, value) if net is not None]
        self.optimizer = torch.optim.Adam(
            [p for net in nets for p in net.parameters()],
            lr=config.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            fused=True,
        )

    @abstractmethod
    def target(self, batch: ChunkBatch) -> Tensor:
        """(B,), what Q learns to predict for the chunks of the batch, without gradient."""

    def value_loss(self, batch: ChunkBatch) -> tuple[Tensor | float, Metrics]:
        """Of V, where there is one."""
        return 0.0, {}

    def update(self, batch: ChunkBatch, noise: Tensor, time: Tensor) -> Metrics:
        """One step of all nets, each from the nets as they were before it -> scalar metrics.

        noise: (B, D) ~ N(0, I); time: (B,) in [0, 1]: where on the flow it is trained.
        """
        flow, flow_metrics = flow_loss(self.velocity, batch.seen_by_flow, batch.action, noise, time)
        q, q_metrics = regression(self.critic, batch, self.target(batch))
        v, v_metrics = self.value_loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        # The three graphs share no parameter, so the gradient of the sum is each one's own.
        (flow + q + v).backward()
        self._move_target()  # towards the critic from before the step
        self.optimizer.step()
        return flow_metrics | q_metrics | v_metrics

    @torch.no_grad()
    def _move_target(self) -> None:
        target: list[Tensor] = [*self.target_critic.parameters()]
        critic: list[Tensor] = [*self.critic.parameters()]
        torch._foreach_lerp_(target, critic, self.config.target_rate)
