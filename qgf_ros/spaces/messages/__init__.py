"""ROS messages to named numbers and back, without ROS: messages are read by attribute, so that
rclpy's and a bag reader's objects serve alike, and built by a factory that the caller brings.

One class per shape of message: a tree of numbers, one number, an array, joints by name, a moment.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ros.spaces.messages.parts import (
    NUMBERS,
    PARTS,
    QUATERNION,
    Make,
    SchemaError,
    built,
    number,
    part_at,
    paths,
)

Names = tuple[str, ...]
MAX_VALUES = 4096  # per array; more is not a robot's state and is not even looked at


class Others(SchemaError):
    """A message that names joints, and none of those that are asked for: it is about others."""


@dataclass(frozen=True)
class MessageType:
    """How one ROS message type carries numbers."""

    name: str
    stamped: bool = False  # has a std_msgs/Header
    command: bool = False  # can carry commands

    @property
    def fields(self) -> Names:
        """What `fields` may name, where that is known: attribute paths of numbers and of whole
        orientations, or arrays of joints."""
        return ()

    def check(self, fields: Names, names: Names) -> None:
        """Raises ValueError when `fields` and `names` cannot be read from this type."""
        raise NotImplementedError

    def is_orientation(self, field: str) -> bool:
        """Whether the field is a whole quaternion: four numbers x, y, z, w."""
        return False

    def labels(self, field: str) -> Names:
        """Names of the numbers behind one field: itself, or the quaternion's four."""
        return tuple(f"{field}.{c}" for c in "xyzw") if self.is_orientation(field) else (field,)

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        """The numbers of a message, field by field, each in the order of `names`; float64.

        Raises:
            SchemaError: names or lengths are not those of the contract. Values may be non-finite;
                that is for the caller to judge.
        """
        raise NotImplementedError

    def encode(
        self,
        make: Make,
        fields: Names,
        names: Names,
        values: np.ndarray,
        header: Any = None,
        period: float = 0.0,
    ) -> Any:
        """The inverse of `decode`: parts that no field names are zero, orientations the identity.

        `header` is a std_msgs/Header for stamped types. `period` [s] is how long the robot may
        take to where a JointTrajectory says.
        """
        raise NotImplementedError


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

    def encode(
        self,
        make: Make,
        fields: Names,
        names: Names,
        values: np.ndarray,
        header: Any = None,
        period: float = 0.0,
    ) -> Any:
        paths = [label for f in fields for label in self.labels(f)]
        stamp = {"header": header} if self.stamped else {}
        return built(make, self.name, "", dict(zip(paths, values)), stamp)


class Number(MessageType):
    """One number: the field `data`; as a command, or where it is a joint's, by that joint's name."""

    @property
    def fields(self) -> Names:
        return ("data",)

    def check(self, fields: Names, names: Names) -> None:
        if (fields, len(names)) not in ((("data",), 0), ((), 1)):
            raise ValueError(
                f"{self.name} is one number: it needs fields [data], or no fields and one name; "
                f"it was given fields {list(fields)}, names {list(names)}"
            )

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        return np.array([number(msg, "data")])

    def encode(
        self,
        make: Make,
        fields: Names,
        names: Names,
        values: np.ndarray,
        header: Any = None,
        period: float = 0.0,
    ) -> Any:
        return make(self.name, data=NUMBERS[_kind(self.name)](values[0]))


class Array(MessageType):
    """Numbers in the array's own order: the message has no names of its own."""

    def check(self, fields: Names, names: Names) -> None:
        if fields or not names:
            raise ValueError(f"{self.name} needs names, one per number, and no fields")

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        if len(msg.data) != len(names):
            raise SchemaError(f"{len(msg.data)} numbers where the contract names {len(names)}")
        return np.array(msg.data, dtype=np.float64)

    def encode(
        self,
        make: Make,
        fields: Names,
        names: Names,
        values: np.ndarray,
        header: Any = None,
        period: float = 0.0,
    ) -> Any:
        layout = make("std_msgs/MultiArrayLayout", dim=[], data_offset=0)
        return make(self.name, layout=layout, data=np.array(values, dtype=_kind(self.name)))


class Joints(MessageType):
    """Arrays of numbers beside an array of the joints' names."""

    def check(self, fields: Names, names: Names) -> None:
        if not fields or not names or not set(fields) <= set(self.fields):
            raise ValueError(f"{self.name} needs fields out of {', '.join(self.fields)}, and names")

    def joints(self, msg: Any) -> Sequence[str]:
        """The names that a message gives."""
        raise NotImplementedError

    def decode_some(self, msg: Any, fields: Names, names: Names) -> tuple[np.ndarray, np.ndarray]:
        """As `decode`, of those of `names` that the message has, at least one.

        Returns:
            (F * N,) float64, NaN where the message has no such joint, and (N,) bool: which it has.
        """
        given = set(self.joints(msg)[: MAX_VALUES + 1])
        there = np.array([n in given for n in names])
        some = tuple(n for n in names if n in given)
        values = np.full((len(fields), len(names)), np.nan)
        values[:, there] = self.decode(msg, fields, some or names).reshape(len(fields), -1)
        return values.reshape(-1), there


