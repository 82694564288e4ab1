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

from qgf_ros.policy.description import (
    RELATIVE,
    Beta,
    Flow,
    Network,
    PolicyDescription,
    Returns,
    Sanity,
    Support,
)
from qgf_ros.policy.folder import write_policy
from training.guards import Box
from training.learn.batches import some, state_box, tensors
from training.learn.config import FitConfig
from training.learn.models import Critic, VelocityField, time_table
from training.learn.prepare import MEASURED, Prepared


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
) -> str:
    """-> the policy's sha256. critic: the target critic; provenance: where the data comes from; found:
    what training found."""
    contract, normalizer = data.contract, data.normalizer
    objective, hidden = contract.outcome.objective, tuple(config.hidden)
    box = Box.of(tensors(data.measured, normalizer, 1.0).action)
    description = PolicyDescription(
        schema=RELATIVE if (normalizer.action_reference >= 0).any() else 1,
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
    )
    return write_policy(folder, description, {
        "velocity.safetensors": _arrays(flow) | {"time_embedding": time_table(config.denoise_steps).numpy()},
        "critic.safetensors": _arrays(critic),
    })  # fmt: skip


def _arrays(net: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name.removeprefix("mlp."): p.detach().numpy() for name, p in net.state_dict().items()}
