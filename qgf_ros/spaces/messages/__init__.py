"""ROS messages to named numbers and back, without ROS: messages are read by attribute, so that
rclpy's and a bag reader's objects serve alike, and built by a factory that the caller brings.

A file per family: trees of numbers, one number, arrays, joints by name, moments, cameras. A type is a line
in the table below; a tree's parts are a line in `tree.PARTS`.
"""

from __future__ import annotations

from qgf_ros.spaces.messages import foreign
from qgf_ros.spaces.messages.array import Array
from qgf_ros.spaces.messages.base import MessageType
from qgf_ros.spaces.messages.camera import Camera, Features
from qgf_ros.spaces.messages.joints import Joints, JointState, JointTrajectory
from qgf_ros.spaces.messages.moment import Moment
from qgf_ros.spaces.messages.number import Number
from qgf_ros.spaces.messages.tree import Tree

_GEOMETRY = ("Point", "Vector3", "Pose", "Twist", "Accel", "Wrench")
_NUMBERS = "Bool Float32 Float64 Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64".split()
TYPES: dict[str, MessageType] = {
    t.name: t
    for t in (
        JointState("sensor_msgs/JointState", stamped=True, command=True),
        JointTrajectory("trajectory_msgs/JointTrajectory", stamped=True, command=True),
        Array("std_msgs/Float64MultiArray", command=True),
        Array("std_msgs/Float32MultiArray", command=True),
        Array("std_msgs/Int32MultiArray"),
        *(Number(f"std_msgs/{n}", command=n.startswith("Float")) for n in _NUMBERS),
        Moment("std_msgs/Header", stamped=True),
        Tree("nav_msgs/Odometry", stamped=True),
        Tree("sensor_msgs/Imu", stamped=True),
        Camera("sensor_msgs/Image", stamped=True),
        Camera("sensor_msgs/CompressedImage", stamped=True),
        Features("qgf_ros/Features", stamped=True),
        *(Tree(f"geometry_msgs/{n}") for n in _GEOMETRY),
        *(Tree(f"geometry_msgs/{n}Stamped", stamped=True, command=n == "Twist") for n in _GEOMETRY),
    )
}
# Those whose messages name their joints.
BY_JOINT = tuple(name for name, kind in TYPES.items() if isinstance(kind, Joints))


def message_type(name: str) -> MessageType:
    """How a type is read. Raises ValueError where `name` is not that of a ROS message."""
    if name in TYPES:
        return TYPES[name]
    if not foreign.TYPE.fullmatch(name):
        raise ValueError(
            f"type is {name!r}; write package/Type, one of {', '.join(TYPES)}, or one of your own"
        )
    return foreign.Foreign(name, stamped=True, known=tuple(TYPES))
