"""Orientations as numbers that a network can learn from: continuous, and unique for each rotation.

A quaternion q and its opposite are the same orientation, and every angle jumps somewhere; the
columns of the rotation matrix do neither (Zhou et al., arXiv 1812.07035).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

UPRIGHT = 1e-3  # rad from the vertical: an x axis so close to it points nowhere


def matrix(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) x, y, z, w of any length above 0 -> rotation matrices (..., 3, 3); else NaN."""
    q = np.asarray(quaternion, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        largest = np.abs(q).max(axis=-1, keepdims=True)  # first: its square may not overflow
        q = q / largest
        x, y, z, w = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rot6d(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) -> (..., 6): the first column of the matrix, then the second."""
    return matrix_columns(quaternion)[..., :6]


def matrix_columns(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) -> (..., 9): the matrix column by column."""
    m = np.swapaxes(matrix(quaternion), -1, -2)
    return m.reshape(*m.shape[:-2], 9)


def yaw_sin_cos(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) -> (..., 2): sine and cosine of the turn about z, of what is upright otherwise.

    NaN where the x axis stands upright: there is no such turn, and noise would choose one.
    """
    along = matrix(quaternion)[..., :2, 0]  # the x axis, seen from above
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        turn = np.where(length >= UPRIGHT, along / length, np.nan)
    return turn[..., ::-1]


def slerp(begin: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The turn from `begin` to `end`, (..., 4) x, y, z, w of any length above 0, done by `share`
    (..., 1) in 0..1 along the shortest way: (..., 4) of length 1; NaN where one is no rotation."""
    with np.errstate(invalid="ignore", divide="ignore"):
        # By the largest first: the square of a small number vanishes.
        a, b = (q / np.abs(q).max(axis=-1, keepdims=True) for q in (begin, end))
        a, b = (q / np.linalg.norm(q, axis=-1, keepdims=True) for q in (a, b))
        b = np.where((a * b).sum(axis=-1, keepdims=True) < 0, -b, b)
        apart, along = (np.linalg.norm(q, axis=-1, keepdims=True) for q in (b - a, b + a))
        angle = 2 * np.arctan2(apart, along)  # exact for small ones, where arccos is not
        near = np.sin(angle) < 1e-9
        scale = np.where(near, 1.0, np.sin(angle))
        first = np.where(near, 1 - share, np.sin((1 - share) * angle) / scale)
        last = np.where(near, share, np.sin(share * angle) / scale)
        way = first * a + last * b
        return way / np.linalg.norm(way, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Encoding:
    """A function of quaternions, and a name for each of its numbers."""

    encode: Callable[[np.ndarray], np.ndarray]
    labels: tuple[str, ...]


_COLUMNS = tuple(f"{row}{column}" for column in "xyz" for row in "xyz")  # "xy": row x, column y
ENCODINGS = {
    "rot6d": Encoding(rot6d, _COLUMNS[:6]),
    "matrix_columns": Encoding(matrix_columns, _COLUMNS),
    "yaw_sin_cos": Encoding(yaw_sin_cos, ("yaw_sin", "yaw_cos")),
}
