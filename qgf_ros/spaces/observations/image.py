"""Cameras. No pixel enters the control process: an encoder, a process of its own, makes a small vector of
each image and publishes it with the image's stamp (`qgf_ros/Features`). Prepared data holds the numbers of
frames; pixels lie beside it (`training/pipeline/frames.py`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from qgf_ros.spaces.observations.base import ObservationKind, Observed, finite
from qgf_ros.spaces.observations.vector import Vector

Channels = Literal["rgb", "mono", "depth"]
TYPES = ("sensor_msgs/Image", "sensor_msgs/CompressedImage")
COMPRESSED = ("compressed", "compressedDepth")  # what image_transport puts behind the topic of an image
MAX_CAMERAS = 8  # of a contract
MAX_SIZE = 1024  # pixels of what an encoder is shown, either side
MAX_FEATURES = 1024
MAX_FILE = 200  # characters
LATER = {"later": True}  # as `spaces.source.later`
MAX_RANGE = 65.0  # m; depth is in whole millimetres of 16 bits
MAX_LATENCY = 1.0  # s
FROZEN = "frozen"  # an ONNX file of the user's own
OF_POLICY = "of_policy"  # a policy's own file, camera_NAME.onnx: how its data is read again; in no contract file


@dataclass(frozen=True)
class ImageSpec:
    """What of a camera's image an encoder is shown: `image: {size, channels, crop, range}`.

    size: (width, height) in pixels. channels: rgb, mono or depth. crop: (left, top, width, height) as
    shares of the image; (0, 0, 1, 1) is all of it. range: (near, far) in metres, of depth alone.
    """

    size: tuple[int, ...]
    channels: Channels = "rgb"
    crop: tuple[float, ...] = (0.0, 0.0, 1.0, 1.0)
    range: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(1 <= n <= MAX_SIZE for n in self.size):
            raise ValueError(
                f"size is {list(self.size)}; allowed: [width, height] of 1 to {MAX_SIZE} pixels"
            )
        if not self._crop_is_inside:
            raise ValueError(
                f"crop is {list(self.crop)}; allowed: [left, top, width, height] as shares of the image, "
                "within 0 to 1"
            )
        if self.channels != "depth" and self.range:
            raise ValueError(
                f"range is {list(self.range)}, and channels {self.channels}: it is of depth alone"
            )
        if self.channels == "depth" and not self._range_is_one:
            raise ValueError(
                f"range is {list(self.range)}; depth needs [near, far] in metres within 0 to {MAX_RANGE:g}, "
                "at least 0.01 apart, such as [0.2, 2.0]"
            )

    @property
    def _crop_is_inside(self) -> bool:
        if len(self.crop) != 4:
            return False
        left, top, width, height = self.crop
        ends = max(left + width, top + height) <= 1 + 1e-9
        return min(left, top) >= 0 and min(width, height) > 0 and ends

    @property
    def _range_is_one(self) -> bool:
        if len(self.range) != 2:
            return False
        near, far = self.range
        return 0 <= near and near + 0.01 <= far <= MAX_RANGE

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what an encoder is shown, uint8."""
        return self.size[1], self.size[0], 3 if self.channels == "rgb" else 1


def topics_of(topic: str, type_name: str) -> dict[str, str]:
    """Topic -> type, under which recordings may have a camera: as the contract says, or, where that is a raw
    image, compressed by image_transport beside it; and the other way round."""
    raw, compressed = TYPES
    found = {topic: type_name}
    if type_name == raw:
        return found | {f"{topic}/{name}": compressed for name in COMPRESSED}
    stem, _, last = topic.rpartition("/")
    return found | ({stem: raw} if stem and last in COMPRESSED else {})


