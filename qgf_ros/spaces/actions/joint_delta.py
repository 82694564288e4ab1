"""Joints that are told how far to go: what is learnt is a change, what the robot is sent is a position."""

from __future__ import annotations

import numpy as np

from qgf_ros.spaces.actions.base import Commanded
from qgf_ros.spaces.actions.joint_position import JointPosition


class JointDelta(JointPosition):
    """What both have in common."""

    relative = False  # it is, always

    def learnt_limits(self, spec: Commanded) -> tuple[np.ndarray, np.ndarray]:
        low, high = super().learnt_limits(spec)
        return low - high, high - low

    def reach(
        self, spec: Commanded, low: np.ndarray, high: np.ndarray, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        least, most = super().learnt_limits(spec)
        return least + low, most + high


class JointDeltaObserved(JointDelta):
    """Relative to the position measured when the chunk was sampled: all actions of a chunk to one."""

    name = "joint_delta_observed"
    representation = "delta_observed"
    learnt_from = "observed"

    def to_policy(self, spec: Commanded, commands: np.ndarray, start: np.ndarray) -> np.ndarray:
        return commands - start[..., None, :]

    def from_policy(self, spec: Commanded, learnt: np.ndarray, start: np.ndarray) -> np.ndarray:
        return start[..., None, :] + learnt


class JointDeltaLast(JointDelta):
    """Relative to the command before it: the first action of a chunk to what was last sent."""

    name = "joint_delta_last"
    representation = "delta_last"
    learnt_from = "last"

    def to_policy(self, spec: Commanded, commands: np.ndarray, start: np.ndarray) -> np.ndarray:
        return np.diff(commands, axis=-2, prepend=start[..., None, :])

    def from_policy(self, spec: Commanded, learnt: np.ndarray, start: np.ndarray) -> np.ndarray:
        return start[..., None, :] + np.cumsum(learnt, axis=-2)

    def reach(
        self, spec: Commanded, low: np.ndarray, high: np.ndarray, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        return super().reach(spec, horizon * np.minimum(low, 0), horizon * np.maximum(high, 0), horizon)
