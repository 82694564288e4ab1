"""The guided sampler with its reverse pass written out, so that it can leave PyTorch.

The algorithm of `sampling.py` with estimator `qgf`, without autograd: the critic's gradient is
plain tensor operations, so that ONNX Runtime, or a reader who wants to see it, has all of it.
Shapes: B batch, D = H * A, E members, W width of a hidden layer, T steps.
"""

import logging
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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

INPUTS = (
    "obs",
    "noise",
    "w",
    "guide",
    "low",
    "high",
    "disagreement",
    "ratio_cap",
    "fixed",
    "committed",
)
OUTPUTS = (
    "action",
    "q",
    "action_unguided",
    "q_unguided",
    "q_std",
    "gradient_norm",
    "guidance_ratio",
    "acted",
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

        Taken once per sample, so that an export does not hold them once per step. What is linear
        in the reverse of a layer norm is in them: its scale, and that there is no gradient along
        a shift of its input.
        """
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
            unit, inverse_std, slope = tape[i]
            g = g * slope
            # Layer norm, reversed: no gradient along a stretch of its input.
            g = g - unit * (g * unit).mean(dim=-1, keepdim=True)
            g = (inverse_std * g) @ transposed[i]
        return g.sum(dim=0), raw.sigmoid() if self.bounded else raw

    def _share(self, raw: Tensor, g: Tensor) -> Tensor:
        """raw: (E, B, 1), each member's output; g: (E, ..., W), the gradients d Q_i -> (E, B, W),
        each multiplied by d aggregated Q / d Q_i."""
        members = raw.shape[0]
        if self.kind == "min":  # through the smaller member alone; a sigmoid keeps the order
            return torch.where(self.member.eq(raw.argmin(dim=0, keepdim=True)), g, 0.0)
        share = torch.ones_like(raw) / members
        if not self.k:
            return share * g
        # d std / d Q_i = (Q_i - mean) / (E std); where all agree both are 0, and so is the slope.
        q = raw.sigmoid() if self.bounded else raw
        std = spread(q)
        std = torch.where(std > 0, std, 1.0)
        centred = q - q.mean(dim=0)
        # Twice: a mean that was rounded leaves a common rest, as large as std where all agree.
        centred = centred - centred.mean(dim=0)
        return (share - self.k / members * centred / std) * g

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

    def forward(
        self,
        obs: Tensor,
        noise: Tensor,
        w: Tensor,
        guide: Tensor,
        low: Tensor,
        high: Tensor,
        disagreement: Tensor,
        ratio_cap: Tensor,
        fixed: Tensor,
        committed: Tensor,
    ) -> tuple[Tensor, ...]:
        """A sample for each of B rows. `unguarded` has the arguments after w that leave the method
        as it is; the guards are explained in `training.guards`, committed in `sampling.sample`.

        Args:
            obs, noise, w: (B, O); (B, D) ~ N(0, I); (B,) = 1/beta >= 0.
            guide: (T, D) bool, which numbers are guided in which steps.
            low, high: (D,), the box of the support guard, infinite for none.
            disagreement, ratio_cap: (), infinite for none.
            fixed, committed: (D,) bool, which numbers are held, and (D,) at what.

        Returns:
            In order of `OUTPUTS`: action (B, D), its q (B,), action_unguided (B, D), its
            q_unguided (B,), q_std (B,) the members' standard deviation (of the E, not an estimate)
            at `action`, gradient_norm (B,) and guidance_ratio (B,) as in `sampling.Sample`, and
            acted (B,), which guards took something away: 1 support, 2 disagreement, 4 ratio_cap,
            summed. Rows with w = 0: both halves bit-equal.
        """
        rows, guided = obs.shape[0], w > 0  # len() would fix the batch size in an export
        critic_seen, transposed = self.critic.observe(obs), self.critic.transposed()
        flow_seen = _twice(obs @ self.velocity.w_obs)
        weight, still = w.unsqueeze(1), torch.zeros_like(noise)
        applied = (guided.view(-1, 1, 1) & guide & ~fixed).flatten(1)  # (B, T * D)
        limits = (low, high, disagreement, ratio_cap)
        limited = ((low > -math.inf) | (high < math.inf)).any()
        limited = limited | (disagreement < math.inf) | (ratio_cap < math.inf)
        # The upper half of the 2B rows is guided, the lower is not.
        a = _twice(noise)
        line = committed - a
        gradients, velocities = [], []
        for k, mask in enumerate(applied.split(self.velocity.size, dim=1)):
            v = torch.where(fixed, line, self.velocity(flow_seen, a, k))
            a_hat = (a + (1 - k / self.steps) * v).clamp(-1, 1)[:rows]
            g, q = self.critic.gradient(critic_seen, a_hat, transposed)
            g = torch.where(mask, g, 0.0)  # chosen, not multiplied: 0 * inf is not 0
            place = (g, q, a_hat, v, weight, *limits)
            # A branch of the export: who has these guards off pays next to nothing for them.
            if torch.compiler.is_exporting():
                stages = torch.cond(limited, _guarded, _unguarded, place)
            else:
                stages = (_guarded if limited else _unguarded)(*place)
            a = a + (v + torch.cat([weight * stages[-1], still])) / self.steps
            velocities.append(v)
            gradients.append((g, *stages))
        a = torch.where(fixed, committed, a.clamp(-1, 1))
        unguided = a[rows:]
        # Equal rows may still differ in the last bit by where they stand in a matrix product.
        action = torch.where(guided.unsqueeze(1), a[:rows], unguided)
        q = self.critic(_twice(critic_seen, dim=1), torch.cat([action, unguided]))
        best = aggregate(q, self.critic.aggregation)
        # Asked for, where the members agree, within the box, and shortened.
        stages = [torch.cat(stage, dim=1) for stage in zip(*gradients, strict=True)]
        gradient_norm = self._mean_norm(stages[-1])
        tiny = torch.finfo(noise.dtype).tiny
        ratio = (
            w * gradient_norm / self._mean_norm(torch.cat(velocities, dim=1)[:rows]).clamp_min(tiny)
        )
        q_std = q[:, :rows].std(dim=0, unbiased=False)
        q_guided = torch.where(guided, best[:rows], best[rows:])
        hits = [(x != y).any(dim=1).to(w.dtype) for x, y in zip(stages, stages[1:])]
        acted = 2 * hits[0] + hits[1] + 4 * hits[2]
        return action, q_guided, unguided, best[rows:], q_std, gradient_norm, ratio, acted

    def unguarded(self) -> tuple[Tensor, ...]:
        """The arguments of `forward` after w: every guard off and nothing committed."""
        like = self.velocity.w_action
        far = like.new_full((self.velocity.size,), math.inf)
        none = torch.zeros_like(far, dtype=torch.bool)
        guide = torch.ones(self.steps, self.velocity.size, dtype=torch.bool)
        limit = like.new_tensor(math.inf)
        return guide, -far, far, limit, limit.clone(), none, torch.zeros_like(far)

    def _mean_norm(self, vectors: Tensor) -> Tensor:
        """(B, T * D) -> (B,): the mean of the T vectors' L2 norms."""
        return vectors.unflatten(1, (self.steps, self.velocity.size)).norm(dim=-1).mean(dim=-1)


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
    guards = module.unguarded()
    example = (torch.zeros(3, obs_dim), torch.zeros(3, size), torch.ones(3), *guards)
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
                dynamic_shapes=(batch, batch, batch, *[None] * len(guards)),
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None  # what it returns with dynamo=True
    model = program.model_proto
    _strip(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _strip(graph: Any) -> None:
    """Takes out what the exporter notes, in branches too: stack traces with paths of this machine."""
    for item in (graph, *graph.node, *graph.value_info):
        del item.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


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


def _guarded(
    g: Tensor,
    q: Tensor,
    a_hat: Tensor,
    v: Tensor,
    weight: Tensor,
    low: Tensor,
    high: Tensor,
    disagreement: Tensor,
    ratio_cap: Tensor,
) -> tuple[Tensor, ...]:
    """What disagreement, support and ratio_cap leave of g (B, D), one after another, (B, D) each.

    q: (E, B, 1), the members' Q at a_hat; v: (2B, D); weight: (B, 1).
    """
    agree = (disagreement == math.inf) | (q.std(dim=0, unbiased=False) <= disagreement)
    agreed = torch.where(agree, g, 0.0)
    # Not up where a_hat is at the box's upper edge or beyond, not down at its lower one.
    inside = torch.minimum(agreed, torch.where(a_hat < high, math.inf, 0.0))
    inside = torch.maximum(inside, torch.where(a_hat > low, -math.inf, 0.0))
    push = weight * inside.norm(dim=-1, keepdim=True)
    limit = ratio_cap * v[: g.shape[0]].norm(dim=-1, keepdim=True)
    return agreed, inside, torch.where(push > limit, inside * (limit / push), inside)


def _unguarded(g: Tensor, *place: Tensor) -> tuple[Tensor, ...]:
    """As `_guarded` where all of these guards are off."""
    return g.clone(), g.clone(), g.clone()
