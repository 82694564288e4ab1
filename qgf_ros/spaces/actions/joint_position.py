"""Joints that are told where to be."""

from __future__ import annotations

from qgf_ros.spaces.actions.base import ActionKind
from qgf_ros.spaces.limits import Limit


class JointPosition(ActionKind):
    """A position by the joint's name; a hold stays at the last one."""

    name = "joint_position"
    space, representation = "joint", "absolute"
    field = "position"
    limits = ("rate", "acceleration", "jerk")
    hold = "hold_last_sent"
    measured = True  # without a measured start the first command would jump
    relative = True

    def travel(self, period: float) -> float:
        return 0.0

    def speed(self, limit: Limit, period: float) -> float:
        return limit.rate
