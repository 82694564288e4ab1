"""Flow and critic networks: plain MLPs, ensemble members stacked in one tensor.

Shapes: B batch, H chunk, A action, O observation, D = H * A, E ensemble members. Layer norm,
activation and initialisation are those of the QGF authors' networks, so that their weights load
as they are. Knows nothing about data, losses or sampling.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgf_ros.guidance.backends.explicit_nets import LAYER_NORM_EPS
from qgf_ros.policy.description import parse_aggregation
from training.learn import kernels

TIME_FEATURES = 16
TIME_SCALE = 10_000.0  # both the factor on t and the longest period of the embedding


class Linear(nn.Module):
    """E linear maps at once: weight (E, in, out), bias (E, out)."""

    def __init__(self, members: int, in_dim: int, out_dim: int):
        super().__init__()
        bound = math.sqrt(6 / (in_dim + out_dim))  # Glorot uniform, of each member by itself
        self.weight = nn.Parameter(torch.empty(members, in_dim, out_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in) or (E, B, in) -> (E, B, out), or (B, out) where E = 1 and x is (B, in)."""
        if x.dim() == 2:
            if len(self.weight) == 1:  # most nets: addmm costs half of what baddbmm does
                return torch.addmm(self.bias[0], x, self.weight[0])
            x = x.expand(len(self.weight), *x.shape)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class LayerNorm(nn.Module):
    """Layer normalisation with a scale and shift per member: weight, bias (E, width)."""

    def __init__(self, members: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, width))
        self.bias = nn.Parameter(torch.zeros(members, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, width) where E = 1, or (E, B, width) -> the same shape."""
        width = x.shape[-1:]
        if len(self.weight) == 1:
            return F.layer_norm(x, width, self.weight[0], self.bias[0], LAYER_NORM_EPS)
        unit = F.layer_norm(x, width, eps=LAYER_NORM_EPS)
        return torch.addcmul(self.bias.unsqueeze(1), unit, self.weight.unsqueeze(1))


class MLP(nn.Module):
    """E MLPs side by side: hidden layers of linear, layer norm, GELU (tanh form), then a linear.

    `layer_norm_last` says whether the last hidden layer is normalised too: the critics' is, the
    flow's is not; all others always are. Parameters: `layers.{i}.weight` (E, in, out),
    `layers.{i}.bias` (E, out), `norms.{i}.weight` and `.bias` (E, width).
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        members: int = 1,
        *,
        layer_norm_last: bool,
    ):
        super().__init__()
        sizes = [in_dim, *hidden, out_dim]
        self.largest = max(i * o for i, o in zip(sizes[:-1], sizes[1:], strict=True))
        normed = hidden if layer_norm_last else hidden[:-1]
        self.layers = nn.ModuleList(
            Linear(members, i, o) for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm(members, width) for width in normed)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in), the same for all members, or (E, B, in) -> (E, B, out)."""
        if not kernels.pays(x, self.largest):
            return self._plain(x)
        norms = [(norm.weight, norm.bias) for norm in self.norms]
        absent = [(None, None)] * (len(self.layers) - len(norms))
        layers = [(la.weight, la.bias, *n) for la, n in zip(self.layers, [*norms, *absent])]
        return kernels.mlp(x, cast(list[kernels.Layer], layers), LAYER_NORM_EPS, self._plain)

    def _plain(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        if x.dim() == 3 and len(x) == 1:
            x = x[0]
        for i, layer in enumerate(hidden):
            x = layer(x)
            if i < len(self.norms):
                x = self.norms[i](x)
            x = F.gelu(x, approximate="tanh")
        x = last(x)
        return x if x.dim() == 3 else x.unsqueeze(0)


def time_embedding(time: Tensor) -> Tensor:
    """time: (B,) in [0, 1], 0 = noise -> (B, 16) float32: cosines, then sines, of 8 frequencies.

    cos and sin of (10000 t) * 10000^(-i/8), i = 0..7 (`timestep_embedding` in the authors' code).
    Always in float32: 10000 t goes through up to 1592 periods, and one rounding step of it is
    visible in the result, so more digits would be another embedding, not a better one.
    """
    half = TIME_FEATURES // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    frequencies = torch.exp(-math.log(TIME_SCALE) * steps / half)
    phase = (time.to(torch.float32) * TIME_SCALE)[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def time_table(steps: int) -> Tensor:
    """The embeddings of t = k / T, k = 0..T-1: (T, 16) float32. A policy stores them, so that
    every backend is told the same times where k / T is not exact (T = 7)."""
    if steps < 1:
        raise ValueError(f"the number of denoising steps is {steps}; it must be at least 1")
    return time_embedding(torch.arange(steps, dtype=torch.float32) / steps)


class VelocityField(nn.Module):
    """The reference flow policy v(s, a_t, t), trained by behaviour cloning (`flow.py`)."""

    def __init__(self, obs_dim: int, action_size: int, hidden: Sequence[int]):
        """action_size: D = H * A, the flattened chunk."""
        super().__init__()
        in_dim = obs_dim + action_size + TIME_FEATURES
        self.mlp = MLP(in_dim, hidden, action_size, layer_norm_last=False)

    def forward(self, obs: Tensor, a_t: Tensor, time: Tensor) -> Tensor:
        """obs: (B, O) normalised; a_t: (B, D); time: (B,) in [0, 1], or its embedding (B, 16).

        -> (B, D) velocity towards the clean action, in normalised actions per unit of t.
        """
        embedding = time if time.dim() == 2 else time_embedding(time)
        return self.mlp(torch.cat([obs, a_t, embedding.to(a_t.dtype)], dim=-1))[0]


Output = Literal["linear", "sigmoid"]


class Critic(nn.Module):
    """An ensemble of E action values Q_i(s, a).

    output: `linear`, or `sigmoid` for returns in [0, 1]: Q is then in (0, 1) for every input.
    """

    def __init__(
        self,
        obs_dim: int,
        action_size: int,
        hidden: Sequence[int],
        members: int = 2,
        output: str = "linear",
    ):
        super().__init__()
        self.mlp = MLP(obs_dim + action_size, hidden, 1, members, layer_norm_last=True)
        self.output = _check_output(output)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """obs: (B, O), action: (B, D) in [-1, 1] -> (E, B): each member's Q, in scaled return."""
        q = self.logits(obs, action)
        return q.sigmoid() if self.output == "sigmoid" else q

    def logits(self, obs: Tensor, action: Tensor) -> Tensor:
        """As `forward`, before the sigmoid where there is one."""
        return self.mlp(torch.cat([obs, action], dim=-1)).squeeze(-1)


class Value(nn.Module):
    """The state value V(s); output as in `Critic`."""

    def __init__(self, obs_dim: int, hidden: Sequence[int], output: str = "linear"):
        super().__init__()
        self.mlp = MLP(obs_dim, hidden, 1, layer_norm_last=True)
        self.output = _check_output(output)

    def forward(self, obs: Tensor) -> Tensor:
        """obs: (B, O) -> (B,), in scaled return."""
        v = self.mlp(obs)[0, :, 0]
        return v.sigmoid() if self.output == "sigmoid" else v


def _check_output(output: str) -> Output:
    known = get_args(Output)
    if output not in known:
        raise ValueError(f"output is {output!r}; known: {', '.join(known)}")
    return cast(Output, output)


def check_aggregation(how: str) -> str:
    """Returns `how`; raises ValueError where no such aggregation is known."""
    parse_aggregation(how)
    return how


def aggregate(q: Tensor, how: str) -> Tensor:
    """q: (E, B) of the members -> (B,), the one Q that guides and is reported.

    min: its gradient flows through the smaller member only; of equal ones, through the first.
    mean-<k>std: the mean less k standard deviations of the members, a lower bound that does not
    hang on one member alone.
    """
    kind, k = parse_aggregation(how)
    if kind == "min":
        return q.min(dim=0).values
    mean = q.mean(dim=0)
    return mean - k * spread(q) if k else mean


def spread(q: Tensor) -> Tensor:
    """(E, B) -> (B,): standard deviation of the E members (not an estimate of more of them).

    Where all agree a square root has no slope; the gradient is 0 there, and never infinite.
    """
    variance = (q - q.mean(dim=0)).square().mean(dim=0)
    some = variance > 0
    return torch.where(some, torch.where(some, variance, 1.0).sqrt(), 0.0)


@dataclass(frozen=True)
class Architecture:
    """What it takes to build a network again; stored beside its weights. Sizes are counts."""

    kind: str  # velocity | critic | value
    obs_dim: int  # O
    horizon: int  # H
    action_dim: int  # A
    hidden: tuple[int, ...]
    members: int = 1  # E; more than one for a critic only
    output: str = "linear"  # of a critic or value: linear | sigmoid

    KINDS = ("velocity", "critic", "value")

    def __post_init__(self):
        if self.kind not in self.KINDS:
            raise ValueError(f"unknown network kind {self.kind!r}; known: {', '.join(self.KINDS)}")
        if isinstance(self.hidden, list):  # as YAML and JSON give it
            object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in ("obs_dim", "horizon", "action_dim", "hidden", "members"):
            given = getattr(self, name)
            sizes = given if name == "hidden" else (given,)
            if not (isinstance(sizes, tuple) and sizes and all(map(_is_size, sizes))):
                raise ValueError(f"{self.kind}: {name} is {given!r}; needs whole numbers above 0")
        if self.kind != "critic" and self.members != 1:
            raise ValueError(f"{self.kind}: members is {self.members}; only a critic has several")
        if _check_output(self.output) != "linear" and self.kind == "velocity":
            raise ValueError(f"velocity: output is {self.output}; a velocity's is linear")

    @property
    def action_size(self) -> int:
        """D = H * A, the length of a flattened chunk."""
        return self.horizon * self.action_dim

    def build(self) -> VelocityField | Critic | Value:
        """A network of this architecture with fresh random weights (torch's global generator)."""
        if self.kind == "velocity":
            return VelocityField(self.obs_dim, self.action_size, self.hidden)
        if self.kind == "critic":
            sizes = self.obs_dim, self.action_size, self.hidden, self.members
            return Critic(*sizes, self.output)
        return Value(self.obs_dim, self.hidden, self.output)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, fit for YAML and JSON."""
        return dict(asdict(self), hidden=list(self.hidden))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Architecture":
        """The inverse of `to_dict`. Raises ValueError on an entry missing, unknown or wrong."""
        names = {f.name for f in fields(cls)}
        missing, unknown = names - data.keys(), data.keys() - names
        if missing or unknown:
            raise ValueError(
                f"network architecture: missing {sorted(missing)}, unknown {sorted(unknown)}; "
                f"it has the entries {sorted(names)}"
            )
        return cls(**data)


def _is_size(given: Any) -> bool:
    return isinstance(given, int) and given > 0
