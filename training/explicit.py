"""The sampler with its reverse pass written out (`qgf_ros.sampler.explicit`), made from training's
networks, and as a file for ONNX Runtime."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qgf_ros.sampler import explicit
from qgf_ros.sampler.explicit import INPUTS, OUTPUTS
from training.models import Critic, VelocityField, time_table

OPSET = 20  # the first with GELU as one operation


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
