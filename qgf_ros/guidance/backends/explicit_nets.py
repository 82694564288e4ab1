"""The two networks as `explicit.GuidedSampler` asks them: the flow by step, and the critic with its
gradient written out.

Shapes: B batch, D = H * A, E members, W width of a hidden layer, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgf_ros.policy.description import parse_aggregation

LAYER_NORM_EPS = 1e-6
# GELU, tanh form: x sigmoid(z), z = x (GELU_A + GELU_B x^2), because (1 + tanh(z/2)) / 2 is
# sigmoid(z). A z of fewer operations than the textbook's, and no cancellation for negative x.
GELU_A = 2 * math.sqrt(2 / math.pi)
GELU_B = 0.044715 * GELU_A

Tape = tuple[Tensor, ...]


class VelocityByStep(nn.Module):
    """The flow, asked about step k of T, with the first layer split by input: the observation's
    share is computed once per sample, the times' shares once for all."""

    def __init__(self, tensors: Mapping[str, Tensor], times: Tensor):
        """tensors: named as in `training.learn.models.MLP`, weights (1, in, out); times: (T, 16)."""
        super().__init__()
        weights, biases, scales, shifts = _layers(tensors)
        self.size: int = weights[-1].shape[-1]  # D
        obs_dim = weights[0].shape[1] - self.size - times.shape[1]
        w_obs, w_action, w_time = weights[0][0].split([obs_dim, self.size, times.shape[1]])
        self.w_obs, self.w_action = _frozen([w_obs, w_action])
        self.by_step = _frozen([times.to(w_time) @ w_time + biases[0]])[0]  # (T, W)
        self.weights = _frozen(w[0] for w in weights[1:])
        self.biases = _frozen(b[0] for b in biases[1:])
        self.scales = _frozen(s[0] for s in scales)
        self.shifts = _frozen(s[0] for s in shifts)

    def observe(self, obs: Tensor) -> Tensor:
        """What a step adds to the first layer: (B, O) -> (T, B, W); (O,), one for all rows -> (T, W)."""
        seen = obs @ self.w_obs
        return seen + (self.by_step if obs.dim() == 1 else self.by_step.unsqueeze(1))

    def forward(self, seen: Tensor, a: Tensor) -> Tensor:
        """seen: (B, W) or (W,), a step of `observe`; a: (B, D), a_t -> (B, D) velocity."""
        x = torch.addmm(seen, a, self.w_action)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i < len(self.scales):
                x = F.layer_norm(
                    x, weight.shape[:1], self.scales[i], self.shifts[i], LAYER_NORM_EPS
                )
            x = torch.addmm(bias, F.gelu(x, approximate="tanh"), weight)
        return x


