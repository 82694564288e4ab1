"""Trained networks and what was found of them, as a policy folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qgf_ros.console import say
from qgf_ros.policy.description import (
    CAMERAS,
    RELATIVE,
    Beta,
    CameraComponent,
    Flow,
    Network,
    PolicyDescription,
    Returns,
    Sanity,
    Support,
)
from qgf_ros.policy.folder import write_policy
from qgf_ros.spaces.contract import Contract
from training.export.camera import camera_parity, export_camera, probe
from training.guards import Box
from training.learn.batches import some, state_box, tensors
from training.learn.cameras import Seen
from training.learn.config import FitConfig
from training.learn.models import Critic, VelocityField, time_table
from training.learn.prepare import MEASURED, Prepared
from training.pipeline.frames import Size


def write(
    folder: Path,
    data: Prepared,
    flow: VelocityField,
    critic: Critic,
    beta: Beta,
    sanity: Sanity,
    config: FitConfig,
    provenance: Mapping[str, Any],
    found: Mapping[str, Any],
    cameras: Mapping[str, tuple[CameraComponent, bytes]] | None = None,
) -> str:
    """-> the policy's sha256. critic: the target critic; provenance: where the data comes from; found:
    what training found; cameras: by name, as `encoders_of` gives them."""
    contract, codec = data.contract, data.codec
    normalizer = codec.normalizer
    objective, hidden = contract.outcome.objective, tuple(config.hidden)
    box = Box.of(tensors(data.measured, codec, 1.0).action)
    description = PolicyDescription(
        schema=CAMERAS if cameras else RELATIVE if (normalizer.action_reference >= 0).any() else 1,
        name=contract.robot,
        description=f"{contract.description} Objective: {objective}.".strip(),
        contract=contract.to_dict(),
        flow=Flow(config.denoise_steps),
        velocity=Network("velocity.safetensors", hidden),
        critic=Network("critic.safetensors", hidden, config.members, output=critic.output),
        normalizer={k: tuple(v) for k, v in normalizer.to_dict().items()},
        returns=Returns(
            objective, config.discount, data.scale, config.aggregation, data.informative
        ),
        beta=beta,
        sanity=sanity,
        support=Support(box.low, box.high),
        states=state_box(some(data.batches, MEASURED, config.seed)),
        provenance=dict(provenance)
        | {
            "contract_sha256": contract.hash,
            "config": asdict(config) | {"hidden": list(hidden)},
            **found,
            "versions": {
                "qgf_ros": version("qgf_ros"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
        cameras=tuple(encoder for encoder, _ in (cameras or {}).values()),
    )
    return write_policy(folder, description, {
        "velocity.safetensors": _arrays(flow) | {"time_embedding": time_table(config.denoise_steps).numpy()},
        "critic.safetensors": _arrays(critic),
    }, {encoder.file: onnx for encoder, onnx in (cameras or {}).values()})  # fmt: skip


def encoders_of(seen: Seen, contract: Contract) -> dict[str, tuple[CameraComponent, bytes]]:
    """Encoders as the policy holds them: what is said of each, and its ONNX file.

    Raises CriterionNotMet where a file does not do what was trained.
    """
    found = {}
    for o in contract.cameras:
        assert o.image is not None and o.encoder is not None
        net, frames = seen[o.name]
        others = sorted(set(frames.sizes) - {frames.size})
        if others:
            say(
                f"{o.name} was recorded in several sizes; the robot's camera has to send {_of(frames.size)}, and "
                f"not {', '.join(map(_of, others[:5]))}"
            )
        onnx = export_camera(net, o.image, frames.size)
        parity = camera_parity(net, o.image, frames.size, onnx)
        files = (f"camera_{o.name}.onnx",)
        asked = probe(net, o.image, frames.size)
        component = CameraComponent(o.name, o.encoder.kind, files, frames.size, parity, asked)
        found[o.name] = component, onnx
    return found


def _of(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _arrays(net: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name.removeprefix("mlp."): p.detach().numpy() for name, p in net.state_dict().items()}
