"""A topic or a column, and what is read from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.base import Make
from qgf_ros.spaces.messages.camera import FRAME, Camera
from qgf_ros.spaces.messages.foreign import Foreign

MAX_AGE = 3600.0  # s, the longest that can be asked for
MAX_TOPIC = 200  # characters


def later(default: Any) -> Any:
    """A key that came after contracts were written and hashed: left out where it is the default."""
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"later": True})
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class Source:
    """A topic, or a column of a table, and what is read from it.

    `fields` are attribute paths of the message ("point.x"); for JointState they are arrays
    ("position") and `names` picks and orders the joints. Values come field by field, each in the
    order of `names`. `column` is the name in tabular recordings (LeRobot, npz).
    """

    topic: str
    type: str
    fields: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    column: str = ""
    stamp: Literal["", "header", "receipt"] = ""  # default: header where the type has one

    def __post_init__(self) -> None:
        kind = message_type(self.type)  # raises ValueError for a type that is not supported
        if len(self.topic) > MAX_TOPIC:
            raise ValueError(
                f"topic has {len(self.topic)} characters; DDS takes 255 with its namespaces, {MAX_TOPIC} are "
                "allowed"
            )
        if not re.fullmatch(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", self.topic):
            raise ValueError(
                f"topic is {self.topic!r}; give a relative ROS name, so that namespaces work"
            )
        kind.check(self.fields, self.names)
        if not self.stamp:
            if isinstance(kind, Foreign):
                raise ValueError(
                    f"{self.type} is not known here: give stamp: header where it has a header, else receipt"
                )
            object.__setattr__(self, "stamp", "header" if kind.stamped else "receipt")
        if self.stamp == "header" and not kind.stamped:
            raise ValueError(f"{self.type} has no header: stamp must be receipt")
        for key, values in (("fields", self.fields), ("names", self.names)):
            if len(set(values)) != len(values):
                raise ValueError(f"{key} has duplicates: {sorted(values)}")

    @property
    def row_labels(self) -> tuple[str, ...]:
        """A name for each number of a row of a table."""
        return self.labels

    @property
    def width(self) -> int:
        """How many numbers a message becomes."""
        return len(self.labels)

    def decode(self, msg: Any) -> np.ndarray:
        """The numbers of a message, (width,) float64. Raises SchemaError where it does not fit."""
        return message_type(self.type).decode(msg, self.fields, self.names)

    def encode(self, make: Make, values: np.ndarray, header: Any = None, period: float = 0.0) -> Any:
        """The inverse of `decode`, see `MessageType.encode`."""
        return message_type(self.type).encode(make, self.fields, self.names, values, header, period)

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each value, in order: "position.elbow", "point.x", "gripper"."""
        if not self.names:
            kind = message_type(self.type)
            if isinstance(kind, Camera):
                return FRAME
            return tuple(label for f in self.fields for label in kind.labels(f))
        fields = self.fields or ("",)
        return tuple(f"{f}.{n}" if f else n for f in fields for n in self.names)