class CriticGradient(nn.Module):
    """The critic with d Q / d action written out; the first layer is split by input too."""

    member: Tensor  # (E, 1, 1), each member's index

    def __init__(
        self, tensors: Mapping[str, Tensor], action_size: int, aggregation: str, bounded: bool
    ):
        """tensors: named as in `training.learn.models.MLP`, weights (E, in, out); bounded: through a
        sigmoid."""
        super().__init__()
        self.kind, self.k = parse_aggregation(aggregation)
        self.bounded = bounded
        weights, biases, scales, shifts = _layers(tensors)
        obs_dim = weights[0].shape[1] - action_size
        self.w_obs, self.w_action = _frozen(weights[0].split([obs_dim, action_size], dim=1))
        self.weights = _frozen(weights[1:])  # (E, in, out)
        self.biases = _frozen(b.unsqueeze(1) for b in biases)  # (E, 1, out)
        self.scales = _frozen(s.unsqueeze(1) for s in scales)
        self.shifts = _frozen(s.unsqueeze(1) for s in shifts)
        self.register_buffer("member", torch.arange(len(biases[0])).view(-1, 1, 1))
        self._back = len(self.weights) + 1
        for i, weight in enumerate(self._transpose()):
            self.register_buffer(f"back{i}", weight, persistent=False)

    def observe(self, obs: Tensor) -> Tensor:
        """The observation's share of the first layer: (B, O) -> (E, B, W); (O,) -> (E, 1, W)."""
        rows = obs if obs.dim() == 2 else obs.unsqueeze(0)
        return rows @ self.w_obs + self.biases[0]

    def forward(self, seen: Tensor, action: Tensor) -> Tensor:
        """seen: (E, B, W) from `observe`; action: (B, D) -> (E, B) members' Q."""
        raw = self._run(seen, action)[0].squeeze(-1)
        return raw.sigmoid() if self.bounded else raw

    def aggregate(self, q: Tensor) -> Tensor:
        """(E, ...) of the members -> (...), the one Q that guides and is reported."""
        if self.kind == "min":
            return q.amin(dim=0)
        mean = q.mean(dim=0)
        return mean - self.k * q.std(dim=0, unbiased=False) if self.k else mean

    def transposed(self) -> list[Tensor]:
        """The weights as the reverse pass wants them: to the action, then layer by layer.

        What is linear in the reverse of a layer norm is in them: its scale, and that there is no
        gradient along a shift of its input. An export computes them, so as not to store them too.
        """
        if torch.compiler.is_exporting():
            return self._transpose()
        return [getattr(self, f"back{i}") for i in range(self._back)]

    def _transpose(self) -> list[Tensor]:
        back = [weight.transpose(1, 2) for weight in (self.w_action, *self.weights)]
        centred = [w - w.mean(dim=1, keepdim=True) for w in back[:-1]]
        scaled = [w * scale for w, scale in zip((*centred[1:], back[-1]), self.scales)]
        return [centred[0], *scaled]

    def gradient(
        self, seen: Tensor, action: Tensor, transposed: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B, D) the gradient of the aggregated Q with respect to the action, and the members' Q
        (E, B, 1) there."""
        raw, tape = self._run(seen, action)
        g = transposed[-1]
        if self.bounded:  # the sigmoid's slope; its second factor is 1 - q, exact also near q = 1
            g = g * raw.sigmoid() * (-raw).sigmoid()
        g = self._share(raw, g)  # d Q / d (last hidden layer), (E, B, W)
        for i in reversed(range(len(tape))):
            g = _hidden_reverse(g, tape[i]) @ transposed[i]
        return g.sum(dim=0), raw.sigmoid() if self.bounded else raw

    def _share(self, raw: Tensor, g: Tensor) -> Tensor:
        """raw: (E, B, 1), each member's output; g: (E, ..., W), the gradients d Q_i -> (E, B, W),
        each multiplied by d aggregated Q / d Q_i."""
        members = raw.shape[0]
        if self.kind == "min":  # through the smaller member alone; a sigmoid keeps the order
            return torch.where(self.member.eq(raw.argmin(dim=0, keepdim=True)), g, 0.0)
        if not self.k:
            return (g / members).expand(-1, raw.shape[1], -1)
        # d std / d Q_i = (Q_i - mean) / (E std); where all agree both are 0, and so is the slope.
        q = raw.sigmoid() if self.bounded else raw
        std = q.std(dim=0, unbiased=False)
        std = torch.where(std > 0, std, 1.0)
        centred = q - q.mean(dim=0)
        # Twice: a mean that was rounded leaves a common rest, as large as std where all agree.
        centred = centred - centred.mean(dim=0)
        return (1 / members - self.k / members * centred / std) * g

    def _run(self, seen: Tensor, action: Tensor) -> tuple[Tensor, list[Tape]]:
        """-> Q (E, B, 1) and, per hidden layer, what its reverse pass needs."""
        x = seen + action @ self.w_action
        tape: list[Tape] = []
        for i, weight in enumerate(self.weights):
            x, kept = _hidden(x, self.scales[i], self.shifts[i])
            tape.append(kept)
            x = x @ weight + self.biases[i + 1]
        return x, tape


def _hidden(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tape]:
    """A hidden layer behind its linear: layer norm, GELU -> its output, and what the reverse needs."""
    unit, mean, inverse_std = torch.native_layer_norm(x, x.shape[-1:], None, None, LAYER_NORM_EPS)
    z = torch.addcmul(shift, unit, scale)
    if torch.compiler.is_exporting():  # ONNX has no operation for either reverse
        y, slope = gelu_and_slope(z)
        return y, (unit, inverse_std, slope)
    return F.gelu(z, approximate="tanh"), (x, mean, inverse_std, z)


def _hidden_reverse(g: Tensor, tape: Tape) -> Tensor:
    """From the gradient of the output to that of the input, less what `transposed` has in it."""
    if torch.compiler.is_exporting():
        unit, inverse_std, slope = tape
        g = g * slope
        # No gradient along a stretch of a layer norm's input.
        return inverse_std * (g - unit * (g * unit).mean(dim=-1, keepdim=True))
    x, mean, inverse_std, z = tape
    g = torch.ops.aten.gelu_backward(g, z, approximate="tanh")
    norm_reverse = torch.ops.aten.native_layer_norm_backward
    return norm_reverse(g, x, x.shape[-1:], mean, inverse_std, None, None, [True, False, False])[0]


def gelu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU in its tanh form and its derivative, each of x's shape."""
    x2 = x * x
    s = torch.sigmoid(x * (GELU_A + GELU_B * x2))
    y = x * s
    return y, s + y * (1 - s) * (GELU_A + 3 * GELU_B * x2)


def _layers(tensors: Mapping[str, Tensor]) -> list[list[Tensor]]:
    """Weights and biases of the layers, scales and shifts of the norms, in order."""
    found = []
    for modules in ("layers", "norms"):
        count = sum(name.startswith(f"{modules}.") for name in tensors) // 2
        found += [
            [tensors[f"{modules}.{i}.{leaf}"] for i in range(count)] for leaf in ("weight", "bias")
        ]
    return found


def _frozen(tensors: Iterable[Tensor]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(t.detach().clone(), requires_grad=False) for t in tensors)
