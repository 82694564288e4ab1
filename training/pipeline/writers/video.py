"""A camera's column as a video, as LeRobot datasets have them: h264 in mp4, a frame per row."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.images.fit import window
from qgf_ros.spaces.observations.image import ImageSpec

CODEC = "libx264"
# A key frame every other one, as LeRobot's own: training reads rows in any order. No frame stands for one
# behind it (bf), so that frames come out of a decoder as they went in. crf 18: hard to tell from the original.
OPTIONS = {"g": "2", "bf": "0", "crf": "18", "preset": "fast"}
LOOKED_AT = 64  # frames of an episode of which statistics are made
SIDE = 160  # pixels of what is looked at, about, either side
HALVED, WHOLE = "yuv420p", "yuv444p"  # colours for every second pixel of either side, or for each


def pixels_of(spec: ImageSpec, shape: tuple[int, ...]) -> str:
    """HALVED, as LeRobot writes videos, where an encoder is shown the mean of two pixels of either side or
    more; else WHOLE. Halved, the colours of an image that is not scaled down change what the encoder sees by more
    than the image before it would.

    shape: (H, W, C) of the camera's images.
    """
    cut = [window(spec, n, axis) for axis, n in enumerate(shape[:2])]
    seen = zip(cut, reversed(spec.size))
    fine = spec.channels == "rgb" and any(part.stop - part.start < 2 * size for part, size in seen)
    # Half as many colours need an even number of pixels.
    return WHOLE if fine or shape[0] % 2 or shape[1] % 2 else HALVED


def write_video(file: Path, images: Iterable[np.ndarray], fps: float, pixels: str) -> dict[str, Any]:
    """images: (H, W, 1 or 3) uint8 each, all of one size, at least one; one is in memory at a time.
    pixels: as `pixels_of` says.

    Returns:
        What meta/info.json says of it (`feature`), and min, max, mean and std of each colour, 0 to 1
        (`stats`).
    """
    import av

    rate, seen, size = Fraction(fps).limit_denominator(10_000), _Stats(), (0, 0)
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream(CODEC, rate=rate, options=OPTIONS)
        stream.thread_count = 1  # one core each: recordings are written side by side
        for k, image in enumerate(images):
            if not k:
                size = image.shape[0], image.shape[1]
                stream.height, stream.width = size
                stream.pix_fmt = pixels
            colour = image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(colour), format="rgb24")
            frame.pts, frame.time_base = k, 1 / rate
            container.mux(stream.encode(frame))
            seen.add(k, colour)
        container.mux(stream.encode(None))
    with open(file, "rb") as written:
        os.fsync(written.fileno())
    info = {
        "video.height": size[0], "video.width": size[1], "video.codec": "h264", "video.pix_fmt": pixels,
        "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False,
    }  # fmt: skip
    shape, names = [*size, 3], ["height", "width", "channels"]
    feature = {"dtype": "video", "shape": shape, "names": names, "info": info}
    return {"feature": feature, "stats": seen.stats()}


class _Stats:
    """Of each colour, of some frames, spread over all of them however many come: (3, 1, 1), as LeRobot has
    them."""

    def __init__(self) -> None:
        self._every = 1
        self._kept: list[tuple[np.ndarray, ...]] = []  # of each frame

    def add(self, k: int, image: np.ndarray) -> None:
        if k % self._every:
            return
        step = max(1, min(image.shape[:2]) // SIDE)
        some = image[::step, ::step].reshape(-1, 3) / 255.0
        self._kept.append((some.min(axis=0), some.max(axis=0), some.mean(axis=0), (some**2).mean(axis=0)))
        if len(self._kept) > LOOKED_AT:
            self._kept, self._every = self._kept[::2], 2 * self._every

    def stats(self) -> dict[str, Any]:
        low, high, mean, square = (np.array(values) for values in zip(*self._kept))
        middle = mean.mean(axis=0)
        spread = np.sqrt(np.maximum(square.mean(axis=0) - middle**2, 0))
        found = {"min": low.min(axis=0), "max": high.max(axis=0), "mean": middle, "std": spread}
        shaped = {name: values.reshape(3, 1, 1).tolist() for name, values in found.items()}
        return shaped | {"count": [len(self._kept)]}