class JointState(Joints):
    """What the joints do, or shall do."""

    @property
    def fields(self) -> Names:
        return ("position", "velocity", "effort")

    def joints(self, msg: Any) -> Sequence[str]:
        return msg.name

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        return _joints(msg.name, {f: getattr(msg, f) for f in fields}, names)

    def encode(
        self,
        make: Make,
        fields: Names,
        names: Names,
        values: np.ndarray,
        header: Any = None,
        period: float = 0.0,
    ) -> Any:
        arrays = dict.fromkeys(self.fields, np.empty(0)) | _blocks(fields, names, values)
        return make(self.name, header=header, name=list(names), **arrays)


class JointTrajectory(Joints):
    """A trajectory of one point: where to be (position), or how fast (velocity), a period from now."""

    @property
    def fields(self) -> Names:
        return ("position", "velocity")

    def joints(self, msg: Any) -> Sequence[str]:
        return msg.joint_names

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        if len(msg.points) != 1:
            raise SchemaError(f"{len(msg.points)} points; a command of one period has one")
        arrays = {f: getattr(msg.points[0], PLURAL[f]) for f in fields}
        return _joints(msg.joint_names, arrays, names)

    def encode(
        self,
        make: Make,
        fields: Names,
        names: Names,
        values: np.ndarray,
        header: Any = None,
        period: float = 0.0,
    ) -> Any:
        arrays = dict.fromkeys((*PLURAL.values(), "accelerations", "effort"), np.empty(0))
        arrays |= {PLURAL[f]: block for f, block in _blocks(fields, names, values).items()}
        seconds, nanoseconds = divmod(round(period * 1e9), 10**9)
        duration = make("builtin_interfaces/Duration", sec=seconds, nanosec=nanoseconds)
        point = make("trajectory_msgs/JointTrajectoryPoint", time_from_start=duration, **arrays)
        return make(self.name, header=header, joint_names=list(names), points=[point])


PLURAL = {"position": "positions", "velocity": "velocities"}


class Moment(MessageType):
    """A header alone: something happened now."""

    def check(self, fields: Names, names: Names) -> None:
        if fields or names:
            raise ValueError(f"{self.name} marks a moment: it has no fields and no names")

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        return np.empty(0)

    def encode(
        self,
        make: Make,
        fields: Names,
        names: Names,
        values: np.ndarray,
        header: Any = None,
        period: float = 0.0,
    ) -> Any:
        return header


class Foreign(MessageType):
    """A type that this package does not know, defined by the bag or by the robot's workspace. Its
    numbers are read by dotted paths, elements of arrays by their index: "motor_state.3.q"."""

    def check(self, fields: Names, names: Names) -> None:
        if not fields or names or not all(map(FOREIGN_FIELD.fullmatch, fields)):
            raise ValueError(
                f"{self.name} is none of {', '.join(TYPES)}; of another type numbers are read by "
                'fields with dots and indices ("state.position.x", "motor_state.3.q"), without names; '
                f"it was given fields {list(fields)}, names {list(names)}"
            )

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        return np.array([number(msg, path) for path in fields])


FOREIGN_FIELD = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*|\.\d{1,4})*", re.ASCII)
FOREIGN_TYPE = re.compile(r"[a-z]\w*/[A-Z]\w*", re.ASCII)

_UNSTAMPED = ("Point", "Vector3", "Pose", "Twist", "Accel", "Wrench")
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
        *(Tree(f"geometry_msgs/{n}", command=n == "Twist") for n in _UNSTAMPED),
        *(
            Tree(n, stamped=True, command=n == "geometry_msgs/TwistStamped")
            for n in PARTS
            if n.endswith("Stamped")
        ),
    )
}


def message_type(name: str) -> MessageType:
    """How a type is read. Raises ValueError where `name` is not that of a ROS message."""
    if name in TYPES:
        return TYPES[name]
    if not FOREIGN_TYPE.fullmatch(name):
        raise ValueError(
            f"type is {name!r}; write package/Type, one of {', '.join(TYPES)}, or one of your own"
        )
    return Foreign(name, stamped=True)


def _kind(type_name: str) -> str:
    """What a std_msgs/Int32 or Int32MultiArray holds: int32."""
    return type_name.removeprefix("std_msgs/").removesuffix("MultiArray").lower()


def _blocks(fields: Names, names: Names, values: np.ndarray) -> dict[str, np.ndarray]:
    """Values as `decode` gives them to an array per field."""
    rows = np.ascontiguousarray(values, dtype=np.float64).reshape(len(fields), len(names))
    return dict(zip(fields, rows))


def _joints(given: Sequence[str], arrays: dict[str, Any], names: Names) -> np.ndarray:
    """Values of the joints `names`, field by field, out of arrays in the order of `given`."""
    if len(given) > MAX_VALUES:
        raise SchemaError(f"{len(given)} joints; at most {MAX_VALUES} are read")
    index = {name: i for i, name in enumerate(given)}
    if len(index) != len(given):
        twice = [name for name, count in Counter(given).items() if count > 1]
        raise SchemaError(f"joint names appear twice: {sorted(twice)[:8]}")
    missing = [n for n in names if n not in index]
    if given and len(missing) == len(names):
        raise Others(f"joints {missing[:8]} are missing; the message has {list(given)[:8]}")
    if missing:
        raise SchemaError(f"joints {missing[:8]} are missing; the message has {list(given)[:8]}")
    order = [index[n] for n in names]
    blocks = []
    for field, values in arrays.items():
        if len(values) != len(given):
            raise SchemaError(f"{field} has {len(values)} values for {len(given)} joint names")
        blocks.append(np.asarray(values, dtype=np.float64)[order])
    return np.concatenate(blocks)
