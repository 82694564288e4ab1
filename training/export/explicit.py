"""The sampler with its reverse pass written out (`qgf_ros.guidance.backends.explicit`), made from training's
networks, and as a file for ONNX Runtime."""

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgf_ros.guidance.backends import explicit
from qgf_ros.guidance.backends.explicit import INPUTS, OUTPUTS
from training.learn.models import Critic, VelocityField, time_table

OPSET = 20  # the first with GELU as one operation
INT64 = 7  # onnx.TensorProto.INT64


class GuidedSampler(explicit.GuidedSampler):
    """Of these networks; `times`: (T, 16), as in `sampling.sample`."""

    def __init__(
        self,
        velocity: VelocityField,
        critic: Critic,
        steps: int = 10,
        aggregation: str = "min",
        times: Tensor | None = None,
    ):
        times = time_table(steps) if times is None else times
        if len(times) != steps:
            raise ValueError(f"times has {len(times)} rows for {steps} steps")
        tensors = velocity.mlp.state_dict(), critic.mlp.state_dict()
        super().__init__(*tensors, times, aggregation, critic.output == "sigmoid")


def export_onnx(module: GuidedSampler, path: str | Path) -> None:
    """Writes the sampler as one ONNX file (opset 20, float32, any B) with the weights inside.

    Inputs and outputs are named as in `INPUTS` and `OUTPUTS`. The steps are unrolled and share
    their weights, so that the file is the weights' size and about 0.05 MB per step.

    Only one step is traced, which is what takes the exporter its time, and put in T times; and for
    one number of rows, whose places in the graph are then found: a symbol takes it three times as long.
    """
    import onnx

    rows = _rows_of_no_size(module)
    model = _traced(module, rows)
    _any_rows(model.graph, rows)
    _unroll(model.graph, module.left)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


