"""An end effector that is told where to be, as a pose in a named frame.

A pose is six numbers: a position, and the rotation vector (axis times angle) of the turn from the
contract's `home` orientation, in home's own axes. They are continuous and unique as long as the turn stays
short of half a turn, so that is a limit that every contract of a pose has. And they are honest limits: for
a rotation vector v of less than half a turn the angular speed is at most |dv/dt| (the Jacobian of the
exponential map of SO(3) has no singular value above 1: Barfoot, State Estimation for Robotics, 2017, 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from qgf_ros.spaces.actions.base import Commanded, Sensor
from qgf_ros.spaces.actions.joint_position import JointPosition
from qgf_ros.spaces.limits import Limit
from qgf_ros.spaces.rotation import (
    conjugate,
    euler_of,
    product,
    quaternion_of,
    quaternion_of_columns,
    quaternion_of_euler,
    rotation_vector,
    turned,
    unit,
)

FIELDS = ("pose.position.x", "pose.position.y", "pose.position.z", "pose.orientation")
LABELS = (*FIELDS[:3], "rotation.x", "rotation.y", "rotation.z")
LARGEST_TURN = 0.95 * math.pi  # rad from home


class Pose(JointPosition):
    """A pose; a hold stays at the last one."""

    name = "pose"
    space = "pose"
    types: tuple[str, ...] = ("geometry_msgs/PoseStamped",)
    field = ""
    relative = False
    converts = True
    measured_whole = "pose"
    measures = ("rot6d", "matrix_columns")  # they hold the whole orientation

    def check(self, spec: Commanded) -> None:
        if spec.fields != FIELDS:
            raise ValueError(f"fields is {list(spec.fields)}; a pose is commanded whole: {list(FIELDS)}")
        if not spec.frame.strip():
            raise ValueError(
                f"frame is {spec.frame!r}; a pose means nothing without the frame that it is in: give the frame_id "
                'that the receiver expects ("base_link")'
            )
        if len(spec.home) != 4 or not 0.99 < math.hypot(*spec.home) < 1.01:
            raise ValueError(
                f"home is {list(spec.home)}; give the orientation that turns are counted from, about the middle of "
                "those that are used, as a quaternion [x, y, z, w] of length 1"
            )
        if self.learnt_from and spec.axes not in ("base", "tool"):
            raise ValueError(
                f"axes is {spec.axes!r}; a change of a pose is along the axes of its frame (base) or of the end "
                "effector (tool): say which"
            )
        for key, given in (("axes", spec.axes), ("rotation", spec.rotation)):
            if not self.learnt_from and given:
                raise ValueError(
                    f"{key} is {given!r}, which is of changes (delta_observed, delta_last): leave it out"
                )

    def check_limits(self, limits: Mapping[str, Limit]) -> None:
        super().check_limits(limits)
        turn = math.hypot(*(max(abs(limits[n].min), abs(limits[n].max)) for n in LABELS[3:]))
        if turn > LARGEST_TURN:
            raise ValueError(
                f"the limits of rotation.x, .y and .z together allow a turn of {turn:.3g} rad from home; at most "
                f"{LARGEST_TURN:.3g}: half a turn away one orientation would be many vectors. Narrow them, or give "
                "a home nearer to what is used"
            )

    def labels(self, spec: Commanded) -> tuple[str, ...]:
        return LABELS

    def numbers(self, spec: Commanded, values: np.ndarray) -> np.ndarray:
        """Position and quaternion (..., 7) -> (..., 6); NaN where the quaternion is none."""
        turn = product(conjugate(unit(np.array(spec.home))), unit(values[..., 3:]))
        return np.concatenate([values[..., :3], rotation_vector(turn)], axis=-1)

    def message(self, spec: Commanded, numbers: np.ndarray) -> np.ndarray:
        turn = product(unit(np.array(spec.home)), quaternion_of(numbers[..., 3:]))
        return np.concatenate([numbers[..., :3], turn], axis=-1)

    def from_row(self, spec: Commanded, row: np.ndarray) -> np.ndarray:
        if not self.learnt_from:
            return self.numbers(spec, row)
        turn = rotation_vector(quaternion_of_euler(row[..., 3:])) if spec.rotation else row[..., 3:]
        return np.concatenate([row[..., :3], turn], axis=-1)

    def to_row(self, spec: Commanded, numbers: np.ndarray) -> np.ndarray:
        if not self.learnt_from:
            return self.message(spec, numbers)
        turn = numbers[..., 3:]
        turn = euler_of(quaternion_of(turn)) if spec.rotation else turn
        return np.concatenate([numbers[..., :3], turn], axis=-1)

    def start(self, spec: Commanded, features: np.ndarray) -> np.ndarray:
        """(..., 9 or 12) position and encoded orientation, as an observation has them -> (..., 6)."""
        whole = [features[..., :3], quaternion_of_columns(features[..., 3:])]
        return self.numbers(spec, np.concatenate(whole, axis=-1))

    def measured_by(self, spec: Commanded, label: str, sensor: Sensor) -> bool:
        return sensor.name == spec.measured.get(self.measured_whole)

    def path(self, spec: Commanded, values: np.ndarray, period: float) -> np.ndarray:
        return np.concatenate([values[:1, :3], values[:, :3]])


def change(spec: Commanded, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(..., 6) poses -> (..., 6) the way from `begin` to `end`: along `axes`, and a rotation vector in them."""
    a, b = quaternion_of(begin[..., 3:]), quaternion_of(end[..., 3:])
    way = end[..., :3] - begin[..., :3]
    home = unit(np.array(spec.home))
    if spec.axes == "tool":
        return np.concatenate(
            [turned(conjugate(product(home, a)), way), rotation_vector(product(conjugate(a), b))], axis=-1
        )
    turn = product(product(home, b), conjugate(product(home, a)))
    return np.concatenate([way, rotation_vector(turn)], axis=-1)


