"""Whether poses stay where they may be, until they stand: keep-out boxes, a cone, and what is measured.

What is sent is let through only where a stop from there stays allowed, so that a stop always is: it is what the
gate does when the next candidate is not. The way to a stop is, number by number, between where it is and where
its brake ends, so the box of these covers it.
"""

from __future__ import annotations

import numpy as np

from qgf_ros.control.reasons import Problem
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.rotation import conjugate, product, quaternion_of, rotation_vector


class Workspace:
    """Of the poses of a contract that have one."""

    def __init__(self, contract: Contract) -> None:
        slices = contract.action_slices
        self._poses = [(a, slices[a.name]) for a in contract.actions if a.workspace is not None]
        spaces = [a.workspace for a, _ in self._poses if a.workspace is not None]
        self.needs_measured = any(w.lag is not None or w.lag_rotation is not None for w in spaces)

    def __bool__(self) -> bool:
        return bool(self._poses)

    def problem(
        self, last: np.ndarray, value: np.ndarray, stop: np.ndarray, measured: np.ndarray | None
    ) -> Problem | None:
        """Why `value` may not be sent.

        Args:
            last, value, stop: (A,) what was sent, what shall be, and where a hold would end from there.
            measured: (A,), NaN where unknown; None: nobody can say. Needed where `needs_measured`.
        """
        for spec, part in self._poses:
            ends = np.stack([last[part], value[part], stop[part]])
            found = _kept_out(spec, ends) or _tilted(spec, ends)
            found = found or _lagging(spec, value[part], None if measured is None else measured[part])
            if found is not None:
                return found
        return None


def _kept_out(spec: ActionSpec, ends: np.ndarray) -> Problem | None:
    assert spec.workspace is not None
    low, high = ends[:, :3].min(axis=0), ends[:, :3].max(axis=0)
    for name, box in spec.workspace.keep_out.items():
        if (high >= box.min).all() and (low <= box.max).all():
            place = ", ".join(f"{x:.3f}" for x in ends[1, :3])
            return Problem("WORKSPACE", spec.name, f"({place}) m, or the way to a stop from there, is in {name}")
    return None


def _tilted(spec: ActionSpec, ends: np.ndarray) -> Problem | None:
    """Of a rotation vector (a, b, c) with r^2 = a^2 + b^2 and length t, sin(tilt / 2) = sin(t / 2) r / t <= r / 2, and
    r is largest in a corner."""
    assert spec.workspace is not None
    most = spec.workspace.tilt
    if most is None:
        return None
    r = float(np.hypot(*np.abs(ends[:, 3:5]).max(axis=0)))
    if 2 * np.arcsin(min(r / 2, 1.0)) <= most:
        return None
    here = float(tilt(ends[1, 3:]))
    return Problem("WORKSPACE", spec.name, f"tilted by {here:.3f} rad, and more on the way to a stop; at most {most:g}")


def _lagging(spec: ActionSpec, value: np.ndarray, measured: np.ndarray | None) -> Problem | None:
    assert spec.workspace is not None
    most = spec.workspace.lag, spec.workspace.lag_rotation
    if most == (None, None):
        return None
    if measured is None or not np.isfinite(measured).all():
        return Problem("WORKSPACE", spec.name, "how far it is from where it is measured is not known")
    a, b = quaternion_of(measured[3:]), quaternion_of(value[3:])
    apart = value[:3] - measured[:3], rotation_vector(product(conjugate(a), b))
    for way, limit, unit in zip(apart, most, ("m", "rad")):
        if limit is not None and (far := float(np.linalg.norm(way))) > limit:
            return Problem("WORKSPACE", spec.name, f"{far:.3f} {unit} from where it is measured; at most {limit:g}")
    return None


def tilt(vector: np.ndarray) -> np.ndarray:
    """(..., 3) rotation vectors -> (...,) angle [rad] by which they turn the z axis."""
    q = quaternion_of(vector)
    return 2 * np.arctan2(np.hypot(q[..., 0], q[..., 1]), np.hypot(q[..., 2], q[..., 3]))
