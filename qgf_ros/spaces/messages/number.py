"""Messages that are one number: std_msgs/Float64 and its like."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ros.spaces.messages.base import (
    NUMBERS,
    Given,
    Make,
    MessageType,
    Names,
    number,
    number_type,
)


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

    def build(self, make: Make, given: Given) -> Any:
        return make(self.name, data=NUMBERS[number_type(self.name)](given.values[0]))
