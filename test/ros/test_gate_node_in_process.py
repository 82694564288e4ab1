"""What `qgf_gate` does with what it hears, in process on clocks of its own: every endpoint is a fake one,
and the node and its parameters are real.

Pinned by the mutation run: each branch between a message and the robot.
"""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
import yaml
from qgf_fake_node import Handle, Publisher
from qgf_make import START, position_dict, velocity_dict
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from qgf_ros.control.arbiter import Moment
from qgf_ros.control.supervisor import State
from qgf_ros.errors import UsageError
from qgf_ros.ros import gate_node, gate_reports
from qgf_ros.ros.conversions import Command

T = 50_000_000  # ns, the contract's period
NAMES = ["arm.a", "arm.b"]


class Gate(gate_node.GateNode):
    """The node with endpoints that nobody else sees, on the clock `at` [ns, since START]."""

    def __init__(self):
        self.at, self.listened, self.counts, self.said = 0, [], {}, {}
        super().__init__()

    def create_publisher(self, kind, topic, *args, **options):
        self.said[topic] = made = Publisher(topic)
        made.get_subscription_count = lambda: 1
        return made

    def create_subscription(self, kind, topic, callback, profile, *, raw=False, **options):
        made = SimpleNamespace(
            topic=topic, callback=callback, handle=Handle(), msg_type=kind, raw=raw
        )
        self.listened.append(made)
        return made

    def create_timer(self, *args, **options):
        pass

    def destroy_publisher(self, publisher):
        return True

    def count_publishers(self, topic):
        return self.counts.get(topic, 1)

    def _now(self):
        return Moment(START + self.at, START + self.at)

    # What a test does with it.

    def hear(self, topic, msg):
        """A message on a topic, as the executor hands it over."""
        for listener in [s for s in self.listened if s.topic == topic]:
            data = msg if isinstance(msg, bytes) or not listener.raw else serialize_message(msg)
            listener.callback(data)

    def offer(self, *values, owner="/qgf", epoch=1, wait=T):
        """A candidate. -> What the robot got for it, None: nothing."""
        self.at += wait
        now = START + self.at
        msg = Command(owner=owner, sequence=self.at, epoch=epoch, names=NAMES, values=values)
        for part, ns in ((msg.header.stamp, now), (msg.execute_at, now), (msg.deadline, now + T)):
            part.sec, part.nanosec = divmod(ns, 10**9)
        count = len(self.sent)
        self.hear(f"{owner}/command", msg)
        return list(self.sent[-1].data) if len(self.sent) > count else None

    @property
    def sent(self):
        return self.said["commands"].messages

    @property
    def passed(self):
        return self.said["~/passed"].messages

    @property
    def warnings(self):
        self._on_timer()
        return list(self.said["~/status"].messages[-1].warnings)

    @property
    def own(self):
        return self.said["~/gate_status"].messages[-1]

    @property
    def state(self):
        return self._arbiter.state


@pytest.fixture
def gate(domain, tmp_path, monkeypatch):
    """Makes one of a contract and parameters."""
    made = []

    def make(robot=None, **parameters):
        file = tmp_path / "contract.yaml"
        file.write_text(yaml.safe_dump(robot or velocity_dict()))
        given = {"contract": file} | parameters
        pairs = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
        rclpy.init(args=["qgf_gate", "--ros-args", *pairs], domain_id=domain)
        made.append(Gate())
        node = made[-1]
        steady = SimpleNamespace(
            monotonic=lambda: (START + node.at) * 1e-9, monotonic_ns=lambda: START + node.at
        )
        monkeypatch.setattr(gate_reports, "time", steady)
        for each in node._estops:
            each._clock = steady.monotonic
        return node

    yield make
    for node in made:
        node.destroy_node()
    rclpy.try_shutdown()


# What arrives.


def test_fault_012_what_is_too_large_is_not_looked_into(gate, monkeypatch):
    node = gate()
    monkeypatch.setattr(gate_node, "deserialize_message", lambda *_: pytest.fail("looked into"))
    node.hear("/qgf/command", b"\0" * (gate_node.MAX_BYTES + 1))
    assert f"COMMAND_SCHEMA: 65537 bytes; allowed {gate_node.MAX_BYTES}" in node.warnings
    assert not node.sent


