"""Others on the wire: a second commander, a second node of the same name, an emergency stop that goes
away, and peers that DDS does not connect.

Pinned: two policies that drove one arm in turns; an emergency stop that nobody could press any more;
a wrong type or QoS that looked like silence.
"""

import signal
import sys
import time

import pytest
import ros_harness as ros
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState  # noqa: F401  (the type the contract has)
from std_msgs.msg import Bool, Float64MultiArray, String

T = ros.PERIOD
COMMANDS = "velocity_controller/commands"


def entries(robot, name):
    """The newest diagnostics of that name."""
    for arrived in reversed(robot.diagnostics):
        for entry in arrived.msg.status:
            if entry.name.endswith(name):
                return entry
    return None


def connections(robot, *words):
    entry = entries(robot, ": connections")
    return entry is not None and entry.level == b"\x02" and all(w in entry.message for w in words)


class Intruder:
    """Another publisher on the command topic, saying one thing at 50 Hz."""

    def __init__(self, robot, values):
        self.robot = robot
        self.publisher = robot.node.create_publisher(Float64MultiArray, COMMANDS, 1)
        self.message = Float64MultiArray(data=values)
        self.first = self.last = 0.0

    def talk(self, until):
        while not until():
            self.last = time.monotonic()
            self.first = self.first or self.last
            self.publisher.publish(self.message)
            time.sleep(0.02)
            if time.monotonic() - self.first > 10.0:
                raise ros.TimedOut("the node does not mind for 10 s")


