"""Whether the robot may move: a state machine on a clock that is handed in.

WAITING --state complete--> READY --enable--> RUN --problem--> HOLD --healthy again--> RUN
any --estop, or three related HOLDs in 10 s--> FAULT --reset--> WAITING

Enabling acts at once or is refused; it is never remembered for a later moment.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import replace

from qgf_ros.control.reasons import Problem

HEALTHY_TICKS = 10  # in a row, before HOLD ends
ESCALATE_COUNT, ESCALATE_WITHIN = 3, 10.0  # HOLDs of one code or about one topic, s


class State(enum.IntEnum):
    """The one type of a state: its numbers are those of Status.msg, GateStatus.msg and Tick.msg, its
    names those of QValues.state."""

    UNCONFIGURED = 0
    INACTIVE = 1
    WAITING = 2
    READY = 3
    RUN = 4
    HOLD = 5
    FAULT = 6
    SHUTDOWN = 7

    @classmethod
    def said(cls, number: int) -> State | None:
        """The state of that number in a message; None: this version knows none."""
        return next((state for state in cls if state == number), None)


DISABLED = Problem("DISABLED", "", "disabled; call ~/enable with true")


class Supervisor:
    """Pure logic: `update` once per tick with what is wrong, if anything."""

    def __init__(self, enabled: bool = False) -> None:
        self.state = State.WAITING
        self.reason: Problem | None = None
        self.enabled = enabled
        self._healthy = 0
        self._holds: deque[tuple[int, Problem]] = deque(maxlen=64)

    def update(self, now: int, problem: Problem | None) -> State:
        """Advances by one tick at `now` [ns]. `problem`: what forbids a command in this tick."""
        if self.state is State.FAULT:
            return self.state
        if self.state is State.RUN and not self.enabled and problem is None:
            problem = DISABLED
        if self.state in (State.WAITING, State.READY):
            self.reason = problem
            if problem is not None:
                if self.state is State.READY:  # it was enabled since the last tick, and too late
                    self.enabled = False
                self.state = State.WAITING
            else:
                self.state = State.RUN if self.enabled else State.READY
        elif problem is not None:
            self._enter_hold(now, problem)
        elif self.state is State.HOLD:
            self._healthy += 1
            if self._healthy >= HEALTHY_TICKS:
                self.reason = None
                self.state = State.RUN if self.enabled else State.READY
        return self.state

    def _enter_hold(self, now: int, problem: Problem) -> None:
        self._healthy = 0
        self.reason = problem
        if self.state is not State.RUN:
            return
        self.state = State.HOLD
        if problem.row.by_a_person:
            return
        self._holds.append((now, problem))
        recent = sum(
            _related(other, problem) and abs(now - at) * 1e-9 <= ESCALATE_WITHIN
            for at, other in self._holds
        )
        if recent >= ESCALATE_COUNT:
            within = f"({recent} times in {ESCALATE_WITHIN:.0f} s)"
            self.fault(replace(problem, detail=f"{problem.detail} {within}"))

    def interrupt(self, problem: Problem) -> None:
        """Forces a HOLD from outside a tick, or prolongs it, without counting towards escalation."""
        recovering = self.state is State.HOLD and self._healthy > 0  # else its own reason stands
        if self.state is State.RUN or recovering:
            self.state, self.reason = State.HOLD, problem
        self._healthy = 0

    def takeover(self, owner: str) -> None:
        """`owner` commands the robot instead: a HOLD from which only `enable` goes on. Said again
        while that lasts."""
        self.stand_down(
            Problem("TAKEOVER", "", f"{owner} commands the robot; call ~/enable to go on")
        )

    def stand_down(self, problem: Problem) -> None:
        """Forces a HOLD from which only `enable` goes on."""
        self.interrupt(problem)
        self.enabled = False

    def enable(self, on: bool) -> str:
        """Answers why not, or "". Never remembered for later: a robot that moves minutes after it
        was told to is a danger."""
        asked_for = self.reason is not None and self.reason.row.by_a_person
        held = self.state is State.HOLD and not asked_for and not self.enabled
        if on and (self.state is State.WAITING or held):
            return f"in {self.state.name}: {self.reason.detail if self.reason else 'no state yet'}"
        if on and self.state is State.FAULT:
            return f"in FAULT ({self.reason.code_text if self.reason else ''}): call ~/reset first"
        self.enabled = on
        return ""

    def fault(self, problem: Problem) -> None:
        """Latches FAULT; the robot has to be enabled again after a reset."""
        self.state, self.reason, self.enabled = State.FAULT, problem, False

    def reset(self) -> None:
        """Leaves FAULT or HOLD for WAITING, disabled."""
        self.state, self.reason, self.enabled = State.WAITING, None, False
        self._healthy = 0
        self._holds.clear()


def _related(one: Problem, other: Problem) -> bool:
    """Of one code ("STATE_STALE"), or about one thing ("joint_states"), which fails in many ways."""
    same_subject = one.subject != "" and one.subject == other.subject
    return one.code == other.code or same_subject
