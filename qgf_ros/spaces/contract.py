"""The contract: what is state, what is action, what is the outcome, and when.

One file, `contract.yaml`, read by the bag readers, training, the node and the simulation.
Values are matched by name, never by position; nowhere else is an order of joints written down.

The time law: action i of a chunk sampled for observation time t is executed at t + i * period.
Recorded data is paired by the same law, so the lead of a demonstrator's commands over the
states is learnt once and never added again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qgf_ros.files.strict_yaml import build, load_yaml
from qgf_ros.spaces.condition import Condition
from qgf_ros.spaces.messages import TYPES, message_type
from qgf_ros.spaces.messages.foreign import Foreign
from qgf_ros.spaces.messages.joints import Joints
from qgf_ros.spaces.rotation import ENCODINGS

VERSION = 1
MAX_AGE = 3600.0  # s, the longest that can be asked for
MAX_TOPIC = 200  # characters

# In the format, so that contracts can be written for them, but not in this version.
NOT_YET = {"delta_observed", "delta_last"}


def later(default: Any) -> Any:
    """A key that came after contracts were written and hashed: left out where it is the default."""
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"later": True})
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class TimeSpec:
    """Control period [s], chunk length H, and how many actions of a chunk are executed."""

    period: float
    horizon: int
    execute_steps: int = 0  # 0: all of them

    def __post_init__(self) -> None:
        if not 1e-4 <= self.period <= 10:
            raise ValueError(f"period is {self.period} s; allowed: 0.0001 to 10 s")
        if not 1 <= self.horizon <= 256:
            raise ValueError(f"horizon is {self.horizon}; allowed: 1 to 256")
        if not 0 <= self.execute_steps <= self.horizon:
            raise ValueError(
                f"execute_steps is {self.execute_steps}; allowed: 1 to horizon ({self.horizon})"
            )
        if self.execute_steps == 0:
            object.__setattr__(self, "execute_steps", self.horizon)


@dataclass(frozen=True)
class Source:
    """A topic, or a column of a table, and what is read from it.

    `fields` are attribute paths of the message ("point.x"); for JointState they are arrays
    ("position") and `names` picks and orders the joints. Values come field by field, each in the
    order of `names`. `column` is the name in tabular recordings (LeRobot, npz).
    """

    topic: str
    type: str
    fields: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    column: str = ""
    stamp: Literal["", "header", "receipt"] = ""  # default: header where the type has one

    def __post_init__(self) -> None:
        kind = message_type(self.type)  # raises ValueError for a type that is not supported
        if len(self.topic) > MAX_TOPIC:
            raise ValueError(
                f"topic has {len(self.topic)} characters; DDS takes 255 with its namespaces, {MAX_TOPIC} are "
                "allowed"
            )
        if not re.fullmatch(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", self.topic):
            raise ValueError(
                f"topic is {self.topic!r}; give a relative ROS name, so that namespaces work"
            )
        kind.check(self.fields, self.names)
        if not self.stamp:
            if isinstance(kind, Foreign):
                raise ValueError(
                    f"{self.type} is not known here: give stamp: header where it has a header, else receipt"
                )
            object.__setattr__(self, "stamp", "header" if kind.stamped else "receipt")
        if self.stamp == "header" and not kind.stamped:
            raise ValueError(f"{self.type} has no header: stamp must be receipt")
        for key, values in (("fields", self.fields), ("names", self.names)):
            if len(set(values)) != len(values):
                raise ValueError(f"{key} has duplicates: {sorted(values)}")

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each value, in order: "position.elbow", "point.x", "gripper"."""
        if not self.names:
            kind = message_type(self.type)
            return tuple(label for f in self.fields for label in kind.labels(f))
        fields = self.fields or ("",)
        return tuple(f"{f}.{n}" if f else n for f in fields for n in self.names)


