"""sensor_msgs/Image to an array, for every encoding that cameras publish.

Colour is (H, W, 3) uint8 in the order red, green, blue; grey is (H, W, 1) uint8; depth is (H, W, 1)
uint16 in millimetres, 0 where nothing was measured. Encodings are those of sensor_msgs/image_encodings.hpp;
16UC1 is millimetres and 32FC1 metres, REP 118.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ros.spaces.observations.image import Channels

MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 40_000_000
FARTHEST = 65_535  # mm, what is farther is there


class BadImage(ValueError):
    """A message that is no image of the kind that is said; the text is for people.

    code: of `control/reasons.py`: IMAGE_ENCODING, IMAGE_DAMAGED, IMAGE_SIZE or IMAGE_BLACK.
    """

    def __init__(self, text: str, code: str = "IMAGE_DAMAGED") -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a row are read.

    kind: what its numbers are. dtype: of one number; planes: numbers per pixel. read: (H, W, planes)
    as they stand -> (H', W', C) as above.
    """

    kind: Channels
    dtype: str
    planes: int
    read: Callable[[np.ndarray], np.ndarray]


def pixels(msg: Any, wanted: Channels) -> np.ndarray:
    """The pixels of a sensor_msgs/Image, rclpy's or a bag reader's.

    Args:
        wanted: grey is made of colour where `mono` is asked for; nothing else is made of another.

    Raises:
        BadImage: an unknown encoding, another kind than `wanted`, a size that does not fit the bytes.
    """
    name = str(msg.encoding).strip()
    encoding = ENCODINGS.get(name.lower())
    if encoding is None:
        raise BadImage(f"encoding {name[:40]!r}; readable: {', '.join(SPELLED)}", "IMAGE_ENCODING")
    check_kind(name, encoding.kind, wanted)
    image = encoding.read(_rows(msg, encoding))
    return grey(image) if encoding.kind != wanted else image


def check_kind(encoding: str, kind: Channels, wanted: Channels) -> None:
    """Raises BadImage where pixels of a kind are not what a contract asks for, nor can become it."""
    if kind != wanted and (kind, wanted) != ("rgb", "mono"):
        raise BadImage(
            f"encoding {encoding[:40]} holds {kind}, and the contract asks for {wanted}", "IMAGE_ENCODING"
        )


def check_size(width: int, height: int, wanted: tuple[int, int] | None = None) -> None:
    """Raises BadImage where nobody has such a camera: a few bytes can claim to be gigabytes; or where it is
    not (width, height) of `wanted`."""
    if wanted is not None and (width, height) != wanted:
        raise BadImage(
            f"{width} x {height} pixels, and the policy was trained on {wanted[0]} x {wanted[1]}",
            "IMAGE_SIZE",
        )
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise BadImage(
            f"{width} x {height} pixels; allowed: 1 to {MAX_SIDE} each, {MAX_PIXELS} together",
            "IMAGE_SIZE",
        )


def _rows(msg: Any, encoding: Encoding) -> np.ndarray:
    """(H, W, planes) in this machine's byte order: rows may be padded to `step` bytes."""
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    check_size(width, height)
    dtype = np.dtype(encoding.dtype).newbyteorder(">" if msg.is_bigendian else "<")
    least = width * encoding.planes * dtype.itemsize
    data = np.frombuffer(msg.data, np.uint8)
    # A step of 0 is left unset by some drivers whose rows are not padded.
    step = least if height == 1 else step or least  # of one row a step says nothing
    if step < least or len(data) < step * (height - 1) + least:
        raise BadImage(
            f"{len(data)} bytes for {width} x {height} pixels of {msg.encoding} in rows of {step}"
        )
    if (lacks := step * height - len(data)) > 0:  # the last row comes without its padding
        data = np.concatenate([data, np.zeros(lacks, np.uint8)])
    rows = data[: step * height].reshape(height, step)[:, :least]
    numbers = np.ascontiguousarray(rows).view(dtype).reshape(height, width, encoding.planes)
    return numbers.astype(dtype.newbyteorder("="), copy=False)


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W, 1) uint8, by the weights of ITU-R BT.601."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(image @ weights).astype(np.uint8)[..., None]


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image


