"""The gate: every command leaves through here, whatever made it. numpy only.

Order of the checks: owner, epoch and sequence, deadline, names, finite, known start, absurd; then
the limits in the order that each number's kind says, finite again, and the workspace of poses. What
fails is not sent; the robot is brought to hold instead: velocities ramp to zero, positions slow down
and stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qgf_ros.control.limiter import Limiter, at_rest
from qgf_ros.control.reasons import Code, Problem
from qgf_ros.control.workspace import Workspace
from qgf_ros.spaces.contract import Contract

STOP_STREAM = 1.0  # s: how long the hold is repeated before the command topic falls silent
STANDS_AFTER = 2  # periods without a command: what follows one has stopped by then


@dataclass(frozen=True)
class Candidate:
    """What somebody wants the robot to do. Times in ns on the control clock; see Command.msg.

    Without names and values it is an explicit hold.
    """

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
    refused: Problem | None = None  # why the candidate was not sent


NOTHING = Output(None, admitted=False)


class Gate:
    """Keeps what was last sent, and nothing else that could drift."""

    def __init__(self, contract: Contract) -> None:
        self._names = contract.action_names
        self._velocity = contract.velocity_like
        self._period = contract.time.period
        self._limiter, self._clamped = _limits(contract)
        self._workspace = Workspace(contract)
        self.expect(self._limiter.low, self._limiter.high)
        self._scale = 1.0
        self.limit_hits = 0
        self.elapsed = 0.0  # s, in which the last step was allowed to change what is sent
        self._last_sent: int | None = None
        self._hold_steps: int | None = None  # since the last admitted candidate; None: silent
        self.silence()
        self.begin_epoch(0, None)

    @property
    def scale(self) -> float:
        """(0, 1]: tightens every limit of commands but the range of positions; of no stop."""
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        if not 0 < value <= 1:
            raise ValueError(f"limits_scale is {value}; allowed: above 0, at most 1")
        self._scale = value

    def expect(self, low: np.ndarray, high: np.ndarray) -> None:
        """Tells what the commander may well ask for, (A,) each, beside what is in the range.

        A policy's actions may be wider than the limits, which somebody may have narrowed for a first
        try: those are clamped, however far out. Only what is beyond both is absurd.
        """
        low = np.minimum(low, self._limiter.low)
        high = np.maximum(high, self._limiter.high)
        margin = self._clamped * (high - low)
        self._absurd = low - margin, high + margin

    def begin_epoch(self, epoch: int, measured: np.ndarray | None) -> None:
        """From now on only candidates of `epoch` pass, and only of the first owner that is heard.

        While the robot is still being sent something, limits go on from that. After a silence it
        may have been moved by hand, and positions begin where they are measured; one that is
        measured outside its range is led back into it at the contract's rate.

        Args:
            measured: (A,) positions by command, NaN where unknown; velocities are ignored. None:
                nothing is known, and no position is sent.
        """
        self.epoch = epoch
        self._owner: str | None = None
        self._sequence = -1
        if self.silent:
            known = np.asarray(measured, dtype=np.float64)  # of None: NaN
            self._last = at_rest(np.where(self._velocity, 0.0, known))
            self._last_sent = None

    def silence(self) -> None:
        """Nothing more is sent, and what was sent is forgotten: the robot may be moved meanwhile."""
        self._hold_steps = None
        self._last_sent = None
        self._last = at_rest(np.where(self._velocity, 0.0, np.nan))

    @property
    def silent(self) -> bool:
        """Nothing is being sent: before the first candidate, and after a hold has ended."""
        return self._hold_steps is None

    @property
    def needs_measured(self) -> bool:
        """Whether `step` needs to know where the robot is measured."""
        return self._workspace.needs_measured

    @property
    def at_rest(self) -> bool:
        """What was last sent leaves the robot standing."""
        return not self._limiter.moves(self._last)

    @property
    def last(self) -> np.ndarray:
        """(A,) what was last sent, or where it would begin; NaN where nobody knows."""
        return self._last.value

    def step(
        self,
        now: int,
        candidate: Candidate | None,
        most: float = math.inf,
        measured: np.ndarray | None = None,
    ) -> Output:
        """Judges the tick's candidate and says what to send. Called once per period.

        Args:
            most: s, in which what is sent may differ from the last, where that is less than the time
                since the last: of who cannot vouch for the times that he hands in.
            measured: (A,) positions by command, as for `begin_epoch`, of this tick; what a workspace asks for.
        """
        elapsed = self.elapsed = min(self._elapsed(now), most)
        if candidate is None:
            return self._hold(now, elapsed)
        try:
            wanted = self._checked(now, candidate)
        except Refused as refusal:
            return self._hold(now, elapsed, refusal.problem)
        self._owner, self._sequence = candidate.owner, candidate.sequence
        if wanted is None:
            return self._hold(now, elapsed)
        with np.errstate(over="ignore", invalid="ignore"):  # of limits as large as floats can be
            motion = self._limiter.follow(self._last, wanted, elapsed, self._scale)
            limited = bool(np.any(np.abs(motion.value - wanted) > 1e-12))
        if not np.isfinite(motion[:3]).all():
            return self._hold(now, elapsed, Problem("NONFINITE", "", "after limits"))
        if self._workspace:
            stop = self._limiter.stop(motion)
            beyond = self._workspace.problem(self._last.value, motion.value, stop, measured)
            if beyond is not None:
                return self._hold(now, elapsed, beyond)
        self.limit_hits += limited
        self._hold_steps = 0
        self._last, self._last_sent = motion, now
        return Output(motion.value.copy(), admitted=True, limited=limited)

    def _elapsed(self, now: int) -> float:
        """Seconds in which what is sent now may differ from the last: at most a period."""
        if self._last_sent is None:
            return self._period
        elapsed = (now - self._last_sent) * 1e-9
        if elapsed > STANDS_AFTER * self._period:
            self._last = at_rest(self._last.value)
        return min(max(elapsed, 0.0), self._period)

    def clock_jumped(self) -> None:
        """What was sent last was sent a period ago, whatever the clock says."""
        self._last_sent = None

    def _checked(self, now: int, c: Candidate) -> np.ndarray | None:
        """The candidate's numbers (A,) float64; None for a hold. Raises Refused with the reason."""
        if self._owner is not None and c.owner != self._owner:
            raise Refused("OWNER", "", f"{c.owner}, while {self._owner} commands")
        if c.epoch != self.epoch:
            raise Refused("EPOCH", "", f"{c.epoch}, now {self.epoch}")
        if c.sequence <= self._sequence:
            raise Refused("SEQUENCE", "", f"{c.sequence} after {self._sequence}")
        if c.deadline < now:
            raise Refused("DEADLINE", "", f"{(now - c.deadline) * 1e-9:.3f} s ago")
        if c.names == () and np.shape(c.values) == (0,):
            return None
        if c.names != self._names or np.shape(c.values) != (len(self._names),):
            raise Refused(
                "NAMES", "", f"{list(c.names)[:8]}, the contract has {list(self._names)[:8]}"
            )
        if np.asarray(c.values).dtype.kind not in "fiu":
            raise Refused("TYPE", "", f"{np.asarray(c.values).dtype} is no real number")
        values = np.asarray(c.values, dtype=np.float64)
        if not np.isfinite(values).all():
            raise Refused("NONFINITE", "", "NaN or Inf")
        unknown = np.isnan(self._last.value)
        if unknown.any():
            raise Refused(
                "START", "", f"where {self._names[np.argmax(unknown)]} is was never measured"
            )
        low, high = self._absurd
        absurd = (values < low) | (values > high)
        if absurd.any():
            at = int(np.argmax(absurd))
            raise Refused(
                "RANGE",
                "",
                f"{self._names[at]} = {values[at]:.6g}, limits {self._limiter.low[at]:g} to "
                f"{self._limiter.high[at]:g}",
            )
        return values

    def brake(self, now: int, most: float = math.inf) -> Output:
        """One period of holding, whatever the clock says: it stands still, or this is the end.

        most: s, see `step`.
        """
        return self._hold(now, min(self._period, most))

    def stop(self, now: int) -> Output:
        """The very last word where braking takes longer than there is time: standing still. A
        receiver may go on for ever with what it was last told."""
        self._last = at_rest(np.where(self._velocity, 0.0, self._last.value))
        return self._hold(now, self._period)

    def _hold(self, now: int, elapsed: float, refused: Problem | None = None) -> Output:
        """Brings the robot to rest and repeats that; then silence, but never at speed."""
        if self._hold_steps is None:
            return Output(None, admitted=False, refused=refused)
        if self._hold_steps * self._period >= STOP_STREAM and self.at_rest:
            self._hold_steps = None
            return Output(None, admitted=False, refused=refused)
        self._hold_steps += 1  # counted, not timed: the clock may have jumped or stopped
        # Braking is not tightened by `scale`: a robot that is told to be gentle must still stop.
        self._last = self._limiter.hold(self._last, elapsed)
        self._last_sent = now
        return Output(self._last.value.copy(), admitted=False, refused=refused)


def _limits(contract: Contract) -> tuple[Limiter, np.ndarray]:
    """The contract's limits by the kind of each number, and how many widths beyond are clamped (A,)."""
    rows = [(a.kind, a.limits[name]) for a in contract.actions for name in a.labels_of_joints]
    rate, second, third = np.array([
        [getattr(limit, key) if key else np.inf for key in kind.limits] for kind, limit in rows
    ]).T  # fmt: skip
    low, high, _ = contract.limits
    clamped = np.array([kind.clamped for kind, _ in rows])
    return Limiter(low, high, rate, second, third, contract.velocity_like), clamped


class Refused(Exception):
    """Why a candidate is not sent."""

    def __init__(self, code: Code, subject: str, detail: str) -> None:
        self.problem = Problem(code, subject, detail)
        super().__init__(str(self.problem))
