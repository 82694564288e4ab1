"""The networks' MLP with its reverse pass written out: the same numbers for about 60 % of the time.

For large batches in float32 on a CPU, that is for training. Beside PyTorch's own operations under
autograd it saves

- in the matrix products: they go through oneDNN. MKL, which PyTorch asks otherwise, keeps to
  narrower vector instructions on processors that are not Intel's;
- in GELU: a sigmoid instead of a tanh, for which PyTorch has a much faster kernel, and its slope
  at once, while what it is made of is in the cache;
- in memory that is written and in autograd's bookkeeping, which sees one operation per network.

Shapes: B batch, E members, W width of a hidden layer.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from qgf_ros.guidance.backends.explicit_nets import GELU_A, GELU_B

LEAST = 2**20  # multiplications in a product; below them a call of oneDNN costs more than it saves
FEWEST = 64  # rows: what is exported or sampled one by one goes through PyTorch's own operations

# weight (E, in, out), bias (E, out); layer norm's scale and shift (E, out), None where it has none
Layer = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
# Of one layer and member: input, linear's output, mean and 1/std of the norm, slope of GELU
Tape = list[tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]]


def pays(x: Tensor, largest: int) -> bool:
    """Whether `mlp` is for x (B, in), where the largest weight of a member has so many numbers."""
    return (
        x.dim() == 2
        and len(x) >= FEWEST
        and len(x) * largest >= LEAST
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and has_product()
    )


@cache
def has_product() -> bool:
    """Whether this PyTorch has the product that `mlp` is about, and it means what it did: it is no
    public one. Without it networks go through PyTorch's own operations."""
    x, weight, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]), torch.tensor([5.0])
    try:
        return torch.backends.mkldnn.is_available() and bool(_onednn(x, weight, bias).eq(16).all())
    except (AttributeError, RuntimeError, TypeError):  # no such name; other arguments
        return False


def mlp(
    x: Tensor, layers: Sequence[Layer], eps: float, plain: Callable[[Tensor], Tensor]
) -> Tensor:
    """x: (B, in) -> (E, B, out). Hidden layers: linear, layer norm where it has one, GELU.

    plain: the same function in PyTorch's operations, for a gradient that is differentiated again.
    """
    parameters = [p for layer in layers for p in layer]
    if torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in [x, *parameters]):
        return _MLP.apply(x, eps, plain, *parameters)
    return _stacked([_run(x, layers, e, eps, None) for e in range(len(layers[0][0]))])


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps, plain, *parameters):
        layers = _layers(parameters)
        ctx.plain, ctx.tapes = plain, [[] for _ in layers[0][0]]
        ctx.save_for_backward(x, *parameters)
        return _stacked([_run(x, layers, e, eps, tape) for e, tape in enumerate(ctx.tapes)])

    @staticmethod
    def backward(ctx, gradient):
        x, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _as_graph(ctx, x, parameters, gradient)
        layers = _layers(parameters)
        to_input, to_parameters = ctx.needs_input_grad[0], any(ctx.needs_input_grad[3:])
        to_x, members = None, []
        for e, tape in enumerate(ctx.tapes):
            g = gradient[e].contiguous()
            g, of_member = _reverse(g, layers, e, tape, to_input, to_parameters)
            members.append(of_member)
            if to_input:
                to_x = g if to_x is None else to_x.add_(g)
        stacked = [None if of[0] is None else _stacked([*of]) for of in zip(*members)]
        return to_x, None, None, *stacked


def _run(x: Tensor, layers: Sequence[Layer], e: int, eps: float, tape: Tape | None) -> Tensor:
    """Member e: (B, in) -> (B, out). tape: takes what `_reverse` needs."""
    one, a = x.new_tensor(1.0), x.new_tensor(GELU_A)
    for i, (weight, bias, scale, shift) in enumerate(layers):
        mean = inverse_std = slope = None
        linear = h = _product(x, weight[e], bias[e])
        if scale is not None and shift is not None:
            h, mean, inverse_std = torch.native_layer_norm(h, h.shape[-1:], scale[e], shift[e], eps)
        if i < len(layers) - 1:
            gate = torch.addcmul(a, h, h, value=GELU_B).mul_(h).sigmoid_()
            if tape is not None:
                slope = torch.addcmul(a, h, h, value=3 * GELU_B)
            h.mul_(gate)
            if slope is not None:  # d (h gate) / dh = s (1 - gate) + gate, s = h gate (A + 3 B h^2)
                slope.mul_(h).lerp_(one, gate)
        if tape is not None:
            tape.append((x, linear, mean, inverse_std, slope))
        x = h
    return x


def _reverse(
    g: Tensor,
    layers: Sequence[Layer],
    e: int,
    tape: Tape,
    to_input: bool,
    to_parameters: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """g: (B, out), the gradient of member e's output -> that of its input and its parameters."""
    gradients: list[Tensor | None] = []
    for i in reversed(range(len(layers))):
        weight, _, scale, shift = layers[i]
        x, linear, mean, inverse_std, slope = tape[i]
        to_scale = to_shift = to_weight = to_bias = None
        if slope is not None:
            g.mul_(slope)
        if scale is not None and shift is not None:
            g, to_scale, to_shift = torch.ops.aten.native_layer_norm_backward(
                g, linear, g.shape[-1:], mean, inverse_std, scale[e], shift[e],
                [True, to_parameters, to_parameters],
            )  # fmt: skip
        if to_parameters:
            to_weight, to_bias = _product(x.t(), g), g.sum(dim=0)
        gradients = [to_weight, to_bias, to_scale, to_shift, *gradients]
        if i or to_input:
            g = _product(g, weight[e].t())
    return g, gradients


def _as_graph(ctx, x: Tensor, parameters: list[Tensor | None], gradient: Tensor):
    """The gradients once more, as something that can be differentiated."""
    needed = [ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]]
    wanted = [t for t, need in zip([x, *parameters], needed) if need and t is not None]
    found = iter(torch.autograd.grad(ctx.plain(x), wanted, gradient, create_graph=True))
    to_x, *to_parameters = (next(found) if need else None for need in needed)
    return to_x, None, None, *to_parameters


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x: (B, in), weight: (in, out), bias: (out,) -> (B, out)."""
    if len(x) * weight.numel() < LEAST:
        return x @ weight if bias is None else torch.addmm(bias, x, weight)
    return _onednn(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # PyTorch's compiler asks oneDNN by this operation; there is no public one for dense tensors.
    return torch.ops.mkldnn._linear_pointwise(x, weight.t(), bias, "none", [], "")


def _layers(parameters: Sequence[Tensor | None]) -> list[Layer]:
    return [tuple(parameters[i : i + 4]) for i in range(0, len(parameters), 4)]  # type: ignore[misc]


def _stacked(members: list[Tensor]) -> Tensor:
    """As torch.stack, without a copy where there is only one."""
    return members[0].unsqueeze(0) if len(members) == 1 else torch.stack(members)
