"""Messages that say when, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ros.spaces.messages.base import Given, Make, MessageType, Names


class Moment(MessageType):
    """A header alone: something happened now."""

    def check(self, fields: Names, names: Names) -> None:
        if fields or names:
            raise ValueError(f"{self.name} marks a moment: it has no fields and no names")

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        return np.empty(0)

    def build(self, make: Make, given: Given) -> Any:
        return given.header
