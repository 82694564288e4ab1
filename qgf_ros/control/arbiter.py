"""Who commands the robot, and for how long: the logic of `qgf_gate`, on clocks that are handed in.

Several owners may send candidates; one passes at a time. An earlier one of `owners` takes over at
once, a later one waits until it has been quiet for the timeout, and then needs a new epoch: whoever
was overridden does not go on by itself. Candidates that stop are a hold, whatever the reason.

Two clocks: deadlines lie on the control clock, silence is measured on the steady one. Under a
simulated clock, which may run at any speed, silence is measured on that one as long as it moves; once
it stands nothing but a hold goes out, and that brakes by the steady one: the robot may be moving on.

Limits are measured on the owner's grid of ticks, so that transport adds no jitter to them, and
within the time that has really passed: a candidate may be meant for a moment that is still to come,
and a burst of such moves nothing faster. What is saved up for jitter is one period at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ros.control.checks.clocks import FUTURE_TOLERANCE
from qgf_ros.control.gate import Candidate, Gate, Output, Refused
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.spaces.contract import Contract

TIMEOUT_PERIODS = 2  # the default of command_timeout
JUMP = 1.0  # s by which the clocks may drift apart between two commands: beyond it one was set
INTERRUPTED = 1.0  # s without another interruption, before candidates pass again
STALLED = 0.5  # s of steady time without a step of a simulated clock: it has stopped
NEVER = -(10**18)  # ns


@dataclass(frozen=True)
class Moment:
    """One point in time on both clocks [ns]."""

    control: int
    steady: int


@dataclass
class _Stream:
    """What was last heard of an owner."""

    at: Moment = Moment(NEVER, NEVER)
    epoch: int = -1
    sequence: int = -1
    void: int = -1  # the epoch in which somebody else took over


class Arbiter:
    """Keeps a gate, and what it has heard of each owner. Not for two threads at once."""

    def __init__(
        self,
        contract: Contract,
        owners: tuple[str, ...],
        timeout: float = 0.0,
        simulated: bool = False,
    ) -> None:
        """
        Args:
            owners: who may command, the first above all others.
            timeout: s without a candidate before the gate holds; 0: two control periods.
            simulated: the control clock is not the machine's.
        """
        self.gate = Gate(contract)
        self.owner: str | None = None  # whose candidates pass; None: nobody's, nothing is sent
        self.reason: Problem | None = None  # why it holds, or does not pass what it hears
        self.refused = 0  # of the owner in command, and held for
        self.owners = owners
        self.names = contract.action_names
        self._positions = ~contract.velocity_like
        self._period = round(contract.time.period * 1e9)
        self._timeout = (
            max(round(timeout * 1e9), 1) if timeout > 0 else TIMEOUT_PERIODS * self._period
        )
        self._simulated = simulated
        self._rank = {owner: rank for rank, owner in enumerate(owners)}
        self._streams = {owner: _Stream() for owner in owners}
        self._sent = Moment(NEVER, NEVER)  # when the owner, or the hold, last had the word
        self._clock = Moment(NEVER, NEVER)  # when the control clock was last seen to move
        self._at = NEVER  # the tick of the last command, on the owner's grid
        self._alone = False  # the hold goes on without an owner who asks for it
        self._interrupted: Problem | None = None  # what went wrong here
        self._until = NEVER  # steady time [ns] before which nothing passes for it
        self._stopped_by: Problem | None = None  # an emergency stop, until a new epoch begins
        self._pressed: Problem | None = None  # the same, until it is released
        self._carry = 0  # ns that have passed and were not used by what was sent, at most a period

    @property
    def state(self) -> State:
        """RUN while candidates go to the robot, HOLD until they do again, READY before the first
        and after an end in good order, FAULT while an emergency stop is pressed."""
        if self.stopped:
            return State.FAULT
        if self.reason is not None:
            return State.HOLD
        return State.READY if self.owner is None else State.RUN

    def ages(self, now: Moment) -> list[float]:
        """s since each owner was last heard, NaN: never."""
        return [
            (now.steady - s.at.steady) * 1e-9 if s.epoch >= 0 else float("nan")
            for s in self._streams.values()
        ]

    def offer(self, owner: str, c: Candidate, now: Moment, measured: np.ndarray) -> Output:
        """Judges a candidate that came on the topic of `owner`, one of the owners.

        Args:
            measured: (A,) positions by command, NaN for velocities and where none is known.

        Raises:
            Refused: it has no say; the robot goes on as if it had not come. What the owner in command
                says wrongly is no such case: it is a hold.
        """
        explicit = not c.names and c.values.size == 0
        self._see_clock(now)
        self._check_time(owner, c, now)
        self._check_stream(owner, c, now)
        stands = self._stands(now)
        if stands and self.gate.silent and not explicit:
            raise Refused("CLOCK_STOPPED", "", f"the simulated clock stands still (from {owner})")
        begins = owner != self.owner or c.epoch != self.gate.epoch
        if begins and not (explicit and self.gate.silent):
            self._hand_over(owner, c, measured)
        # On the owner's own grid of ticks, so that transport adds no jitter to what limits measure.
        near = abs(now.control - c.execute_at) <= TIMEOUT_PERIODS * self._period
        at = c.execute_at if near else now.control
        if abs(self._at - now.control) <= TIMEOUT_PERIODS * self._period:
            at = max(at, self._at)  # a grid that goes back would count the same time twice
        self._at = at
        if self._jumped(now):
            self.gate.clock_jumped()
        credit = self._credit(now)
        if stands:  # no time passes on the grid of ticks
            output, used = self.gate.brake(now.control, credit * 1e-9), self._period
        else:
            output = self.gate.step(at, None if explicit else c, credit * 1e-9, measured)
            used = round(self.gate.elapsed * 1e9)
        self._spend(credit, used)
        self._sent, self._alone = now, False
        if output.admitted:
            self.reason = self._stopped_by = None
        elif explicit:
            self.reason = Problem("EXPLICIT_HOLD", "", f"{owner} asks for a hold")
        elif stands:
            self.reason = Problem(
                "CLOCK_STOPPED", "", f"the simulated clock stands still, and {owner} goes on"
            )
            self.refused += 1
        elif (why := output.refused) is not None:
            self.reason = Problem(why.code, why.subject, f"from {owner}: {why}")
            self.refused += 1
        self._note_silence()
        return output

    def watch(self, now: Moment) -> Output | None:
        """The hold, once candidates have stopped; None while there is nothing to do."""
        self._see_clock(now)
        if self.gate.silent:
            if self.reason is self._interrupted and now.steady >= self._until:
                self.reason = self._interrupted = None
            return None
        if self._alone:
            if not self._passed(self._period, self._sent, now):
                return None
        else:
            if not self._stopped(self._sent, now):
                return None
            if self.reason is None:
                age = (now.steady - self._sent.steady) * 1e-9
                self.reason = Problem(
                    "CANDIDATES_STOPPED", "", f"nothing from {self.owner} for {age:.3f} s"
                )
        self._spend(self._credit(now), self._period)
        self._sent, self._alone = now, True
        output = self.gate.brake(now.control)
        self._note_silence()
        return output

    def interrupt(self, problem: Problem, now: Moment) -> Output | None:
        """Something went wrong here: a hold, and nothing passes for a while. Said again, the while
        begins anew. Returns what goes out at once, if anything."""
        self._until = now.steady + round(INTERRUPTED * 1e9)
        self._interrupted = problem
        if self._stopped_by is None:
            self.reason = problem
        return self._brake_at_once(now)

    def emergency_stop(self, problem: Problem, now: Moment) -> Output | None:
        """A hold, and nothing passes until it is released and an owner has begun a new epoch: the
        node does so when it is enabled again. Returns what goes out at once, if anything."""
        self._pressed = self._stopped_by = self.reason = problem
        for stream in self._streams.values():
            stream.void = stream.epoch
        return self._brake_at_once(now)

    @property
    def stopped(self) -> bool:
        """An emergency stop is pressed."""
        return self._pressed is not None

    def release(self) -> None:
        """Nobody presses an emergency stop any more."""
        self._pressed = None

    def pause(self, now: Moment) -> float:
        """s until `watch` should be called again, at most a period."""
        wait = self._period
        if not self.gate.silent:
            if self._simulated:  # at any speed: what is due is only known by looking
                return max(self._period / 10, 2e6) * 1e-9
            wait = self._sent.steady + (self._period if self._alone else self._timeout) - now.steady
        return min(max(wait, self._period // 20), self._period) * 1e-9

    def _check_time(self, owner: str, c: Candidate, now: Moment) -> None:
        if c.owner != owner:
            raise Refused("OWNER", "", f"{c.owner[:80]!r} on the topic of {owner}")
        late = (now.control - c.deadline) * 1e-9
        if late > 0:
            raise Refused("DEADLINE", "", f"{late:.3f} s ago (from {owner})")
        ahead = (c.execute_at - now.control) * 1e-9
        if ahead > FUTURE_TOLERANCE:
            raise Refused("FUTURE", "", f"to be executed in {ahead:.3f} s (from {owner})")

    def _check_stream(self, owner: str, c: Candidate, now: Moment) -> None:
        """Whether it is the newest word of an owner who has the say."""
        stream = self._streams[owner]
        older = c.epoch < stream.epoch or c.sequence <= stream.sequence
        if older and owner != self.owner and self._stopped(stream.at, now):
            stream = self._streams[owner] = _Stream()  # a process that began anew
        if c.epoch < stream.epoch:
            raise Refused("EPOCH", "", f"{c.epoch}, now {stream.epoch} (from {owner})")
        if c.sequence <= stream.sequence:
            raise Refused("SEQUENCE", "", f"{c.sequence} after {stream.sequence} (from {owner})")
        stream.at, stream.epoch, stream.sequence = now, c.epoch, c.sequence
        self._check_stops(owner, c, now)
        other = self.owner
        if other is not None and self._rank[other] < self._rank[owner]:
            if not self._stopped(self._streams[other].at, now):
                stream.void = c.epoch
                raise Refused("OWNER", "", f"{owner}, while {other} commands")
        if c.epoch == stream.void:
            raise Refused(
                "EPOCH", "", f"{c.epoch} of {owner} was overridden or stopped; enable it again"
            )

    def _check_stops(self, owner: str, c: Candidate, now: Moment) -> None:
        """Whether anything may pass at all."""
        pressed = self._pressed
        if pressed is not None:
            self._streams[owner].void = c.epoch  # what begins while it is pressed is over, too
            raise Refused(pressed.code, pressed.subject, f"{pressed.detail} (from {owner})")
        wrong = self._interrupted
        if wrong is not None and now.steady < self._until:
            raise Refused(wrong.code, wrong.subject, f"{wrong.detail} (from {owner})")

    def _hand_over(self, owner: str, c: Candidate, measured: np.ndarray) -> None:
        """Limits go on from what was last sent, or after a silence from what is measured."""
        if self.gate.silent:
            unknown = self._positions & ~np.isfinite(measured)
            if unknown.any():
                names = ", ".join(n for n, missing in zip(self.names, unknown) if missing)
                raise Refused("STATE_MISSING", "", f"no fresh measured position of {names}")
        for other, stream in self._streams.items():
            if self._rank[other] > self._rank[owner]:
                stream.void = stream.epoch
        self.gate.begin_epoch(c.epoch, measured)
        self.owner = owner

    def _note_silence(self) -> None:
        if self.gate.silent:
            self.owner = None
            if self.reason is not None and self.reason.code == "EXPLICIT_HOLD":
                self.reason = None  # an end in good order

    def _brake_at_once(self, now: Moment) -> Output | None:
        """The first step of a hold that goes on by `watch`."""
        if self.gate.silent or self._alone:
            return None
        credit = self._credit(now)
        self._spend(credit, self._period)
        self._sent, self._alone = now, True
        output = self.gate.brake(now.control, credit * 1e-9)
        self._note_silence()
        return output

    def _credit(self, now: Moment) -> int:
        """ns in which what is sent now may differ from the last: what has really passed since then,
        and what was left. After a silence it is a period, as for the gate."""
        if self.gate.silent:
            return self._period
        passed = now.steady - self._sent.steady
        if self._simulated and not self._stands(now) and not self._jumped(now):  # at any speed
            passed = now.control - self._sent.control
        return self._carry + max(passed, 0)

    def _spend(self, credit: int, used: int) -> None:
        self._carry = min(max(credit - used, 0), self._period)

    def _jumped(self, now: Moment) -> bool:
        """The control clock was set since the last command, or begins anew."""
        drift = (now.control - self._sent.control) - (now.steady - self._sent.steady)
        return abs(drift) > JUMP * 1e9

    def _see_clock(self, now: Moment) -> None:
        if now.control != self._clock.control:
            self._clock = now

    def _stands(self, now: Moment) -> bool:
        """The control clock is simulated, and has not moved for long."""
        return self._simulated and now.steady - self._clock.steady >= STALLED * 1e9

    def _stopped(self, since: Moment, now: Moment) -> bool:
        """Nothing has come for the timeout."""
        return self._passed(self._timeout, since, now)

    def _passed(self, span: int, since: Moment, now: Moment) -> bool:
        """`span` ns have passed: on the steady clock, or on a simulated one as long as it moves."""
        if not self._simulated or self._stands(now):
            return now.steady - since.steady >= span
        # Either direction: a clock that went back makes worthless what was sent before.
        return abs(now.control - since.control) >= span
