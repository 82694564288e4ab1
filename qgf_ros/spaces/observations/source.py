"""One input of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.joints import Joints
from qgf_ros.spaces.rotation import ENCODINGS
from qgf_ros.spaces.source import MAX_AGE, Source, later


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
