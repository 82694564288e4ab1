"""What every type of message says about itself, and how one number is read out of a message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from numbers import Real
from typing import Any

import numpy as np

Names = tuple[str, ...]
MAX_VALUES = 4096  # per array; more is not a robot's state and is not even looked at

# make("std_msgs/Float64", data=1.0) builds a message of the caller's world.
Make = Callable[..., Any]

# What a number of a message is in Python.
NUMBERS: dict[str, type] = {"bool": bool, "float32": float, "float64": float}
NUMBERS |= {f"{sign}int{bits}": int for sign in ("", "u") for bits in (8, 16, 32, 64)}


class SchemaError(ValueError):
    """A message does not have the shape that the contract says."""


@dataclass(frozen=True, eq=False)
class Given:
    """What a message is made of, as for `encode`."""

    fields: Names
    names: Names
    values: np.ndarray
    header: Any
    period: float  # s


@dataclass(frozen=True)
class MessageType:
    """How one ROS message type carries numbers."""

    name: str
    stamped: bool = False  # has a std_msgs/Header
    command: bool = False  # can carry commands of any kind; a kind's own types need not say so

    def command_stamp(self, now: int) -> int:
        """The stamp of a command that is sent `now` [ns]."""
        return now

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
        return self.build(make, Given(fields, names, values, header, period))

    def build(self, make: Make, given: Given) -> Any:
        """What `encode` gives."""
        raise NotImplementedError


def number(msg: Any, path: str) -> float:
    try:
        value = reduce(_step, path.split("."), msg)
    except (AttributeError, IndexError, TypeError):
        raise SchemaError(f"the message has no field {path!r}") from None
    if not isinstance(value, Real):  # a text "7" is no number either
        raise SchemaError(f"{path} holds no number but {type(value).__name__}")
    return float(value)


def _step(part: Any, name: str) -> Any:
    return part[int(name)] if name.isdigit() else getattr(part, name)


def number_type(type_name: str) -> str:
    """What a std_msgs/Int32 or Int32MultiArray holds: int32."""
    return type_name.removeprefix("std_msgs/").removesuffix("MultiArray").lower()
