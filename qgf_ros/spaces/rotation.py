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


def unit(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) of any length above 0 -> of length 1; NaN where it is no rotation."""
    q = np.asarray(quaternion, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        q = q / np.abs(q).max(axis=-1, keepdims=True)
        return q / np.linalg.norm(q, axis=-1, keepdims=True)


def conjugate(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) -> the turn back."""
    return quaternion * np.array([-1.0, -1.0, -1.0, 1.0])


def product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(..., 4), (..., 4) -> (..., 4): `second`, in the axes that `first` has led to."""
    (x, y, z, w), (a, b, c, d) = (np.moveaxis(q, -1, 0) for q in (first, second))
    return np.stack(
        [
            w * a + x * d + y * c - z * b,
            w * b - x * c + y * d + z * a,
            w * c + x * b - y * a + z * d,
            w * d - x * a - y * b - z * c,
        ],
        axis=-1,
    )


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) of length 1 -> (..., 3): the axis, as long as the angle [rad], 0 to pi."""
    q = np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., 3:])
    with np.errstate(invalid="ignore", divide="ignore"):
        return q[..., :3] * np.where(sine > 0, angle / sine, 2.0)


def quaternion_of(vector: np.ndarray) -> np.ndarray:
    """(..., 3) axis times angle [rad] -> (..., 4) of length 1."""
    vector = np.asarray(vector, dtype=np.float64)
    half = np.linalg.norm(vector, axis=-1, keepdims=True) / 2
    return np.concatenate([vector * np.sinc(half / np.pi) / 2, np.cos(half)], axis=-1)


def quaternion_of_euler(angles: np.ndarray) -> np.ndarray:
    """(..., 3) roll, pitch, yaw [rad] about the fixed axes x, y, z in turn -> (..., 4) of length 1."""
    half = np.asarray(angles, dtype=np.float64) / 2
    none = np.zeros(half.shape[:-1])
    x, y, z = np.moveaxis(np.sin(half), -1, 0)
    a, b, c = np.moveaxis(np.cos(half), -1, 0)
    roll, pitch, yaw = (
        np.stack(parts, axis=-1) for parts in ((x, none, none, a), (none, y, none, b), (none, none, z, c))
    )
    return product(product(yaw, pitch), roll)


def euler_of(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) of length 1 -> (..., 3) roll, pitch, yaw [rad] about the fixed axes x, y, z in turn."""
    m = matrix(quaternion)
    upright = np.hypot(m[..., 0, 0], m[..., 1, 0])
    pitch = np.arctan2(-m[..., 2, 0], upright)
    gone = upright < UPRIGHT**2  # roll and yaw are one turn: it is called roll
    roll = np.where(gone, np.arctan2(-m[..., 1, 2], m[..., 1, 1]), np.arctan2(m[..., 2, 1], m[..., 2, 2]))
    yaw = np.where(gone, 0.0, np.arctan2(m[..., 1, 0], m[..., 0, 0]))
    return np.stack([roll, pitch, yaw], axis=-1)


def turned(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(..., 3) in the axes of an orientation (..., 4) of length 1 -> in those that it is said in."""
    q, pure = quaternion, np.concatenate([vector, np.zeros_like(vector[..., :1])], axis=-1)
    return product(product(q, pure), conjugate(q))[..., :3]


def quaternion_of_columns(columns: np.ndarray) -> np.ndarray:
    """(..., 6 or 9), the columns of a matrix as `rot6d` and `matrix_columns` have them -> (..., 4) of length
    1; NaN where they are none. Gram-Schmidt first: numbers of a network are near a rotation only."""
    a, b = columns[..., :3], columns[..., 3:6]
    with np.errstate(invalid="ignore", divide="ignore"):
        x = a / np.linalg.norm(a, axis=-1, keepdims=True)
        y = b - (x * b).sum(axis=-1, keepdims=True) * x
        y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    z = np.cross(x, y)
    m = np.stack([x, y, z], axis=-1)  # (..., 3, 3)
    # The largest of the four is divided by: which one says the sign of the others.
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    squares = np.stack(
        [1 + 2 * m[..., 0, 0] - trace, 1 + 2 * m[..., 1, 1] - trace, 1 + 2 * m[..., 2, 2] - trace, 1 + trace], axis=-1
    )  # 4 x^2, 4 y^2, 4 z^2, 4 w^2
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    wx, wy, wz = (m[..., i, j] - m[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    rows = np.stack(
        [
            np.stack([squares[..., 0], xy, xz, wx], axis=-1),
            np.stack([xy, squares[..., 1], yz, wy], axis=-1),
            np.stack([xz, yz, squares[..., 2], wz], axis=-1),
            np.stack([wx, wy, wz, squares[..., 3]], axis=-1),
        ],
        axis=-2,
    )
    largest = np.nanargmax(np.where(np.isnan(squares), -1.0, squares), axis=-1)
    return unit(np.take_along_axis(rows, largest[..., None, None], axis=-2)[..., 0, :])


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