@dataclass(frozen=True)
class ObservationSource(Source):
    """One input of the policy. `delay` [s] is how long ago the world was as the stamp's value says.

    `encoding` says what an orientation ("pose.orientation") becomes: `rot6d` the first two columns
    of its rotation matrix, `matrix_columns` all three, `yaw_sin_cos` the turn about the vertical of
    what otherwise keeps upright. `merge: joints` takes messages that hold some of the joints each: of
    every joint the newest value counts, and the whole is as old as the oldest of them.
    `resample` says how recordings come onto the ticks: `hold` is what
    the node does and the only thing it can; `linear`, `slerp` (an orientation by the shortest way,
    other numbers linearly) and `nearest` look at the message after the tick too.
    """

    name: str = ""
    units: str = ""
    max_age: float = 0.0  # s; 0: the larger of three periods and 50 ms; of a goal, an hour
    delay: float = 0.0
    encoding: Literal["identity", "rot6d", "matrix_columns", "yaw_sin_cos"] = "identity"
    resample: Literal["hold", "linear", "slerp", "nearest"] = later("hold")
    merge: Literal["", "joints"] = later("")

    def __post_init__(self) -> None:
        if any(f.split(".")[-2:-1] == ["orientation"] for f in self.fields):
            raise ValueError(
                "quaternion components are no input for a network; name the whole orientation "
                '("pose.orientation") and give encoding: rot6d'
            )
        super().__post_init__()
        if not self.name or "." in self.name:
            raise ValueError(f"name is {self.name!r}; give one without a dot")
        if not self.labels:
            raise ValueError(f"{self.type} carries no numbers to observe")
        turned = any(map(self._is_orientation, self.fields))
        if turned != (self.encoding != "identity"):
            raise ValueError(
                f"encoding is {self.encoding}, and fields {list(self.fields)} "
                + ("hold" if turned else "do not hold")
                + f" an orientation; give {', '.join(ENCODINGS)} with one, identity without"
            )
        if self.resample == ("linear" if turned else "slerp"):
            raise ValueError(
                f"resample is {self.resample}, and fields {list(self.fields)} "
                + (
                    "hold an orientation, which has no straight way; give slerp, nearest or hold"
                    if turned
                    else "do not hold an orientation; give linear, nearest or hold"
                )
            )
        if self.merge and not isinstance(message_type(self.type), Joints):
            raise ValueError(
                f"merge is {self.merge}, and {self.type} does not name its joints; leave it out"
            )
        if self.merge and self.resample != "hold":
            raise ValueError(
                f"resample is {self.resample}; what is merged by joint is of several moments: give hold"
            )
        if not 0 <= self.max_age <= MAX_AGE or not 0 <= self.delay <= 10:
            raise ValueError(f"max_age {self.max_age} s or delay {self.delay} s is out of range")

    def _is_orientation(self, path: str) -> bool:
        return message_type(self.type).is_orientation(path)

    @property
    def feature_labels(self) -> tuple[str, ...]:
        """A name for each number that the policy sees; `labels` names those of the message."""
        if self.encoding == "identity":
            return self.labels
        suffixes = ENCODINGS[self.encoding].labels
        return tuple(
            label
            for f in self.fields
            for label in ([f"{f}.{s}" for s in suffixes] if self._is_orientation(f) else [f])
        )

    @property
    def stems(self) -> tuple[str, ...]:
        """For each feature, what it shares its unit with: the field of its joints, the vector or the
        orientation that it is a part of. Numbers that only have a name stand alone."""
        if self.names:
            return tuple(f or n for f in self.fields or ("",) for n in self.names)
        return tuple(label.rpartition(".")[0] or label for label in self.feature_labels)

    def features(self, values: np.ndarray) -> np.ndarray:
        """(..., labels) as the message has them -> (..., feature_labels) as the policy sees them.

        A quaternion that is none (length 0) gives NaN, and so does a turn that there is not.
        """
        if self.encoding == "identity":
            return values
        columns, at = [], 0
        for path in self.fields:
            if self._is_orientation(path):
                columns.append(ENCODINGS[self.encoding].encode(values[..., at : at + 4]))
                at += 4
            else:
                columns.append(values[..., at : at + 1])
                at += 1
        return np.concatenate(columns, axis=-1)


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


