"""Images that nobody has trained on: what an exported encoder is compared on, where it is made and where it
is opened."""

from __future__ import annotations

import numpy as np

from qgf_ros.spaces.observations.image import ImageSpec

FRESH = 16
CELLS = (4, 32)  # of an image, per side: from broad patches to fine ones
HOLES = 0.2  # share of a depth that was not measured
DEEP = 4000  # mm


def fresh(spec: ImageSpec, size: tuple[int, int], seed: int, count: int = FRESH) -> list[np.ndarray]:
    """Images (H', W', C) of (width, height), as `images.messages.pixels` gives them: patches of all sizes, of a
    depth with holes; the last is noise. The same for the same arguments."""
    rng = np.random.default_rng([20272, seed])
    deep = spec.channels == "depth"
    high, kind = (65_535, np.uint16) if deep else (255, np.uint8)
    width, height, planes = *size, spec.shape[2]
    images = []
    for _ in range(count - 1):
        cells = int(rng.integers(*CELLS))
        patches = rng.integers(0, high + 1, (cells, cells, planes)).astype(kind)
        rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
        image = patches[rows][:, columns]
        if deep:
            image = np.where(rng.random(image.shape) < HOLES, 0, image % DEEP).astype(kind)
        images.append(image)
    images.append(rng.integers(0, high + 1, (height, width, planes)).astype(kind))
    return images
