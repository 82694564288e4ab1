"""Images, and the features that an encoder has made of them.

Pixels are no numbers that are read by name: `qgf_ros/images` decodes them, outside of the control node. A
source of images says which frame was known: one number, counted by who reads the recording.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ros.spaces.messages.base import Given, Make, MessageType, Names, SchemaError

FRAME = ("frame",)


class Camera(MessageType):
    """sensor_msgs/Image and its like."""

    def check(self, fields: Names, names: Names) -> None:
        if fields or names:
            raise ValueError(
                f"{self.name} is a camera's: it has no fields and no names; what is seen of it is said by image"
            )

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        raise SchemaError(f"{self.name} holds pixels, which the control node does not decode")


class Features(MessageType):
    """qgf_ros/Features: what an encoder made of one image, in its order."""

    def check(self, fields: Names, names: Names) -> None:
        if fields or not names:
            raise ValueError(f"{self.name} needs names, one per feature, and no fields")

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        if len(msg.values) != len(names):
            raise SchemaError(f"{len(msg.values)} features where the policy has {len(names)}")
        return np.array(msg.values, dtype=np.float64)

    def build(self, make: Make, given: Given) -> Any:
        values = np.asarray(given.values, np.float32)
        return make(
            self.name, header=given.header, camera="", policy="", reason="", detail="", values=values
        )
