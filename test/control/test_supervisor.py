"""The state machine, held to a second implementation of its rules over every short history."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE, SECOND, START

from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import DISABLED, ESCALATE_COUNT, HEALTHY_TICKS, State, Supervisor

A, B = Problem("INFERENCE", "", "a"), Problem("OVERRUN", "", "b")
T = SECOND // 20


class Rules:
    """The module's docstring and faults.md, written a second time as plainly as possible."""

    def __init__(self, enabled):
        self.state, self.enabled, self.healthy, self.holds, self.reason = (
            "WAITING",
            enabled,
            0,
            [],
            None,
        )

    def tick(self, now, problem):
        if self.state == "FAULT":
            return
        if self.state == "RUN" and not self.enabled and problem is None:
            problem = DISABLED
        if self.state in ("WAITING", "READY"):
            if problem and self.state == "READY":  # enabling was too late, and is not remembered
                self.enabled = False
            self.state = "WAITING" if problem else "RUN" if self.enabled else "READY"
            self.reason = problem
        elif problem:
            if self.state == "RUN":
                self.holds.append((now, problem.code))
                recent = [
                    c for at, c in self.holds if c == problem.code and now - at <= 10 * SECOND
                ]
                if len(recent) >= 3 and problem is not DISABLED:
                    self.state, self.reason, self.enabled = "FAULT", problem, False
                    return
            self.state, self.reason, self.healthy = "HOLD", problem, 0
        elif self.state == "HOLD":
            self.healthy += 1
            if self.healthy == 10:
                self.state, self.reason = ("RUN" if self.enabled else "READY"), None

    def apply(self, what, now):
        if (
            what == "enable"
        ):  # never remembered for later: only where it can act, or changes nothing
            can = self.state in ("READY", "RUN") or (
                self.state == "HOLD" and (self.enabled or self.reason is DISABLED)
            )
            self.enabled = self.enabled or can
        elif what == "disable":
            self.enabled = False
        elif what == "fault":
            self.state, self.enabled, self.reason = "FAULT", False, A
        elif what == "reset":
            self.__init__(False)
        elif what in ("ok", "A", "B", "disabled"):
            self.tick(now, {"ok": None, "A": A, "B": B, "disabled": DISABLED}[what])
        elif what == "ten":
            for k in range(10):
                self.tick(now + k, None)


def do(supervisor, what, now):
    if what == "enable":
        supervisor.enable(True)
    elif what == "disable":
        supervisor.enable(False)
    elif what == "fault":
        supervisor.fault(A)
    elif what == "reset":
        supervisor.reset()
    elif what == "ten":
        for k in range(10):
            supervisor.update(now + k, None)
    else:
        supervisor.update(now, {"ok": None, "A": A, "B": B, "disabled": DISABLED}[what])


def agree(history, enabled, step=T):
    real, rules = Supervisor(enabled), Rules(enabled)
    for k, what in enumerate(history):
        now = START + k * step
        do(real, what, now)
        rules.apply(what, now)
        assert (real.state.name, real.enabled) == (rules.state, rules.enabled), history[: k + 1]
        assert (real.reason.code if real.reason else None) == (
            rules.reason.code if rules.reason else None
        ), history[: k + 1]


@pytest.mark.parametrize("enabled", [False, True])
def test_every_history_of_six_inputs(enabled):
    inputs = ("ok", "A", "B", "ten", "enable", "reset")
    for history in itertools.product(inputs, repeat=6):
        agree(history, enabled)


@pytest.mark.parametrize("enabled", [False, True])
def test_every_history_of_four_of_all_inputs(enabled):
    inputs = ("ok", "A", "B", "ten", "enable", "disable", "fault", "reset", "disabled")
    for history in itertools.product(inputs, repeat=4):
        agree(history, enabled)


@settings(max_examples=300 * SCALE, deadline=None)
@given(
    history=st.lists(
        st.sampled_from(
            ["ok", "A", "B", "ten", "ten", "enable", "disable", "fault", "reset", "disabled"]
        ),
        max_size=40,
    ),
    enabled=st.booleans(),
    step=st.sampled_from([T, SECOND, 4 * SECOND, 6 * SECOND, 11 * SECOND]),
)
def test_long_histories(history, enabled, step):
    agree(history, enabled, step)


def test_recovery_takes_ten_healthy_ticks_in_a_row():
    s = Supervisor(True)
    s.update(START, None)
    assert s.state is State.RUN
    s.update(START, A)
    for _ in range(HEALTHY_TICKS - 1):
        assert s.update(START, None) is State.HOLD
    s.update(START, B)
    for _ in range(9):
        assert s.update(START, None) is State.HOLD
    assert s.update(START, None) is State.RUN and s.reason is None
    assert HEALTHY_TICKS == 10 and ESCALATE_COUNT == 3


def hold_once(s, now, problem):
    s.update(now, problem)
    for _ in range(10):
        s.update(now, None)


@pytest.mark.parametrize("gap,latched", [(4.9, True), (5.0, True), (5.1, False)])
def test_third_hold_of_one_reason_within_ten_seconds_is_a_fault(gap, latched):
    s = Supervisor(True)
    s.update(START, None)
    for k in range(2):
        hold_once(s, START + round(k * gap * SECOND), A)
        assert s.state is State.RUN
    s.update(START + round(2 * gap * SECOND), A)
    assert (s.state is State.FAULT) == latched
    if latched:
        assert s.reason.code == A.code and "3 times" in s.reason.detail and not s.enabled


def test_two_reasons_do_not_add_up():
    s = Supervisor(True)
    s.update(START, None)
    for problem in (A, B, A, B):
        hold_once(s, START, problem)
    assert s.state is State.RUN


def test_disabling_often_is_no_fault():
    s = Supervisor(True)
    s.update(START, None)
    for _ in range(10):
        s.enable(False)
        hold_once(s, START, DISABLED)
        s.enable(True)
        s.update(START, None)
        assert s.state is State.RUN


def test_fault_114_fault_is_latched_until_reset_and_then_disabled():
    s = Supervisor(True)
    s.update(START, None)
    s.fault(Problem("ESTOP", "", "pressed"))
    for _ in range(100):
        assert s.update(START, None) is State.FAULT
    assert "ESTOP" in s.enable(True) and not s.enabled and s.state is State.FAULT
    assert s.enable(False) == ""
    s.reset()
    assert (s.state, s.enabled, s.reason) == (State.WAITING, False, None)
    assert s.update(START, None) is State.READY, "not RUN: it must be enabled again"
    assert s.enable(True) == "" and s.update(START, None) is State.RUN


def test_fault_113_ready_waits_for_enable():
    s = Supervisor()
    for _ in range(50):
        assert s.update(START, None) is State.READY
    assert s.update(START, A) is State.WAITING and s.reason is A


def test_reset_forgets_the_count_of_holds():
    s = Supervisor(True)
    s.update(START, None)
    hold_once(s, START, A)
    hold_once(s, START, A)
    s.reset()
    s.update(START, None)
    assert s.enable(True) == ""
    s.update(START, None)
    hold_once(s, START, A)
    assert s.state is State.RUN