def test_fault_012_the_largest_message_is_looked_into(gate, monkeypatch):
    node, seen = gate(), []
    monkeypatch.setattr(gate_node, "deserialize_message", lambda data, _: seen.append(len(data)))
    node.hear("/qgf/command", b"\0" * gate_node.MAX_BYTES)
    assert seen == [gate_node.MAX_BYTES]


def test_fault_127_nonsense_is_refused_by_its_kind_and_the_gate_goes_on(gate):
    node = gate()
    node.hear("/qgf/command", b"\0\1\0\0")
    (said,) = node.warnings
    assert said.startswith("COMMAND_SCHEMA: ") and not node.sent
    assert len(said) <= gate_node.MAX_TEXT + 20
    assert node.offer(0.5, -0.5) == [0.5, -0.5]


def test_fault_079_who_has_no_say_is_told_by_the_refusals_own_code(gate):
    node = gate(owners="/qgf,/other")
    assert node.offer(0.5, 0.5) == [0.5, 0.5]
    assert node.offer(0.1, 0.1, owner="/other", wait=1) is None
    (said,) = node.warnings
    assert said == "OWNER: /other, while /qgf commands"


def test_the_gates_own_status_says_who_commands_and_its_status_says_the_same(gate):
    node = gate(owners="/qgf,/other")
    node._on_timer()
    assert node.own.commanding == "" and node.own.state == State.READY
    for _ in range(3):
        node.offer(5.0, 0.0)
    assert node.offer(0.1, 0.1, owner="/other", wait=1) is None
    node.hear("/qgf/estop", Bool(data=True))
    node._on_timer()
    own, status = node.own, node.said["~/status"].messages[-1]
    assert (own.commanding, own.epoch, own.state) == ("/qgf", 1, State.FAULT)
    assert list(own.owners) == ["/qgf", "/other"] and len(own.owner_age) == 2
    assert (own.commands, own.holds, own.refused, own.limited) == (4, 1, 1, 3)
    assert own.reason == "ESTOP" and own.warnings[0].startswith("OWNER: /other")
    assert (status.state, status.reason, status.detail) == (own.state, own.reason, own.detail)
    assert (status.owner, status.tick, status.dropped, status.limit_hits) == ("/qgf_gate", 4, 1, 3)
    assert status.enabled and list(status.topics) == ["/qgf/command", "/other/command"]
    assert list(status.warnings) == list(own.warnings) and status.header == own.header
    numbers = (status.beta, status.state_score, status.inference_p50_ms, status.inference_max_ms)
    assert np.isnan([*numbers, status.inference_p99_ms]).all(), "what only a node has"


def test_the_gates_own_status_is_published_while_somebody_listens(gate):
    node = gate()
    node.said["~/gate_status"].get_subscription_count = lambda: 0
    node._on_timer()
    assert not node.said["~/gate_status"].messages and node.said["~/status"].messages


def test_fault_067_passed_says_what_the_robot_got_and_whose_it_was(gate):
    node = gate()
    for _ in range(3):
        node.offer(5.0, 0.0)
    assert [list(p.values) for p in node.passed] == [list(m.data) for m in node.sent]
    assert {p.owner for p in node.passed} == {"/qgf"} and node.sent[-1].data[0] < 5.0


def test_fault_113_a_hold_at_rest_sends_nothing(gate):
    """The gate answers without numbers where nobody has moved the robot."""
    node = gate()
    now = START + node.at + T
    hold = Command(owner="/qgf", sequence=1, epoch=1)
    for part in (hold.header.stamp, hold.execute_at, hold.deadline):
        part.sec, part.nanosec = divmod(now, 10**9)
    node.hear("/qgf/command", hold)
    assert not node.sent and not node.passed and not node.warnings


# The state.


@pytest.mark.parametrize("stamp, begins", [("header", False), ("receipt", True)])
def test_fault_113_positions_are_as_old_as_their_source_says(gate, stamp, begins):
    """A stamp of long ago: the robot begins from it only where its source is not stamped."""
    robot = position_dict()
    for source in robot["observations"]:
        source["stamp"] = stamp
    node = gate(robot)
    state = JointState(name=["a", "b"], position=[0.25, -0.25], velocity=[0.0, 0.0])
    state.header.stamp.sec, state.header.stamp.nanosec = divmod(START - 10**10, 10**9)
    node.at += T
    node.hear("joint_states", state)
    out = node.offer(0.25, -0.25, wait=1)
    assert (out is not None) is begins
    if begins:
        assert np.allclose(out, [0.25, -0.25], atol=0.1)
    else:
        assert any(w.startswith("STATE_MISSING") for w in node.warnings)