@dataclass(frozen=True)
class GoalSpec:
    """Where a policy is told to go.

    observation: the source that carries the goal. achieved: names of observed numbers
    ("cube.pose.position.x"), one for each number of the goal and in its order, that say where
    things are; within `radius` of the goal, in their unit, it is reached.
    """

    observation: str
    achieved: tuple[str, ...]
    radius: float

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius is {self.radius}; it must be positive and finite")


@dataclass(frozen=True)
class AttemptsSpec:
    """How an episode of many attempts (play, teleoperation without resets) is cut into them.

    An attempt ends where success or failure says so, and besides, with end
        outcome: nowhere else.
        goal: where the goal is reached, a success, and where it changes, a cut.
        length: `seconds` after its first period: a cut.
    The next one begins once what ended it no longer holds.
    """

    end: Literal["outcome", "goal", "length"]
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.end != "length" and self.seconds is not None:
            raise ValueError(
                f"seconds is {self.seconds}, and end is {self.end}: only attempts of one length "
                "have it; leave it out, or give end: length"
            )
        if self.end == "length" and not (self.seconds and 0 < self.seconds <= MAX_AGE):
            raise ValueError(
                f"end is length, and seconds is {self.seconds}; allowed: above 0, to {MAX_AGE:g} s"
            )


@dataclass(frozen=True)
class EndSource(Source):
    """What says how an episode ended: one number, or a field test on several.

    `test` ("wrench.force.z > 3 N for 0.5 s", see `condition`) compares the numbers of `fields`, by
    their labels; the topic or column alone names the only one. Its duration is counted by stamp,
    and begins anew after a message more than `max_age` older than the next.
    """

    test: str = later("")
    max_age: float = later(0.0)  # s; 0: the larger of three periods and 50 ms

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.max_age <= MAX_AGE:
            raise ValueError(f"max_age is {self.max_age} s; allowed: 0 to {MAX_AGE:g} s")
        _ = self.condition  # raises ValueError

    @property
    def condition(self) -> Condition | None:
        """The parsed test; None without one."""
        if not self.test:
            return None
        whole = (f"/{self.topic}", self.topic, self.column) if len(self.labels) == 1 else ()
        names = {name: 0 for name in whole if name}
        for i, label in enumerate(self.labels):
            names |= {label: i, f"{self.topic}.{label}": i, f"/{self.topic}.{label}": i}
        return Condition.parse(self.test, names)


