"""`qgf_gate` alone, with scripted owners: what it passes, when it holds, what it refuses to start with.

Pinned: a message of a million numbers that keeps the gate busy; a command before the first candidate;
positions that begin anywhere but where they are measured.
"""

import contextlib
import math
import os
import signal
import time

import numpy as np
import pytest
import ros_harness as ros
import yaml
from qgf_make import position_dict

T = ros.PERIOD
ZERO = [0.0, 0.0]
NAMES = ["arm.shoulder", "arm.elbow"]


class Owner(ros.Wire):
    """Publishes candidates as a node would, from a thread, and records what the gate does."""

    def __init__(self, domain, *names, gate="qgf_gate", topic="velocity_controller/commands"):
        super().__init__(domain, "owners", spin=False)
        self.publishers = {
            n: self.node.create_publisher(ros.Command, f"{n}/command", 1) for n in names
        }
        self.sequence = dict.fromkeys(names, 0)
        self.commands = self.record(ros.Float64MultiArray, topic, 1000)
        self.passed = self.record(ros.Command, f"{gate}/passed", 1000)
        self.statuses = self.record(ros.Status, f"{gate}/status", 1000)
        self.diagnostics = self.record(ros.DiagnosticArray, "/diagnostics", 100)
        self.gate = gate
        self.begin()

    def connect(self, proc):
        """Both directions are discovered, and the gate's reports are heard."""
        publishers = self.publishers.values()
        self.wait(lambda: all(p.get_subscription_count() for p in publishers), 10, "the gate", proc)
        self.wait(lambda: self.statuses, 10, "its status", proc)
        count = self.node.count_publishers
        self.wait(lambda: count("velocity_controller/commands"), 10, "who commands", proc)
        self.wait(lambda: count(f"{self.gate}/passed"), 10, "what is passed", proc)

    def say(self, who, values, epoch=1, names=NAMES, **changes):
        """One candidate on the topic of `who`."""
        self.sequence[who] += 1
        now = time.time_ns()
        fields = {
            "header": ros.Header(stamp=ros.time_msg(now)),
            "owner": who,
            "sequence": self.sequence[who],
            "epoch": epoch,
            "execute_at": ros.time_msg(now),
            "deadline": ros.time_msg(now + round(2 * T * 1e9)),
            "names": names,
            "values": values,
        }
        self.publishers[who].publish(ros.Command(**fields | changes))

    def pass_(self, who, values, proc, **changes):
        """Candidates until one of them has come out at the robot's end."""
        began = len(self.commands)
        end = time.monotonic() + 10
        while not any(c.values == values for c in self.commands[began:]):
            if time.monotonic() > end:
                raise ros.TimedOut(f"{values} did not come out for 10 s\n{proc.log}")
            self.say(who, values, **changes)
            time.sleep(T)

    def warnings(self, code):
        return [w for s in self.statuses for w in s.msg.warnings if w.startswith(code)]


@contextlib.contextmanager
def gate_and_owners(domain, *names, **parameters):
    """A running gate for the shipped arm and scripted owners; in the end it obeys SIGTERM."""
    owners = Owner(domain, *names)
    arguments = ros.ros_args(owners=",".join(names), **parameters)
    proc = ros.Proc([*ros.node_command("qgf_gate"), *arguments], domain)
    try:
        proc.wait_line("qgf_gate: READY")
        owners.connect(proc)
        yield proc, owners
        proc.stop()
    finally:
        proc.close()
        owners.close()


# What passes.


def test_nothing_is_sent_before_the_first_candidate_and_each_good_one_at_once(domain):
    with gate_and_owners(domain, "/qgf", policy="planar_arm") as (proc, owners):
        count = len(owners.statuses)
        owners.wait(lambda: len(owners.statuses) > count + 5, 5, "statuses", proc)
        assert owners.commands == [] and owners.passed == []
        assert owners.statuses[-1].msg.state == ros.READY
        owners.pass_("/qgf", [0.5, -0.5], proc)
        own = lambda: [p.msg for p in owners.passed if p.msg.owner == "/qgf"]  # noqa: E731
        word = owners.wait(own, 2, "its own word", proc)[0]
        assert list(word.values) == [0.5, -0.5] and list(word.names) == NAMES
        owners.wait(lambda: owners.statuses[-1].msg.state == ros.HOLD, 2, "HOLD", proc)
        owners.wait(lambda: owners.passed[-1].msg.owner == "/qgf_gate", 2, "the hold's word", proc)
        last = owners.statuses[-1].msg
        assert last.reason == "CANDIDATES_STOPPED" and math.isnan(last.beta)
        assert list(last.topics) == ["/qgf/command"] and last.topic_age[0] > 0


