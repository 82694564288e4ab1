"""What every check of a state says about itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ros.control.reasons import Problem
from qgf_ros.control.spec import Spec
from qgf_ros.policy.folder import Policy


@dataclass(frozen=True)
class Judgement:
    """What a state deserves. At most one of `warning` and `problem` is there."""

    score: float = math.nan  # how far outside of what was recorded, see bounds.py; NaN: not asked
    warning: Problem | None = None
    problem: Problem | None = None


class StateCheck:
    """One thing that must hold of a state before the robot moves by it.

    Made anew from the settings at a start, at a swap of policies and where a setting changes.
    """

    settings: tuple[Spec, ...] = ()  # of its own: parameters of the node

    @classmethod
    def of(cls, values: Mapping[str, Any], policy: Policy) -> StateCheck | None:
        """The check by the values of all settings, by name; None: it does not apply.

        Raises:
            UsageError: they mean nothing with this policy.
        """
        raise NotImplementedError

    def judge(self, vector: np.ndarray) -> Judgement:
        """vector: (O,) finite, robot units, in the order of the contract's `observation_names`."""
        raise NotImplementedError