def _turned(image: np.ndarray) -> np.ndarray:
    return image[..., 2::-1]


def _opaque(image: np.ndarray) -> np.ndarray:
    return image[..., :3]


def high_byte(image: np.ndarray) -> np.ndarray:
    """16 bits to 8."""
    return (image >> 8).astype(np.uint8)


def _turned_high_byte(image: np.ndarray) -> np.ndarray:
    return _turned(high_byte(image))


def _metres(image: np.ndarray) -> np.ndarray:
    """To millimetres. Not finite or negative: nothing was measured."""
    some = np.isfinite(image) & (image > 0)
    near = np.minimum(np.where(some, image, 0), FARTHEST / 1000)
    return np.rint(near * np.float64(1000)).astype(np.uint16)


def _bayer(pattern: str) -> Callable[[np.ndarray], np.ndarray]:
    """One pixel for each square of four: half the size, and no colour that was not measured."""
    at = {colour: [divmod(i, 2) for i, c in enumerate(pattern) if c == colour] for colour in "rgb"}

    def read(image: np.ndarray) -> np.ndarray:
        height, width = (n - n % 2 for n in image.shape[:2])
        if not height or not width:
            raise BadImage(f"{image.shape[1]} x {image.shape[0]} pixels hold no square of four")
        plane = image[:height, :width, 0].astype(np.uint16)
        parts = [sum(plane[y::2, x::2] for y, x in at[c]) // len(at[c]) for c in "rgb"]
        return np.stack(parts, axis=-1).astype(np.uint8)

    return read


def _yuv422(luma: int) -> Callable[[np.ndarray], np.ndarray]:
    """Two pixels share their colour; luma: at which of each pair of bytes Y stands. BT.601, full range
    of 16 to 235."""

    def read(image: np.ndarray) -> np.ndarray:
        if image.shape[1] % 2:
            raise BadImage(f"{image.shape[1]} columns of YUV 4:2:2, which come in pairs")
        y = 1.164 * (image[..., luma].astype(np.float32) - 16)
        chroma = image[..., 1 - luma].astype(np.float32) - 128
        u, v = (np.repeat(chroma[:, at::2], 2, axis=1) for at in (0, 1))
        colour = np.stack([y + 1.596 * v, y - 0.392 * u - 0.813 * v, y + 2.017 * u], axis=-1)
        return np.rint(np.clip(colour, 0, 255)).astype(np.uint8)

    return read


SPELLED = {
    "rgb8": Encoding("rgb", "u1", 3, _as_it_is),
    "bgr8": Encoding("rgb", "u1", 3, _turned),
    "rgba8": Encoding("rgb", "u1", 4, _opaque),
    "bgra8": Encoding("rgb", "u1", 4, _turned),
    "rgb16": Encoding("rgb", "u2", 3, high_byte),
    "bgr16": Encoding("rgb", "u2", 3, _turned_high_byte),
    "mono8": Encoding("mono", "u1", 1, _as_it_is),
    "mono16": Encoding("mono", "u2", 1, high_byte),
    "8UC1": Encoding("mono", "u1", 1, _as_it_is),
    "16UC1": Encoding("depth", "u2", 1, _as_it_is),
    "32FC1": Encoding("depth", "f4", 1, _metres),
    "yuv422": Encoding("rgb", "u1", 2, _yuv422(1)),
    "uyvy": Encoding("rgb", "u1", 2, _yuv422(1)),
    "yuv422_yuy2": Encoding("rgb", "u1", 2, _yuv422(0)),
    "yuyv": Encoding("rgb", "u1", 2, _yuv422(0)),
    **{f"bayer_{p}8": Encoding("rgb", "u1", 1, _bayer(p)) for p in ("rggb", "bggr", "gbrg", "grbg")},
}
ENCODINGS = {name.lower(): encoding for name, encoding in SPELLED.items()}