def test_what_is_recorded_is_what_was_sent(domain):
    """Beyond the contract's range, and tightened by half: `~/passed` has what the robot got."""
    with gate_and_owners(domain, "/qgf", policy="planar_arm", limits_scale=0.5) as (proc, owners):
        for _ in range(3):
            owners.say("/qgf", [2.5, 0.0])
            time.sleep(T)
        owners.wait(lambda: owners.commands and owners.passed, 5, "a command", proc)
        top = max(c.values[0] for c in owners.commands)
        assert top == max(p.msg.values[0] for p in owners.passed) == ros.SPEED / 2
        owners.wait(lambda: owners.statuses[-1].msg.limit_hits, 2, "a limit hit", proc)


def test_positions_begin_where_they_are_measured_or_not_at_all(domain, tmp_path):
    file = tmp_path / "contract.yaml"
    contract = position_dict(rate=2.0)  # 0.1 per period
    contract["actions"][0]["topic"] = "velocity_controller/commands"
    file.write_text(yaml.safe_dump(contract))
    names = ["arm.a", "arm.b"]
    with gate_and_owners(domain, "/qgf", contract=file) as (proc, owners):
        state = owners.node.create_publisher(ros.JointState, "joint_states", 1)
        owners.wait(state.get_subscription_count, 10, "who listens to the state", proc)

        def refused():  # the warning lasts for a while only
            owners.say("/qgf", [1.0, 1.0], names=names)
            return owners.warnings("STATE_MISSING")

        owners.wait(refused, 3, "the refusal", proc)
        assert owners.commands == []
        measured = ros.JointState(name=["b", "a"], position=[-0.4, 0.2], velocity=[0.0, 0.0])
        until = time.monotonic() + 5
        while not owners.commands:
            if time.monotonic() > until:
                raise ros.TimedOut(f"no command for 5 s\n{proc.log}")
            measured.header.stamp = ros.time_msg(time.time_ns())
            state.publish(measured)
            owners.say("/qgf", [1.0, 1.0], names=names)
            time.sleep(T)
        first = np.array(owners.commands[0].values)
        assert np.allclose(first, [0.2, -0.4], atol=0.1 + 1e-9), first


# What does not.


def test_fault_012_a_million_numbers_do_not_hurt(domain):
    with gate_and_owners(domain, "/qgf", "/vast", policy="planar_arm") as (proc, owners):
        owners.pass_("/qgf", [0.5, -0.5], proc)
        before = rss(proc)
        for k in range(30):
            owners.say("/qgf", [0.5, -0.5])
            if k % 10 == 5:
                owners.say("/vast", [0.0] * 1_000_000, names=["x"] * 100_000)
            time.sleep(T)
        owners.wait(lambda: owners.warnings("COMMAND_SCHEMA"), 3, "the refusal", proc)
        grown = rss(proc) - before
        print(f"RSS {grown / 2**20:+.1f} MB")
        assert grown < 50 * 2**20
        owners.pass_("/qgf", [0.25, 0.25], proc)


def test_fault_079_of_two_owners_one_alone_passes(domain):
    """Both want to move the robot the whole time, and a third one lies about its name."""
    with gate_and_owners(domain, "/first", "/second", policy="planar_arm") as (proc, owners):
        owners.pass_("/first", [0.5, 0.5], proc)
        began = len(owners.commands)
        for _ in range(40):
            owners.say("/first", [0.5, 0.5])
            owners.say("/second", [-0.5, -0.5])
            owners.say("/second", [-1.0, -1.0], owner="/first")
            time.sleep(T / 2)
        owners.wait(lambda: owners.warnings("OWNER"), 2, "a warning", proc)
        sent = {tuple(c.values) for c in owners.commands[began:]}
        # A hold and its ramp where this machine was too busy.
        assert all(0.0 <= x == y <= 0.5 for x, y in sent), sent
        assert {p.msg.owner for p in owners.passed} <= {"/first", "/qgf_gate"}


