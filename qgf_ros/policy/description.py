"""What policy.yaml says, as frozen dataclasses that check themselves.

Whether the numbers can mean what they are said to is `plausible`'s question.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from qgf_ros.errors import UsageError
from qgf_ros.files.strict_yaml import checked_text, shown

DESCRIPTION = "policy.yaml"
# 1: without relative actions, which would be taken for absolute ones; 2: with; 3: with components of
# other kinds than the two networks; 4: with encoders of cameras. A policy has the lowest that says all of
# it: older robots load it.
SCHEMA = 4
RELATIVE, COMPONENTS, CAMERAS = 2, 3, 4  # the schemas that brought these
OURS = {
    "qgf.velocity_fields": ("mlp",),
    "qgf.encoders": ("normalizer",),
}  # entry-point group -> kinds
MAX_FILES_OF_ONE = 8  # of a component
MAX_ENCODERS = 16
MAX_LAYERS = 64
MAX_PROBE = 8192
MAX_PARITY = 1e-3  # of a feature, which lies in about -1 to 1
MAX_NAME = 100  # characters
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
class Plugin:
    """A component of another package, which provides the kind by an entry point, see `components`.

    The normaliser is an encoder without any of this.
    """

    kind: str
    files: tuple[str, ...] = ()  # .safetensors files of this folder that it is given
    needs: tuple[str, ...] = ()  # Python packages that it imports
    size: int = 0  # numbers that an encoder gives; the normaliser as many as there are observed
    options: dict[str, Any] = field(default_factory=dict)  # what else it is told; plain values

    def __post_init__(self) -> None:
        for name in (self.kind, *self.needs):
            if not re.fullmatch(r"[A-Za-z_]\w{0,63}", name, re.ASCII):
                raise ValueError(f"{shown(name)} is no name: letters, digits and _, up to 64")
        wrong = [f for f in self.files if "/" in f or not f.endswith(".safetensors")]
        if wrong or len(self.files) > MAX_FILES_OF_ONE:
            raise ValueError(
                f"files holds {shown(wrong[0] if wrong else self.files)}; they must be up to "
                f"{MAX_FILES_OF_ONE} .safetensors files of this folder"
            )
        if not 0 <= self.size <= 1_000_000:
            raise ValueError(f"size is {shown(self.size)}; allowed: 0 to 1000000 numbers")


@dataclass(frozen=True)
class CameraComponent:
    """What makes features of a camera's images, in a process of its own (`qgf_encoder`): an ONNX file of
    this folder, from pixels to numbers, scaling among it.

    camera: the observation's name in the contract. size: (width, height) of the images that it takes, in
    pixels. parity: the largest difference of a feature from training's own encoder, on fresh images.
    probe: what training's own encoder makes of some that everybody can make (`images.probe`), one after
    the other: whoever opens the file asks it the same.
    """

    camera: str
    kind: str
    files: tuple[str, ...]
    size: tuple[int, ...]
    parity: float
    probe: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.camera, self.kind):
            if not re.fullmatch(r"[A-Za-z]\w{0,63}", name, re.ASCII):
                raise ValueError(f"{shown(name)} is no name: letters, digits and _, up to 64")
        if self.files != (self.file,):
            raise ValueError(
                f"files is [{shown(', '.join(map(str, self.files)))}]; it must be [{self.file}], after the camera"
            )
        if len(self.size) != 2 or not all(1 <= n <= 2**14 for n in self.size):
            raise ValueError(
                f"size is [{', '.join(map(shown, self.size[:4]))}]; allowed: [width, height] of 1 to {2**14} pixels"
            )
        if not 0 <= self.parity <= MAX_PARITY:
            raise ValueError(f"parity is {self.parity}; allowed: 0 to {MAX_PARITY:g}")
        if len(self.probe) > MAX_PROBE or not all(map(math.isfinite, self.probe)):
            raise ValueError(f"probe has {len(self.probe)} numbers; allowed: up to {MAX_PROBE}, finite")

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"camera_{self.camera}.onnx"


NORMALIZER = Plugin("normalizer")


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
    half_error: float | None = (
        None  # float16 weights: of normalised action, see `training.export.half`
    )

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
    velocity: Network | Plugin
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
    encoders: tuple[Plugin, ...] = (
        NORMALIZER,
    )  # side by side: the networks see what all of them give
    cameras: tuple[CameraComponent, ...] = ()

    def __post_init__(self) -> None:
        checked_text(self.name, "name", MAX_NAME)
        if not self.name.strip():
            raise ValueError("name is empty; give one")
        v = self.velocity
        if isinstance(v, Network) and (v.output != "linear" or v.members != 1):
            raise ValueError(
                f"velocity has output {v.output} and {v.members} members; "
                "a flow is one network with a linear output"
            )
        if not 1 <= len(self.encoders) <= MAX_ENCODERS:
            raise ValueError(
                f"there are {len(self.encoders)} encoders; allowed: 1 to {MAX_ENCODERS}"
            )
        others = isinstance(v, Plugin) or self.encoders != (NORMALIZER,)
        if others and self.schema < COMPONENTS:
            raise ValueError(
                f"schema is {self.schema}; components of other kinds need {COMPONENTS}"
            )
        if self.cameras and self.schema < CAMERAS:
            raise ValueError(f"schema is {self.schema}; cameras need {CAMERAS}")
        names = [c.camera for c in self.cameras]
        if len(set(names)) < len(names):
            raise ValueError(f"cameras names {', '.join(map(shown, names[:8]))}: each once")

    @property
    def flow_network(self) -> Network:
        """The velocity field, where it is a network. Raises UsageError where it is something else."""
        if isinstance(self.velocity, Plugin):
            raise UsageError(
                f"the velocity field is of the kind {self.velocity.kind}; this is for networks (mlp) alone"
            )
        return self.velocity

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the components name."""
        of = (self.velocity, self.critic, *self.encoders, *self.cameras)
        return tuple(f for c in of for f in ((c.file,) if isinstance(c, Network) else c.files))
