"""The guidance weight, brought to a new target little by little."""

from __future__ import annotations

import math


class BetaSlew:
    """In terms of w = 1 / beta, which is what pushes the action: it is 0 at beta = infinity."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The next target applies at once: nothing moves that could be upset."""
        self.beta: float | None = None  # in effect; None: none yet
        self._at = 0

    def __call__(self, now: int, target: float, floor: float, seconds: float) -> float:
        """The beta in effect at `now` [ns on the control clock].

        Its weight has moved towards 1/target by no more than 1/floor in `seconds`; 0 is at once.
        target: at least floor, or infinite.
        """
        passed, self._at = (now - self._at) * 1e-9, now
        if self.beta is not None and seconds > 0:
            step = max(passed, 0.0) / seconds / floor
            before, wanted = 1 / self.beta, 1 / target
            if abs(wanted - before) > step:
                weight = before + math.copysign(step, wanted - before)
                self.beta = max(1 / weight, floor) if weight > 0 else math.inf
                return self.beta
        self.beta = target
        return target
