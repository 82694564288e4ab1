"""The policy folder: load, verify, describe, write.

    policy.yaml            what it is: contract, networks, normaliser, beta, provenance
    velocity.safetensors   the flow's weights and its T time embeddings
    critic.safetensors     the target critic's weights
    sampler.onnx           derived from the above by `qgf export`
    SHA256SUMS             hash of every file above; its own hash is the policy's id

A policy is data. Nothing in it is executed or unpickled, every file is read once, and what is
used is what was hashed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import yaml

from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.files.strict_yaml import build, clipped, parse_yaml
from qgf_ros.policy.description import DESCRIPTION, SCHEMA, Network, PolicyDescription
from qgf_ros.policy.manifest import MANIFEST, SAMPLER, said, verified_files, write_files
from qgf_ros.policy.plausible import check_plain, check_plausible, check_schema
from qgf_ros.policy.tensors import network_shapes, tensors_of
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer

AGAIN = "train or export the policy again"


@dataclass(frozen=True)
class Policy:
    """A verified policy. Tensors: float32, weights (E, in, out) as in `training.learn.models.MLP`."""

    folder: Path
    sha256: str
    description: PolicyDescription
    contract: Contract
    normalizer: Normalizer
    velocity: dict[str, np.ndarray]
    critic: dict[str, np.ndarray]
    onnx: bytes | None
    graph_checked: bool = False  # another process has looked at `onnx` and opened it, see `vetting`

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def obs_dim(self) -> int:
        return len(self.contract.observation_names)

    @property
    def action_dim(self) -> int:
        return len(self.contract.action_names)

    @property
    def horizon(self) -> int:
        return self.contract.time.horizon

    @property
    def flat_dim(self) -> int:
        """D = H * A."""
        return self.horizon * self.action_dim


def load_policy(folder: str | Path, contract: Contract | None = None) -> Policy:
    """Reads and verifies a policy folder.

    Args:
        folder: the policy folder.
        contract: the robot's own contract, where it has one beside the policy's.

    Raises:
        PolicyRefused: something is missing, damaged, not finite, too large, or does not fit; the
            message names the file and both sides of a difference.
    """
    folder = Path(folder)
    files = verified_files(folder)
    try:
        content = parse_yaml(files[DESCRIPTION], DESCRIPTION)
    except UsageError as error:
        raise PolicyRefused(f"{said(folder)}: {error}; {AGAIN}") from None
    return policy_of(folder, files, content, contract)


def policy_of(
    folder: Path, files: dict[str, bytes], content: Any, contract: Contract | None = None
) -> Policy:
    """The policy of verified files, and of what policy.yaml says. As `load_policy`.

    Args:
        files: name -> bytes, with those of the manifest.
        content: plain values, as they are in policy.yaml.
    """
    sha256 = hashlib.sha256(files[MANIFEST]).hexdigest()
    try:
        check_plain(content)
        check_schema(content)
        description = build(PolicyDescription, content, DESCRIPTION)
        own = Contract.from_dict(description.contract, f"{DESCRIPTION}: contract")
        normalizer = Normalizer.from_dict({k: list(v) for k, v in description.normalizer.items()})
        check_plausible(description, own, normalizer)
    except (UsageError, KeyError, ValueError, OverflowError, TypeError) as error:
        raise PolicyRefused(f"{said(folder)}: {clipped(error, 600)}; {AGAIN}") from None
    if contract is not None:
        check_fits(folder, own, contract)
    obs, flat = len(own.observation_names), len(own.action_names) * own.time.horizon
    sizes = (len(normalizer.obs_mean), len(normalizer.action_center))
    if sizes != (obs, len(own.action_names)):
        raise PolicyRefused(
            f"{said(folder)}: the normaliser has {sizes} numbers for observation and action, "
            f"the contract {(obs, len(own.action_names))}"
        )
    reference = normalizer.action_reference
    if description.schema < SCHEMA and (reference >= 0).any():
        raise PolicyRefused(
            f"{said(folder)}: relative actions need schema {SCHEMA}; train the policy again"
        )
    measured = own.measured_positions
    if not ((reference == -1) | (reference == measured)).all():
        raise PolicyRefused(
            f"{said(folder)}: normalizer.action_reference is {clipped(reference.tolist())}; relative "
            f"actions are to the measured position of the same joint, which is {clipped(measured.tolist())}"
        )
    support = description.support
    if support is not None and len(support.low) != flat:
        raise PolicyRefused(
            f"{said(folder)}: support has {len(support.low)} numbers, a chunk of the contract {flat}"
        )
    states = description.states
    if states is not None and len(states.low) != obs:
        raise PolicyRefused(
            f"{said(folder)}: states has {len(states.low)} numbers, an observation of the contract {obs}"
        )
    steps = description.flow.denoise_steps
    tensors = {}
    for part, inputs, outputs in (("velocity", obs + flat + 16, flat), ("critic", obs + flat, 1)):
        network: Network = getattr(description, part)
        expected = network_shapes(network, inputs, outputs, norm_last=part == "critic")
        if part == "velocity":
            expected["time_embedding"] = (steps, 16)
        tensors[part] = tensors_of(folder, files, network.file, expected)
    return Policy(
        folder=folder.resolve(),
        sha256=sha256,
        description=description,
        contract=own,
        normalizer=normalizer,
        velocity=tensors["velocity"],
        critic=tensors["critic"],
        onnx=files.get(SAMPLER),
    )


def write_policy(
    folder: str | Path,
    description: PolicyDescription,
    tensors: dict[str, dict[str, np.ndarray]],
    extra: dict[str, bytes] | None = None,
) -> str:
    """Writes a policy folder in one step (a reader sees the old one or the new one) and returns its id.

    Args:
        tensors: file name -> tensors, for the files that `description` names.
        extra: further files, e.g. {"sampler.onnx": ...}.
    """
    contents = {
        name: safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in part.items()})
        for name, part in tensors.items()
    } | (extra or {})
    plain = json.loads(json.dumps(dataclasses.asdict(description)))
    contents[DESCRIPTION] = yaml.safe_dump(
        plain, sort_keys=False, width=100, default_flow_style=None
    ).encode()
    return write_files(Path(folder), contents)


def check_fits(folder: Path, own: Contract, robot: Contract) -> None:
    """Both sides of every difference that changes what a number means."""
    a, b = own.to_dict(), robot.to_dict()
    differences = [
        d for key in ("time", "observations", "actions") for d in _differ(key, a[key], b[key])
    ]
    if differences:
        more = f" (and {len(differences) - 8} more)" if len(differences) > 8 else ""
        raise PolicyRefused(
            f"{folder} does not fit the robot's contract: {'; '.join(differences[:8])}{more}"
        )


def _differ(where: str, policy: Any, robot: Any) -> list[str]:
    """Each place where two plain structures differ, with both sides."""
    if isinstance(policy, dict) and isinstance(robot, dict):
        keys = [*policy, *(k for k in robot if k not in policy)]
        return [d for k in keys for d in _differ(f"{where}.{k}", policy.get(k), robot.get(k))]
    if isinstance(policy, list) and isinstance(robot, list) and len(policy) == len(robot):
        pairs = enumerate(zip(policy, robot))
        return [d for i, (p, r) in pairs for d in _differ(f"{where}[{i}]", p, r)]
    if policy == robot:
        return []
    return [f"{where}: policy has {json.dumps(policy)[:120]}, robot has {json.dumps(robot)[:120]}"]
