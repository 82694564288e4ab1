"""Joints that are told how fast to move."""

from __future__ import annotations

from qgf_ros.spaces.actions.base import ActionKind
from qgf_ros.spaces.limits import Limit


class JointVelocity(ActionKind):
    """A velocity by the joint's name; a hold ramps it to zero. Its rate is its acceleration."""

    name = "joint_velocity"
    space, representation = "joint", "velocity"
    field = "velocity"
    limits = ("rate", "jerk", "")
    hold = "ramp_to_zero"

    def travel(self, period: float) -> float:
        return period

    def speed(self, limit: Limit, period: float) -> float:
        return max(-limit.min, limit.max)
