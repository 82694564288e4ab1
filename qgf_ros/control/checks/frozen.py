"""Sensors that repeat themselves while the robot is told to move.

A driver that lost its device often goes on publishing the last numbers with fresh stamps. Only what
measures the commanded motion can be told so: other things may well stand still.
"""

from __future__ import annotations

import numpy as np

from qgf_ros.spaces.contract import Contract

FROZEN_AFTER = 0.5  # s of commanded motion without another number
SLOW = 0.02  # of the largest speed: less than that is no motion that every sensor shows
REPEATS = 2  # messages with the same numbers: a slow sensor is silent, not frozen


class Frozen:
    """Watches the sources that measure what is commanded. `heard` may be called from another thread."""

    def __init__(self, contract: Contract) -> None:
        masks = {
            o.name: np.array([
                o.kind.sees_motion or a.kind.measured_by(a, n, o) for a in contract.actions for n in a.labels_of_joints
            ])
            for o in contract.observations
        }  # fmt: skip
        self._watched = {name: mask for name, mask in masks.items() if mask.any()}
        self._repeats_itself = {o.name: o.kind.repeats for o in contract.observations}
        self._velocity, self._period = contract.velocity_like, contract.time.period
        self._travel, self._speed = contract.travel, contract.speeds
        self.clear()

    def clear(self) -> None:
        """Forgets what was heard and sent."""
        self._values: dict[str, np.ndarray] = {}
        self._repeats = dict.fromkeys(self._watched, 0)
        self._asked = np.where(self._velocity, 0.0, np.nan)  # (A,) where the commands lead to
        self._began: dict[str, tuple[int, np.ndarray]] = {}  # motion that nothing answered yet

    def heard(self, name: str, values: np.ndarray) -> None:
        """A message that counts, later than those before it."""
        if name not in self._watched:
            return
        if name in self._values and self._repeats_itself[name](self._values[name], values):
            self._repeats[name] += 1
        else:
            self._values[name], self._repeats[name] = values, 0

    def sent(self, now: int, values: np.ndarray | None) -> None:
        """What the robot was sent at `now` [ns], (A,); None: nothing. Called once per period."""
        if values is None:
            asked = np.where(self._velocity, self._asked, np.nan)
        else:
            asked = np.where(self._velocity, self._asked + values * self._travel, values)
        moves = np.abs(asked - self._asked) > SLOW * self._speed * self._period  # NaN: no motion
        self._asked = asked
        for name, mask in self._watched.items():
            if self._repeats[name] == 0 or not moves[mask].any() or name not in self._began:
                self._began[name] = (now, asked)

    def seconds(self, name: str, now: int) -> float:
        """For how long commanded motion has gone without an answer of this source [s]; 0 if it is
        not frozen."""
        if name not in self._began or self._repeats[name] < REPEATS:
            return 0.0
        at, asked = self._began[name]
        waited = (now - at) * 1e-9
        # The way, too: a dither about one place moves nothing that has friction.
        way = np.abs(self._asked - asked) > SLOW / 2 * self._speed * FROZEN_AFTER
        return waited if waited >= FROZEN_AFTER and way[self._watched[name]].any() else 0.0
