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

import ctypes
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
import yaml

from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.files.regular import open_regular
from qgf_ros.files.strict_json import parse_json
from qgf_ros.files.strict_yaml import build, checked_text, clipped, parse_yaml, shown
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer

SCHEMA = 2  # 1: the same without relative actions, which would be taken for absolute ones
MANIFEST = "SHA256SUMS"
DESCRIPTION = "policy.yaml"
SAMPLER = "sampler.onnx"
MAX_FILE_BYTES = 2**30
MAX_PARAMETERS = 200_000_000
MAX_MANIFEST_BYTES = 2**16
MAX_FILES = 32  # looked at; a policy has five
MAX_HEADER = 2**20  # bytes of a safetensors header
NETWORKS = 2  # files of weights: the velocity's, the critic's
WEIGHTS = re.compile(r"[A-Za-z0-9_]\w*\.safetensors", re.ASCII)
MAX_LAYERS = 64
MAX_NAME, MAX_TEXT = 100, 20_000  # characters
# What the numbers of a policy may mean. Beyond, they are a slip of the unit or an attack, not data.
FAR_COMMAND = 10.0  # widths of the contract's limits that a command may lie outside of them
LARGEST_LIMIT = 1e9  # of a contract's limits, in any unit
LARGEST_STATE = 1e12  # mean and scale of an observed number, in its unit
LARGEST_SCORE = 1e9  # normalised numbers of `states` and `support`
LEAST_BETA = 1e-9  # at its floor guidance is a thousand million times the critic's gradient


@dataclass(frozen=True)
class Network:
    """Architecture of one component: an ensemble of MLPs. The field names are `training.learn.models`'."""

    file: str
    hidden: tuple[int, ...]
    members: int = 1
    kind: Literal["mlp"] = "mlp"
    output: Literal["linear", "sigmoid"] = "linear"  # sigmoid: a critic of returns in (0, 1)

    def __post_init__(self) -> None:
        layers = len(self.hidden)
        if not 1 <= layers <= MAX_LAYERS or min(self.hidden) < 1 or not 1 <= self.members <= 10:
            raise ValueError(
                f"hidden has {layers} widths from {shown(min(self.hidden, default=0))}, members "
                f"{shown(self.members)}: need 1 to {MAX_LAYERS} widths >= 1 and 1 to 10 members"
            )
        if "/" in self.file or not self.file.endswith(".safetensors"):
            raise ValueError(
                f"file is {shown(self.file)}; it must be a .safetensors file of this folder"
            )


@dataclass(frozen=True)
class Flow:
    """Conventions of the flow. A policy with others is refused: its guidance would point backwards."""

    denoise_steps: int
    noise_at: float = 0.0
    clean_at: float = 1.0

    def __post_init__(self) -> None:
        if (self.noise_at, self.clean_at) != (0.0, 1.0):
            raise ValueError("flow time must run from noise at 0 to the clean action at 1")
        if not 1 <= self.denoise_steps <= 1000:
            raise ValueError(f"denoise_steps is {shown(self.denoise_steps)}; allowed: 1 to 1000")


def parse_aggregation(how: str) -> tuple[str, float]:
    """How an ensemble's Q become one: "min" -> ("min", 0), "mean" -> ("mean", 0), and
    "mean-<k>std" -> ("mean", k), k >= 0 standard deviations (of the E members) below the mean.

    Raises ValueError on anything else.
    """
    if how in ("min", "mean"):
        return how, 0.0
    lower = re.fullmatch(r"mean-(\d{1,3}(?:\.\d{1,6})?)std", how)
    if lower is None:
        raise ValueError(
            f"unknown aggregation {shown(how)}; known: min, mean, mean-<k>std with a number k >= 0, "
            "such as mean-1std or mean-0.5std"
        )
    return "mean", float(lower[1])