@dataclass(frozen=True)
class EncoderSpec:
    """What makes F numbers of an image: `encoder: {kind, features, file, white, mean, std}`.

    kind: `small` is learnt with policy and critic; `frozen` is an ONNX file of yours, whose features are
    kept at preparation; training may know others. features: F.

    Of `frozen` alone: file, beside the contract. white: what the file takes for the brightest byte, 1 or
    255. mean, std: for each channel, in the units of `white`: it is shown (pixel - mean) / std.
    """

    kind: str = "small"
    features: int = 64
    file: str = ""
    white: float = field(default=1.0, metadata=LATER)
    mean: tuple[float, ...] = field(default=(), metadata=LATER)
    std: tuple[float, ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", self.kind):
            raise ValueError(
                f"kind is {self.kind[:60]!r}; give the name of an encoder, such as small"
            )
        if not 1 <= self.features <= MAX_FEATURES:
            raise ValueError(f"features is {self.features}; allowed: 1 to {MAX_FEATURES}")
        if (self.kind in (FROZEN, OF_POLICY)) != bool(self.file):
            raise ValueError(
                f"file is {self.file[:60]!r} and kind {self.kind}: an ONNX file belongs to frozen, and to it alone"
            )
        if self.kind == FROZEN:
            self._check_frozen()
        elif self.mean or self.std or self.white != 1.0:
            raise ValueError(
                f"white, mean and std are of frozen alone, and kind is {self.kind}; leave them out"
            )

    def _check_frozen(self) -> None:
        parts = self.file.split("/")
        plain = len(self.file) <= MAX_FILE and self.file.isprintable() and "\\" not in self.file
        if not plain or not self.file.endswith(".onnx") or not set(parts).isdisjoint(("", ".", "..")):
            raise ValueError(
                f"file is {self.file[:60]!r}; allowed: the path of an ONNX file below the contract's folder, such as "
                "encoder.onnx"
            )
        if self.white not in (1.0, 255.0):
            raise ValueError(
                f"white is {self.white:g}; allowed: 1 or 255, what the file takes for the brightest pixel"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or not all(s > 0 for s in self.std):
            raise ValueError(
                f"mean is {list(self.mean)} and std {list(self.std)}; allowed: finite numbers, std above 0"
            )

    @property
    def is_learnt(self) -> bool:
        """Whether it is learnt with flow and critic."""
        return self.kind not in (FROZEN, OF_POLICY)


class Features(Vector):
    """What the control node is told of a camera: the features that its encoder has published."""

    name = "features"
    bounded = False
    sees_motion = True  # one that repeats itself to the bit shows an image that stands still

    def claims(self, source: Observed) -> bool:
        return source.type == "qgf_ros/Features"


class Image(ObservationKind):
    """Of a recording the number of the frame that was known, in the first of the F columns that its
    features take later; the others are zero until then. Features, where its encoder is not learnt."""

    name = "image"
    resamplings = ("hold", "nearest")
    bounded = False  # features have no unit; black, frozen and strange images are the encoder's to see

    def claims(self, source: Observed) -> bool:
        return source.type in TYPES

    def check(self, source: Observed) -> None:
        if source.encoding not in self.encodings:
            raise ValueError(
                f"encoding is {source.encoding}, which is of orientations; what an image becomes is said by "
                "encoder"
            )
        if source.resample not in self.resamplings:
            raise ValueError(
                f"resample is {source.resample}, and there is nothing between two images; give hold or nearest"
            )

    def feature_labels(self, source: Observed) -> tuple[str, ...]:
        assert source.encoder is not None
        return tuple(f"f{k}" for k in range(source.encoder.features))

    def stems(self, source: Observed) -> tuple[str, ...]:
        """Each by itself: features share no unit."""
        return self.feature_labels(source)

    def features(self, source: Observed, values: np.ndarray) -> np.ndarray:
        """(..., 1), the frame's number -> (..., F), it and zeros; features stay what they are."""
        assert source.encoder is not None
        rest = np.zeros((*values.shape[:-1], source.encoder.features - values.shape[-1]))
        return np.concatenate([values, rest], axis=-1)

    def usable(self, source: Observed, values: np.ndarray, features: np.ndarray) -> np.ndarray:
        return finite(values)