class _Parts(torch.nn.Module):
    """What is before the steps, one of them, and what is behind them, each with inputs of its own
    for what the others would give."""

    def __init__(self, sampler: GuidedSampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(
        self, a: Tensor, left: Tensor, seen: Tensor, mask: Tensor,
        last: Tensor, velocities: Tensor, asked: Tensor, agreed: Tensor, inside: Tensor, capped: Tensor,
        guide: Tensor, low: Tensor, high: Tensor, disagreement: Tensor, ratio_cap: Tensor,
        fixed: Tensor, committed: Tensor, obs: Tensor, noise: Tensor, w: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        same, first, steps = self.sampler.prepare(
            obs, noise, w, guide, low, high, disagreement, ratio_cap, fixed, committed
        )
        after, v, stages = self.sampler.step(a, left, seen, mask, **same)
        walked, critic_seen = [asked, agreed, inside, capped], same["critic_seen"]
        outputs = self.sampler.finish(
            last, velocities, walked, obs, w, critic_seen, fixed, committed
        )
        per_step = [tensor for step in steps for tensor in step]
        return *outputs, after, v, *stages, first, *per_step


GIVEN = ("step.a", "step.left", "step.seen", "step.mask")  # to a step
WALKED = ("v", "asked", "agreed", "inside", "capped")  # what the end wants of all steps
GAVE = ("step.after", *(f"step.{name}" for name in WALKED))


def _traced(module: GuidedSampler, rows: int) -> Any:
    """The ONNX model of `_Parts`, for that many rows and no others."""
    obs_dim, size, steps = module.velocity.w_obs.shape[0], module.velocity.size, module.steps
    width, guards = module.velocity.w_action.shape[1], module.unguarded()
    walked = [torch.zeros(rows, steps * size) for _ in WALKED]
    example = (
        torch.zeros(2 * rows, size), torch.zeros(()), torch.zeros(2 * rows, width),
        torch.ones(rows, size, dtype=torch.bool), torch.zeros(2 * rows, size), *walked,
        *guards, torch.zeros(rows, obs_dim), torch.zeros(rows, size), torch.ones(rows),
    )  # fmt: skip
    behind = ("end.a", *(f"end.{name}" for name in WALKED))
    per_step = [f"{name}.{k}" for k in range(steps) for name in ("seen", "mask")]
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision, which nobody needs, is absent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                _Parts(module).eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=[*GIVEN, *behind, *INPUTS[3:], *INPUTS[:3]],
                output_names=[*OUTPUTS, *GAVE, "first", *per_step],
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None  # what it returns with dynamo=True
    model = program.model_proto  # made anew each time that it is asked for
    _strip(model.graph)
    return model


def _unroll(graph: Any, left: Tensor) -> None:
    """Of a graph of `_Parts`: the step once for each of `left` (T,), one behind the other."""
    from onnx import helper, numpy_helper

    once: list[Any] = []
    step: list[Any] = []
    end: list[Any] = []
    within: dict[str, list[Any]] = {i.name: step for i in graph.input if i.name in GIVEN}
    within |= {i.name: end for i in graph.input if i.name.startswith("end.")}
    for node in graph.node:
        kinds = {id(within.get(name, once)): within.get(name, once) for name in node.input}
        kinds.pop(id(once), None)
        assert len(kinds) <= 1, f"{node.name} mixes a step with the end"
        kind = next(iter(kinds.values()), once)
        kind.append(node)
        within |= dict.fromkeys(node.output, kind)
    nodes, a = [*once], "first"
    for k, share in enumerate(left):
        own = dict(zip(GIVEN, (a, f"left.{k}", f"seen.{k}", f"mask.{k}")))
        own |= {name: f"{name}.{k}" for node in step for name in node.output}
        graph.initializer.append(numpy_helper.from_array(share.numpy(), f"left.{k}"))
        for node in step:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = f"{node.name}.{k}"
            copy.input[:] = [own.get(name, name) for name in node.input]
            copy.output[:] = [own[name] for name in node.output]
            nodes.append(copy)
        a = f"step.after.{k}"
    for name in WALKED:
        each = [f"step.{name}.{k}" for k in range(len(left))]
        node = helper.make_node("Concat", each, [f"end.{name}"], name=f"walked.{name}", axis=1)
        nodes.append(node)
    for node in end:
        node.input[:] = [a if name == "end.a" else name for name in node.input]
    inputs = [next(i for i in graph.input if i.name == name) for name in INPUTS]
    outputs = [o for o in graph.output if o.name in OUTPUTS]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend([*nodes, *end])
    graph.input.extend(inputs)
    graph.output.extend(outputs)


def _rows_of_no_size(module: GuidedSampler) -> int:
    """A prime above every size in the networks: no product of those has it as a factor, so that what
    has it in the graph is a number of rows."""
    sizes = {module.steps, *(n for t in module.state_dict().values() for n in t.shape)}
    rows = max(sizes) + 1
    while any(rows % n == 0 for n in range(2, math.isqrt(rows) + 1)):
        rows += 1
    return rows


def _any_rows(graph: Any, rows: int) -> None:
    """Of a graph for that many rows, one for any number of them, which is that of `w`."""
    from onnx import helper, numpy_helper

    count = {rows: "rows", 2 * rows: "rows.both"}  # (1,) int64 each
    instead: dict[str, str] = {}
    first = [
        helper.make_node("Shape", ["w"], ["rows"], name="rows"),
        helper.make_node("Add", ["rows", "rows"], ["rows.both"], name="rows.both"),
    ]
    made: list[Any] = []

    def constant(values: Any, name: str) -> str:
        made.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    shapes: dict[str, str] = {}  # as the second input of a Reshape, where -1 is what is left
    for i in graph.initializer:
        values = numpy_helper.to_array(i)
        if i.data_type == INT64:  # the largest one means to the end
            counts = (values % rows == 0) & (values != 0) & (abs(values) < 2**31)
            if values.shape == (1,) and counts.all():
                instead[i.name] = count[int(values[0])]
            elif counts.any():
                assert counts.sum() == 1, f"{i.name}: {values}"
                shapes[i.name] = constant(np.where(counts, -1, values), f"{i.name}.any")
        elif any(size % rows == 0 for size in i.dims if size):  # zeros for each row
            assert (values == values.flat[0]).all(), f"{i.name} holds a number for each row"
            parts = [count.get(n) or constant([n], f"{i.name}.{at}") for at, n in enumerate(i.dims)]
            one = constant(values.flat[0], f"{i.name}.one")
            joined = helper.make_node(
                "Concat", parts, [f"{i.name}.shape"], name=f"{i.name}.shape", axis=0
            )
            instead[i.name] = f"{i.name}.any"
            wide = [one, f"{i.name}.shape"], [instead[i.name]]
            first += [joined, helper.make_node("Expand", *wide, name=f"{i.name}.any")]
    for node in graph.node:
        assert node.op_type != "Constant", f"{node.name}: a constant that is no initializer"
        for at, name in enumerate(node.input):
            if name in shapes:
                assert (node.op_type, at) == ("Reshape", 1), f"{node.name}: rows in {node.op_type}"
            node.input[at] = shapes.get(name) or instead.get(name, name)
    for node in reversed(first):
        graph.node.insert(0, node)
    used = {name for node in graph.node for name in node.input}
    kept = [i for i in (*graph.initializer, *made) if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value == rows:
                size.dim_param = "B"


def _strip(graph: Any) -> None:
    """Takes out what the exporter notes, in branches too: stack traces with paths of this machine."""
    for item in (graph, *graph.node, *graph.value_info):
        del item.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