@dataclass(frozen=True)
class Returns:
    """What Q measures: discounted sum of reward / scale. `informative` is False where the data
    holds no difference in outcome for a critic to learn, and then guidance is off by default."""

    objective: str
    discount: float
    scale: float
    aggregation: str = "min"  # of the critic's members, see `parse_aggregation`
    informative: bool = True

    def __post_init__(self) -> None:
        parse_aggregation(self.aggregation)
        if not (0 < self.discount <= 1 and 0 < self.scale < math.inf):
            raise ValueError(
                f"discount {self.discount}, scale {self.scale}: need (0, 1] and a positive number"
            )


@dataclass(frozen=True)
class Beta:
    """Temperature of the guidance, weight = 1 / beta. `min` is the floor that the node holds."""

    default: float
    min: float
    suggested: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        others = (self.default, *self.suggested)
        if not (LEAST_BETA <= self.min < math.inf and all(self.min <= b for b in others)):
            raise ValueError(
                f"beta min {self.min}, default {self.default}, {len(self.suggested)} suggested: "
                f"need a finite min of at least {LEAST_BETA:g}, and the others not below it"
            )


@dataclass(frozen=True)
class Sanity:
    """Bounds seen in training, with room: beyond them Q or its gradient is not to be believed."""

    q_low: float
    q_high: float
    gradient_norm: float

    def __post_init__(self) -> None:
        if not (self.q_low < self.q_high and self.gradient_norm > 0):
            raise ValueError(
                f"Q from {self.q_low} to {self.q_high}, gradient {self.gradient_norm}: no range"
            )


@dataclass(frozen=True)
class Support:
    """Where recorded numbers lie: a range for each, normalised."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (*self.low, *self.high)))
        ordered = all(a <= b for a, b in zip(self.low, self.high))
        if len(self.low) != len(self.high) or not finite or not ordered:
            raise ValueError(
                f"{len(self.low)} numbers low and {len(self.high)} high; a range needs both, finite, low <= high"
            )


@dataclass(frozen=True)
class Export:
    """How the samplers of this policy differ from the reference, see `training.export.write`. None: not
    measured, the native sampler was not there."""

    largest_error: (
        float  # sampler.onnx: of normalised action / (1e-5 * (1 + w)); 1 is the tolerance
    )
    samples: int
    ties_left_out: int
    onnxruntime: str
    native_error: float | None = None  # the native sampler, as largest_error
    half_error: float | None = None  # float16 weights: of normalised action, see `training.export.half`

    def __post_init__(self) -> None:
        errors = (self.largest_error, self.native_error, self.half_error)
        sound = all(e is None or 0 <= e < math.inf for e in errors)
        if not sound or self.samples < 1 or self.ties_left_out < 0:
            raise ValueError(
                f"export: errors {errors}, {shown(self.samples)} samples, {shown(self.ties_left_out)} left "
                "out: need finite errors from 0 on, of at least one sample"
            )


@dataclass(frozen=True)
class PolicyDescription:
    """The content of policy.yaml."""

    schema: int
    name: str
    contract: dict[str, Any]
    flow: Flow
    velocity: Network
    critic: Network
    normalizer: dict[str, tuple[float, ...]]
    returns: Returns
    beta: Beta
    sanity: Sanity
    description: str = ""
    support: Support | None = None  # of chunks, D numbers
    states: Support | None = None  # of observations, O numbers
    export: Export | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_text(self.name, "name", MAX_NAME)
        if not self.name.strip():
            raise ValueError("name is empty; give one")
        if self.velocity.output != "linear" or self.velocity.members != 1:
            raise ValueError(
                f"velocity has output {self.velocity.output} and {self.velocity.members} members; "
                "a flow is one network with a linear output"
            )


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
        _check_schema(content)
        description = build(PolicyDescription, content, DESCRIPTION)
        own = Contract.from_dict(description.contract, f"{DESCRIPTION}: contract")
        normalizer = Normalizer.from_dict({k: list(v) for k, v in description.normalizer.items()})
        _check_plausible(description, own, normalizer)
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
        tensors[part] = _tensors(folder, files, network.file, expected)
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


AGAIN = "train or export the policy again"


def said(folder: Path) -> str:
    """A path for messages: a file's name may hold bytes that cannot be printed or sent."""
    text = str(folder)
    return text if text.isprintable() and len(text) < 4096 else shown(text, 200)


