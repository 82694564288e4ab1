"""How fast a command may change: range, rate, and the rates of that. Pure functions, numpy only.

Each number is a chain: its value, the value's rate, and the rate's rate (`second`). Of a position
these are position, velocity and acceleration, of a velocity they are velocity, acceleration and
jerk. What is limited comes in this order, and yields to what stands before it: range, rate,
`second`, `third`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Motion(NamedTuple):
    """What was last sent, and how it was changing. All (A,) float64."""

    value: np.ndarray  # robot units; NaN: not known yet
    rate: np.ndarray  # per s; of numbers without a limit of the second order it is not kept
    second: np.ndarray  # per s^2
    target: np.ndarray  # what was asked for when this was sent, within the range; NaN: nothing


def at_rest(value: np.ndarray) -> Motion:
    """Standing at `value`."""
    none = np.zeros(len(value))
    return Motion(value, none, none, np.full(len(value), np.nan))


@dataclass(frozen=True)
class Limiter:
    """The limits of the A numbers; all (A,). Infinite `second` or `third`: none; `third` finite only
    where `second` is."""

    low: np.ndarray
    high: np.ndarray
    rate: np.ndarray
    second: np.ndarray
    third: np.ndarray
    ramps: np.ndarray  # bool: a hold brings the value to zero; else it brings the rate to zero

    def moves(self, motion: Motion) -> bool:
        """Whether a hold would still change something."""
        return bool(np.any(np.where(self.ramps, motion.value, motion.rate)))

    def follow(
        self, last: Motion, wanted: np.ndarray, elapsed: float, scale: float = 1.0
    ) -> Motion:
        """The nearest to `wanted` (A,) that may be sent `elapsed` s, at most a period, after `last`.

        A number outside its range is led back into it. scale: in (0, 1], tightens every limit but
        the range of what holds where it is; it never weakens the braking before the range's end.
        """
        ends = np.where(self.ramps, scale, 1.0)
        target = np.clip(wanted, self.low * ends, self.high * ends)
        step = self.rate * scale * elapsed
        value = np.clip(target, last.value - step, last.value + step)
        chained = np.isfinite(self.second)
        if not chained.any():
            return at_rest(value)._replace(target=target)
        if elapsed <= 0:
            return last
        smooth, rate = self._smooth(last, target, elapsed, scale)
        return Motion(
            np.where(chained, smooth, value),
            np.where(chained, rate, 0.0),
            np.where(chained, (rate - last.rate) / elapsed, 0.0),
            target,
        )

    def _smooth(
        self, last: Motion, target: np.ndarray, elapsed: float, scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Value and rate of the numbers whose rate is limited too.

        What is sent can always still stop before the range's end. A rate v leaves room for that
        where x + v^2 / 2s <= high. A stop keeps this whatever its steps e are: with v' = v - s e and
        x' = x + v' e, x' + v'^2 / 2s = x + v^2 / 2s - s e^2 / 2. So the intervals of range, rate and
        change of rate below always meet, each with each, and clipping to one after the other ends
        within them all.
        """
        low, high = (end * np.where(self.ramps, scale, 1.0) for end in (self.low, self.high))
        most, second, third = self.rate * scale, self.second * scale, self.third * scale
        # As asked, where that needs no more than is allowed, now and to stay there. Else towards the
        # target, itself in motion, so that the number can stop there: it would swing about it.
        drift = np.clip((target - last.target) / elapsed, -most, most)
        drift = np.where(np.isfinite(last.target), drift, 0.0)
        direct = (target - last.value) / elapsed
        gap = target - last.value - drift * elapsed
        turn, back = direct - last.rate, gap / elapsed
        allowed = np.abs(turn - last.second * elapsed) <= third * elapsed**2
        settles = (np.abs(back) <= second * elapsed) & (np.abs(back + turn) <= third * elapsed**2)
        allowed &= settles | (np.abs(back) <= 1e-9 * most)
        with np.errstate(invalid="ignore"):  # infinite by infinite: of numbers without these limits
            build_up = second / third  # s, from none to full braking
        aim = drift + _towards(gap, second, elapsed + build_up)
        turn = _towards(aim - last.rate, third, elapsed) * elapsed
        rate = np.where(allowed, direct, last.rate + turn)
        up = np.minimum(last.second + third * elapsed, _stopping(most - last.rate, third, elapsed))
        down = np.minimum(
            third * elapsed - last.second, _stopping(most + last.rate, third, elapsed)
        )
        rate = np.clip(rate, last.rate - down * elapsed, last.rate + up * elapsed)
        rate = np.clip(rate, last.rate - second * elapsed, last.rate + second * elapsed)
        rate = np.clip(rate, -most, most)
        below = _stopping(last.value - low, second, elapsed)
        above = _stopping(high - last.value, second, elapsed)
        rate = np.clip(rate, -below, above)
        # Not `scale`d: what was faster when the scale was tightened may need all of the braking.
        rate = np.clip(rate, last.rate - self.second * elapsed, last.rate + self.second * elapsed)
        value = np.where(rate == direct, target, last.value + rate * elapsed)
        return self._inside(value, last.value), rate

    def stop(self, motion: Motion) -> np.ndarray:
        """(A,): where a hold from here ends. Braking by s from v in steps leads no further than v^2 / 2s: with
        v' = v - s e and x' = x + v' e, x + v^2 / 2s never grows."""
        with np.errstate(over="ignore"):
            way = motion.rate * np.abs(motion.rate) / (2 * self.second)
        return np.where(self.ramps, 0.0, self._inside(motion.value + way, motion.value))

    def hold(self, last: Motion, elapsed: float) -> Motion:
        """A step of braking: velocities to zero at their rate; a position's velocity to zero, by its
        acceleration if that is limited, else at once. Jerk makes no stop longer."""
        step = self.rate * elapsed
        brake = np.full(len(step), np.inf)
        np.multiply(self.second, elapsed, where=np.isfinite(self.second), out=brake)
        rate = np.where(self.ramps, 0.0, last.rate - np.clip(last.rate, -brake, brake))
        kept = self._inside(last.value + rate * elapsed, last.value)
        ramped = np.clip(0.0, last.value - step, last.value + step)
        return at_rest(np.where(self.ramps, ramped, kept))._replace(rate=rate)

    def _inside(self, value: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Rounding does not count: never out of the range, or further out than it was."""
        return np.clip(value, np.minimum(self.low, before), np.maximum(self.high, before))


def _stopping(room: np.ndarray, change: np.ndarray, elapsed: float | np.ndarray) -> np.ndarray:
    """The largest rate over the next `elapsed` s that can then still be brought to zero within
    `room`, when it falls by `change` per s: -c e + sqrt(c^2 e^2 + 2 c room), for any c up to inf."""
    room = np.maximum(room, 0.0)
    return 2 * room / (elapsed + np.sqrt(elapsed**2 + 2 * room / change))


def _towards(gap: np.ndarray, change: np.ndarray, elapsed: float | np.ndarray) -> np.ndarray:
    """The rate at which `gap` can be closed without going beyond it."""
    return np.sign(gap) * _stopping(np.abs(gap), change, elapsed)
