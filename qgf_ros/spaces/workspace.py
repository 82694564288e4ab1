"""Where a commanded pose may be, beyond the limits of its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Triple = tuple[float, ...]


@dataclass(frozen=True)
class Box:
    """A box along the axes of the pose's frame [m]."""

    min: Triple
    max: Triple

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.max) == 3 or not all(
            math.isfinite(a) and math.isfinite(b) and a < b for a, b in zip(self.min, self.max)
        ):
            raise ValueError(
                f"min {list(self.min)} and max {list(self.max)} are no box; give [x, y, z] each, min below max"
            )


@dataclass(frozen=True)
class WorkspaceSpec:
    """keep_out: by name, where the pose's position never is, nor on its way to a stop. tilt: the largest angle
    [rad] between the z axis of the end effector and that of `home`. lag, lag_rotation: how far [m, rad] the pose
    that is sent may be from the one that is measured."""

    keep_out: dict[str, Box] = field(default_factory=dict)
    tilt: float | None = None
    lag: float | None = None
    lag_rotation: float | None = None

    def __post_init__(self) -> None:
        if self.tilt is not None and not 0 < self.tilt <= math.pi:
            raise ValueError(f"tilt is {self.tilt} rad; allowed: above 0, to pi")
        for key in ("lag", "lag_rotation"):
            given = getattr(self, key)
            if given is not None and not 0 < given < math.inf:
                raise ValueError(f"{key} is {given}; allowed: above 0")
        if not self.keep_out and self.tilt is self.lag is self.lag_rotation is None:
            raise ValueError("it says nothing; give keep_out, tilt, lag or lag_rotation, or leave workspace out")
