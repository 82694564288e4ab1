"""From a camera's pixels to the small image that an encoder is shown: cut, scaled, in bytes.

Scaling is by area: each pixel is the mean of what it covers, halves rounded up. All of it are whole numbers,
exact in whatever order they are summed: numpy here and an ONNX graph on the robot
(`training/export/camera.py`) give the same bytes.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np

from qgf_ros.images.raw import MAX_SIDE
from qgf_ros.spaces.observations.image import ImageSpec

FAR = 255  # the byte of `range`'s far end and beyond; 1 is its near end, 0: nothing was measured
EXACT = 2**24  # float32 holds every whole number below it


def fit(spec: ImageSpec, image: np.ndarray) -> np.ndarray:
    """(H', W', C) as `raw.pixels` gives it -> (H, W, C) uint8."""
    rows, columns = (window(spec, n, axis) for axis, n in enumerate(image.shape[:2]))
    cut = image[rows, columns]
    total = _sums(cut, spec)
    if spec.channels != "depth":
        return rounded(total, cut.shape[0] * cut.shape[1]).astype(np.uint8)
    # Of what was measured alone: the mean with holes in it would be a surface that is not there.
    measured = _sums((cut > 0).astype(np.uint8), spec)
    near, far = millimetres(spec)
    deep = np.clip(rounded(total, np.maximum(measured, 1)), near, far)
    shown = 1 + rounded((deep - near) * (FAR - 1), far - near)
    enough = 2 * measured > cut.shape[0] * cut.shape[1]
    return np.where(enough, shown, 0).astype(np.uint8)


def rounded(total: Any, count: Any) -> Any:
    """total / count, whole numbers from 0 on, to the nearest one; halves up. Also of tensors."""
    return (2 * total + count) // (2 * count)


def millimetres(spec: ImageSpec) -> tuple[int, int]:
    """The range of a depth."""
    return round(spec.range[0] * 1000), round(spec.range[1] * 1000)


def window(spec: ImageSpec, pixels: int, axis: int) -> slice:
    """Which of an image's rows (axis 0) or columns (1) are looked at: whole ones, at least one."""
    begin, length = spec.crop[1 - axis], spec.crop[3 - axis]
    first = min(round(begin * pixels), pixels - 1)
    return slice(first, max(first + 1, min(round((begin + length) * pixels), pixels)))


@lru_cache(maxsize=64)
def area_weights(pixels: int, fitted: int) -> np.ndarray:
    """(fitted, pixels) int64: how much of pixel p lies in the k-th of `fitted` equal parts, in units of
    1 / fitted of a pixel. Rows sum to `pixels`."""
    p, k = np.arange(pixels), np.arange(fitted)[:, None]
    covered = np.minimum((p + 1) * fitted, (k + 1) * pixels) - np.maximum(p * fitted, k * pixels)
    return np.maximum(covered, 0)


@lru_cache(maxsize=64)
def area_block(pixels: int, fitted: int) -> np.ndarray:
    """(f, p) int64: `area_weights` has nothing but such blocks on its diagonal, as many as pixels and fitted have
    in common: to multiply by one of them leaves out nearly all of the zeros."""
    count = gcd(pixels, fitted)
    return area_weights(pixels // count, fitted // count) * count


@lru_cache(maxsize=64)
def _bands(pixels: int, fitted: int) -> tuple[tuple[int, int, np.ndarray], ...]:
    """The rows of `area_weights` without their zeros: begin, end, (end - begin,) float32."""
    found = []
    for row in area_weights(pixels, fitted):
        (some,) = np.nonzero(row)
        begin, end = int(some[0]), int(some[-1]) + 1
        found.append((begin, end, row[begin:end].astype(np.float32)))
    return tuple(found)


def _sums(image: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """(H', W', C) of whole numbers -> (h, w, C) int64: the sum under each part, weighted; all weights of a
    part sum to H' * W'."""
    height, width, planes = image.shape
    size = spec.size
    exact = np.float32 if height * int(np.iinfo(image.dtype).max) < EXACT else np.float64
    flat = image.reshape(height, width * planes)
    tall = np.empty((size[1], width * planes), exact)
    for k, (begin, end, weights) in enumerate(_bands(height, size[1])):
        np.dot(weights.astype(exact, copy=False), flat[begin:end].astype(exact), out=tall[k])
    columns = area_block(width, size[0]).T.astype(np.float64)
    turned = tall.reshape(size[1], width, planes).transpose(0, 2, 1).astype(np.float64, order="C")
    summed = (turned.reshape(-1, len(columns)) @ columns).reshape(size[1], planes, size[0])
    return summed.transpose(0, 2, 1).astype(np.int64)


assert MAX_SIDE * 255 < EXACT, "the first sum of a colour is taken in float32"