@dataclass(frozen=True)
class OutcomeSpec:
    """Where reward and success come from.

    objective: `reward` sums the reward source; `time_to_success` is 1 at success, discounted, and
        needs no failures; `reach_goal` is 1 on reaching `goal`, discounted, and learns from any
        recording, because whatever was reached later could have been the goal.
    success: true ends an episode in success, false in failure; an episode without either was cut
        (truncation). With a test: the moment it has held for as long as it says. failure: the same
        for failure; false says nothing. What comes first ends the episode; at one time, failure.
    episode_start: each message begins an episode.
    labels: file of what people said (`qgf data label`), which counts before any topic; relative to
        the dataset. A `labels.yaml` in the dataset counts without being named.
    assume_success: every recorded episode ended in success (demonstrations without labels).
    attempts: how an episode is cut into attempts, each of which counts as an episode.
    """

    objective: Literal["reward", "time_to_success", "reach_goal"]
    goal: GoalSpec | None = None
    reward: Source | None = None
    success: EndSource | None = None
    failure: EndSource | None = later(None)
    episode_start: Source | None = None
    intervention: Source | None = None
    assume_success: bool = False
    labels: str = later("")
    attempts: AttemptsSpec | None = later(None)

    def __post_init__(self) -> None:
        if self.intervention is not None:
            raise ValueError("intervention is not read by this version; leave it out")
        for key in ("reward", "success", "failure"):
            source = getattr(self, key)
            tested = isinstance(source, EndSource) and source.test
            if source is not None and not tested and len(source.labels) != 1:
                raise ValueError(
                    f"{key} is one number, and its source has {len(source.labels)}: {list(source.labels)}"
                    + ("" if key == "reward" else "; name one, or give a test")
                )
        if self.objective == "reward" and self.reward is None:
            raise ValueError(
                "objective reward needs a reward source: {topic, type, fields} or column"
            )
        if self.objective == "time_to_success" and not (
            self.success or self.labels or self.assume_success
        ):
            raise ValueError(
                "objective time_to_success needs a success source, labels, or assume_success: true"
            )
        if (self.objective == "reach_goal") != (self.goal is not None):
            raise ValueError(
                f"objective is {self.objective} {'without' if self.goal is None else 'with'} a goal; "
                "reach_goal and goal: {observation, achieved, radius} go together"
            )
        if self.attempts is not None:
            self._check_attempts(self.attempts)

    def _check_attempts(self, attempts: AttemptsSpec) -> None:
        if self.assume_success:
            raise ValueError(
                "assume_success says that every episode ended in success, and attempts that one holds "
                "many of them: leave one of the two out, and name what says success"
            )
        if attempts.end == "outcome" and not (self.success or self.failure):
            raise ValueError(
                "attempts.end is outcome, and neither success nor failure says when there is one "
                "(labels say how an attempt ended, not when); name a source, or give end: length or goal"
            )
        if attempts.end == "goal" and self.goal is None:
            raise ValueError(
                f"attempts.end is goal, and objective {self.objective} has none; give objective "
                "reach_goal with outcome.goal, or end: outcome or length"
            )

    @property
    def sources(self) -> dict[str, Source]:
        named = {
            "reward": self.reward,
            "success": self.success,
            "failure": self.failure,
            "episode_start": self.episode_start,
        }
        return {name: source for name, source in named.items() if source is not None}


