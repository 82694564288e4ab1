"""What all critics share: settings, the regression of Q, and one step of all networks.

A kind of critic says what Q learns to predict (`Learner.target`), how V is learnt where it has one
(`Learner.value_loss`), and what it needs from the data (`needs_to_go`, `check`, `taught`).
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training.learn.cameras import CameraEncoders, Features
from training.learn.config import FitConfig
from training.learn.critics.batch import ChunkBatch
from training.learn.flow import flow_loss
from training.learn.models import Critic, Value, VelocityField, aggregate, check_aggregation
from training.pipeline.chunks import Chunks, ChunkTable

Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """Hyper-parameters of one training step."""

    discount: float  # gamma per control period, in (0, 1]
    horizon: int  # H, control periods per chunk
    target_rate: float = 0.005  # share by which the target critic moves per step, in (0, 1]
    learning_rate: float = 3e-4  # Adam's, for all nets
    aggregation: str = "min"  # of the target critic's members, where V learns from them
    clip: float = math.inf  # largest norm of each net's gradient; longer ones are shortened
    average: float = 0.0  # decay of the moving average of the flow's weights, in [0, 1); 0: none
    encoder_gradient: str = "both"  # of cameras: whose loss teaches their encoders, both or flow

    def __post_init__(self):
        check_aggregation(self.aggregation)
        for name, ok, allowed in (
            ("discount", 0 < self.discount <= 1, "in (0, 1]"),
            ("horizon", self.horizon >= 1, "at least 1"),
            ("target_rate", 0 < self.target_rate <= 1, "in (0, 1]"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("clip", self.clip > 0, "above 0"),
            ("average", 0 <= self.average < 1, "in [0, 1)"),
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


@torch.no_grad()
def td_errors(
    critic: Critic, target: Callable[[ChunkBatch], Tensor], batch: ChunkBatch, aggregation: str
) -> Tensor:
    """Aggregated Q less what it is trained to predict, of those rows of the batch that are valid."""
    q = aggregate(critic(batch.obs, batch.action), aggregation)
    return (q - target(batch))[batch.valid > 0]


def bootstrapped(value: Value, batch: ChunkBatch, config: CriticConfig) -> Tensor:
    """y = r + gamma^H mask V(s'): (B,), the chunk's return and what V expects after it."""
    with torch.no_grad():
        next_v = value(batch.next_obs)
        return batch.reward + config.discount**config.horizon * batch.mask * next_v


class Learner(ABC):
    """Trains flow and critic together; nets, target critic, averaged flow and Adam's state live here."""

    Settings: ClassVar[type[CriticConfig]] = CriticConfig
    has_value: ClassVar[bool] = True  # learns V beside Q
    needs_to_go: ClassVar[bool] = False  # the return of the whole rest of the episode

    def __init__(
        self,
        velocity: VelocityField,
        critic: Critic,
        value: Value | None,
        config: CriticConfig,
        target_critic: Critic | None = None,
        encoders: CameraEncoders | None = None,
    ):
        """target_critic: a copy of the critic where none is given. encoders: of the cameras whose frame
        numbers stand in the batches, learnt from all losses. The nets change in place."""
        self.velocity, self.critic, self.value, self.config = velocity, critic, value, config
        self.target_critic = target_critic or copy.deepcopy(critic)
        self.target_critic.requires_grad_(False)
        self.averaged = copy.deepcopy(velocity).requires_grad_(False) if config.average else None
        self.encoders = encoders
        self.averaged_encoders: CameraEncoders | None = None
        if encoders is not None and config.average:
            self.averaged_encoders = copy.deepcopy(encoders).requires_grad_(False)
        self._steps = 0
        # One optimiser: no parameter is in two nets, and Adam treats each number by itself.
        self._trained = nn.ModuleList(n for n in (velocity, critic, value, encoders) if n is not None)
        self._shared: nn.Module | None = None  # of several processes
        # Kept: to walk through the nets for them costs a share of every update.
        self._parameters: list[list[Tensor]] = [[*net.parameters()] for net in self._trained]
        self._all = [p for net in self._parameters for p in net]
        self._targets: list[Tensor] = [*self.target_critic.parameters()]
        self.optimizer = torch.optim.Adam(
            self._trained.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            fused=True,
        )

    @classmethod
    def of(
        cls,
        velocity: VelocityField,
        critic: Critic,
        config: FitConfig,
        obs_dim: int,
        horizon: int,
        encoders: CameraEncoders | None = None,
    ) -> "Learner":
        """By the settings of training, of which those are taken that `Settings` names."""
        value = Value(obs_dim, config.hidden, critic.output) if cls.has_value else None
        given = {
            f.name: getattr(config, f.name) for f in fields(cls.Settings) if hasattr(config, f.name)
        }
        settings = cls.Settings(**given, horizon=horizon)
        return cls(velocity, critic, value, settings, encoders=encoders)

    @classmethod  # noqa: B027  # most kinds need none
    def check(cls, table: ChunkTable) -> None:
        """Raises DataRefused where outcomes are needed that these recordings do not have."""

    @staticmethod
    def taught(parts: Chunks) -> Chunks:
        """Recorded chunks as they are learnt from."""
        return parts

    @abstractmethod
    def target(self, batch: ChunkBatch) -> Tensor:
        """(B,), what Q learns to predict for the chunks of the batch, without gradient."""

    def td_error(self, rows: ChunkBatch) -> float:
        """RMS of what the target critic is off, in scaled return; NaN where nothing is known of the
        values of these chunks."""
        off = td_errors(self.target_critic, self.target, rows, self.config.aggregation)
        return float(off.square().mean().sqrt())

    def value_loss(self, batch: ChunkBatch) -> tuple[Tensor | float, Metrics]:
        """Of V, where there is one."""
        return 0.0, {}

    @property
    def flow(self) -> VelocityField:
        """What samples: the average of the flow's weights where there is one."""
        return self.averaged or self.velocity

    @property
    def sight(self) -> CameraEncoders | None:
        """What encodes images for the flow that samples, and for the critic."""
        return self.averaged_encoders or self.encoders

    def losses(
        self, batch: ChunkBatch, noise: Tensor, time: Tensor
    ) -> Iterator[tuple[Tensor | float, Metrics]]:
        """The loss of each net, and scalars to look at. They share no parameter but the encoders'.

        noise: (K * B, D) ~ N(0, I); time: (K * B,) in [0, 1]: where on the flow it is trained, K times
        for each row of the batch.
        """
        yield self.value_loss(batch)
        yield regression(self.critic, batch, self.target(batch))
        seen, action, draws = batch.seen_by_flow, batch.action, len(noise) // len(batch)
        if draws > 1:
            seen, action = seen.repeat(draws, 1), action.repeat(draws, 1)
        yield flow_loss(self.velocity, seen, action, noise, time)

    def update(self, batch: ChunkBatch, noise: Tensor, time: Tensor) -> Metrics:
        """One step of all nets, each from the nets as they were before it -> the metrics of `losses`,
        and `gradient_norm`. Where that is not finite, nothing was changed."""
        for parameter in self._all:
            parameter.grad = None
        metrics: Metrics = {}
        leaves: Features = {}
        parts = self.losses if self._shared is None else self._shared
        if self.encoders is not None and self._shared is None:
            batch, features, leaves = self._cut(batch)
        for loss, of_net in parts(batch, noise, time):
            if "flow_loss" in of_net and leaves:  # the last: what came before is the critic's
                metrics["encoder_gradient_critic"] = _norm(leaves)
            if isinstance(loss, Tensor):
                loss.backward()  # at once: what it needs is still in the cache
            metrics |= of_net
        if leaves:  # what all losses ask of the features, and then the encoders once
            asked = [column for column in leaves if leaves[column].grad is not None]
            torch.autograd.backward([features[c] for c in asked], [leaves[c].grad for c in asked])
        norm = self._clip()
        if norm.isfinite():
            self._move_target()  # towards the critic from before the step
            self.optimizer.step()
            self._steps += 1
            self._move_average()
        return metrics | {"gradient_norm": norm}

    def _cut(self, batch: ChunkBatch) -> tuple[ChunkBatch, Features, Features]:
        """The batch as it is seen, with features that are leaves; the features; the leaves."""
        assert self.encoders is not None
        found = self.encoders.features(batch.obs)
        leaves = {column: f.detach().requires_grad_() for column, f in found.items()}
        stopped = self.config.encoder_gradient == "flow"
        return self.encoders.see(batch, leaves, self.has_value, stopped), found, leaves

    def set_rate(self, learning_rate: float) -> None:
        """Of the updates from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def distribute(self) -> None:
        """From now on gradients are averaged over the processes of torch.distributed. The nets
        become those of the first."""
        self._shared = DistributedDataParallel(_Sum(self))

    def _clip(self) -> Tensor:
        """Shortens each net's gradient to `clip`; -> the norm of all before that."""
        gradients = [[p.grad for p in net if p.grad is not None] for net in self._parameters]
        norms = torch.stack([get_total_norm(of_net) for of_net in gradients])
        for net, norm in zip(self._parameters, norms.tolist()):
            if norm > self.config.clip:
                clip_grads_with_norm_(net, self.config.clip, torch.tensor(norm))
        return norms.norm()

    @torch.no_grad()
    def _move_target(self) -> None:
        _approach(self._targets, self._parameters[1], self.config.target_rate)

    @torch.no_grad()
    def _move_average(self) -> None:
        if self.averaged is not None:
            # A short run must not remember what it began with.
            decay = min(self.config.average, self._steps / (self._steps + 10))
            _approach(self.averaged.parameters(), self._parameters[0], 1 - decay)
            if self.averaged_encoders is not None:
                _approach(self.averaged_encoders.parameters(), self._parameters[-1], 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next update depends on; `load_state` takes it back."""
        tensors = {"steps": torch.tensor(self._steps)}
        for name, net in self._nets().items():
            tensors |= {f"{name}.{key}": value for key, value in net.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{key}": value for key, value in moments.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises KeyError or RuntimeError where these are not the tensors of such a learner."""
        for name, net in self._nets().items():
            net.load_state_dict({key: tensors[f"{name}.{key}"] for key in net.state_dict()})
        count = len(list(self._trained.parameters()))
        moments = {
            i: {key: tensors[f"adam.{i}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for i in range(count)
            if f"adam.{i}.step" in tensors
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._steps = int(tensors["steps"])

    def _nets(self) -> dict[str, nn.Module]:
        named = {
            "velocity": self.velocity,
            "critic": self.critic,
            "target_critic": self.target_critic,
            "value": self.value,
            "averaged": self.averaged,
            "encoders": self.encoders,
            "averaged_encoders": self.averaged_encoders,
        }
        return {name: net for name, net in named.items() if net is not None}


def _norm(leaves: Features) -> Tensor:
    """Of their gradients so far."""
    gradients = [f.grad for f in leaves.values() if f.grad is not None]
    return get_total_norm(gradients) if gradients else torch.tensor(0.0)


def _approach(moved: Iterable[Tensor], ends: Iterable[Tensor], share: float) -> None:
    """In place, that share of the way."""
    for tensor, end in zip(moved, ends, strict=True):
        tensor.lerp_(end, share)


class _Sum(nn.Module):
    """The losses as one, in a module, which is what DistributedDataParallel wraps."""

    def __init__(self, learner: Learner):
        super().__init__()
        self.nets = learner._trained
        self._losses, self._encoders, self._ahead = learner.losses, learner.encoders, learner.has_value
        self._stopped = learner.config.encoder_gradient == "flow"

    def forward(
        self, batch: ChunkBatch, noise: Tensor, time: Tensor
    ) -> list[tuple[Tensor | float, Metrics]]:
        if self._encoders is not None:
            features = self._encoders.features(batch.obs)
            batch = self._encoders.see(batch, features, self._ahead, self._stopped)
        parts = list(self._losses(batch, noise, time))
        metrics = {name: value for _, of_net in parts for name, value in of_net.items()}
        return [(sum(loss for loss, _ in parts), metrics)]
