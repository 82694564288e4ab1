"""Messages of types that this package does not know."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ros.spaces.messages.base import MessageType, Names, number

FIELD = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*|\.\d{1,4})*", re.ASCII)
TYPE = re.compile(r"[a-z]\w*/[A-Z]\w*", re.ASCII)


@dataclass(frozen=True)
class Foreign(MessageType):
    """A type that this package does not know, defined by the bag or by the robot's workspace. Its
    numbers are read by dotted paths, elements of arrays by their index: "motor_state.3.q"."""

    known: Names = ()  # types of this package, for the message of an error

    def check(self, fields: Names, names: Names) -> None:
        if not fields or names or not all(map(FIELD.fullmatch, fields)):
            raise ValueError(
                f"{self.name} is none of {', '.join(self.known)}; of another type numbers are read by "
                'fields with dots and indices ("state.position.x", "motor_state.3.q"), without names; '
                f"it was given fields {list(fields)}, names {list(names)}"
            )

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        return np.array([number(msg, path) for path in fields])
