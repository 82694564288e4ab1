"""The node's side of qgf_gate, in process on a clock of its own: whether it is there, passes our
candidates, and what it says that we have not heard ourselves."""

from types import SimpleNamespace

import numpy as np
import pytest
from qgf_fake_node import FakeNode
from qgf_make import contract

from qgf_ros.control.gate import Candidate, Output
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.ros import outside_gate
from qgf_ros.ros.conversions import Command, Status

NAMES = ("arm.a", "arm.b")


class Core:
    """What is asked of the core."""

    def __init__(self, own):
        self.policy = SimpleNamespace(contract=own)
        self.supervisor = SimpleNamespace(state=State.RUN, reason=None)
        self.epoch = 1
        self.stops, self.restarts, self.taken = [], 0, []

    def explicit_hold(self, now):
        return "a hold"

    def estop(self, problem):
        self.stops.append(problem.code)

    def gate_restarted(self):
        self.restarts += 1

    def takeover(self, who):
        self.taken.append(who)


class Side:
    def __init__(self, monkeypatch, remaps=None):
        self.now = 50.0
        monkeypatch.setattr(outside_gate, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.node = FakeNode(remaps=remaps)
        self.core = Core(contract())
        self.gate = outside_gate.OutsideGate(self.node, self.core)

    def status(self, state=State.RUN, reason="", tick=1, detail=""):
        msg = Status(state=int(state), reason=reason, tick=tick, detail=detail)
        self.node.say("/qgf_gate/status", msg)

    def passed(self, owner="/qgf", epoch=1):
        self.node.say("/qgf_gate/passed", Command(owner=owner, epoch=epoch))

    def run(self, count=1, every=0.1, epoch=1, values=(0.5, 0.5), admitted=True):
        """Candidates while the gate lives."""
        for _ in range(count):
            self.now += every
            self.status()
            wanted = Candidate("/qgf", 1, epoch, 0, 0, 0, NAMES, np.ones(2))
            got = self.gate.candidate(Output(np.array(values), admitted), wanted, 7)
        return got

    @property
    def code(self):
        problem = self.gate.problem()
        return problem and problem.code


def test_fault_074_a_gate_without_a_sign_of_life_forbids_motion(monkeypatch):
    side = Side(monkeypatch)
    assert side.code == "GATE_MISSING" and "/qgf_gate" in side.gate.problem().detail
    side.status()
    assert side.code is None
    side.now += 1.0
    assert side.code is None
    side.now += 0.01
    assert side.code == "GATE_MISSING"
    side.status()
    assert side.code is None


def test_fault_067_what_goes_out_is_what_our_own_gate_has_left_of_it(monkeypatch):
    side = Side(monkeypatch)
    sent = side.run(values=(0.25, -0.25))
    assert sent.values.tolist() == [0.25, -0.25] and sent.names == NAMES
    assert side.gate.candidate(Output(None, False), None, 7) is None
    assert side.gate.candidate(Output(np.zeros(2), True), None, 7) == "a hold"
    assert side.run(admitted=False) == "a hold"


def test_fault_130_candidates_that_do_not_pass_for_a_second_forbid_motion(monkeypatch):
    side = Side(monkeypatch)
    side.run(11, every=0.09)
    assert side.code is None, "eleven, but not for a second yet"
    side.run(1, every=0.3)
    assert side.code == "GATE_REFUSES"
    side.passed()
    assert side.code is None
    side.run(11, every=0.09)
    side.run(1, admitted=False)
    side.run(5)
    assert side.code is None, "a hold of our own begins anew"
    few = Side(monkeypatch)
    few.run(10, every=0.5)
    assert few.code is None, "a slow policy has not sent enough to say so"
    few.run(1, every=0.5)
    assert few.code == "GATE_REFUSES"


@pytest.mark.parametrize("code", ["ESTOP", "ESTOP_LOST"])
def test_fault_130_a_stop_that_only_the_gate_hears_is_ours(monkeypatch, code):
    side = Side(monkeypatch)
    side.status(State.FAULT, code, detail="pressed")
    assert side.core.stops == [code]
    assert side.gate.stopped.code == code and "/qgf_gate: pressed" in side.gate.stopped.detail
    side.status(State.HOLD, code)
    assert side.gate.stopped is None and side.core.stops == [code], "released; we stay stopped"


def test_fault_130_a_stop_of_the_gate_that_is_over_explains_what_does_not_pass(monkeypatch):
    side = Side(monkeypatch)
    side.run(13)
    side.status(State.HOLD, "ESTOP", tick=9)
    assert side.code == "GATE_REFUSES" and side.core.stops == ["ESTOP"]
    other = Side(monkeypatch)
    other.run(13)
    other.status(State.HOLD, "RANGE", tick=9)
    assert other.code == "GATE_REFUSES" and other.core.stops == []


def test_fault_130_a_gate_that_has_said_nothing_is_not_stopped(monkeypatch):
    assert Side(monkeypatch).gate.stopped is None


def test_fault_130_other_reasons_of_the_gate_are_no_stop(monkeypatch):
    side = Side(monkeypatch)
    side.status(State.FAULT, "ERROR")
    side.status(State.HOLD, "CANDIDATES_STOPPED")
    side.status(State.RUN, "ESTOP")
    assert side.core.stops == [] and side.gate.stopped is None


def test_fault_113_a_gate_that_began_anew_is_noticed_by_what_it_has_sent(monkeypatch):
    side = Side(monkeypatch)
    for tick in (5, 5, 9):
        side.status(tick=tick)
    assert side.core.restarts == 0
    side.status(tick=3)
    assert side.core.restarts == 1
    side.status(tick=4)
    assert side.core.restarts == 1


def test_fault_117_a_command_of_another_owner_that_passes_is_a_takeover(monkeypatch):
    side = Side(monkeypatch)
    side.run()
    side.passed("/qgf")
    side.passed("/qgf_gate")
    assert side.core.taken == [], "ours, and the gate's own hold"
    side.passed("/teleop")
    assert side.core.taken == ["/teleop"]
    side.passed("/" + "x" * 500)
    assert len(side.core.taken[1]) == 80


def test_fault_117_our_turn_that_begins_is_no_takeover_until_it_should_have_passed(monkeypatch):
    side = Side(monkeypatch)
    side.passed("/teleop")
    assert side.core.taken == [], "we have asked for nothing yet"
    side.run()
    side.passed("/teleop")
    assert side.core.taken == [], "our first candidate is on its way"
    side.run(3)
    side.passed("/teleop")
    assert side.core.taken == [], "and still"
    side.run(3)
    side.passed("/teleop")
    assert side.core.taken == ["/teleop"], "it never passed"
    side.core.epoch = 2
    side.passed("/teleop")
    assert len(side.core.taken) == 1, "of the new epoch nothing was asked"
    side.run(1, epoch=2)
    side.passed("/qgf", epoch=2)
    side.passed("/teleop")
    assert len(side.core.taken) == 2, "ours has passed already"


def test_fault_117_who_does_not_run_is_not_taken_over_but_stays_so(monkeypatch):
    side = Side(monkeypatch)
    side.run(20)
    for state in (State.READY, State.HOLD, State.FAULT):
        side.core.supervisor.state = state
        side.passed("/teleop")
    side.core.supervisor.reason = Problem("STATE_STALE", "", "late")
    side.passed("/teleop")
    assert side.core.taken == []
    side.core.supervisor.state = State.HOLD
    side.core.supervisor.reason = Problem("TAKEOVER", "", "before")
    side.passed("/teleop")
    assert side.core.taken == ["/teleop"], "it is said as long as it lasts"


def test_a_gate_of_another_name_by_a_remap(monkeypatch):
    side = Side(monkeypatch, {"/qgf_gate/passed": "/other/passed"})
    assert "/other" in side.gate.problem().detail
    side.node.say("/other/passed", Command(owner="/other"))
    assert side.core.taken == [], "its own hold"


def test_taken_down_it_hears_nothing(monkeypatch):
    side = Side(monkeypatch)
    side.gate.destroy()
    assert len(side.node.destroyed) == 2
