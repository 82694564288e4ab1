"""What every kind of observation says about itself: training and the robot ask the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from qgf_ros.spaces.observations.image import EncoderSpec

# The networks' arithmetic: beyond it a number is infinite.
LARGEST = float(np.finfo(np.float32).max)


def finite(values: np.ndarray) -> np.ndarray:
    """(..., d) -> (...,) bool: every number is one in float32. NaN compares false."""
    return np.asarray((np.abs(values) <= LARGEST).all(axis=-1))


class Observed(Protocol):
    """What a kind reads of an `ObservationSource`."""

    @property
    def type(self) -> str: ...
    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def encoding(self) -> str: ...
    @property
    def resample(self) -> str: ...
    @property
    def encoder(self) -> EncoderSpec | None: ...


class ObservationKind:
    """One kind of observation. What is written here holds for plain numbers; a kind overrides what
    is otherwise for it."""

    name = ""
    encodings: tuple[str, ...] = ("identity",)  # what a contract may give
    resamplings: tuple[str, ...] = ("hold", "linear", "nearest")
    bounded = True  # the box of recorded states judges its features, see control/checks/bounds.py
    sees_motion = False  # shows every motion of the robot, whatever its joints are called
    unusable = "not finite"  # how a message that is not `usable` is said to be

    def claims(self, source: Observed) -> bool:
        """Whether a source is of this kind. The first of the table that claims it has it."""
        raise NotImplementedError

    def check(self, source: Observed) -> None:
        """Raises ValueError where a contract asks for what there is not for this kind."""
        raise NotImplementedError

    def feature_labels(self, source: Observed) -> tuple[str, ...]:
        """A name for each of the F numbers that the policy sees."""
        return source.labels

    def stems(self, source: Observed) -> tuple[str, ...]:
        """For each feature, what it shares its unit with: the field of its joints, the vector or the
        orientation that it is a part of. Numbers that only have a name stand alone."""
        if source.names:
            return tuple(f or n for f in source.fields or ("",) for n in source.names)
        labels = self.feature_labels(source)
        return tuple(label.rpartition(".")[0] or label for label in labels)

    def features(self, source: Observed, values: np.ndarray) -> np.ndarray:
        """(..., labels) as the messages have them -> (..., F) as the policy sees them."""
        return values

    def usable(self, source: Observed, values: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Whether messages are a state: (..., labels) and their (..., F) features -> (...,) bool."""
        return finite(features)

    def between(
        self, source: Observed, before: np.ndarray, after: np.ndarray, share: np.ndarray
    ) -> np.ndarray:
        """Numbers of messages (T, labels) on the way from `before` to `after`, (T, labels) each, of
        which `share` (T, 1) in 0..1 has gone. Only asked for `linear` and `slerp`."""
        return before + share * (after - before)

    def repeats(self, earlier: np.ndarray, later: np.ndarray) -> bool:
        """Whether a message says nothing new, (F,) each: a sensor that only repeats itself while the
        robot moves is frozen."""
        return np.array_equal(earlier, later)
