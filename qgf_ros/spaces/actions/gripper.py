"""Grippers: joints, told apart because their changes are grasps."""

from __future__ import annotations

from qgf_ros.spaces.actions.joint_position import JointPosition
from qgf_ros.spaces.actions.joint_velocity import JointVelocity


class Gripper(JointPosition):
    """A gripper that is told where to be. Never learnt relative to where it is: closed is closed,
    whatever is between its fingers."""

    name = "gripper"
    space = "gripper"
    relative = False
    grips = True
    words = ("gripper",)


class GripperVelocity(JointVelocity):
    """A gripper that is told how fast to close."""

    name = "gripper_velocity"
    space = "gripper"
    grips = True