def check_plain(value: Any, where: str = DESCRIPTION, lines: bool = False) -> None:
    """Only what JSON has, and only text that can be printed and sent; ValueError otherwise.

    lines: line breaks may be in a text; they may be where people write freely.
    """
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise ValueError(f"{where} has the key {shown(key)}; keys are text")
            checked_text(shown(key) if isinstance(key, int) else key, f"a key of {where}", 200)
            free = lines or key in ("description", "provenance")
            check_plain(entry, f"{where}.{key}"[:200], free)
    elif isinstance(value, list):
        for entry in value:
            check_plain(entry, where, lines)
    elif isinstance(value, str):
        checked_text(value, where, MAX_TEXT, lines)
    elif isinstance(value, int):
        if value.bit_length() > 128:
            raise ValueError(f"{where} is {shown(value)}; whole numbers have up to 128 bits")
    elif value is not None and not isinstance(value, float):
        raise ValueError(
            f"{where} is a {type(value).__name__}; numbers, text, lists and mappings are allowed"
        )


def _check_plausible(d: PolicyDescription, contract: Contract, n: Normalizer) -> None:
    """Whether the numbers can mean what they are said to; ValueError names the one that cannot."""
    low, high, rate = contract.limits
    if len(n.action_center) != len(low) or len(n.obs_mean) != len(contract.observation_names):
        return  # said by the caller, with both sizes
    names = contract.action_names
    for at in np.flatnonzero(np.maximum(abs(low), abs(high)) > LARGEST_LIMIT):
        raise ValueError(
            f"the limits of {shown(names[at])} are {low[at]:g} to {high[at]:g}; at most {LARGEST_LIMIT:g}"
        )
    for at in np.flatnonzero(rate > LARGEST_STATE):
        raise ValueError(
            f"the rate of {shown(names[at])} is {rate[at]:g} per second; at most {LARGEST_STATE:g}"
        )
    room = FAR_COMMAND * (high - low)
    relative = n.action_reference >= 0
    least, most = np.where(relative, 0.0, low) - room, np.where(relative, 0.0, high) + room
    half = n.action_half_range
    inside = (
        (half <= most - least)
        & (n.action_center - half >= least)
        & (n.action_center + half <= most)
    )
    for at in np.flatnonzero(~inside):
        raise ValueError(
            f"normalizer: {shown(names[at])} has centre {n.action_center[at]:g} and half range {half[at]:g}; the "
            f"contract's limits are {low[at]:g} to {high[at]:g}, and no command is {FAR_COMMAND:g} of their widths "
            "outside: is it another unit?"
        )
    states = contract.observation_names
    far = (
        (abs(n.obs_mean) > LARGEST_STATE)
        | (n.obs_std > LARGEST_STATE)
        | (n.obs_std < 1 / LARGEST_STATE)
    )
    for at in np.flatnonzero(far):
        raise ValueError(
            f"normalizer: {shown(states[at])} has mean {n.obs_mean[at]:g} and scale {n.obs_std[at]:g}; allowed: "
            f"up to {LARGEST_STATE:g}, scale from {1 / LARGEST_STATE:g}"
        )
    bounds = (d.sanity.q_low, d.sanity.q_high, d.sanity.gradient_norm)
    if not math.isinf(d.beta.default) and not all(map(math.isfinite, bounds)):
        raise ValueError(
            f"sanity has Q from {d.sanity.q_low} to {d.sanity.q_high} and gradient {d.sanity.gradient_norm}; "
            "only a policy that is not guided (beta default inf) has no bounds"
        )
    for key, box in (("support", d.support), ("states", d.states)):
        if box is not None and max(map(abs, (*box.low, *box.high)), default=0) > LARGEST_SCORE:
            raise ValueError(
                f"{key} holds a normalised number beyond {LARGEST_SCORE:g}; no data was there"
            )