@dataclass(frozen=True)
class Contract:
    """The whole contract. Load it with `Contract.load`."""

    contract: int
    robot: str
    time: TimeSpec
    observations: tuple[ObservationSource, ...]
    actions: tuple[ActionSpec, ...]
    outcome: OutcomeSpec
    description: str = ""

    def __post_init__(self) -> None:
        if self.contract != VERSION:
            raise ValueError(
                f"contract version is {self.contract}; this qgf_ros reads version {VERSION}"
            )
        if not self.observations or not self.actions:
            raise ValueError("observations and actions must each list at least one source")
        names = [*(o.name for o in self.observations), *(a.name for a in self.actions)]
        names += self.outcome.sources
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(
                f"the name {', '.join(twice)} is used twice; reward, success, failure and episode_start "
                "are taken"
            )
        self._check_measured()
        if self.outcome.goal is not None:
            self._check_goal(self.outcome.goal)
        seconds = self.outcome.attempts.seconds if self.outcome.attempts is not None else None
        chunk = self.time.horizon * self.time.period
        if seconds is not None and round(seconds / self.time.period) < self.time.horizon:
            raise ValueError(
                f"outcome.attempts.seconds is {seconds}; an attempt must be as long as a chunk, "
                f"horizon * period = {chunk:g} s, or nothing of it is learnt"
            )
        commands = {a.topic for a in self.actions}
        loops = sorted(commands & {o.topic for o in self.observations})
        if loops:
            raise ValueError(f"{', '.join(loops)} is both observed and commanded: a loop")
        for topic in sorted(commands):
            self._check_topic([a for a in self.actions if a.topic == topic])

    @staticmethod
    def _check_topic(actions: list[ActionSpec]) -> None:
        """Several actions on one topic must tell by names which joints each is about."""
        if len(actions) == 1:
            return
        names = ", ".join(a.name for a in actions)
        what = f"two actions command one topic, {actions[0].topic} ({names})"
        types = sorted({a.type for a in actions})
        if len(types) > 1:
            raise ValueError(f"{what}, with types {', '.join(types)}; a topic has one type")
        if not isinstance(message_type(types[0]), Joints):
            named = ", ".join(t.name for t in TYPES.values() if t.command and isinstance(t, Joints))
            raise ValueError(
                f"{what}; {types[0]} does not say whose numbers it holds: make them one, or each "
                f"would undo the other (by joint names: {named})"
            )
        joints = [n for a in actions for n in a.names]
        twice = sorted({n for n in joints if joints.count(n) > 1})
        if twice:
            raise ValueError(f"{what}, and both {', '.join(twice)}; give each joint to one of them")

    def _check_measured(self) -> None:
        """Every absolute command has exactly one measured position to begin from."""
        users = [m for a in self.actions for m in map(self._measured_by, a.measured.values())]
        measured = [
            label.removeprefix("position.")
            for o in self.observations
            for label in o.labels
            if o.type == "sensor_msgs/JointState" and label.startswith("position.")
        ]
        for action in self.actions:
            if action.representation != "absolute":
                continue
            for name, where in action.measured.items():
                at = self._measured_by(where)
                if at < 0:
                    raise ValueError(
                        f"action {action.name}: measured.{name} is {where!r}; allowed are joints whose "
                        f"position is observed once, {measured[:8]}, or an observed number by its whole "
                        f"name, {list(self.observation_names[:8])}"
                    )
                if users.count(at) > 1:
                    raise ValueError(
                        f"action {action.name}: measured.{name} is {where!r}, which is also what another "
                        "command is measured by; each has a number of its own"
                    )
            own = [n for n in action.labels_of_joints if n not in action.measured]
            taken = [n for n in own if self._measured_by(n) in users]
            if taken:
                raise ValueError(
                    f"action {action.name}: {', '.join(taken[:8])} is observed by its own name, and "
                    "another command is measured by that number; give it another in measured"
                )
            blind = [n for n in own if n not in measured]
            if blind:
                raise ValueError(
                    f"action {action.name}: positions of {', '.join(blind[:8])} are commanded but not observed; "
                    "without a measured start the first command would jump. Observe them by the same name in a "
                    f"sensor_msgs/JointState with fields [position], or say in measured what tells where they "
                    f"are: {{{blind[0]}: ...}}; observed are {measured[:8]}"
                )
            twice = [n for n in own if measured.count(n) > 1]
            if twice:
                raise ValueError(
                    f"action {action.name}: the position of {', '.join(twice[:8])} is observed more than once; "
                    "it must be one source that says where the command begins"
                )

    def _measured_by(self, name: str) -> int:
        """Which observed number a joint's name or a whole name means; -1: none, or more than one."""
        if name in self.observation_names:
            return self.observation_names.index(name)
        labels = [(o, label) for o in self.observations for label in o.feature_labels]
        found = [
            at
            for at, (source, label) in enumerate(labels)
            if source.type == "sensor_msgs/JointState" and label == f"position.{name}"
        ]
        return found[0] if len(found) == 1 else -1

    def _check_goal(self, goal: GoalSpec) -> None:
        sources = {o.name: o for o in self.observations}
        if goal.observation not in sources:
            raise ValueError(
                f"outcome.goal.observation is {goal.observation!r}; allowed: {', '.join(sources)}"
            )
        if sources[goal.observation].resample != "hold":
            raise ValueError(
                f"outcome.goal: resample of {goal.observation} is {sources[goal.observation].resample}; "
                "a goal is what was last said: give hold"
            )
        # By source, not by the beginning of the name: "goal" is not "goal_of_another".
        wanted = [f"{goal.observation}.{n}" for n in sources[goal.observation].feature_labels]
        seen = [n for n in self.observation_names if n not in wanted]
        strangers = [n for n in goal.achieved if n not in seen]
        if strangers:
            what = "are the goal itself" if set(strangers) <= set(wanted) else "are not observed"
            raise ValueError(
                f"outcome.goal.achieved: {', '.join(strangers)} {what}; allowed: {', '.join(seen)}"
            )
        if len(goal.achieved) != len(wanted) or len(set(goal.achieved)) < len(wanted):
            raise ValueError(
                f"outcome.goal.achieved is {list(goal.achieved)}; the goal has {len(wanted)} numbers: "
                f"give another observed number for each of {', '.join(wanted)}, in this order"
            )

    @classmethod
    def load(cls, path: str | Path) -> Contract:
        """Reads and checks a contract file. Raises UsageError naming the place and what is allowed."""
        return cls.from_dict(load_yaml(Path(path)), str(path))

    @classmethod
    def from_dict(cls, value: Any, where: str = "contract") -> Contract:
        return build(cls, value, where)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for YAML; `from_dict` gives the same contract back."""
        return json.loads(json.dumps(_plain(self)))

    @property
    def hash(self) -> str:
        """SHA-256 of the content, independent of comments and layout."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @cached_property
    def observation_names(self) -> tuple[str, ...]:
        """Names of the O numbers of the observation vector, in order."""
        return tuple(f"{o.name}.{label}" for o in self.observations for label in o.feature_labels)

    @property
    def observation_siblings(self) -> np.ndarray:
        """(O,) int: numbers that share one unit because they stand in the same message and field
        (positions of joints, axes of a point, an orientation) have the same number here."""
        stems = [f"{o.name}.{stem}" for o in self.observations for stem in o.stems]
        return np.unique(stems, return_inverse=True)[1]

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """Names of the A numbers of one action, in order: "<action>.<joint>"."""
        return tuple(f"{a.name}.{n}" for a in self.actions for n in a.labels_of_joints)

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower and upper bound and largest change per second, each (A,)."""
        rows = [a.limits[n] for a in self.actions for n in a.labels_of_joints]
        return tuple(np.array([getattr(r, k) for r in rows]) for k in ("min", "max", "rate"))  # type: ignore[return-value]

    @property
    def velocity_like(self) -> np.ndarray:
        """(A,) bool: which numbers stop at zero rather than where they are."""
        return np.array(
            [a.representation == "velocity" for a in self.actions for _ in a.labels_of_joints]
        )

    @property
    def measured_positions(self) -> np.ndarray:
        """(A,) int: which observed number is the measured position of each absolute command, found
        by the joint's name, or by what `measured` says; -1 of velocities."""
        return np.array([
            self._measured_by(a.measured.get(n, n)) if a.representation == "absolute" else -1
            for a in self.actions
            for n in a.labels_of_joints
        ])  # fmt: skip

    @property
    def relative_positions(self) -> np.ndarray:
        """(A,) int: as `measured_positions`, for the commands that may be learnt relative to them.

        Not those of a gripper: closed is closed, whatever is between its fingers. Nor where the
        measured position is read between messages, for the node can only hold the last one.
        """
        held = [o.resample == "hold" for o in self.observations for _ in o.feature_labels]
        joint = [a.space == "joint" for a in self.actions for _ in a.labels_of_joints]
        at = self.measured_positions
        return np.where(np.array(joint) & np.array([*held, False])[at], at, -1)

    def max_age(self, source: ObservationSource | EndSource) -> float:
        """Oldest usable age of a source [s]. A goal that was said once stays the goal."""
        goal = self.outcome.goal.observation if self.outcome.goal is not None else None
        if isinstance(source, ObservationSource) and source.name == goal:
            return source.max_age or MAX_AGE
        return source.max_age or max(3 * self.time.period, 0.05)


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _plain(value: Any) -> Any:
    """As `dataclasses.asdict`, without the later keys that have their default: a contract that does
    not use them keeps its hash."""
    if dataclasses.is_dataclass(value):
        return {
            f.name: _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata.get("later") and getattr(value, f.name) == _default(f))
        }
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
