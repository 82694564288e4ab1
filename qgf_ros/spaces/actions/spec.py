"""One output of the policy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from qgf_ros.spaces.actions import command_types, kind_of
from qgf_ros.spaces.actions.base import ActionKind
from qgf_ros.spaces.limits import Limit
from qgf_ros.spaces.messages.base import Make
from qgf_ros.spaces.source import Source, later
from qgf_ros.spaces.workspace import WorkspaceSpec


@dataclass(frozen=True)
class SilenceSpec:
    """What no message means: from `after` [s] on, as if `value` was commanded for every number."""

    after: float
    value: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.after <= 60:
            raise ValueError(f"after is {self.after} s; allowed: above 0, to 60 s")
        if not math.isfinite(self.value):
            raise ValueError(f"value is {self.value}; it must be finite")


@dataclass(frozen=True)
class ActionSpec(Source):
    """One output of the policy. `representation` says what a value means to the robot.

    space: `joint` commands joints by name; `gripper` the same, for what is told apart in reports;
    `twist` a body's velocity, with the fields of a Twist as its numbers and `frame` as its axes.
    Receivers disagree on what an empty frame_id means (the base, the tool), and the same numbers
    in other axes are another motion: a stamped twist must name its frame.

    `measured` says which observed number tells where a joint is, for those that are observed by
    another name: a joint of a JointState with positions ("joint_1"), or any observed number by its
    whole name ("joints.position.joint_1"). `silence` is for recordings only: the robot is always
    commanded.

    Of poses: `home` is the orientation that turns are counted from, a quaternion x, y, z, w; `axes` those
    of changes (base, tool); `rotation` how tables say a turn, where that is no rotation vector (euler_xyz: roll,
    pitch and yaw about the fixed axes x, y, z in turn); `measured` names the observation of the pose itself
    ({pose: tool}).
    """

    name: str = ""
    units: str = ""
    representation: str = "absolute"
    space: str = "joint"
    frame: str = ""
    limits: dict[str, Limit] = field(default_factory=dict)
    on_hold: Literal["", "hold_last_sent", "ramp_to_zero"] = ""
    measured: dict[str, str] = later({})
    home: tuple[float, ...] = later(())
    axes: Literal["", "base", "tool"] = later("")
    rotation: Literal["", "euler_xyz"] = later("")
    workspace: WorkspaceSpec | None = later(None)
    silence: SilenceSpec | None = later(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name or "." in self.name:
            raise ValueError(f"name is {self.name!r}; give one without a dot")
        if self.type not in command_types():
            raise ValueError(
                f"{self.type} is not a command type of this version; allowed: "
                + ", ".join(command_types())
            )
        self.kind.check(self)
        missing = [n for n in self.labels_of_joints if n not in self.limits]
        unknown = [n for n in self.limits if n not in self.labels_of_joints]
        if missing:
            given = f"; given are {', '.join(unknown)}" if unknown else ""
            raise ValueError(
                f"limits are missing for {', '.join(missing)}: {{min, max, rate}} each{given}"
            )
        if unknown:
            raise ValueError(
                f"limits name {', '.join(unknown)}, which this action does not have; "
                f"it has {', '.join(self.labels_of_joints)}"
            )
        self._check_later()
        safe = self.kind.hold
        if self.on_hold not in ("", safe):
            raise ValueError(
                f"on_hold is {self.on_hold}; for representation {self.representation} it is {safe}"
            )
        object.__setattr__(self, "on_hold", safe)
        self.kind.check_limits(self.limits)

    def _check_later(self) -> None:
        """`measured` and `silence`."""
        whole = self.kind.measured_whole
        own = (whole,) if whole else self.labels_of_joints
        strangers = [n for n in self.measured if n not in own]
        if strangers:
            raise ValueError(
                f"measured names {', '.join(strangers)}, which this action does not have; it has {', '.join(own)}"
            )
        for key in ("home", "axes", "rotation", "workspace"):
            if getattr(self, key) and not self.kind.converts:
                raise ValueError(f"{key} is given, which is of poses; leave it out")
        if self.measured and not self.kind.measured:
            raise ValueError(
                f"measured is given, and representation is {self.representation}: only positions "
                "(absolute) begin where something is measured; leave it out"
            )
        if self.silence is None:
            return
        if not self.kind.stops_at_zero:
            raise ValueError(
                f"silence is given, and representation is {self.representation}: a position stays "
                "where it was sent when nobody speaks; leave it out"
            )
        value = self.silence.value
        beyond = [n for n, limit in self.limits.items() if not limit.min <= value <= limit.max]
        if beyond:
            raise ValueError(f"silence.value is {value}, beyond the limits of {', '.join(beyond)}")

    @cached_property
    def kind(self) -> ActionKind:
        """What is known of all actions of its kind."""
        return kind_of(self)

    @property
    def row_labels(self) -> tuple[str, ...]:
        changes = self.kind.converts and self.kind.learnt_from
        return self.labels_of_joints if changes else self.labels

    @property
    def width(self) -> int:
        return len(self.labels_of_joints)

    def decode(self, msg: Any) -> np.ndarray:
        return self.kind.numbers(self, super().decode(msg))

    def encode(self, make: Make, values: np.ndarray, header: Any = None, period: float = 0.0) -> Any:
        return super().encode(make, self.kind.message(self, values), header, period)

    @property
    def labels_of_joints(self) -> tuple[str, ...]:
        """A name for each number, which is also its key in `limits`: joints, or a twist's fields."""
        return self.kind.labels(self)
