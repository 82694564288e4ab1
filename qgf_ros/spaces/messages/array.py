"""Messages that are numbers in a row: std_msgs/Float64MultiArray and its like."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ros.spaces.messages.base import Given, Make, MessageType, Names, SchemaError, number_type


class Array(MessageType):
    """Numbers in the array's own order: the message has no names of its own."""

    def check(self, fields: Names, names: Names) -> None:
        if fields or not names:
            raise ValueError(f"{self.name} needs names, one per number, and no fields")

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        if len(msg.data) != len(names):
            raise SchemaError(f"{len(msg.data)} numbers where the contract names {len(names)}")
        return np.array(msg.data, dtype=np.float64)

    def build(self, make: Make, given: Given) -> Any:
        layout = make("std_msgs/MultiArrayLayout", dim=[], data_offset=0)
        data = np.array(given.values, dtype=number_type(self.name))
        return make(self.name, layout=layout, data=data)
