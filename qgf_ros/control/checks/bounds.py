"""How far a state is outside of what was recorded, and whether that is too far.

The policy carries a box: for each observed number the range of what was recorded, but for one in
10,000 at either end. The score of a state is its largest distance outside of the box, in widths of
that number's range: 0 inside, 1 where a joint is as far beyond its range as that is wide. A wrong
unit (degrees for radians) scores many. A width counts as three standard deviations at least: what
hardly varied in the data may vary a little more on the robot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from qgf_ros.control.checks.base import Judgement, StateCheck
from qgf_ros.control.reasons import Code, Problem
from qgf_ros.control.spec import Spec
from qgf_ros.policy.folder import Policy

WARN_AT = 0.1  # widths
# The range of each normalised number where a policy brings no box: with a bound of one width a
# state is refused from 15 standard deviations on.
WITHOUT_BOX = 5.0
VARIED = 1e-6  # normalised width: less is no range that could measure a distance
LEAST_WIDTH = 3.0  # standard deviations; what varied evenly between two ends has 3.5


class Bounds(StateCheck):
    """The box of one policy, and how far outside of it a state may be."""

    settings = (
        Spec("state_bound", float, 1.0, "HOLD where the state is further outside of what was recorded; inf: never.",
             "widths of the recorded range", 0.0, math.inf),
    )  # fmt: skip

    @classmethod
    def of(cls, values: Mapping[str, Any], policy: Policy) -> Bounds:
        return cls(policy, values["state_bound"])

    def __init__(self, policy: Policy, bound: float) -> None:
        """bound: the score beyond which a state is refused [widths]; infinite: never."""
        self._bound = bound
        box, self._normalizer = policy.description.states, policy.normalizer
        self._known = "recorded" if box else "expected"
        self._names = policy.contract.observation_names
        self._judged = policy.contract.bounded
        size = len(self._names)
        self._low = np.array(box.low) if box else np.full(size, -WITHOUT_BOX)
        self._high = np.array(box.high) if box else np.full(size, WITHOUT_BOX)
        width = self._high - self._low
        # What never varied cannot be far: how far is far? It is worth a warning, in standard
        # deviations of its siblings, or in its own unit where it has none.
        self._varied = width > VARIED
        self._unit = np.where(self._varied, np.maximum(width, LEAST_WIDTH), 1.0)

    def judge(self, vector: np.ndarray) -> Judgement:
        n = self._normalizer
        z = (vector - n.obs_mean) / n.obs_std  # float64: 1e38 must not overflow to no score
        outside = np.maximum(np.maximum(self._low - z, z - self._high), 0.0) / self._unit
        outside = np.where(self._judged, outside, 0.0)
        worst = int(np.where(self._varied, outside, 0.0).argmax())
        score = float(outside[worst]) if self._varied[worst] else 0.0
        if score > self._bound:
            return Judgement(score, problem=self._said("STATE_OOD", worst, vector, outside))
        worst = int(outside.argmax())
        if outside[worst] > WARN_AT:
            return Judgement(score, warning=self._said("OOD", worst, vector, outside))
        return Judgement(score)

    def _said(self, code: Code, at: int, vector: np.ndarray, outside: np.ndarray) -> Problem:
        n, name = self._normalizer, self._names[at]
        low, high = (n.obs_mean[at] + n.obs_std[at] * edge[at] for edge in (self._low, self._high))
        known = (
            f"{self._known} were {low:.4g} to {high:.4g}"
            if self._varied[at]
            else f"{self._known} was {low:.4g} alone"
        )
        far = f", {outside[at]:.3g} widths outside" if self._varied[at] else ""
        return Problem(code, name, f"{name} is {vector[at]:.4g}, {known}{far}")
