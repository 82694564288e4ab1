"""Plain numbers: joints, points, forces, flags."""

from __future__ import annotations

from qgf_ros.spaces.observations.base import ObservationKind, Observed
from qgf_ros.spaces.rotation import ENCODINGS


class Vector(ObservationKind):
    """Numbers that the policy sees as the message has them."""

    name = "vector"

    def claims(self, source: Observed) -> bool:
        return True

    def check(self, source: Observed) -> None:
        if source.encoding not in self.encodings:
            raise ValueError(
                f"encoding is {source.encoding}, and fields {list(source.fields)} do not hold an "
                f"orientation; give {', '.join(ENCODINGS)} with one, identity without"
            )
        if source.resample not in self.resamplings:
            raise ValueError(
                f"resample is {source.resample}, and fields {list(source.fields)} do not hold an "
                "orientation; give linear, nearest or hold"
            )