def _check_schema(content: Any) -> None:
    """Before the rest: a newer schema may have keys that this version does not know."""
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = (
            "it was written by a newer qgf_ros: update this one"
            if newer
            else "train the policy again"
        )
        raise UsageError(
            f"{DESCRIPTION}: schema is {shown(schema)}, this qgf_ros reads 1 to {SCHEMA}; {hint}"
        )


def network_shapes(
    network: Network, inputs: int, outputs: int, norm_last: bool
) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of an ensemble MLP; LayerNorm on the last hidden layer or not."""
    widths = (inputs, *network.hidden, outputs)
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        shapes[f"layers.{i}.weight"] = (network.members, fan_in, fan_out)
        shapes[f"layers.{i}.bias"] = (network.members, fan_out)
        if i < len(network.hidden) - (not norm_last):
            shapes[f"norms.{i}.weight"] = shapes[f"norms.{i}.bias"] = (network.members, fan_out)
    return shapes


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
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    contents = {name: safetensors.numpy.save(_contiguous(t)) for name, t in tensors.items()} | (
        extra or {}
    )
    plain = json.loads(json.dumps(dataclasses.asdict(description)))
    contents[DESCRIPTION] = yaml.safe_dump(
        plain, sort_keys=False, width=100, default_flow_style=None
    ).encode()
    manifest = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(contents.items())
    )
    contents[MANIFEST] = manifest.encode()
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, data in contents.items():
            with (staging / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        staging.chmod(0o755)
        if folder.exists():
            _check_replaceable(folder)
            _exchange(staging, folder)  # what is deleted below is then the old one
        else:
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return hashlib.sha256(contents[MANIFEST]).hexdigest()


def _contiguous(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(t) for name, t in tensors.items()}


def _check_replaceable(folder: Path) -> None:
    """Only a policy folder is replaced, and nothing that somebody keeps in it is lost."""
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else {folder.name}
    ours = {DESCRIPTION, MANIFEST, SAMPLER}
    strangers = sorted(n for n in present - ours if not n.endswith(".safetensors"))
    if strangers or (present and DESCRIPTION not in present):
        raise UsageError(
            f"{folder} is not a policy folder alone ({', '.join(strangers[:5]) or 'no ' + DESCRIPTION}); "
            "choose another one, or move those files away"
        )


def _exchange(a: Path, b: Path) -> None:
    """Swaps two folders in one step (Linux renameat2, RENAME_EXCHANGE): whoever looks, and whenever
    the power fails, there is a whole policy. Elsewhere, or on file systems without it, in two."""
    at_cwd, exchange = -100, 2
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        if rename(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0:
            return
    except (AttributeError, OSError):
        pass
    aside = a.with_name(a.name + ".old")
    b.rename(aside)
    a.rename(b)
    aside.rename(a)


def _read_regular(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """Reads a regular file whole: no FIFO can block this, no device can fill memory."""
    try:
        file = open_regular(path, follow=False)
    except OSError as error:
        raise PolicyRefused(
            f"cannot read {said(path)}: {error.strerror}; a policy folder holds plain files, no links"
        ) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise PolicyRefused(f"{said(path)} has {size} bytes; at most {limit} are read")
        try:
            return file.read(size)  # of `limit` bytes, room for all of them would be made
        except OSError as error:
            raise PolicyRefused(f"cannot read {said(path)}: {error.strerror}") from None


def verified_files(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file, each read once and with the hash that the manifest says.

    Raises PolicyRefused.
    """
    here = said(folder)
    try:
        present = {p.name for p in itertools.islice(folder.iterdir(), MAX_FILES + 1)}
    except (OSError, ValueError) as error:
        why = (
            ""
            if isinstance(error, NotADirectoryError)
            else f" ({clipped(getattr(error, 'strerror', error))})"
        )
        raise PolicyRefused(
            f"{here} is not a folder{why}; give the folder that holds {DESCRIPTION}"
        ) from None
    if len(present) > MAX_FILES:
        raise PolicyRefused(
            f"{here} holds more than {MAX_FILES} files; a policy has its own folder"
        )
    files = {MANIFEST: _read_regular(folder / MANIFEST, MAX_MANIFEST_BYTES)}
    try:
        text = files[MANIFEST].decode("ascii")
        *lines, rest = text.split("\n")
        if rest or "\r" in text:  # one policy, one id
            raise ValueError
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        if list(listed) != sorted(listed) or len(listed) < len(lines):  # in one order, each once
            raise ValueError
    except ValueError:
        raise PolicyRefused(
            f"{here}/{MANIFEST} is damaged: not lines of 'sha256  name', sorted by name"
        ) from None
    present.discard(MANIFEST)
    if set(listed) != present or DESCRIPTION not in listed:
        differ = sorted(set(listed) ^ present) or [DESCRIPTION]
        raise PolicyRefused(
            f"{here}: {MANIFEST} and the folder disagree about "
            f"{', '.join(n if n.isprintable() else shown(n) for n in differ[:5])}; restore the folder"
        )
    weights = [n for n in listed if WEIGHTS.fullmatch(n)]
    strangers = [n for n in listed if n not in (DESCRIPTION, SAMPLER, *weights)]
    if strangers or len(weights) > NETWORKS:  # not read: it may be as large as a policy may be
        raise PolicyRefused(
            f"{here} holds {', '.join(map(shown, strangers[:5] or weights[:5]))}; a policy holds {DESCRIPTION}, "
            f"the weights of its two networks (NAME.safetensors) and {SAMPLER}, and nothing else"
        )
    left = MAX_FILE_BYTES
    for name, digest in listed.items():
        files[name] = _read_regular(folder / name, left)
        left -= len(files[name])
        actual = hashlib.sha256(files[name]).hexdigest()
        if actual != digest:
            raise PolicyRefused(
                f"{said(folder / name)} was changed: {MANIFEST} says {shown(digest, 12)}, the file "
                f"has {actual[:12]}...; copy the policy again from where it was made"
            )
    return files


