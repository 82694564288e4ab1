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


class Gate:
    """Keeps the last sent command, and nothing else that could drift."""

    def __init__(self, contract: Contract) -> None:
        self._names = contract.action_names
        self._low, self._high, self._rate = contract.limits
        self._velocity = contract.velocity_like
        self._period = contract.time.period
        self.scale = 1.0  # (0, 1]: tightens rate and velocity limits, live
        self.limit_hits = 0
        self.reset(0, None)

    def reset(self, epoch: int, measured: np.ndarray | None) -> None:
        """Begins an epoch; candidates of older ones are refused from now on.

        Args:
            measured: (A,) the robot's positions by command; entries of velocities are ignored.
                None: unknown. The first command is limited relative to it.
        """
        self.epoch = epoch
        self._sequence = -1
        self._last_admitted: int | None = None
        self._last_sent: int | None = None
        start = (
            np.full(len(self._names), np.nan)
            if measured is None
            else np.asarray(measured, dtype=np.float64)
        )
        self._last = np.where(self._velocity, 0.0, start)  # NaN: nothing to compare with yet

    def step(self, now: int, candidate: Candidate | None) -> Output:
        """Judges the tick's candidate and says what to send."""
        refused = ""
        if candidate is not None:
            refused = self._refusal(now, candidate)
            if not refused:
                self._sequence = candidate.sequence
                return self._admit(now, candidate)
        return self._hold(now, refused)

    def _refusal(self, now: int, c: Candidate) -> str:
        if c.epoch != self.epoch:
            return f"EPOCH: {c.epoch}, now {self.epoch}"
        if c.sequence <= self._sequence:
            return f"SEQUENCE: {c.sequence} after {self._sequence}"
        if c.deadline < now:
            return f"DEADLINE: {(now - c.deadline) * 1e-9:.3f} s ago"
        if c.names != self._names or np.shape(c.values) != (len(self._names),):
            return f"NAMES: {list(c.names)[:8]}, the contract has {list(self._names)[:8]}"
        if not np.isfinite(c.values).all():
            return "NONFINITE"
        return ""

    def _admit(self, now: int, c: Candidate) -> Output:
        wanted = np.asarray(c.values, dtype=np.float64)
        low, high = self._range()
        values = np.clip(wanted, low, high)
        values = self._within_rate(now, values)
        if not np.isfinite(values).all():
            return self._hold(now, "NONFINITE after limits")
        limited = bool(np.any(np.abs(values - wanted) > 1e-12))
        self.limit_hits += limited
        self._last_admitted = now
        return self._send(now, values, admitted=True, limited=limited)

    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        scale = np.where(self._velocity, self.scale, 1.0)
        return self._low * scale, self._high * scale

    def _within_rate(self, now: int, values: np.ndarray) -> np.ndarray:
        """Limits the change since the last sent command; after a pause, to one period's worth."""
        elapsed = (
            self._period
            if self._last_sent is None
            else min((now - self._last_sent) * 1e-9, self._period)
        )
        step = self._rate * self.scale * max(elapsed, 0.0)
        known = np.isfinite(self._last)
        last = np.where(known, self._last, values)
        return np.where(known, np.clip(values, last - step, last + step), values)

    def _hold(self, now: int, refused: str) -> Output:
        """Velocities towards zero, positions as last sent; then silence."""
        if self._last_admitted is None or (now - self._last_admitted) * 1e-9 > STOP_STREAM:
            return Output(None, admitted=False, refused=refused)
        target = np.where(self._velocity, 0.0, self._last)
        return self._send(now, self._within_rate(now, target), admitted=False, refused=refused)

    def _send(
        self, now: int, values: np.ndarray, admitted: bool, limited: bool = False, refused: str = ""
    ) -> Output:
        self._last, self._last_sent = values, now
        return Output(values.copy(), admitted, limited, refused)

    @property
    def at_rest(self) -> bool:
        """All velocities that were last sent are zero."""
        return not np.any(self._last[self._velocity])
