"""ROS messages to named numbers and back, without ROS: messages are read by attribute, so that
rclpy's and a bag reader's objects serve alike, and built by a factory that the caller brings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

# make("std_msgs/Float64", data=1.0) builds a message of the caller's world.
Make = Callable[..., Any]
MAX_VALUES = 4096  # per array; more is not a robot's state and is not even looked at


class SchemaError(ValueError):
    """A message does not have the shape that the contract says."""


# Parts of the types below that are messages themselves; every other part is a number.
PARTS: dict[str, dict[str, str]] = {
    "geometry_msgs/Point": dict.fromkeys("xyz", "float64"),
    "geometry_msgs/Vector3": dict.fromkeys("xyz", "float64"),
    "geometry_msgs/Quaternion": dict.fromkeys("xyzw", "float64"),
    "geometry_msgs/Pose": {
        "position": "geometry_msgs/Point",
        "orientation": "geometry_msgs/Quaternion",
    },
    "geometry_msgs/Twist": {
        "linear": "geometry_msgs/Vector3",
        "angular": "geometry_msgs/Vector3",
    },
    "geometry_msgs/PointStamped": {"point": "geometry_msgs/Point"},
    "geometry_msgs/PoseStamped": {"pose": "geometry_msgs/Pose"},
    "geometry_msgs/TwistStamped": {"twist": "geometry_msgs/Twist"},
    "std_msgs/Float64": {"data": "float64"},
    "std_msgs/Bool": {"data": "bool"},
}
QUATERNION = "geometry_msgs/Quaternion"


@dataclass(frozen=True)
class MessageType:
    """How one ROS message type carries numbers."""

    name: str
    stamped: bool  # has a std_msgs/Header
    command: bool = False  # can carry commands

    def check(self, fields: tuple[str, ...], names: tuple[str, ...]) -> None:
        """Raises ValueError when `fields` and `names` cannot be read from this type."""
        if self.name == "sensor_msgs/JointState":
            wrong = [f for f in fields if f not in ("position", "velocity", "effort")]
            if wrong or not fields or not names:
                raise ValueError(
                    f"{self.name} needs fields out of position, velocity, effort, and names"
                )
        elif self.name == "std_msgs/Float64MultiArray":
            if fields or not names:
                raise ValueError(f"{self.name} needs names, one per number, and no fields")
        elif self.name == "std_msgs/Header":
            if fields or names:
                raise ValueError(f"{self.name} marks a moment: it has no fields and no names")
        elif not fields or names or not set(fields) <= set(self.fields):
            raise ValueError(
                f"{self.name} needs fields out of {', '.join(self.fields)}, and no names; "
                f"it was given fields {list(fields)}, names {list(names)}"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """Attribute paths that can be read: the numbers, and whole orientations."""
        return tuple(_paths(self.name)) if self.name in PARTS else ()

    def is_orientation(self, field: str) -> bool:
        """Whether the field is a whole quaternion: four numbers x, y, z, w."""
        return self.name in PARTS and _part(self.name, field) == QUATERNION

    def labels(self, field: str) -> tuple[str, ...]:
        """Names of the numbers behind one field: itself, or the quaternion's four."""
        return tuple(f"{field}.{c}" for c in "xyzw") if self.is_orientation(field) else (field,)

    def decode(self, msg: Any, fields: tuple[str, ...], names: tuple[str, ...]) -> np.ndarray:
        """The numbers of a message, field by field, each in the order of `names`; float64.

        Raises:
            SchemaError: names or lengths are not those of the contract. Values may be non-finite;
                that is for the caller to judge.
        """
        if self.name == "sensor_msgs/JointState":
            return _joint_state(msg, fields, names)
        if self.name == "std_msgs/Float64MultiArray":
            if len(msg.data) != len(names):
                raise SchemaError(f"{len(msg.data)} numbers where the contract names {len(names)}")
            return np.array(msg.data, dtype=np.float64)
        paths = [label for f in fields for label in self.labels(f)]
        try:
            return np.array([float(_attribute(msg, p)) for p in paths], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"{', '.join(fields)} do not hold numbers: {error}") from None

    def encode(
        self,
        make: Make,
        fields: tuple[str, ...],
        names: tuple[str, ...],
        values: np.ndarray,
        header: Any = None,
    ) -> Any:
        """The inverse of `decode`: parts that no field names are zero, orientations the identity.

        `header` is a std_msgs/Header for stamped types.
        """
        stamp = {"header": header} if self.stamped else {}
        if self.name == "sensor_msgs/JointState":
            blocks = np.ascontiguousarray(values, dtype=np.float64).reshape(len(fields), len(names))
            arrays = {f: np.empty(0) for f in ("position", "velocity", "effort")} | dict(
                zip(fields, blocks)
            )
            return make(self.name, **stamp, name=list(names), **arrays)
        if self.name == "std_msgs/Header":
            return header
        if self.name == "std_msgs/Float64MultiArray":
            layout = make("std_msgs/MultiArrayLayout", dim=[], data_offset=0)
            return make(
                self.name, layout=layout, data=np.ascontiguousarray(values, dtype=np.float64)
            )
        paths = [label for f in fields for label in self.labels(f)]
        return _built(make, self.name, "", dict(zip(paths, values)), stamp)


