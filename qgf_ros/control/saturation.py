"""Whether guidance drives the actions into the robot's limits."""

from __future__ import annotations

from collections import deque

from qgf_ros.control.reasons import Problem

WITHIN = 1.0  # s
SHARE = 0.2  # of the commands of that time, more than which is too much

SATURATED = Problem(
    "GUIDANCE_SATURATED",
    "",
    f"the limits changed more than {SHARE:.0%} of the guided commands of the last "
    f"{WITHIN:g} s; a larger beta guides more gently",
)


class SaturationWatch:
    """Counts guided commands that the gate limited, once per tick."""

    def __init__(self, period: float) -> None:
        """period: of control [s]."""
        self._allowed = SHARE * WITHIN / period
        self._hits: deque[int] = deque(maxlen=int(self._allowed) + 1)

    def __call__(self, now: int, hit: bool) -> bool:
        """hit: a guided command was limited at `now` [ns on the control clock]. -> too often."""
        if hit:
            self._hits.append(now)
        while self._hits and not 0 <= (now - self._hits[0]) * 1e-9 < WITHIN:
            self._hits.popleft()
        return len(self._hits) > self._allowed
