"""What outside of the core forbids motion, in process on a clock of its own: a second node of this
name, the emergency stop, callbacks that raise, an executor that heard nothing."""

from types import SimpleNamespace

import pytest
from qgf_fake_node import FakeNode
from qgf_make import contract
from std_msgs.msg import Bool

from qgf_ros.control.reasons import Problem
from qgf_ros.errors import UsageError
from qgf_ros.ros import estop, graph_monitor, peers
from qgf_ros.ros.conversions import Status


class Around:
    """GraphMonitor of a node `/qgf` that is active; `now` is their steady clock."""

    def __init__(
        self, monkeypatch, required=False, gate=None, started=True, active=True, timeout=0.0
    ):
        self.now, self.stops, self.stalls, self.failed = 100.0, [], [], []
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(graph_monitor, "time", clock)
        monkeypatch.setattr(peers, "time", clock)
        monkeypatch.setattr(
            estop.EmergencyStop.__init__, "__defaults__", ("~/estop", 0.0, clock.monotonic)
        )
        self.node = FakeNode(named={"/qgf/status": ["/qgf", "/qgf"]})
        self.all = graph_monitor.GraphMonitor(
            self.node, required, timeout, self.stops.append,
            lambda problem, ask: self.stalls.append((problem.code, ask)), self.failed.append,
        )  # fmt: skip
        self.own = contract()
        self.all.configure(self.own, gate)
        if started:
            self.all.started()
        if active:
            self.all.activate(self.own)
            self.all.look()

    def pass_time(self, seconds):
        """With a look every tenth of a second, as the node has it."""
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            self.all.look()

    def twin(self, count=1, ticks=10, every=0.1, state=3, step=1, stamp=0):
        for number in range(count):
            self.now += every
            msg = Status(tick=ticks + step * number, state=state)
            msg.header.stamp.sec, msg.header.stamp.nanosec = 5, stamp * number + stamp
            self.node.say("/qgf/status", msg)

    def say_estop(self, pressed):
        self.node.say("/qgf/estop", Bool(data=pressed))

    @property
    def codes(self):
        return [w.code_text for w in self.all.look()]


def test_fault_081_a_second_node_that_goes_on_and_has_this_name_ends_the_younger(monkeypatch):
    around = Around(monkeypatch)
    around.twin(2, stamp=1000)
    assert not around.failed and "DUPLICATE_NAME" in around.codes
    around.twin(1, ticks=12, stamp=3000)
    (error,) = around.failed
    assert isinstance(error, UsageError) and "/qgf is already running" in str(error)


@pytest.mark.parametrize(
    "forged",
    [
        {"count": 1},
        {"count": 9, "stamp": 0},  # the same over and over
        {"count": 9, "step": -1},
        {"count": 9, "every": 0.6},
    ],
    ids=["one", "one again and again", "ticks that go back", "now and then"],
)
def test_fault_081_messages_that_are_no_living_node_end_nothing(monkeypatch, forged):
    around = Around(monkeypatch)
    around.twin(**({"stamp": 1000} | forged))
    assert not around.failed
    assert any("somebody else publishes on /qgf/status" in w.detail for w in around.all.look())
    around.pass_time(1.1)
    assert "DUPLICATE_NAME" not in around.codes


def test_fault_081_who_has_another_name_ends_nothing(monkeypatch):
    around = Around(monkeypatch)
    for named in ([], ["/qgf"], ["/qgf", "/_ros2cli_17"], ["/qgf", "/arm/qgf"]):
        around.node.named["/qgf/status"] = named
        around.twin(5, stamp=1000)
    assert not around.failed
    assert any("somebody else publishes" in w.detail for w in around.all.look())


def test_fault_081_who_is_older_or_long_there_goes_on(monkeypatch):
    older = Around(monkeypatch)
    older.all.said(Status(tick=500))
    older.twin(5, ticks=100, stamp=1000)
    assert not older.failed
    assert any("another live node is called /qgf" in w.detail for w in older.all.look())
    late = Around(monkeypatch)
    late.pass_time(graph_monitor.DUPLICATE_IS_ERROR + 0.1)
    late.twin(5, stamp=1000)
    assert not late.failed
    before = Around(monkeypatch, started=False)
    before.twin(5, stamp=1000)
    assert not before.failed, "not before it has started"


