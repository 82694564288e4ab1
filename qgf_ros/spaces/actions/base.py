"""What every kind of action says about itself: contract, gate, checks, training and views ask it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np

from qgf_ros.spaces.limits import Limit


class Commanded(Protocol):
    """What a kind reads of an `ActionSpec`."""

    @property
    def type(self) -> str: ...
    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def space(self) -> str: ...
    @property
    def representation(self) -> str: ...
    @property
    def frame(self) -> str: ...
    @property
    def limits(self) -> Mapping[str, Limit]: ...
    @property
    def measured(self) -> Mapping[str, str]: ...
    @property
    def home(self) -> tuple[float, ...]: ...
    @property
    def axes(self) -> str: ...
    @property
    def rotation(self) -> str: ...


class Sensor(Protocol):
    """What a kind reads of an observation that may measure what it commands."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...


class ActionKind:
    """One kind of action. A contract asks for it by `space` and `representation`.

    The gate judges its numbers in three bands: within the range they pass; outside of it, by up to
    `clamped` widths, they are brought to the range's end; what is further out is no action but a
    fault, and refused.
    """

    name = ""
    space = ""
    representation = ""
    types: tuple[str, ...] = ()  # message types that are this kind's own; none: joints by name
    field = ""  # of a JointState or JointTrajectory, that it commands
    limits: tuple[str, str, str] = (
        "",
        "",
        "",
    )  # keys of `Limit`: of its change, and so on; "" none
    hold: Literal["hold_last_sent", "ramp_to_zero"] = "hold_last_sent"  # the only one that is safe
    clamped = 1.0
    measured = False  # where it begins must be measured, by an observation of the same name
    relative = False  # may be learnt relative to where it is measured
    # What its numbers are learnt relative to, always: the observation of the chunk, or the last command.
    learnt_from: Literal["", "observed", "last"] = ""
    grips = False  # its changes are grasps, which reports tell apart
    converts = False  # its numbers are not those of the message, see `numbers`
    measures: tuple[str, ...] = ()  # encodings of an observation that measures it whole
    measured_whole = ""  # the key of `measured` for all of its numbers at once; "": each has its own
    words: tuple[str, ...] = ()  # in a topic, by which a draft takes a command for one of this kind

    @property
    def sent(self) -> str:
        """The representation of what the robot is sent."""
        return "absolute" if self.learnt_from else self.representation

    @property
    def stops_at_zero(self) -> bool:
        """Whether its numbers stop at zero, rather than where they are."""
        return self.hold == "ramp_to_zero"

    def check(self, spec: Commanded) -> None:
        """Raises ValueError where a contract asks for what there is not for this kind."""
        if spec.fields not in ((), (self.field,)):
            raise ValueError(
                f"fields is {list(spec.fields)}; representation {self.representation} commands "
                f"[{self.field}] and nothing else"
            )

    def check_limits(self, limits: Mapping[str, Limit]) -> None:
        """Raises ValueError where limits, by label, are none for this kind."""
        if not self.stops_at_zero:
            alone = [
                n for n, limit in limits.items() if limit.jerk < limit.acceleration == math.inf
            ]
            if alone:
                raise ValueError(
                    f"jerk limits how an acceleration changes; give the acceleration of {', '.join(alone)} too"
                )
            return
        stuck = [n for n, limit in limits.items() if not limit.min <= 0 <= limit.max]
        if stuck:
            raise ValueError(
                f"{self.representation} that cannot be zero cannot stop: {', '.join(stuck)}"
            )
        twice = [n for n, limit in limits.items() if limit.acceleration < math.inf]
        if twice:
            raise ValueError(
                f"the rate of {self.representation} is all that limits its change; leave acceleration out of "
                f"{', '.join(twice)}"
            )

    def labels(self, spec: Commanded) -> tuple[str, ...]:
        """A name for each number, which is also its key in `limits`."""
        return spec.names or spec.fields

    def learnt_labels(self, spec: Commanded) -> tuple[str, ...]:
        """A name for each number that is learnt of it; those of `labels`, unless it says otherwise."""
        return self.labels(spec)

    def learnt_limits(self, spec: Commanded) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of what is learnt, where commands are within their limits."""
        rows = [spec.limits[n] for n in self.labels(spec)]
        return np.array([r.min for r in rows]), np.array([r.max for r in rows])

    def numbers(self, spec: Commanded, values: np.ndarray) -> np.ndarray:
        """What a message says (..., M) -> the kind's numbers (..., labels), robot units."""
        return values

    def message(self, spec: Commanded, numbers: np.ndarray) -> np.ndarray:
        """The kind's numbers (..., labels) -> what a message says (..., M): the inverse of `numbers`."""
        return numbers

    def from_row(self, spec: Commanded, row: np.ndarray) -> np.ndarray:
        """What a table's row says (..., M) -> the kind's numbers, or the change of them (..., labels)."""
        return row

    def to_row(self, spec: Commanded, numbers: np.ndarray) -> np.ndarray:
        """The inverse of `from_row`."""
        return numbers

    def start(self, spec: Commanded, features: np.ndarray) -> np.ndarray:
        """Of a kind with `measured_whole`: the features (..., F) of the observation that measures it ->
        (..., labels)."""
        raise NotImplementedError

    def to_policy(self, spec: Commanded, commands: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Commands (..., H, labels) of a chunk, robot units -> what the policy learns.

        start: (..., labels), where `learnt_from` says that a chunk begins; of no meaning without."""
        return commands

    def from_policy(self, spec: Commanded, learnt: np.ndarray, start: np.ndarray) -> np.ndarray:
        """What the policy says (..., H, labels) -> commands, robot units: the inverse of `to_policy`."""
        return learnt

    def reach(
        self, spec: Commanded, low: np.ndarray, high: np.ndarray, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest command of a chunk of H learnt numbers within low..high, where it begins within
        the limits."""
        return low, high

    def travel(self, period: float) -> float:
        """How far a command of 1 leads in a period [s]; 0 where it says the place itself."""
        raise NotImplementedError

    def speed(self, limit: Limit, period: float) -> float:
        """The largest speed that it may command within its limit, per s, once per `period` [s]."""
        raise NotImplementedError

    def measured_by(self, spec: Commanded, label: str, sensor: Sensor) -> bool:
        """Whether an observation shows the motion that one of its numbers commands."""
        return label in sensor.names

    def path(self, spec: Commanded, values: np.ndarray, period: float) -> np.ndarray | None:
        """(H + 1, 3) m: where H commands (H, labels) of `period` s each lead, from the origin of their
        frame; None where only a model of the robot knows."""
        return None