def test_a_second_publisher_on_the_robots_topic_is_a_warning(domain):
    with gate_and_owners(domain, "/qgf", policy="planar_arm") as (proc, owners):
        owners.node.create_publisher(ros.Float64MultiArray, "velocity_controller/commands", 1)
        owners.wait(lambda: owners.warnings("COMMAND_CONFLICT"), 10, "a warning", proc)


# How it ends.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_fault_072_the_gates_own_last_words_are_a_hold(domain, number):
    with gate_and_owners(domain, "/qgf", policy="planar_arm") as (proc, owners):
        owners.pass_("/qgf", [1.0, 1.0], proc)
        owners.say("/qgf", [1.0, 1.0])
        proc.send(number)
        assert proc.wait(3.0) == 0, proc.log
        owners.wait(lambda: owners.commands[-1].values == ZERO, 2, "a stop")
        assert "Traceback" not in proc.log


def test_fault_072_before_the_first_candidate_it_ends_without_a_word(domain):
    with gate_and_owners(domain, "/qgf", policy="planar_arm") as (proc, owners):
        proc.send(signal.SIGTERM)
        assert proc.wait(3.0) == 0, proc.log
        assert owners.commands == []


# What it starts with.


@pytest.mark.parametrize(
    "parameters, code, words",
    [
        ({}, 2, "give either policy or contract"),
        ({"policy": "planar_arm", "contract": "x.yaml"}, 2, "give either policy or contract"),
        ({"policy": "nowhere"}, 4, "no policy folder"),
        ({"contract": "/nowhere.yaml"}, 2, "cannot read /nowhere.yaml"),
        ({"policy": "planar_arm", "owners": "qgf,/qgf"}, 2, "name each once"),
        ({"policy": "planar_arm", "owners": "a b"}, 2, "owners is 'a b'"),
        ({"policy": "planar_arm", "owners": "''"}, 2, "owners"),
        ({"policy": "planar_arm", "command_timeout": -1.0}, 2, "command_timeout is -1; allowed: 0"),
        ({"policy": "planar_arm", "limits_scale": 2.0}, 2, "limits_scale is 2; allowed: 0.01"),
        ({"policy": "planar_arm", "timeout": 1.0}, 2, "unknown parameters timeout"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_fault_033_a_bad_parameter_ends_it_with_its_code(domain, parameters, code, words):
    proc = ros.run_to_end([*ros.node_command("qgf_gate"), *ros.ros_args(**parameters)], domain)
    assert proc.process.returncode == code, proc.log
    assert words in proc.err[-1], proc.log


def test_fault_083_a_remap_that_leads_commands_into_the_state_is_refused(domain):
    arguments = ros.ros_args(("velocity_controller/commands:=joint_states",), policy="planar_arm")
    proc = ros.run_to_end([*ros.node_command("qgf_gate"), *arguments], domain)
    assert proc.process.returncode == 2 and "change the remap rules" in proc.err[-1], proc.log


def test_the_nodes_parameter_file_serves_the_gate_too(domain):
    """The launch file gives both the same one."""
    from qgf_ros.files.share import share_folder

    file = share_folder() / "config" / "default.yaml"
    arguments = ros.ros_args(files=(file,), policy="planar_arm")
    proc = ros.Proc([*ros.node_command("qgf_gate"), *arguments], domain)
    try:
        proc.wait_line("qgf_gate: READY")
        proc.stop()
    finally:
        proc.close()


def test_the_gate_needs_neither_onnxruntime_nor_torch(domain, tmp_path):
    for name in ("onnxruntime", "torch"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')\n")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    arguments = ros.ros_args(policy="planar_arm")
    proc = ros.Proc([*ros.node_command("qgf_gate"), *arguments], domain, PYTHONPATH=path)
    try:
        proc.wait_line("qgf_gate: READY")
        proc.stop()
    finally:
        proc.close()


def rss(proc):
    """Bytes."""
    with open(f"/proc/{proc.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096
