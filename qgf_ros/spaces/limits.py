"""How far and how fast a command may go."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qgf_ros.spaces.source import later


@dataclass(frozen=True)
class Limit:
    """Range of one command value, and how fast it may change. Units are the action's, and per s.

    Of a position `rate` is the velocity. Of a velocity it is the acceleration, and `acceleration`
    is not given. Without the later keys there is no such limit.
    """

    min: float
    max: float
    rate: float
    acceleration: float = later(math.inf)  # per s^2
    jerk: float = later(math.inf)  # per s^3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min) and math.isfinite(self.max) and self.min < self.max):
            raise ValueError(f"min {self.min} must be below max {self.max}, both finite")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"rate is {self.rate}; it must be positive and finite")
        for key in ("acceleration", "jerk"):
            if not getattr(self, key) > 0:
                raise ValueError(
                    f"{key} is {getattr(self, key)}; it must be positive, or left out for no limit"
                )
