"""What a message must be to be believed: asked here by the node and by training alike, so that no
policy learns from what the robot would refuse."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from qgf_ros.spaces.observations.source import ObservationSource

FUTURE_TOLERANCE = 0.1  # s: a stamp further ahead is no proof of freshness
QUATERNION_LENGTHS = (0.9, 1.1)  # what is meant as a rotation; beyond it something is broken
LARGEST = float(
    np.finfo(np.float32).max
)  # the networks' arithmetic: beyond it a number is infinite


def finite(values: np.ndarray) -> np.ndarray:
    """(..., d) -> (...,) bool: every number is one in float32. NaN compares false."""
    return np.asarray((np.abs(values) <= LARGEST).all(axis=-1))


def usable(
    source: ObservationSource, values: np.ndarray, features: np.ndarray | None = None
) -> np.ndarray:
    """Whether messages are a state: finite, and every orientation a quaternion of about length 1.

    Args:
        values: (..., labels), as the messages have them.
        features: what the source makes of them, (..., feature_labels), where that is known already.

    Returns:
        (...,) bool.
    """
    good = finite(source.features(values) if features is None else features)
    low, high = QUATERNION_LENGTHS
    for part in quaternions(source.labels) if source.encoding != "identity" else ():
        with np.errstate(over="ignore", invalid="ignore"):
            length = np.sqrt((values[..., part] ** 2).sum(axis=-1))
        good = good & (low <= length) & (length <= high)
    return good


def ahead(stamp: Any, receipt: Any) -> Any:
    """Whether a message is stamped further ahead of its receipt than clocks differ; ns, bool."""
    return stamp - receipt > round(FUTURE_TOLERANCE * 1e9)


@lru_cache(maxsize=256)
def quaternions(labels: tuple[str, ...]) -> tuple[slice, ...]:
    """Where the quaternions stand among the numbers of a message."""
    return tuple(
        slice(i, i + 4) for i, label in enumerate(labels) if label.endswith("orientation.x")
    )