def test_fault_113_a_stamp_of_nought_is_none_and_counts_as_received_now(gate):
    node = gate(position_dict())
    node.hear(
        "joint_states", JointState(name=["a", "b"], position=[0.2, -0.2], velocity=[0.0, 0.0])
    )
    assert np.allclose(node.offer(0.2, -0.2, wait=1), [0.2, -0.2], atol=0.1)


# The emergency stops.


def press(node, topic="/qgf/estop", pressed=True):
    node.hear(topic, Bool(data=pressed))


def test_fault_130_a_press_stops_and_is_said_once(gate):
    node = gate()
    node.offer(0.5, 0.5)
    node.at += T
    press(node)
    assert node.state is State.FAULT and node._arbiter.reason.code == "ESTOP"
    count = len(node.sent)
    node._on_timer()
    assert node.state is State.FAULT and len(node.sent) == count
    assert node.offer(0.5, 0.5, epoch=2) is None
    press(node, pressed=False)
    node._on_timer()
    assert not node._arbiter.stopped
    assert node.offer(0.5, 0.5, epoch=2, wait=20 * T) is None, "it began while that was pressed"
    assert node.offer(0.5, 0.5, epoch=3) is not None


def test_fault_130_a_press_that_waits_counts_before_the_candidate(gate):
    node = gate()
    node.offer(0.5, 0.5)
    heard = next(s for s in node.listened if s.topic == "/qgf/estop")
    heard.handle.waiting.append(Bool(data=True))
    node.offer(0.9, 0.9)
    assert node.state is State.FAULT and all(m.data[0] <= 0.5 for m in node.sent)


def test_fault_130_of_several_each_stops_and_only_all_release(gate):
    node = gate(estop="/one,/two")
    assert {s.topic for s in node.listened} >= {"/one", "/two"}
    assert "/qgf/estop" not in {s.topic for s in node.listened}
    press(node, "/two")
    press(node, "/one", False)
    node._on_timer()
    assert node._arbiter.stopped
    press(node, "/two", False)
    node._on_timer()
    assert not node._arbiter.stopped


def test_fault_114_the_owners_stop_is_heard_where_none_is_named(gate):
    node = gate(owners="/left,/right")
    assert {s.topic for s in node.listened} >= {"/left/estop", "/right/estop"}


def test_fault_115_one_that_nobody_relies_on_may_go(gate):
    node = gate()
    press(node, pressed=False)
    node._on_timer()
    node.counts["/qgf/estop"] = 0
    node._on_timer()
    node._on_timer()
    assert node._estops[0].lost is not None
    assert not node._arbiter.stopped and node.offer(0.5, 0.5) is not None


def test_fault_131_a_heartbeat_that_ends_stops_once_and_goes_on_after_it_is_back(gate):
    node = gate(estop_timeout=0.3)
    press(node, pressed=False)
    node._on_timer()
    assert node.offer(0.5, 0.5) is not None and not node._arbiter.stopped
    node.at += 4 * 10**8
    node._on_timer()
    node._on_timer()
    assert node._arbiter.stopped and node._arbiter.reason.code == "ESTOP_LOST"
    reason = node._arbiter.reason
    node._on_timer()
    assert node._arbiter.reason is reason, "said once"
    press(node, pressed=False)
    node._on_timer()
    assert not node._arbiter.stopped


def test_fault_131_pressed_before_the_heartbeat_ended_stays_a_press(gate):
    node = gate(estop="/one,/two", estop_timeout=0.3)
    press(node, "/one", False)
    node._on_timer()
    press(node, "/two")
    node.at += 4 * 10**8
    node._on_timer()
    node._on_timer()
    assert node._arbiter.stopped and node._arbiter.reason.code == "ESTOP"


def test_fault_131_nothing_passes_before_the_heartbeat_is_heard(gate):
    node = gate(estop_timeout=0.3)
    node._on_timer()
    assert node._arbiter.stopped and node._arbiter.reason.code == "ESTOP_MISSING"
    assert node.offer(0.5, 0.5) is None
    press(node, pressed=False)
    node._on_timer()
    assert not node._arbiter.stopped
    assert node.offer(0.5, 0.5, epoch=2) is not None