def _paths(type_name: str) -> list[str]:
    """Attribute paths below a type, depth first; an orientation stands before its components."""
    paths = []
    for name, part in PARTS[type_name].items():
        if part not in PARTS:
            paths.append(name)
            continue
        paths += [name] if part == QUATERNION else []
        paths += [f"{name}.{below}" for below in _paths(part)]
    return paths


def _part(type_name: str, path: str) -> str:
    """The type at the end of an attribute path; "" where the path leads nowhere."""
    for name in path.split("."):
        type_name = PARTS.get(type_name, {}).get(name, "")
    return type_name


def _built(
    make: Make, type_name: str, prefix: str, values: dict[str, Any], extra: dict[str, Any]
) -> Any:
    """A message with the given numbers by path, zeros elsewhere."""
    parts = {}
    for name, part in PARTS[type_name].items():
        path = f"{prefix}{name}"
        if part in PARTS:
            parts[name] = _built(make, part, f"{path}.", values, {})
        else:
            default = 1.0 if type_name == QUATERNION and name == "w" else 0.0
            value = values.get(path, default)
            parts[name] = bool(value) if part == "bool" else float(value)
    return make(type_name, **extra, **parts)


TYPES = {
    t.name: t
    for t in (
        MessageType("sensor_msgs/JointState", stamped=True, command=True),
        MessageType("std_msgs/Float64MultiArray", stamped=False, command=True),
        MessageType("std_msgs/Float64", stamped=False),
        MessageType("std_msgs/Bool", stamped=False),
        MessageType("std_msgs/Header", stamped=True),
        MessageType("geometry_msgs/PointStamped", stamped=True),
        MessageType("geometry_msgs/PoseStamped", stamped=True),
        MessageType("geometry_msgs/Twist", stamped=False, command=True),
        MessageType("geometry_msgs/TwistStamped", stamped=True, command=True),
    )
}


def message_type(name: str) -> MessageType:
    """Looks a type up. Raises ValueError with the supported ones for any other."""
    if name not in TYPES:
        raise ValueError(f"type {name!r} is not supported yet; supported: {', '.join(TYPES)}")
    return TYPES[name]


def _attribute(msg: Any, path: str) -> Any:
    try:
        return reduce(getattr, path.split("."), msg)
    except AttributeError:
        raise SchemaError(f"the message has no field {path!r}") from None


def _joint_state(msg: Any, fields: tuple[str, ...], names: tuple[str, ...]) -> np.ndarray:
    given = msg.name
    if len(given) > MAX_VALUES:
        raise SchemaError(f"{len(given)} joints; at most {MAX_VALUES} are read")
    index = {name: i for i, name in enumerate(given)}
    if len(index) != len(given):
        twice = [name for name, count in Counter(given).items() if count > 1]
        raise SchemaError(f"joint names appear twice: {sorted(twice)[:8]}")
    missing = [n for n in names if n not in index]
    if missing:
        raise SchemaError(f"joints {missing[:8]} are missing; the message has {list(given)[:8]}")
    order = [index[n] for n in names]
    blocks = []
    for name in fields:
        values = getattr(msg, name)
        if len(values) != len(given):
            raise SchemaError(f"{name} has {len(values)} values for {len(given)} joint names")
        blocks.append(np.asarray(values, dtype=np.float64)[order])
    return np.concatenate(blocks)