def test_fault_081_own_statuses_and_last_words_are_no_twin(monkeypatch):
    around = Around(monkeypatch)
    for number in range(5):
        status = Status(tick=number, state=3)
        status.header.stamp.nanosec = number
        around.all.said(status)
        around.node.say("/qgf/status", status)
        around.now += 0.1
    around.twin(5, state=7, stamp=1000)
    assert not around.failed and "DUPLICATE_NAME" not in around.codes


def test_fault_082_a_callback_that_raises_holds_for_a_second(monkeypatch):
    around = Around(monkeypatch)
    assert around.all.problem() is None
    around.all.raised(ZeroDivisionError("by nought"))
    assert around.all.problem().code == "CALLBACK" and "by nought" in around.all.problem().detail
    assert around.all.callback_errors == 1 and "CALLBACK" in around.codes
    around.pass_time(0.9)
    assert around.all.problem().code == "CALLBACK"
    around.pass_time(0.2)
    assert around.all.problem() is None and "CALLBACK" not in around.codes


@pytest.mark.parametrize("spoken", [False, True])
def test_fault_129_who_heard_nothing_holds_and_asks_where_there_is_an_emergency_stop(
    monkeypatch, spoken
):
    around = Around(monkeypatch)
    if spoken:
        around.say_estop(False)
    around.pass_time(0.5)
    around.now += graph_monitor.DEAF - 0.01
    assert around.all.problem() is None
    around.all.look()
    assert not around.stalls
    around.now += graph_monitor.DEAF + 0.01
    assert around.all.problem().code == "PROCESS_STALLED"
    around.all.look()
    assert around.stalls == [("PROCESS_STALLED", spoken)] and around.all.problem() is None


def test_fault_129_who_is_not_active_need_not_listen(monkeypatch):
    around = Around(monkeypatch, active=False)
    around.now += 60
    assert around.all.problem() is None and not around.all.look() and not around.stalls
    around.all.activate(around.own)
    around.all.deactivate()
    around.now += 60
    assert around.all.problem() is None and not around.all.look() and not around.stalls


def test_fault_114_all_that_waits_is_heard_before_anything_may_move(monkeypatch):
    around = Around(monkeypatch, active=False)
    latched = around.node.subscriptions[0].handle
    latched.waiting += [Bool(data=False), Bool(data=True)]
    around.all.activate(around.own)
    assert None in around.stops, "pressed, before the activation was over"
    assert "still pressed" in around.all.reset_refusal()
    latched.waiting.append(Bool(data=False))
    around.all.hear()
    assert around.all.reset_refusal() == ""


def test_fault_114_pressed_stays_pressed_over_an_activation(monkeypatch):
    around = Around(monkeypatch)
    around.say_estop(True)
    around.all.deactivate()
    around.stops.clear()
    around.all.activate(around.own)
    assert around.stops == [None]


def test_fault_114_pressed_and_then_gone_is_still_a_press(monkeypatch):
    around = Around(monkeypatch, required=True)
    around.node.counts["/qgf/estop"] = 1
    around.say_estop(True)
    around.pass_time(0.2)
    around.node.counts["/qgf/estop"] = 0
    around.pass_time(0.2)
    around.all.deactivate()
    around.stops.clear()
    around.all.activate(around.own)
    assert around.stops == [None]


@pytest.mark.parametrize("gate", [None, SimpleNamespace(problem=lambda: None, stopped=None)])
def test_fault_079_peers_that_do_not_hear_are_looked_for_again_and_again(monkeypatch, gate):
    asked = []

    def unheard(node, endpoints):
        asked.append([e.topic for e in endpoints])
        return [Problem("TYPE", "", "of another type")]

    monkeypatch.setattr(graph_monitor, "unheard", unheard)
    around = Around(monkeypatch, gate=gate)
    assert "TYPE" in around.codes and len(asked) == 1
    around.pass_time(graph_monitor.LOOK_PERIOD * 3)
    assert 3 <= len(asked) <= 4
    topics = {a.topic for a in around.own.actions}
    assert (topics <= set(asked[-1])) == (gate is None), "else they are the gate's"


