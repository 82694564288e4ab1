"""One output of the policy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from qgf_ros.spaces.limits import Limit
from qgf_ros.spaces.messages import TYPES, message_type
from qgf_ros.spaces.source import Source, later

# In the format, so that contracts can be written for them, but not in this version.
NOT_YET = {"delta_observed", "delta_last"}


# What a representation does when it has to hold, and the only answer that is safe for it.
ON_HOLD = {"absolute": "hold_last_sent", "velocity": "ramp_to_zero"}
FIELD_OF = {"absolute": "position", "velocity": "velocity"}  # of a JointState or JointTrajectory
TWISTS = ("geometry_msgs/Twist", "geometry_msgs/TwistStamped")


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
    """

    name: str = ""
    units: str = ""
    representation: Literal["absolute", "delta_observed", "delta_last", "velocity"] = "absolute"
    space: Literal["joint", "twist", "gripper"] = "joint"
    frame: str = ""
    limits: dict[str, Limit] = field(default_factory=dict)
    on_hold: Literal["", "hold_last_sent", "ramp_to_zero"] = ""
    measured: dict[str, str] = later({})
    silence: SilenceSpec | None = later(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name or "." in self.name:
            raise ValueError(f"name is {self.name!r}; give one without a dot")
        if not message_type(self.type).command:
            raise ValueError(
                f"{self.type} is not a command type of this version; allowed: "
                + ", ".join(t.name for t in TYPES.values() if t.command)
            )
        if self.representation in NOT_YET:
            raise ValueError(
                f"representation {self.representation} is part of the format, but this version cannot "
                f"do it yet; allowed: {', '.join(ON_HOLD)}"
            )
        if (self.type in TWISTS) != (self.space == "twist"):
            raise ValueError(
                f"space is {self.space} and type {self.type}; space twist goes with {' or '.join(TWISTS)}, "
                "and they with it"
            )
        if self.space == "twist":
            if self.representation != "velocity":
                raise ValueError(
                    f"representation is {self.representation}; a twist is a velocity, so it must be velocity"
                )
            if message_type(self.type).stamped and not self.frame.strip():
                raise ValueError(
                    f"frame is {self.frame!r}; {self.type} says in its header along which axes it is, "
                    'so give the frame_id that the receiver expects ("base_link", "tool0")'
                )
        elif self.fields not in ((), (FIELD_OF[self.representation],)):
            raise ValueError(
                f"fields is {list(self.fields)}; representation {self.representation} commands "
                f"[{FIELD_OF[self.representation]}] and nothing else"
            )
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
        safe = ON_HOLD[self.representation]
        if self.on_hold not in ("", safe):
            raise ValueError(
                f"on_hold is {self.on_hold}; for representation {self.representation} it is {safe}"
            )
        object.__setattr__(self, "on_hold", safe)
        if self.representation == "velocity":
            stuck = [n for n, limit in self.limits.items() if not limit.min <= 0 <= limit.max]
            if stuck:
                raise ValueError(f"a velocity that cannot be zero cannot stop: {', '.join(stuck)}")
            twice = [n for n, limit in self.limits.items() if limit.acceleration < math.inf]
            if twice:
                raise ValueError(
                    f"the rate of a velocity is its acceleration; leave acceleration out of {', '.join(twice)}"
                )
        else:
            alone = [
                n for n, limit in self.limits.items() if limit.jerk < limit.acceleration == math.inf
            ]
            if alone:
                raise ValueError(
                    f"jerk limits how an acceleration changes; give the acceleration of {', '.join(alone)} too"
                )

    def _check_later(self) -> None:
        """`measured` and `silence`."""
        strangers = [n for n in self.measured if n not in self.labels_of_joints]
        if strangers:
            raise ValueError(
                f"measured names {', '.join(strangers)}, which this action does not have; "
                f"it has {', '.join(self.labels_of_joints)}"
            )
        if self.measured and self.representation != "absolute":
            raise ValueError(
                f"measured is given, and representation is {self.representation}: only positions "
                "(absolute) begin where something is measured; leave it out"
            )
        if self.silence is None:
            return
        if self.representation != "velocity":
            raise ValueError(
                f"silence is given, and representation is {self.representation}: a position stays "
                "where it was sent when nobody speaks; leave it out"
            )
        value = self.silence.value
        beyond = [n for n, limit in self.limits.items() if not limit.min <= value <= limit.max]
        if beyond:
            raise ValueError(f"silence.value is {value}, beyond the limits of {', '.join(beyond)}")

    @property
    def labels_of_joints(self) -> tuple[str, ...]:
        """A name for each number, which is also its key in `limits`: joints, or a twist's fields."""
        return self.names or self.fields
