"""A body's velocity: a wheeled base's, or a tool's."""

from __future__ import annotations

import numpy as np

from qgf_ros.spaces.actions.base import Commanded, Sensor
from qgf_ros.spaces.actions.joint_velocity import JointVelocity
from qgf_ros.spaces.messages import message_type

# What a wheeled base can be told. With other numbers a twist is a tool's, in axes that stand still.
OF_A_BASE = {"linear.x", "linear.y", "angular.z"}
SHOWN_BY = ("nav_msgs/Odometry", "geometry_msgs/TwistStamped")  # sensors of a body's motion


class Twist(JointVelocity):
    """The fields of a Twist, along the axes of `frame`; a hold ramps them to zero."""

    name = "twist"
    space = "twist"
    types: tuple[str, ...] = ("geometry_msgs/Twist", "geometry_msgs/TwistStamped")
    field = ""

    def check(self, spec: Commanded) -> None:
        if message_type(spec.type).stamped and not spec.frame.strip():
            raise ValueError(
                f"frame is {spec.frame!r}; {spec.type} says in its header along which axes it is, "
                'so give the frame_id that the receiver expects ("base_link", "tool0")'
            )

    def measured_by(self, spec: Commanded, label: str, sensor: Sensor) -> bool:
        return sensor.type in SHOWN_BY

    def path(self, spec: Commanded, values: np.ndarray, period: float) -> np.ndarray:
        """A tool's linear velocities are in axes that stand still; a base's axes turn with it."""
        by_field = {field.removeprefix("twist."): i for i, field in enumerate(spec.fields)}

        def component(name: str) -> np.ndarray:
            return values[:, by_field[name]] if name in by_field else np.zeros(len(values))

        linear = np.stack([component(f"linear.{axis}") for axis in "xyz"], axis=1)
        if set(by_field) <= OF_A_BASE:
            yaw_rate = component("angular.z")
            yaw = np.cumsum(yaw_rate) * period - yaw_rate * period / 2  # in the middle of each step
            x, y = linear[:, 0], linear[:, 1]
            linear[:, 0], linear[:, 1] = (
                np.cos(yaw) * x - np.sin(yaw) * y,
                np.sin(yaw) * x + np.cos(yaw) * y,
            )
        return np.concatenate([np.zeros((1, 3)), np.cumsum(linear, axis=0) * period])
