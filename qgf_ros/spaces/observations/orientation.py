"""Orientations, alone or in a pose: quaternions in messages, continuous numbers for the policy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.observations.base import ObservationKind, Observed, finite
from qgf_ros.spaces.rotation import ENCODINGS, slerp

LENGTHS = (0.9, 1.1)  # of a quaternion that is meant as a rotation; beyond it something is broken


class Orientation(ObservationKind):
    """A source with whole orientations among its fields; the other numbers stay as they are."""

    name = "orientation"
    encodings = tuple(ENCODINGS)
    resamplings = ("hold", "slerp", "nearest")
    unusable = "not finite, or held a quaternion that is not of length 1"

    def claims(self, source: Observed) -> bool:
        return bool(quaternions(source.type, source.fields))

    def check(self, source: Observed) -> None:
        if source.encoding not in self.encodings:
            raise ValueError(
                f"encoding is {source.encoding}, and fields {list(source.fields)} hold an "
                f"orientation; give {', '.join(ENCODINGS)} with one, identity without"
            )
        if source.resample not in self.resamplings:
            raise ValueError(
                f"resample is {source.resample}, and fields {list(source.fields)} hold an "
                "orientation, which has no straight way; give slerp, nearest or hold"
            )

    def feature_labels(self, source: Observed) -> tuple[str, ...]:
        kind, suffixes = message_type(source.type), ENCODINGS[source.encoding].labels
        return tuple(
            label
            for f in source.fields
            for label in ([f"{f}.{s}" for s in suffixes] if kind.is_orientation(f) else [f])
        )

    def features(self, source: Observed, values: np.ndarray) -> np.ndarray:
        """A quaternion that is none (length 0) gives NaN, and so does a turn that there is not."""
        columns, at = [], 0
        for part in quaternions(source.type, source.fields):
            columns.append(values[..., at : part.start])
            columns.append(ENCODINGS[source.encoding].encode(values[..., part]))
            at = part.stop
        return np.concatenate([*columns, values[..., at:]], axis=-1)

    def usable(self, source: Observed, values: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Finite, and every orientation a quaternion of about length 1."""
        good = finite(features)
        low, high = LENGTHS
        for part in quaternions(source.type, source.fields):
            with np.errstate(over="ignore", invalid="ignore"):
                length = np.sqrt((values[..., part] ** 2).sum(axis=-1))
            good = good & (low <= length) & (length <= high)
        return good

    def between(
        self, source: Observed, before: np.ndarray, after: np.ndarray, share: np.ndarray
    ) -> np.ndarray:
        """Orientations by the shortest turn, other numbers linearly."""
        out = super().between(source, before, after, share)
        for part in quaternions(source.type, source.fields):
            out[:, part] = slerp(before[:, part], after[:, part], share)
        return out


@lru_cache(maxsize=256)
def quaternions(type_name: str, fields: tuple[str, ...]) -> tuple[slice, ...]:
    """Where the quaternions stand among the numbers of a message."""
    kind, at, found = message_type(type_name), 0, []
    for path in fields:
        width = len(kind.labels(path))
        if kind.is_orientation(path):
            found.append(slice(at, at + width))
        at += width
    return tuple(found)
