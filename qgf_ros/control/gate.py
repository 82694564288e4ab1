"""The gate: every command leaves through here, whatever made it. numpy only.

Order of the checks: owner, epoch and sequence, deadline, names, finite, range, change since the
last sent command, finite again. What fails is not sent; the robot is brought to hold instead:
velocities ramp to zero under the contract's rate, positions stay where they were last sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ros.contract import Contract

STOP_STREAM = 1.0  # s: how long the hold is repeated before the command topic falls silent


@dataclass(frozen=True)
class Candidate:
    """What somebody wants the robot to do. Times in ns on the control clock; see Command.msg."""

    owner: str
    sequence: int
    epoch: int
    stamp: int
    execute_at: int
    deadline: int
    names: tuple[str, ...]
    values: np.ndarray  # (A,) robot units


@dataclass(frozen=True)
class Output:
    """What goes to the robot in this tick; `values` None: nothing."""

    values: np.ndarray | None  # (A,) in the contract's order
    admitted: bool  # a candidate passed (False: a hold, or silence)
    limited: bool = False  # a limit changed the candidate
    refused: str = ""  # why the candidate was not sent


NOTHING = Output(None, admitted=False)


class Gate:
    """Keeps the last sent command, and nothing else that could drift."""

    def __init__(self, contract: Contract) -> None:
        self._names = contract.action_names
        self._low, self._high, self._rate = contract.limits
        self._velocity = contract.velocity_like
        self._period = contract.time.period
        self._scale = 1.0
        self.limit_hits = 0
        self._last_sent: int | None = None
        self._hold_steps: int | None = None  # since the last admitted candidate; None: silent
        self.silence()
        self.begin_epoch(0, None)

    @property
    def scale(self) -> float:
        """(0, 1]: tightens the limits of velocity and of rate."""
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        if not 0 < value <= 1:
            raise ValueError(f"limits_scale is {value}; allowed: above 0, at most 1")
        self._scale = value

    def begin_epoch(self, epoch: int, measured: np.ndarray | None) -> None:
        """From now on only candidates of `epoch` pass, and only of the first owner that is heard.

        While the robot is still being sent something, limits go on from that. After a silence it
        may have been moved by hand, and positions begin where they are measured; one that is
        measured outside its range is led back into it at the contract's rate.

        Args:
            measured: (A,) positions by command, NaN where unknown; velocities are ignored. None:
                nothing is known.
        """
        self.epoch = epoch
        self._owner: str | None = None
        self._sequence = -1
        if self.silent:
            unknown = np.full(len(self._names), np.nan)
            known = unknown if measured is None else np.asarray(measured, dtype=np.float64)
            self._last = np.where(self._velocity, 0.0, known)
            self._last_sent = None

    def silence(self) -> None:
        """Nothing more is sent, and what was sent is forgotten: the robot may be moved meanwhile."""
        self._hold_steps = None
        self._last_sent = None
        self._last = np.where(self._velocity, 0.0, np.nan)

    @property
    def silent(self) -> bool:
        """Nothing is being sent: before the first candidate, and after a hold has ended."""
        return self._hold_steps is None

    @property
    def at_rest(self) -> bool:
        """All velocities that were last sent are zero."""
        return not np.any(self._last[self._velocity])

    def step(self, now: int, candidate: Candidate | None) -> Output:
        """Judges the tick's candidate and says what to send. Called once per period."""
        elapsed = self._period
        if self._last_sent is not None:
            elapsed = min(max((now - self._last_sent) * 1e-9, 0.0), self._period)
        if candidate is None:
            return self._hold(now, elapsed)
        try:
            wanted = self._checked(now, candidate)
        except Refused as refusal:
            return self._hold(now, elapsed, str(refusal))
        self._owner, self._sequence = candidate.owner, candidate.sequence
        low, high = self._range()
        values = self._within_rate(np.clip(wanted, low, high), elapsed)
        if not np.isfinite(values).all():
            return self._hold(now, elapsed, "NONFINITE after limits")
        limited = bool(np.any(np.abs(values - wanted) > 1e-12))
        self.limit_hits += limited
        self._hold_steps = 0
        self._last, self._last_sent = values, now
        return Output(values.copy(), admitted=True, limited=limited)

    def _checked(self, now: int, c: Candidate) -> np.ndarray:
        """The candidate's numbers (A,) float64. Raises Refused with the reason."""
        if self._owner is not None and c.owner != self._owner:
            raise Refused(f"OWNER: {c.owner}, while {self._owner} commands")
        if c.epoch != self.epoch:
            raise Refused(f"EPOCH: {c.epoch}, now {self.epoch}")
        if c.sequence <= self._sequence:
            raise Refused(f"SEQUENCE: {c.sequence} after {self._sequence}")
        if c.deadline < now:
            raise Refused(f"DEADLINE: {(now - c.deadline) * 1e-9:.3f} s ago")
        if c.names != self._names or np.shape(c.values) != (len(self._names),):
            raise Refused(f"NAMES: {list(c.names)[:8]}, the contract has {list(self._names)[:8]}")
        if np.asarray(c.values).dtype.kind not in "fiu":
            raise Refused(f"TYPE: {np.asarray(c.values).dtype} is no real number")
        values = np.asarray(c.values, dtype=np.float64)
        if not np.isfinite(values).all():
            raise Refused("NONFINITE")
        return values

    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        scale = np.where(self._velocity, self._scale, 1.0)
        return self._low * scale, self._high * scale

    def _within_rate(self, values: np.ndarray, elapsed: float) -> np.ndarray:
        """Limits the change since the last sent command, over at most one period [s]."""
        step = self._rate * self._scale * elapsed
        known = np.isfinite(self._last)
        last = np.where(known, self._last, values)
        return np.where(known, np.clip(values, last - step, last + step), values)

    def brake(self, now: int) -> Output:
        """One period of holding, whatever the clock says: it stands still, or this is the end."""
        return self._hold(now, self._period)

    def _hold(self, now: int, elapsed: float, refused: str = "") -> Output:
        """Velocities towards zero, positions as last sent; then silence, but never at speed."""
        if self._hold_steps is None:
            return Output(None, admitted=False, refused=refused)
        if self._hold_steps * self._period >= STOP_STREAM and self.at_rest:
            self._hold_steps = None
            return Output(None, admitted=False, refused=refused)
        self._hold_steps += 1  # counted, not timed: the clock may have jumped or stopped
        # Braking is not tightened by `scale`: a robot that is told to be gentle must still stop.
        step = self._rate * elapsed
        target = np.where(self._velocity, 0.0, self._last)
        self._last = np.clip(target, self._last - step, self._last + step)
        self._last_sent = now
        return Output(self._last.copy(), admitted=False, refused=refused)


class Refused(Exception):
    """Why a candidate is not sent."""