def test_fault_079_a_foreign_command_keeps_the_node_from_running_and_holds_it_in_run(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.speak()
        robot.wait_state(ros.READY, 10, proc)
        assert robot.node.count_subscribers(COMMANDS) == 1, "alone, it does not hear itself"
        intruder = Intruder(robot, [0.3, 0.0])
        robot.wait(lambda: intruder.publisher.get_subscription_count() >= 2, 5, "the node listens")

        # Not enabled: it cannot be.
        intruder.talk(lambda: "COMMAND_CONFLICT" in robot.statuses[-1].msg.reason)
        answer = robot.enable()
        assert not answer.success and "fake_robot" in answer.message and COMMANDS in answer.message
        robot.wait_state(ros.READY, 3, proc)
        assert not robot.candidates

        # In RUN: it holds, until it was quiet for a second.
        robot.drive(proc)
        intruder.first = 0.0
        begun = len(robot.statuses)
        intruder.talk(lambda: any(s.msg.state == ros.HOLD for s in robot.statuses[begun:]))
        held = robot.wait_state(ros.HOLD, 1, proc, reason=f"COMMAND_CONFLICT:{COMMANDS}")
        late = robot.candidates[-1].at - intruder.first
        print(
            f"last candidate {late * 1e3:.0f} ms after the first foreign command, HOLD {(held.at - intruder.first) * 1e3:.0f} ms"
        )
        assert late <= 2 * T + ros.slack()
        candidates = len(robot.candidates)
        robot.wait_state(ros.RUN, 5, proc)
        quiet = (
            robot.wait(lambda: robot.candidates[candidates:], 2, "commands")[0].at - intruder.last
        )
        print(f"commands again {quiet:.2f} s after the last foreign one")
        assert quiet >= 1.0 + 9 * T - ros.slack()
        begun = len(robot.statuses)
        robot.wait_candidates(20)
        assert not any("COMMAND_CONFLICT" in s.msg.reason for s in robot.statuses[begun:]), (
            "it does not take its own commands for another's"
        )


def test_fault_079_two_nodes_do_not_command_at_once(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        second = ros.Proc(
            [*ros.node_command(), *ros.ros_args(("__node:=other",), policy="planar_arm", seed=1)],
            domain,
        )
        other = robot.record(ros.Status, "other/status", 100)
        client = robot.node.create_client(ros.SetBool, "other/enable")
        try:
            second.wait_line("qgf: READY")
            robot.speak()
            robot.wait(
                lambda: other and other[-1].msg.state == ros.READY, 10, "the second, READY", second
            )
            robot.drive(proc)
            # While the first one drives, the second cannot be enabled: it hears the commands.
            robot.wait(lambda: "COMMAND_CONFLICT" in other[-1].msg.reason, 3, "a conflict", second)
            assert not robot.call(client, ros.SetBool.Request(data=True)).success
            assert not any("COMMAND_CONFLICT" in s.msg.reason for s in robot.statuses), (
                "one that does not speak does not disturb"
            )
            # Enabled in the same moment of silence: whoever hears the other holds, or never begins.
            assert robot.enable(False).success
            robot.wait_state(ros.READY, 5, proc)
            robot.wait(lambda: other[-1].msg.state == ros.READY, 5, "quiet", second)
            mine = robot._enable.call_async(ros.SetBool.Request(data=True))
            theirs = client.call_async(ros.SetBool.Request(data=True))
            robot.wait(lambda: mine.done() and theirs.done(), 5, "both answers")
            begun = (len(robot.statuses), len(other))
            robot.wait(
                lambda: any(
                    "COMMAND_CONFLICT" in s.msg.reason
                    for s in (*robot.statuses[begun[0] :], *other[begun[1] :])
                ), 5, "a conflict", second,
            )  # fmt: skip
            for _ in range(10):
                robot.wait_statuses(1)
                assert not robot.state == other[-1].msg.state == ros.RUN
            second.stop()
        finally:
            second.close()


def test_fault_081_a_second_node_of_the_same_name_ends_with_code_2(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.wait_statuses(2, 10)
        second = ros.Proc([*ros.node_command(), *ros.ros_args(policy="planar_arm")], domain)
        try:
            assert second.wait(15.0) == 2, second.log
            assert second.err[-1].startswith("qgf: error[2]: ") and "/qgf" in second.err[-1]
        finally:
            second.close()
        robot.drive(proc)
        robot.wait(lambda: not robot.statuses[-1].msg.warnings, 3, "no more warning")


def test_fault_080_a_dead_node_of_the_same_name_is_no_twin(domain):
    with ros.node_and_robot(domain) as (first, robot):
        robot.drive(first)
        first.send(signal.SIGKILL)
        first.wait(5.0)
        began = time.monotonic()
        second = ros.Proc([*ros.node_command(), *ros.ros_args(policy="planar_arm")], domain)
        try:
            second.wait_line("qgf: READY")
            robot.wait_state(ros.READY, 10, second)
            print(f"READY {time.monotonic() - began:.2f} s after its start")
            robot.wait_statuses(15)
            assert second.running
            robot.drive(second)
            second.stop()
        finally:
            second.close()


def test_fault_070_071_peers_that_dds_does_not_connect_are_named(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.speak("goal", "obstacle")
        robot.wait(lambda: entries(robot, ": connections"), 5, "diagnostics", proc)
        assert entries(robot, ": connections").level == b"\x00", entries(robot, ": connections")
        node = robot.node
        began = time.monotonic()
        node.create_subscription(
            Float64MultiArray, COMMANDS, lambda _: None,
            QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        )  # fmt: skip
        node.create_publisher(
            Bool, "qgf/estop", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        )
        robot.wait(
            lambda: connections(
                robot, COMMANDS, "ransient local", "~/estop", "est effort", "fake_robot"
            ), 5, "diagnostics that name both", proc,
        )  # fmt: skip
        took = time.monotonic() - began
        print(f"named after {took:.2f} s: {entries(robot, ': connections').message}")
        assert took <= 2.0 + ros.slack()
        stranger = ros.Wire(domain, "stranger")  # one participant has one type per topic
        stranger.node.create_publisher(String, "joint_states", 1)
        words = ("joint_states", "std_msgs/String", "sensor_msgs/JointState", "stranger")
        robot.wait(lambda: connections(robot, *words), 10, "diagnostics that name the type", proc)
        status = robot.statuses[-1].msg
        assert status.state == ros.WAITING and "joint_states" in status.reason
        assert any("TYPE_MISMATCH" in w for w in status.warnings)
        stranger.close()
        robot.wait(
            lambda: not any("TYPE_MISMATCH" in w for w in robot.statuses[-1].msg.warnings),
            5,
            "its end",
        )


BUTTON = """
import sys, rclpy
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool
rclpy.init()
node = rclpy.create_node("button")
qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
if sys.argv[1] == "leased":
    qos.liveliness_lease_duration = Duration(seconds=0.3)
publisher = node.create_publisher(Bool, "qgf/estop", qos)
publisher.publish(Bool(data=False))
print("button up", flush=True)
try:
    rclpy.spin(node)  # ends by an exception, or without one: whichever notices the signal first
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    pass
finally:
    node.destroy_node()
"""


def button(domain, kind):
    proc = ros.Proc([sys.executable, "-c", BUTTON, kind], domain)
    proc.wait_line("button up")
    return proc


@pytest.mark.parametrize(
    ("kind", "number"),
    [("plain", signal.SIGINT), ("leased", signal.SIGKILL)],
    ids=["ended", "killed, leased"],
)
def test_fault_115_a_required_emergency_stop_that_vanishes_is_a_fault(domain, kind, number):
    with ros.node_and_robot(domain, estop_required=True) as (proc, robot):
        robot.node.destroy_publisher(robot.estop_publisher)
        robot.speak()
        robot.wait_state(ros.WAITING, 10, proc, reason="ESTOP_MISSING")
        assert not robot.enable().success
        first = button(domain, kind)
        try:
            robot.drive(proc)
            sent = first.send(number)
            fault = robot.wait_state(ros.FAULT, 5, proc, reason="ESTOP_LOST")
            print(f"FAULT {fault.at - sent:.2f} s after the signal")
            assert fault.at - sent <= 1.0 + 2 * ros.slack()
            answer = robot.reset()
            assert not answer.success and "estop" in answer.message
        finally:
            first.close()
        second = button(domain, kind)
        try:
            robot.wait(lambda: robot.reset().success, 10, "a reset that is accepted", proc)
            robot.drive(proc)
        finally:
            second.close()


def test_fault_115_without_estop_required_it_is_a_warning(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.drive(proc)
        robot.estop(False)
        robot.wait_statuses(3)
        robot.node.destroy_publisher(robot.estop_publisher)
        robot.wait(
            lambda: any("ESTOP_LOST" in w for w in robot.statuses[-1].msg.warnings),
            3,
            "a warning",
            proc,
        )
        robot.wait(
            lambda: (e := entries(robot, ": control")) and e.level == b"\x01",
            3,
            "WARN in the diagnostics",
        )
        robot.wait_candidates(5)
        robot.wait_state(ros.RUN, 5, proc)