def _check_header(data: bytes) -> None:
    """Raises ValueError where a tensor is named twice: of two, a reader takes which it likes."""
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header has {size} bytes; at most {MAX_HEADER}")
    parse_json(data[8 : 8 + size])


def _tensors(
    folder: Path, files: dict[str, bytes], name: str, expected: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Tensors of one file, checked against the shapes that the description implies."""
    count = sum(int(np.prod(shape, dtype=object)) for shape in expected.values())
    if count > MAX_PARAMETERS:
        raise PolicyRefused(
            f"{said(folder)}: {name} would have {shown(count)} parameters; at most {MAX_PARAMETERS} are loaded"
        )
    if name not in files:
        raise PolicyRefused(f"{folder}: {name} is missing")
    try:
        _check_header(files[name])
        tensors = safetensors.numpy.load(files[name])
    except Exception as error:  # the library has its own, and numpy's for types that it lacks
        raise PolicyRefused(
            f"{said(folder / name)} is not a safetensors file: {clipped(error)}"
        ) from None
    found = {key: tuple(t.shape) for key, t in tensors.items()}
    if found != expected:
        key = sorted(set(found.items()) ^ set(expected.items()))[0][0]
        raise PolicyRefused(
            f"{said(folder / name)}: tensor {key if key in expected else shown(key)} is "
            f"{clipped(found.get(key, 'missing'))} in the file, "
            f"{expected.get(key, 'unknown')} by {DESCRIPTION}"
        )
    for key, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise PolicyRefused(
                f"{said(folder / name)}: tensor {key} is not finite float32 ({tensor.dtype})"
            )
    return tensors


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