def test_fault_131_of_several_heartbeats_one_that_was_heard_is_enough(gate):
    """An owner that nobody has started has no emergency stop either."""
    node = gate(estop="/one,/two", estop_timeout=0.3)
    press(node, "/two", False)
    node._on_timer()
    assert not node._arbiter.stopped


def test_fault_115_a_stop_that_nobody_has_to_hear_is_not_missed(gate):
    node = gate()
    node._on_timer()
    assert not node._arbiter.stopped and node.offer(0.5, 0.5) is not None


# Its life.


def test_fault_033_names_and_sources_that_cannot_be(gate):
    for bad, words in (
        ({"owners": "qgf,/qgf"}, "owners is 'qgf,/qgf'; name each once"),
        ({"owners": "a b"}, "owners is 'a b'"),
        ({"estop": "/x,/x"}, "estop is '/x,/x'; name each once"),
        ({"policy": "planar_arm"}, "give either policy or contract"),
        ({"contract": "''"}, "give either policy or contract"),
    ):
        with pytest.raises(UsageError, match=words):
            gate(**bad)
        rclpy.shutdown()


def test_fault_041_the_limits_are_of_the_contract_or_of_the_policy(gate):
    from qgf_ros.spaces.contract import Contract

    node = gate()
    assert node._contract.action_names == tuple(NAMES)
    assert isinstance(node._contract, Contract) and node._reports._policy == ""


def test_fault_047_of_a_policy_its_contract_counts_and_its_id_is_said(gate, monkeypatch):
    shown = SimpleNamespace(contract=gate()._contract, sha256="5" * 64)
    rclpy.shutdown()
    monkeypatch.setattr(gate_node, "find_policy", lambda name: name)
    monkeypatch.setattr(gate_node, "vetted_policy", lambda folder, stopping: shown)
    node = gate(contract="''", policy="some")
    assert node._contract is shown.contract and node._reports._policy == shown.sha256


@pytest.mark.parametrize("asked", [False, True])
def test_fault_076_it_ends_with_its_parent_where_that_is_asked(gate, monkeypatch, asked):
    called = []
    monkeypatch.setattr(gate_node, "exit_with_parent", lambda: called.append(True))
    gate(exit_with_parent=str(asked).lower())
    assert called == [True] * asked


def test_fault_072_the_last_words_are_a_stop_and_the_watch_has_ended(gate):
    node = gate()
    node.start()
    node.offer(0.5, 0.5)
    node.close()
    assert list(node.sent[-1].data) == [0.0, 0.0] and not node._thread.is_alive()


def test_fault_072_who_has_never_started_ends_without_a_word(gate):
    node = gate()
    node.close()
    assert not node.sent


def test_fault_072_it_waits_for_its_watch_before_the_last_words(gate):
    node = gate()
    release, words = threading.Event(), []

    def watch():
        node._stopping.wait()
        release.wait(2)
        words.append(len(node.sent))

    node._thread = threading.Thread(target=watch, daemon=True)
    node.start()
    node.offer(0.5, 0.5)
    threading.Timer(0.05, release.set).start()
    node.close()
    assert words == [1], "the watch had ended before the first of them"


def test_fault_082_a_callback_that_raises_is_a_hold(gate):
    node = gate()
    node.offer(0.5, 0.5)
    node.at += T
    node.raised(ZeroDivisionError("by nought"))
    assert node.state is State.HOLD and node._arbiter.reason.code == "CALLBACK"
    assert node.sent[-1].data[0] < 0.5


def test_fault_074_the_watch_outlives_what_it_meets_and_holds(gate, monkeypatch):
    node, met = gate(), threading.Event()
    node.offer(0.5, 0.5)
    honest = node._arbiter.watch

    def once(now):
        monkeypatch.setattr(node._arbiter, "watch", honest)
        node.at += 3 * T
        met.set()
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(node._arbiter, "watch", once)
    node.start()
    assert met.wait(10)
    end = time.monotonic() + 10
    while node.state is not State.HOLD and time.monotonic() < end:
        time.sleep(0.01)
    assert node.state is State.HOLD and node.error is None and node._thread.is_alive()
    node.close()


def test_fault_067_limits_are_tightened_while_it_runs(gate):
    node = gate()
    result = node.set_parameters_atomically([Parameter("limits_scale", value=0.5)])
    assert result.successful and node._arbiter.gate.scale == 0.5
