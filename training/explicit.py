"""The guided sampler with its reverse pass written out, so that it can leave PyTorch.

The algorithm of `sampling.py` with estimator `qgf`, without autograd: the critic's gradient is
plain tensor operations, so that ONNX Runtime, or a reader who wants to see it, has all of it.
Shapes: B batch, D = H * A, E members, W width of a hidden layer, T steps.
"""

import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgf_ros.policy import parse_aggregation
from training.kernels import GELU_A, GELU_B
from training.models import (
    LAYER_NORM_EPS,
    MLP,
    Critic,
    VelocityField,
    aggregate,
    spread,
    time_table,
)

INPUTS = ("obs", "noise", "w")
OUTPUTS = (
    "action",
    "q",
    "action_unguided",
    "q_unguided",
    "q_std",
    "gradient_norm",
    "guidance_ratio",
)
OPSET = 20  # the first with GELU as one operation


class VelocityByStep(nn.Module):
    """A `VelocityField` that is asked about step k of T, with the first layer split by input:
    the observation's share is computed once per sample, the times' shares once for all."""

    def __init__(self, velocity: VelocityField, times: Tensor):
        super().__init__()
        weights, biases, scales, shifts = _parameters(velocity.mlp)
        self.size: int = weights[-1].shape[-1]  # D
        obs_dim = weights[0].shape[1] - self.size - times.shape[1]
        w_obs, w_action, w_time = weights[0][0].split([obs_dim, self.size, times.shape[1]])
        self.w_obs, self.w_action = _frozen([w_obs, w_action])
        self.by_step = _frozen([times.to(w_time) @ w_time + biases[0]])[0]  # (T, W)
        self.weights = _frozen(w[0] for w in weights[1:])
        self.biases = _frozen(b[0] for b in biases[1:])
        self.scales = _frozen(s[0] for s in scales)
        self.shifts = _frozen(s[0] for s in shifts)

    def forward(self, seen: Tensor, a: Tensor, k: int) -> Tensor:
        """seen: (B, W) = obs @ w_obs; a: (B, D), a_t at t = k / T -> (B, D) velocity."""
        x = torch.addmm(seen + self.by_step[k], a, self.w_action)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i < len(self.scales):
                width = [weight.shape[0]]
                x = F.layer_norm(x, width, self.scales[i], self.shifts[i], LAYER_NORM_EPS)
            x = torch.addmm(bias, F.gelu(x, approximate="tanh"), weight)
        return x


