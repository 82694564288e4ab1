"""The policy folder: load, verify, describe, write.

    policy.yaml            what it is: contract, networks, normaliser, beta, provenance
    velocity.safetensors   the flow's weights and its T time embeddings
    critic.safetensors     the target critic's weights
    camera_NAME.onnx       the encoder of a camera, from pixels to features, where there are any
    sampler.onnx           derived from the weights by `qgf export`
    SHA256SUMS             hash of every file above; its own hash is the policy's id

A policy is data. Nothing in it is executed or unpickled, every file is read once, and what is
used is what was hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import yaml

from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.files.strict_yaml import clipped, parse_yaml, shown
from qgf_ros.policy.components import (
    ENCODERS,
    VELOCITY_FIELDS,
    check_kinds,
    make_component,
)
from qgf_ros.policy.description import (
    COMPONENTS,
    DESCRIPTION,
    RELATIVE,
    Network,
    Plugin,
    PolicyDescription,
)
from qgf_ros.policy.manifest import MANIFEST, SAMPLER, said, verified_files, write_files
from qgf_ros.policy.plausible import check_plain, check_plausible
from qgf_ros.policy.schema import check_schema, description_of, plain_of
from qgf_ros.policy.tensors import any_tensors, network_shapes, tensors_of
from qgf_ros.spaces.actions.codec import ActionCodec, Origin
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer

AGAIN = "train or export the policy again"


@dataclass(frozen=True)
class Policy:
    """A verified policy. Tensors: float32, weights (E, in, out) as in `training.learn.models.MLP`.

    contract: as the control node hears it, with features in place of images; `contract.recorded` is the
    whole one.
    """

    folder: Path
    sha256: str
    description: PolicyDescription
    contract: Contract
    normalizer: Normalizer
    velocity: dict[str, np.ndarray]
    critic: dict[str, np.ndarray]
    onnx: bytes | None
    # File -> tensors, of components of other packages; `velocity` is empty where that is one.
    others: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    cameras: dict[str, bytes] = field(default_factory=dict)  # camera -> its encoder's ONNX file
    graph_checked: bool = False  # another process has looked at `onnx` and opened it, see `vetting`

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def obs_dim(self) -> int:
        """O, or what the encoders make of it: the numbers that the networks are shown."""
        observed = len(self.contract.observation_names)
        return sum(e.size or observed for e in self.description.encoders)

    @property
    def action_dim(self) -> int:
        """Numbers of an action as it is learnt; a robot's action may have others."""
        return len(self.contract.learnt_names)

    @property
    def horizon(self) -> int:
        return self.contract.time.horizon

    @property
    def flat_dim(self) -> int:
        """D = H * action_dim."""
        return self.horizon * self.action_dim

    @cached_property
    def codec(self) -> ActionCodec:
        """Commands to what the networks say of them, and back."""
        return ActionCodec(self.contract, self.normalizer)

    def observed(self, raw: np.ndarray, last: np.ndarray | None = None) -> Observed:
        """An observation as it travels. raw: (O,) robot units, finite. last: (A,) the command before the
        chunk that is to be sampled; None: there was none."""
        return Observed(raw, self, np.full(len(self.contract.action_names), np.nan) if last is None else last)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """(O,) robot units -> what the networks are shown, (obs_dim,) float32.

        Raises ValueError where an encoder answers with another size; and, at the first call, as
        `components.make_component`.
        """
        encoded = np.concatenate([np.asarray(e(raw), np.float32) for e in self._encoders])
        if encoded.shape != (self.obs_dim,):
            raise ValueError(
                f"the encoders give {encoded.shape} numbers; needed: ({self.obs_dim},)"
            )
        return encoded

    @cached_property
    def _encoders(self) -> tuple[Callable[[np.ndarray], np.ndarray], ...]:
        return tuple(
            self.normalizer.normalize_obs
            if component.kind == "normalizer"
            else make_component(ENCODERS, self, component)
            for component in self.description.encoders
        )


