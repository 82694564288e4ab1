"""What cameras saw, in small numbers of each image: a signal as any other, which checks can add up, and a few
small pictures for people.

    brightness   mean of all pixels, 0 to 1; of a depth the mean in m of what was measured
    dark         share of pixels that show nothing: black, or not measured
    bright       share of pixels at the end of their range
    change       mean difference from the image before, 0 to 1: exactly 0 where it is the same
    width, height
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from qgf_ros.images.fit import fit
from qgf_ros.images.messages import PIXELS
from qgf_ros.images.raw import BadImage
from qgf_ros.spaces.observations.image import TYPES as TYPES
from qgf_ros.spaces.observations.image import Channels, ImageSpec

LABELS = ("brightness", "dark", "bright", "change", "width", "height")
LOOK = (48, 36)  # pixels, (width, height), of what is looked at
DARK, BRIGHT = 3, 252  # of 255
DEEP = (0.0, 10.0)  # m, of a depth
STRIP = 8  # pictures of a camera that are kept
KINDS: tuple[Channels, ...] = ("rgb", "mono", "depth")


class Look:
    """Looks at the images of one camera, one after the other."""

    def __init__(self, type_name: str) -> None:
        self.type = type_name
        self.channels: Channels | None = None  # of the first image that could be read
        self.pictures: list[np.ndarray] = []  # (H, W, 1 or 3) uint8 each, spread over what was seen
        self._before: np.ndarray | None = None
        self._seen, self._every = 0, 1

    def __call__(self, msg: Any) -> array[float]:
        """The numbers of `LABELS`. Raises BadImage."""
        return self.at(self._pixels(msg))

    def at(self, image: np.ndarray) -> array[float]:
        """Of pixels as `images.raw.pixels` gives them."""
        deep = image.dtype == np.uint16
        if deep:
            spec = ImageSpec(LOOK, "depth", range=DEEP)
            shown = fit(spec, image)
            small = shown[..., 0]
            measured = image[image > 0]
            brightness = float(measured.mean()) / 1000 if measured.size else 0.0
            dark, bright = (small == 0).mean(), (small == 255).mean()
        else:
            spec = ImageSpec(LOOK, "rgb" if image.shape[2] == 3 else "mono")
            shown = fit(spec, image)
            small = shown.mean(axis=2).astype(np.uint8)
            brightness = float(small.mean()) / 255
            dark, bright = (small <= DARK).mean(), (small >= BRIGHT).mean()
        before, self._before = self._before, small
        change = float("nan")
        if before is not None:
            change = float(np.abs(small.astype(np.int16) - before).mean()) / 255
        self._keep(shown)
        height, width = image.shape[:2]
        return array("d", (brightness, dark, bright, change, width, height))

    def _pixels(self, msg: Any) -> np.ndarray:
        kinds = KINDS if self.channels is None else (self.channels,)
        problem: BadImage | None = None
        for kind in kinds:
            try:
                image = PIXELS[self.type](msg, kind)
                self.channels = kind
                return image
            except BadImage as error:
                problem = error
                if error.code != "IMAGE_ENCODING":
                    break
        assert problem is not None
        raise problem

    def _keep(self, shown: np.ndarray) -> None:
        """Every so many, so that they are spread over all of them, however many come."""
        if self._seen % self._every == 0:
            self.pictures.append(shown)
            if len(self.pictures) > STRIP:
                self.pictures, self._every = self.pictures[::2], 2 * self._every
        self._seen += 1