class CriticGradient(nn.Module):
    """A `Critic` with d Q / d action written out; the first layer is split by input too."""

    member: Tensor  # (E, 1, 1), each member's index

    def __init__(self, critic: Critic, action_size: int, aggregation: str):
        super().__init__()
        self.aggregation = aggregation
        self.kind, self.k = parse_aggregation(aggregation)
        self.bounded = critic.output == "sigmoid"
        weights, biases, scales, shifts = _parameters(critic.mlp)
        obs_dim = weights[0].shape[1] - action_size
        self.w_obs, self.w_action = _frozen(weights[0].split([obs_dim, action_size], dim=1))
        self.weights = _frozen(weights[1:])  # (E, in, out)
        self.biases = _frozen(b.unsqueeze(1) for b in biases)  # (E, 1, out)
        self.scales = _frozen(s.unsqueeze(1) for s in scales)
        self.shifts = _frozen(s.unsqueeze(1) for s in shifts)
        self.register_buffer("member", torch.arange(len(biases[0])).view(-1, 1, 1))

    def observe(self, obs: Tensor) -> Tensor:
        """The observation's share of the first layer: (B, O) -> (E, B, W)."""
        return obs @ self.w_obs + self.biases[0]

    def forward(self, seen: Tensor, action: Tensor) -> Tensor:
        """seen: (E, B, W) from `observe`; action: (B, D) -> (E, B) members' Q."""
        raw = self._run(seen, action)[0].squeeze(-1)
        return raw.sigmoid() if self.bounded else raw

    def transposed(self) -> list[Tensor]:
        """The weights as the reverse pass wants them: to the action, then layer by layer.
        Taken once per sample, so that an export does not hold them once per step."""
        return [weight.transpose(1, 2) for weight in (self.w_action, *self.weights)]

    def gradient(self, seen: Tensor, action: Tensor, transposed: list[Tensor]) -> Tensor:
        """(B, D): the gradient of the aggregated Q with respect to the action."""
        raw, tape = self._run(seen, action)
        share = self._share(raw)
        if self.bounded:  # the sigmoid's slope; its second factor is 1 - q, exact also near q = 1
            share = share * raw.sigmoid() * (-raw).sigmoid()
        g = share * transposed[-1]  # d Q / d (last hidden layer), (E, B, W)
        for i in reversed(range(len(tape))):
            unit, inverse_std, slope = tape[i]
            g = g * slope * self.scales[i]
            # Layer norm, reversed: no gradient along a shift or a stretch of its input.
            g = g - g.mean(dim=-1, keepdim=True) - unit * (g * unit).mean(dim=-1, keepdim=True)
            g = (inverse_std * g) @ transposed[i]
        return g.sum(dim=0)

    def _share(self, raw: Tensor) -> Tensor:
        """raw: (E, B, 1), each member's output -> d aggregated Q / d Q_i, of that shape."""
        members = raw.shape[0]
        if self.kind == "min":  # through the smaller member alone; a sigmoid keeps the order
            return self.member.eq(raw.argmin(dim=0, keepdim=True)).to(raw.dtype)
        share = torch.ones_like(raw) / members
        if not self.k:
            return share
        # d std / d Q_i = (Q_i - mean) / (E std); where all agree both are 0, and so is the slope.
        q = raw.sigmoid() if self.bounded else raw
        std = spread(q)
        std = torch.where(std > 0, std, 1.0)
        centred = q - q.mean(dim=0)
        # Twice: a mean that was rounded leaves a common rest, as large as std where all agree.
        centred = centred - centred.mean(dim=0)
        return share - self.k / members * centred / std

    def _run(self, seen: Tensor, action: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """-> Q (E, B, 1) and, per hidden layer, what its reverse pass needs."""
        x = seen + action @ self.w_action
        tape: list[tuple[Tensor, ...]] = []
        for i, weight in enumerate(self.weights):
            width = [weight.shape[1]]
            unit, _, inverse_std = torch.native_layer_norm(x, width, None, None, LAYER_NORM_EPS)
            x = unit * self.scales[i] + self.shifts[i]
            x, slope = gelu_and_slope(x)
            tape.append((unit, inverse_std, slope))
            x = x @ weight + self.biases[i + 1]
        return x, tape


class GuidedSampler(nn.Module):
    """Guided and unguided actions from the same noise, T steps unrolled; weights are copies.

    Takes the dtype of the networks it is made from. `times`: (T, 16), as in `sampling.sample`.
    """

    def __init__(
        self,
        velocity: VelocityField,
        critic: Critic,
        steps: int = 10,
        aggregation: str = "min",
        times: Tensor | None = None,
    ):
        super().__init__()
        times = time_table(steps) if times is None else times
        if len(times) != steps:
            raise ValueError(f"times has {len(times)} rows for {steps} steps")
        self.steps = steps
        self.velocity = VelocityByStep(velocity, times)
        self.critic = CriticGradient(critic, self.velocity.size, aggregation)

    def forward(self, obs: Tensor, noise: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        """obs: (B, O); noise: (B, D) ~ N(0, I); w: (B,) = 1/beta >= 0. -> in order of `OUTPUTS`:

        action (B, D), its q (B,), action_unguided (B, D), its q_unguided (B,), q_std (B,) the
        members' standard deviation (of the E, not an estimate) at `action`, gradient_norm (B,)
        and guidance_ratio (B,) as in `sampling.Sample`. Rows with w = 0: both halves bit-equal.
        """
        rows, guided = obs.shape[0], w > 0  # len() would fix the batch size in an export
        critic_seen, transposed = self.critic.observe(obs), self.critic.transposed()
        flow_seen = _twice(obs @ self.velocity.w_obs)
        # The upper half of the 2B rows is guided, the lower is not.
        weight = torch.cat([w, torch.zeros_like(w)]).unsqueeze(1)
        a = _twice(noise)
        gradients, velocities = [], []
        for k in range(self.steps):
            v = self.velocity(flow_seen, a, k)
            a_hat = (a + (1 - k / self.steps) * v).clamp(-1, 1)
            g = self.critic.gradient(critic_seen, a_hat[:rows], transposed)
            push = torch.where(weight > 0, weight * _twice(g), 0.0)  # 0 * inf is not 0
            a = a + (v + push) / self.steps
            gradients.append(g)
            velocities.append(v[:rows])
        a = a.clamp(-1, 1)
        unguided = a[rows:]
        # Equal rows may still differ in the last bit by where they stand in a matrix product.
        action = torch.where(guided.unsqueeze(1), a[:rows], unguided)
        q = self.critic(_twice(critic_seen, dim=1), torch.cat([action, unguided]))
        best = aggregate(q, self.critic.aggregation)
        gradient_norm = torch.where(guided, self._mean_norm(gradients), 0.0)
        tiny = torch.finfo(noise.dtype).tiny
        ratio = w * gradient_norm / self._mean_norm(velocities).clamp_min(tiny)
        q_std = q[:, :rows].std(dim=0, unbiased=False)
        q_guided = torch.where(guided, best[:rows], best[rows:])
        return action, q_guided, unguided, best[rows:], q_std, gradient_norm, ratio

    def _mean_norm(self, vectors: list[Tensor]) -> Tensor:
        """(B,): the mean of the T vectors' L2 norms."""
        stacked = torch.cat(vectors, dim=1).unflatten(1, (self.steps, self.velocity.size))
        return stacked.norm(dim=-1).mean(dim=-1)


def gelu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU in its tanh form and its derivative, each of x's shape."""
    x2 = x * x
    s = torch.sigmoid(x * (GELU_A + GELU_B * x2))
    y = x * s
    return y, s + y * (1 - s) * (GELU_A + 3 * GELU_B * x2)


def export_onnx(module: GuidedSampler, path: str | Path) -> None:
    """Writes the sampler as one ONNX file (opset 20, float32, any B) with the weights inside.

    Inputs and outputs are named as in `INPUTS` and `OUTPUTS`. The steps are unrolled and share
    their weights, so that the file is the weights' size and about 0.05 MB per step.
    """
    import onnx

    obs_dim, size = module.velocity.w_obs.shape[0], module.velocity.size
    example = (torch.zeros(3, obs_dim), torch.zeros(3, size), torch.ones(3))
    batch = {0: torch.export.Dim("B")}
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision, which nobody needs, is absent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(batch, batch, batch),
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None  # what it returns with dynamo=True
    model = program.model_proto
    for item in (model.graph, *model.graph.node, *model.graph.value_info):
        del item.metadata_props[:]  # stack traces with paths of this machine
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _parameters(mlp: MLP) -> list[list[Tensor]]:
    """Weights and biases of the layers, scales and shifts of the norms, in order."""
    return [
        [module.get_parameter(leaf) for module in modules]
        for modules in (mlp.layers, mlp.norms)
        for leaf in ("weight", "bias")
    ]


def _frozen(tensors: Iterable[Tensor]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(t.detach().clone(), requires_grad=False) for t in tensors)


def _twice(x: Tensor, dim: int = 0) -> Tensor:
    return torch.cat([x, x], dim=dim)
