"""One input of the policy."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from qgf_ros.files.strict_yaml import shown
from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.joints import Joints
from qgf_ros.spaces.observations import encodings, kind_of
from qgf_ros.spaces.observations.base import ObservationKind
from qgf_ros.spaces.observations.image import MAX_LATENCY, OF_POLICY, EncoderSpec, ImageSpec
from qgf_ros.spaces.observations.image import TYPES as IMAGES
from qgf_ros.spaces.source import MAX_AGE, Source, later

CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
FEATURES = "qgf_encoder"  # topics of features: qgf_encoder/<name of the camera>
FEATURES_TYPE = "qgf_ros/Features"


@dataclass(frozen=True)
class ObservationSource(Source):
    """One input of the policy. `delay` [s] is how long ago the world was as the stamp's value says.

    `encoding` says what an orientation ("pose.orientation") becomes: `rot6d` the first two columns
    of its rotation matrix, `matrix_columns` all three, `yaw_sin_cos` the turn about the vertical of
    what otherwise keeps upright. `merge: joints` takes messages that hold some of the joints each: of
    every joint the newest value counts, and the whole is as old as the oldest of them.
    `resample` says how recordings come onto the ticks: `hold` is what
    the node does and the only thing it can; `linear`, `slerp` (an orientation by the shortest way,
    other numbers linearly) and `nearest` look at the message after the tick too.
    `image` and `encoder` are of cameras, see `image.py`; `latency` [s] is how long after an image's capture
    its features are there on the robot: training knows no image before that.
    """

    name: str = ""
    units: str = ""
    max_age: float = 0.0  # s; 0: the larger of three periods and 50 ms; of a goal, an hour
    delay: float = 0.0
    encoding: str = "identity"
    resample: Literal["hold", "linear", "slerp", "nearest"] = later("hold")
    merge: Literal["", "joints"] = later("")
    image: ImageSpec | None = later(None)
    encoder: EncoderSpec | None = later(None)
    latency: float = later(0.0)

    def __post_init__(self) -> None:
        if any(f.split(".")[-2:-1] == ["orientation"] for f in self.fields):
            raise ValueError(
                "quaternion components are no input for a network; name the whole orientation "
                '("pose.orientation") and give encoding: rot6d'
            )
        super().__post_init__()
        if self.is_camera and not CAMERA_NAME.fullmatch(self.name):
            raise ValueError(
                f"name is {shown(self.name)}, and its features have a topic and its encoder a file of that "
                "name: give letters, digits and _, up to 64, a letter first"
            )
        if not self.name or "." in self.name:
            raise ValueError(f"name is {self.name!r}; give one without a dot")
        if not self.labels:
            raise ValueError(f"{self.type} carries no numbers to observe")
        if self.encoding not in encodings():
            raise ValueError(f"encoding is {self.encoding!r}; allowed: {', '.join(encodings())}")
        self._check_camera()
        self.kind.check(self)
        if self.merge and not isinstance(message_type(self.type), Joints):
            raise ValueError(
                f"merge is {self.merge}, and {self.type} does not name its joints; leave it out"
            )
        if self.merge and self.resample != "hold":
            raise ValueError(
                f"resample is {self.resample}; what is merged by joint is of several moments: give hold"
            )
        if not 0 <= self.max_age <= MAX_AGE or not 0 <= self.delay <= 10:
            raise ValueError(f"max_age {self.max_age} s or delay {self.delay} s is out of range")

    def _check_camera(self) -> None:
        camera = self.type in IMAGES
        if camera and self.topic.split("/")[0] == FEATURES:
            raise ValueError(
                f"topic is {self.topic!r}, where qgf_encoder publishes features; give the camera's own topic"
            )
        for key, given in (("image", self.image), ("encoder", self.encoder)):
            if camera and given is None:
                raise ValueError(
                    f"{self.type} is a camera's and lacks {key}; give image: {{size: [64, 64]}} and encoder: "
                    "{kind: small}"
                )
            if not camera and given is not None:
                raise ValueError(f"{key} is of cameras ({', '.join(IMAGES)}), and this is {self.type}")
        if self.image is not None and self.encoder is not None:
            for key, numbers in (("mean", self.encoder.mean), ("std", self.encoder.std)):
                if len(numbers) not in (0, self.image.shape[2]):
                    raise ValueError(
                        f"encoder.{key} has {len(numbers)} numbers, and channels {self.image.channels} needs "
                        f"{self.image.shape[2]}, one for each"
                    )
        if not 0 <= self.latency <= MAX_LATENCY or (self.latency and not camera):
            raise ValueError(
                f"latency is {self.latency} s; allowed: 0 to {MAX_LATENCY:g}, of cameras alone"
            )

    @property
    def is_camera(self) -> bool:
        """Whether pixels come from it: the node is told features in their place."""
        return self.image is not None

    @property
    def is_learnt(self) -> bool:
        """Whether it is a camera whose encoder is learnt with the policy."""
        return self.encoder is not None and self.encoder.is_learnt

    @property
    def has_frames(self) -> bool:
        """Whether it is a camera whose frames are kept; else features are made as it is read."""
        return self.encoder is not None and self.encoder.kind != OF_POLICY

    @cached_property
    def heard(self) -> ObservationSource:
        """What the control node subscribes to: of a camera the features that its encoder publishes, else
        the source itself."""
        if not self.is_camera:
            return self
        return dataclasses.replace(
            self,
            topic=f"{FEATURES}/{self.name}",
            type=FEATURES_TYPE,
            names=self.feature_labels,
            stamp="header",
            image=None,
            encoder=None,
            latency=0.0,
            resample="hold",
        )

    @cached_property
    def kind(self) -> ObservationKind:
        """What is known of all observations of its kind."""
        return kind_of(self)

    @property
    def feature_labels(self) -> tuple[str, ...]:
        """A name for each number that the policy sees; `labels` names those of the message."""
        return self.kind.feature_labels(self)

    @property
    def stems(self) -> tuple[str, ...]:
        """For each feature, what it shares its unit with."""
        return self.kind.stems(self)

    def features(self, values: np.ndarray) -> np.ndarray:
        """(..., labels) as the message has them -> (..., feature_labels) as the policy sees them."""
        return self.kind.features(self, values)

    def usable(self, values: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
        """Whether messages are a state: asked by the node and by training alike, so that no policy
        learns from what the robot would refuse.

        Args:
            values: (..., labels), as the messages have them.
            features: what the source makes of them, (..., feature_labels), where that is known already.

        Returns:
            (...,) bool.
        """
        known = self.features(values) if features is None else features
        return self.kind.usable(self, values, known)