@dataclass(frozen=True)
class Observed:
    """One observation, as measured and as the networks see it.

    It is encoded when it is first asked for: by the sampler, in its thread, where an encoder that
    fails is a sample that failed.
    """

    raw: np.ndarray  # (O,) float64, robot units
    policy: Policy
    last: np.ndarray  # (A,) the command before the chunk, NaN where there was none

    @cached_property
    def encoded(self) -> np.ndarray:
        """(obs_dim,) float32."""
        return self.policy.encode(self.raw)

    @cached_property
    def origin(self) -> Origin:
        """Where relative actions begin."""
        normalizer = self.policy.normalizer
        if self.policy.description.schema < COMPONENTS and (normalizer.action_reference >= 0).any():
            # What the networks were told, in float32: so it is in the bags of these policies.
            return Origin(normalizer.unnormalize_obs(self.encoded), self.last)
        return Origin(self.raw, self.last)


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
        description = description_of(content)
        check_kinds(VELOCITY_FIELDS, (description.velocity,))
        check_kinds(ENCODERS, description.encoders)
        own = Contract.from_dict(description.contract, f"{DESCRIPTION}: contract")
        normalizer = Normalizer.from_dict({k: list(v) for k, v in description.normalizer.items()})
        check_plausible(description, own, normalizer)
    except (UsageError, KeyError, ValueError, OverflowError, TypeError) as error:
        raise PolicyRefused(f"{said(folder)}: {clipped(error, 600)}; {AGAIN}") from None
    if contract is not None:
        check_fits(folder, own, contract)
    obs, learnt = len(own.observation_names), len(own.learnt_names)
    flat = learnt * own.time.horizon
    sizes = (len(normalizer.obs_mean), len(normalizer.action_center))
    if sizes != (obs, learnt):
        raise PolicyRefused(
            f"{said(folder)}: the normaliser has {sizes} numbers for observation and action, "
            f"the contract {(obs, learnt)}"
        )
    reference = normalizer.action_reference
    if description.schema < RELATIVE and (reference >= 0).any():
        raise PolicyRefused(
            f"{said(folder)}: relative actions need schema {RELATIVE}; train the policy again"
        )
    measured = own.learnt_measured
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
    _check_files(folder, files, description)
    _check_cameras(folder, description, own)
    seen = sum(e.size or obs for e in description.encoders)
    others: dict[str, dict[str, np.ndarray]] = {}
    for component in (description.velocity, *description.encoders):
        if isinstance(component, Plugin):
            others |= {f: any_tensors(folder, files, f) for f in component.files}
    tensors: dict[str, dict[str, np.ndarray]] = {}
    for part, inputs, outputs in (("velocity", seen + flat + 16, flat), ("critic", seen + flat, 1)):
        network: Network | Plugin = getattr(description, part)
        if isinstance(network, Plugin):
            tensors[part] = {}
            continue
        expected = network_shapes(network, inputs, outputs, norm_last=part == "critic")
        if part == "velocity":
            expected["time_embedding"] = (description.flow.denoise_steps, 16)
        tensors[part] = tensors_of(folder, files, network.file, expected)
    return Policy(
        folder=folder.resolve(),
        sha256=sha256,
        description=description,
        contract=own.heard,
        normalizer=normalizer,
        velocity=tensors["velocity"],
        critic=tensors["critic"],
        onnx=files.get(SAMPLER),
        others=others,
        cameras={c.camera: files[c.file] for c in description.cameras},
    )


def _check_cameras(folder: Path, description: PolicyDescription, contract: Contract) -> None:
    """Every camera of the contract has an encoder, and nothing else has."""
    known = {c.camera for c in description.cameras}
    wanted = {o.name for o in contract.cameras}
    if known != wanted:
        raise PolicyRefused(
            f"{said(folder)}: its contract has the cameras {', '.join(sorted(wanted)) or 'none'}, and there "
            f"are encoders of {', '.join(sorted(known)) or 'none'}; {AGAIN}"
        )
    features = {o.name: o.encoder.features for o in contract.cameras if o.encoder is not None}
    for c in description.cameras:
        if len(c.probe) % features[c.camera]:  # it is of whole images
            raise PolicyRefused(
                f"{said(folder)}: probe of {c.camera} has {len(c.probe)} numbers, and each image has "
                f"{features[c.camera]} features; {AGAIN}"
            )


def _check_files(folder: Path, files: dict[str, bytes], description: PolicyDescription) -> None:
    """Every file of weights is some component's."""
    missing = sorted({c.file for c in description.cameras} - set(files))
    if missing:
        raise PolicyRefused(f"{said(folder)}: {', '.join(missing[:5])} is missing; {AGAIN}")
    strangers = sorted(set(files) - {DESCRIPTION, MANIFEST, SAMPLER, *description.files})
    if strangers:
        raise PolicyRefused(
            f"{said(folder)} holds {', '.join(map(shown, strangers[:5]))}, which no component of "
            f"{DESCRIPTION} names; a policy holds nothing else than it says"
        )


def write_policy(
    folder: str | Path,
    description: PolicyDescription,
    tensors: dict[str, dict[str, np.ndarray]],
    extra: dict[str, bytes] | None = None,
    over: str = "",
) -> str:
    """Writes a policy folder in one step (a reader sees the old one or the new one) and returns its id.

    Args:
        tensors: file name -> tensors, for the files that `description` names.
        extra: further files, e.g. {"sampler.onnx": ...}.
        over: id of the policy that it is made of and replaces; another one in its place stays.

    Raises UsageError where something else is there.
    """
    contents = {
        name: safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in part.items()})
        for name, part in tensors.items()
    } | (extra or {})
    contents[DESCRIPTION] = yaml.safe_dump(
        plain_of(description), sort_keys=False, width=100, default_flow_style=None
    ).encode()
    return write_files(Path(folder), contents, over)


def describe_anew(policy: Policy, description: PolicyDescription, onnx: bytes | None) -> str:
    """Writes a policy again, of the same components, with another description and sampler.onnx; -> its id.

    Raises UsageError where another policy came into its place since it was loaded.
    """
    tensors = dict(policy.others)
    for network, weights in ((description.velocity, policy.velocity), (description.critic, policy.critic)):
        if isinstance(network, Network):
            tensors[network.file] = weights
    extra = {c.file: policy.cameras[c.camera] for c in description.cameras}
    extra |= {SAMPLER: onnx} if onnx is not None else {}
    return write_policy(policy.folder, description, tensors, extra, policy.sha256)


def check_fits(folder: Path, own: Contract, robot: Contract) -> None:
    """Both sides of every difference that changes what a number means to the robot: of what is learnt of it, it
    sees nothing."""
    a, b = own.for_robot(), robot.for_robot()
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
