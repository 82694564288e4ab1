"""Messages that are trees of numbers, read and built by attribute paths ("pose.position.x")."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ros.spaces.messages.base import NUMBERS, Given, Make, MessageType, Names, number

# Parts of messages: another message, a number, or what is written as zeros or empty and never
# read (covariances, names of frames). Headers are the caller's.
COVARIANCE_6, COVARIANCE_3 = "float64[36]", "float64[9]"
PARTS: dict[str, dict[str, str]] = {
    "geometry_msgs/Point": dict.fromkeys("xyz", "float64"),
    "geometry_msgs/Vector3": dict.fromkeys("xyz", "float64"),
    "geometry_msgs/Quaternion": dict.fromkeys("xyzw", "float64"),
    "geometry_msgs/Pose": {
        "position": "geometry_msgs/Point",
        "orientation": "geometry_msgs/Quaternion",
    },
    "geometry_msgs/Twist": dict.fromkeys(("linear", "angular"), "geometry_msgs/Vector3"),
    "geometry_msgs/Accel": dict.fromkeys(("linear", "angular"), "geometry_msgs/Vector3"),
    "geometry_msgs/Wrench": dict.fromkeys(("force", "torque"), "geometry_msgs/Vector3"),
    "geometry_msgs/PoseWithCovariance": {"pose": "geometry_msgs/Pose", "covariance": COVARIANCE_6},
    "geometry_msgs/TwistWithCovariance": {
        "twist": "geometry_msgs/Twist",
        "covariance": COVARIANCE_6,
    },
    "geometry_msgs/PointStamped": {"point": "geometry_msgs/Point"},
    "geometry_msgs/Vector3Stamped": {"vector": "geometry_msgs/Vector3"},
    "geometry_msgs/PoseStamped": {"pose": "geometry_msgs/Pose"},
    "geometry_msgs/TwistStamped": {"twist": "geometry_msgs/Twist"},
    "geometry_msgs/AccelStamped": {"accel": "geometry_msgs/Accel"},
    "geometry_msgs/WrenchStamped": {"wrench": "geometry_msgs/Wrench"},
    "nav_msgs/Odometry": {
        "child_frame_id": "string",
        "pose": "geometry_msgs/PoseWithCovariance",
        "twist": "geometry_msgs/TwistWithCovariance",
    },
    "sensor_msgs/Imu": {
        "orientation": "geometry_msgs/Quaternion",
        "orientation_covariance": COVARIANCE_3,
        "angular_velocity": "geometry_msgs/Vector3",
        "angular_velocity_covariance": COVARIANCE_3,
        "linear_acceleration": "geometry_msgs/Vector3",
        "linear_acceleration_covariance": COVARIANCE_3,
    },
}
QUATERNION = "geometry_msgs/Quaternion"


def paths(type_name: str) -> list[str]:
    """Attribute paths below a type, depth first; an orientation stands before its components."""
    found = []
    for name, part in PARTS[type_name].items():
        if part in PARTS:
            found += [name] if part == QUATERNION else []
            found += [f"{name}.{below}" for below in paths(part)]
        elif part in NUMBERS:
            found.append(name)
    return found


def part_at(type_name: str, path: str) -> str:
    """The type at the end of an attribute path; "" where the path leads nowhere."""
    for name in path.split("."):
        type_name = PARTS.get(type_name, {}).get(name, "")
    return type_name


def built(
    make: Make, type_name: str, prefix: str, values: dict[str, Any], extra: dict[str, Any]
) -> Any:
    """A message with the given numbers by path, zeros elsewhere."""
    parts: dict[str, Any] = {}
    for name, part in PARTS[type_name].items():
        path = f"{prefix}{name}"
        if part in PARTS:
            parts[name] = built(make, part, f"{path}.", values, {})
        elif part in NUMBERS:
            default = 1.0 if type_name == QUATERNION and name == "w" else 0.0
            parts[name] = NUMBERS[part](values.get(path, default))
        else:
            parts[name] = "" if part == "string" else np.zeros(int(part[8:-1]))
    return make(type_name, **extra, **parts)


class Tree(MessageType):
    """Numbers at attribute paths, as PARTS says."""

    @property
    def fields(self) -> Names:
        return tuple(paths(self.name))

    def check(self, fields: Names, names: Names) -> None:
        if not fields or names or not set(fields) <= set(self.fields):
            raise ValueError(
                f"{self.name} needs fields out of {', '.join(self.fields)}, and no names; "
                f"it was given fields {list(fields)}, names {list(names)}"
            )

    def is_orientation(self, field: str) -> bool:
        return part_at(self.name, field) == QUATERNION

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        return np.array([number(msg, path) for f in fields for path in self.labels(f)])

    def build(self, make: Make, given: Given) -> Any:
        paths = [label for f in given.fields for label in self.labels(f)]
        stamp = {"header": given.header} if self.stamped else {}
        return built(make, self.name, "", dict(zip(paths, given.values)), stamp)
