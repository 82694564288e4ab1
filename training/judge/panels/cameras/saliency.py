"""Where on an image Q and the action hang: a patch of it is covered, and the encoder asked again.

No gradient is asked for, so that any file serves that takes an image and gives features. A patch is covered by
what is usually there, the median of the camera's images at the moments that are looked at: what stays when the
part of the picture that is of this moment is taken away. A grey patch would be something that the encoder has
never seen, and its edges alone would change what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from qgf_ros.images.fit import window
from qgf_ros.spaces.observations.image import ImageSpec

GRID = 10  # cells along each side of what the encoder looks at
WIDE = 2  # cells along each side of a patch, which is moved by one
PLACES = GRID - WIDE + 1
PATCHES = PLACES**2


def usual(images: Sequence[np.ndarray]) -> np.ndarray:
    """Median (H', W', C) of images of that shape each, of the same type."""
    rows = [np.median([image[y] for image in images], axis=0) for y in range(len(images[0]))]
    return np.stack(rows).round().astype(images[0].dtype)


def features_behind(
    image: np.ndarray,
    there: np.ndarray,
    spec: ImageSpec,
    encode: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """(PATCHES, F) features of the image with one patch after the other covered.

    Args:
        image: (H', W', C) as the camera sends it.
        there: the same shape, what a patch is covered by.
        spec: what of it the encoder looks at.
        encode: such an image to (F,) features.
    """
    edges = []
    for axis, n in enumerate(image.shape[:2]):
        part = window(spec, n, axis)
        edges.append(np.linspace(part.start, part.stop, GRID + 1).round().astype(int))
    found = []
    for y in range(PLACES):
        for x in range(PLACES):
            rows, columns = (slice(e[k], e[k + WIDE]) for e, k in zip(edges, (y, x)))
            covered = image.copy()
            covered[rows, columns] = there[rows, columns]
            found.append(encode(covered))
    return np.stack(found)


def cells(change: Tensor) -> Tensor:
    """(PATCHES,) what each patch changed -> (GRID, GRID): the mean of the patches that cover a cell."""
    total, count = torch.zeros(2, GRID, GRID)
    for value, k in zip(change, range(PATCHES)):
        y, x = divmod(k, PLACES)
        total[y : y + WIDE, x : x + WIDE] += value
        count[y : y + WIDE, x : x + WIDE] += 1
    return total / count
