"""Implicit Q-learning on action chunks (Kostrikov et al., arXiv 2110.06169, as QGF uses it).

V learns the upper expectile of Q over the recorded actions, Q learns to predict the chunk's
return plus V of where it ends: a better-than-data value without a question about any action
that is not in the data.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from training.critics import ChunkBatch
from training.flow import flow_loss
from training.models import Critic, Value, VelocityField, aggregate, check_aggregation

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class IQLConfig:
    """Hyper-parameters of one training step."""

    discount: float  # gamma per control period, in (0, 1]
    horizon: int  # H, control periods per chunk
    expectile: float = 0.9  # of V, in (0, 1); 0.5 is the mean, towards 1 the best of the data
    target_rate: float = 0.005  # share by which the target critic moves per step, in (0, 1]
    learning_rate: float = 3e-4  # Adam's, for all three nets
    aggregation: str = "min"  # of the target critic's members, where V learns from them

    def __post_init__(self):
        check_aggregation(self.aggregation)
        for name, ok, allowed in (
            ("discount", 0 < self.discount <= 1, "in (0, 1]"),
            ("horizon", self.horizon >= 1, "at least 1"),
            ("expectile", 0 < self.expectile < 1, "in (0, 1)"),
            ("target_rate", 0 < self.target_rate <= 1, "in (0, 1]"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
        ):
            if not ok:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {allowed}")


def critic_loss(
    critic: Critic, value: Value, batch: ChunkBatch, config: IQLConfig
) -> tuple[Tensor, Metrics]:
    """mean over members and batch of valid * (Q_i - y)^2, y = r + gamma^H mask V(s')."""
    with torch.no_grad():
        next_v = value(batch.next_obs)
        target = batch.reward + config.discount**config.horizon * batch.mask * next_v
    q = critic(batch.obs, batch.action)
    loss = ((q - target).square() * batch.valid).mean()
    return loss, {"critic_loss": loss.detach(), "q": q.detach().mean(), "target": target.mean()}


def value_loss(
    value: Value, target_critic: Critic, batch: ChunkBatch, config: IQLConfig
) -> tuple[Tensor, Metrics]:
    """mean of valid * |expectile - 1(d < 0)| d^2, d = aggregated target Q - V at the data."""
    with torch.no_grad():
        q = aggregate(target_critic(batch.obs, batch.action), config.aggregation)
    v = value(batch.obs)
    d = q - v
    slope = torch.where(d < 0, 1 - config.expectile, config.expectile)
    loss = (batch.valid * slope * d.square()).mean()
    metrics = {"value_loss": loss.detach(), "v": v.detach().mean()}
    return loss, metrics | {"advantage": d.detach().mean()}


class Learner:
    """Trains flow, critic and value together; nets, target critic and Adam state live here."""

    def __init__(
        self,
        velocity: VelocityField,
        critic: Critic,
        value: Value,
        config: IQLConfig,
        target_critic: Critic | None = None,
    ):
        """target_critic: a copy of the critic where none is given. The nets change in place."""
        self.velocity, self.critic, self.value, self.config = velocity, critic, value, config
        self.target_critic = target_critic or copy.deepcopy(critic)
        self.target_critic.requires_grad_(False)
        # One optimiser: no parameter is in two nets, and Adam treats each number by itself.
        parameters = [p for net in (velocity, critic, value) for p in net.parameters()]
        self.optimizer = torch.optim.Adam(
            parameters, lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True
        )

    def update(self, batch: ChunkBatch, noise: Tensor, time: Tensor) -> Metrics:
        """One step of all nets, each from the nets as they were before it -> scalar metrics.

        noise: (B, D) ~ N(0, I); time: (B,) in [0, 1]: where on the flow it is trained.
        """
        flow, flow_metrics = flow_loss(self.velocity, batch.obs, batch.action, noise, time)
        q, q_metrics = critic_loss(self.critic, self.value, batch, self.config)
        v, v_metrics = value_loss(self.value, self.target_critic, batch, self.config)
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