def test_fault_115_a_required_emergency_stop_that_is_gone_is_a_fault_and_said_once(monkeypatch):
    around = Around(monkeypatch, required=True)
    assert around.all.problem().code == "ESTOP_MISSING"
    around.node.counts["/qgf/estop"] = 1
    around.say_estop(False)
    around.pass_time(0.3)
    assert around.all.problem() is None and not around.stops
    assert around.all.reset_refusal() == ""
    around.node.counts["/qgf/estop"] = 0
    around.pass_time(0.3)
    assert [p.code for p in around.stops] == ["ESTOP_LOST"]
    assert around.all.problem().code == "ESTOP_LOST" and "gone" in around.all.reset_refusal()
    assert "ESTOP_LOST" not in around.codes, "no mere warning"
    around.all.deactivate()
    around.stops.clear()
    around.all.activate(around.own)
    assert [p.code for p in around.stops] == ["ESTOP_LOST"]


def test_fault_115_one_that_nobody_requires_is_missed_by_a_warning(monkeypatch):
    around = Around(monkeypatch)
    around.node.counts["/qgf/estop"] = 1
    around.say_estop(False)
    around.pass_time(0.2)
    around.node.counts["/qgf/estop"] = 0
    assert "ESTOP_LOST" in around.codes
    assert not around.stops and around.all.problem() is None and around.all.reset_refusal() == ""
    around.say_estop(False)
    assert "ESTOP_LOST" not in around.codes


def test_fault_141_the_death_of_the_emergency_stops_publisher_with_a_timeout(monkeypatch):
    """A heartbeat that ends is missed, though the graph lists the dead for 20 s; without
    `estop_timeout` nothing is, which docs/safety.md says."""
    for timeout, stops in ((0.5, ["ESTOP_LOST"]), (0.0, [])):
        around = Around(monkeypatch, timeout=timeout)
        around.node.counts["/qgf/estop"] = 1
        for _ in range(10):
            around.say_estop(False)
            around.pass_time(0.1)
        assert around.all.problem() is None and not around.stops
        around.pass_time(0.4)
        assert not around.stops
        around.pass_time(0.3)
        assert [p.code for p in around.stops] == stops
        assert (around.all.problem() is None) == (not stops)
        around.say_estop(False)
        assert around.all.problem() is None


def test_fault_130_what_the_gate_outside_says_forbids_motion_and_a_reset(monkeypatch):
    said = SimpleNamespace(
        problem=lambda: Problem("GATE_MISSING", "", "none"),
        stopped=Problem("ESTOP", "", "pressed there"),
    )
    around = Around(monkeypatch, gate=said)
    assert around.all.problem().code == "GATE_MISSING" and around.all.foreign is None
    assert "pressed there" in around.all.reset_refusal()
    said.stopped = None
    assert around.all.reset_refusal() == ""
    around.all.release()
    assert around.all.problem() is None


def test_fault_079_foreign_commands_forbid_motion_where_no_gate_decides(monkeypatch):
    from std_msgs.msg import Float64MultiArray

    around = Around(monkeypatch)
    around.node.counts["/commands"] = 2
    around.pass_time(0.1)
    around.node.say("/commands", Float64MultiArray(data=[0.5, 0.5]))
    assert around.all.problem().code == "COMMAND_CONFLICT"
    around.pass_time(1.1)
    assert around.all.problem() is None
    around.all.deactivate()
    assert around.all.foreign is None and around.node.destroyed


def test_fault_127_what_goes_wrong_while_it_listens_is_a_hold(monkeypatch):
    around = Around(monkeypatch)
    around.node.subscriptions[0].handle.waiting.append(object())
    around.all.look()
    assert around.all.problem().code == "CALLBACK"