def nearest(vector: np.ndarray, to: np.ndarray) -> np.ndarray:
    """(..., 3) the rotation vector of the same turn that is nearest to `to`: what goes on past half a turn is
    beyond the limits then, and is kept at them, where the vector the other way round would lead all the way
    back."""
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        other = np.where(length > 0, vector * (1 - 2 * math.pi / length), vector)
    apart, back = (np.linalg.norm(v - to, axis=-1, keepdims=True) for v in (vector, other))
    return np.where(back < apart, other, vector)


def changed(spec: Commanded, begin: np.ndarray, way: np.ndarray) -> np.ndarray:
    """(..., 6): where `way` leads from `begin`; the inverse of `change` for turns that stay within the limits."""
    a, turn = quaternion_of(begin[..., 3:]), quaternion_of(way[..., 3:])
    home = unit(np.array(spec.home))
    if spec.axes == "tool":
        place = begin[..., :3] + turned(product(home, a), way[..., :3])
        return np.concatenate([place, nearest(rotation_vector(product(a, turn)), begin[..., 3:])], axis=-1)
    there = product(turn, product(home, a))
    vector = nearest(rotation_vector(product(conjugate(home), there)), begin[..., 3:])
    return np.concatenate([begin[..., :3] + way[..., :3], vector], axis=-1)


class PoseDelta(Pose):
    """What both have in common. In axes of the tool, or after a turn, a change along one axis moves others too:
    of a position by as much as all of it, of a turn by no more than half a turn."""

    def learnt_limits(self, spec: Commanded) -> tuple[np.ndarray, np.ndarray]:
        low, high = super().learnt_limits(spec)
        far = float(np.linalg.norm((high - low)[:3]))
        most = np.array([far] * 3 + [math.pi] * 3)
        return -most, most

    def reach(
        self, spec: Commanded, low: np.ndarray, high: np.ndarray, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        least, most = super().learnt_limits(spec)
        far = float(np.linalg.norm(np.maximum(np.abs(low), np.abs(high))[:3]))
        way = np.array([far] * 3 + [2 * math.pi] * 3)
        return least - way, most + way


class PoseDeltaObserved(PoseDelta):
    """Relative to the pose measured when the chunk was sampled."""

    name = "pose_delta_observed"
    representation = "delta_observed"
    learnt_from = "observed"

    def to_policy(self, spec: Commanded, commands: np.ndarray, start: np.ndarray) -> np.ndarray:
        return change(spec, start[..., None, :], commands)

    def from_policy(self, spec: Commanded, learnt: np.ndarray, start: np.ndarray) -> np.ndarray:
        return changed(spec, start[..., None, :], learnt)


class PoseDeltaLast(PoseDelta):
    """Relative to the pose that was commanded before."""

    name = "pose_delta_last"
    representation = "delta_last"
    learnt_from = "last"

    def to_policy(self, spec: Commanded, commands: np.ndarray, start: np.ndarray) -> np.ndarray:
        before = np.concatenate([start[..., None, :], commands[..., :-1, :]], axis=-2)
        return change(spec, before, commands)

    def from_policy(self, spec: Commanded, learnt: np.ndarray, start: np.ndarray) -> np.ndarray:
        steps = []
        for k in range(learnt.shape[-2]):
            start = changed(spec, start, learnt[..., k, :])
            steps.append(start)
        return np.stack(steps, axis=-2) if steps else learnt

    def reach(
        self, spec: Commanded, low: np.ndarray, high: np.ndarray, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        return super().reach(spec, horizon * np.minimum(low, 0), horizon * np.maximum(high, 0), horizon)
