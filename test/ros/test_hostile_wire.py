"""Whatever is said to the gate, the node and the simulation: they live, and the emergency stop is heard.

Pinned: a parameter of a type that there is not, or a clock before its time, that ended `qgf_gate`; a
service that never answers because its callback raised; a deaf executor after one bad message.
"""

import contextlib
import random
import signal
import time

import pytest
import ros_harness as ros

pytest.importorskip("rclpy")
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParametersAtomically,
)
from rclpy.executors import SingleThreadedExecutor
from ros_gated import gate_of, node, robot_of

from qgf_ros.ros.lean import EnduringExecutor

EVIL = ["", "\x00", "x" * 60_000, "%s%n{0}", "../..", "~/x", "/", "beta", "qgf.é", "\U0001f916"]
TIMES = [(0, 0), (-5, 0), (-(2**31), 0), (2**31 - 1, 2**32 - 1), (1, 2**32 - 1)]
BYTES = [b"", b"\x00", b"\x00\x01\x00\x00", b"\x00\x01\x00\x00" + b"\xff" * 60, b"\xff" * 64]


def hostile_parameters(dice):
    values = [
        ros.ParameterValue(type=dice.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99, 255]))
        for _ in range(3)
    ]
    return [ros.Parameter(name=dice.choice([*EVIL, "limits_scale"]), value=v) for v in values]


def services(name):
    """Of every node of ours, with hostile requests."""
    names = f"{name}/"
    return [
        (ros.SetParameters, names + "set_parameters",
         lambda d: ros.SetParameters.Request(parameters=hostile_parameters(d))),
        (SetParametersAtomically, names + "set_parameters_atomically",
         lambda d: SetParametersAtomically.Request(parameters=hostile_parameters(d))),
        (GetParameters, names + "get_parameters", lambda d: GetParameters.Request(names=d.sample(EVIL, 3))),
        (GetParameterTypes, names + "get_parameter_types",
         lambda d: GetParameterTypes.Request(names=d.sample(EVIL, 3))),
        (DescribeParameters, names + "describe_parameters",
         lambda d: DescribeParameters.Request(names=d.sample(EVIL, 3))),
        (ListParameters, names + "list_parameters",
         lambda d: ListParameters.Request(prefixes=d.sample(EVIL, 3), depth=d.choice([0, 1, 2**64 - 1]))),
    ]  # fmt: skip


def command(dice):
    def when():
        sec, nanosec = dice.choice([*TIMES, (int(time.time()), 0)])
        return ros.Time(sec=sec, nanosec=nanosec)

    values = dice.choice([[], [0.0, 0.0], [1e308, -1e308], [float("nan")] * 2, [0.0] * 9000])
    return ros.Command(
        owner=dice.choice(["/qgf", *EVIL]), sequence=dice.choice([0, 1, 2**64 - 1]),
        epoch=dice.choice([0, 2**32 - 1]), execute_at=when(), deadline=when(),
        names=dice.choice([[], EVIL[:3], ["arm.shoulder", "arm.elbow"]]), values=values,
    )  # fmt: skip


def abuse(robot, dice, target, proc):
    """Every service of `target` is answered."""
    for kind, name, request in services(target):
        client = robot.node.create_client(kind, name)
        robot.wait(client.service_is_ready, 10, f"service {name}", proc)
        until = time.monotonic() + 20
        # Asked again: DDS may match the way back of a client only after the way there.
        while True:
            asked = client.call_async(request(dice))
            try:
                robot.wait(asked.done, 3, f"an answer of {name}", proc)
                break
            except ros.TimedOut:
                if time.monotonic() > until:
                    raise
        robot.node.destroy_client(client)


def test_fault_127_whatever_is_sent_gate_and_node_live_and_hear_the_emergency_stop(domain):
    dice = random.Random(7)
    with gate_of(domain) as gate, robot_of(domain, gate) as robot, node(domain) as proc:
        robot.run(proc)
        create = robot.node.create_publisher
        rubbish = {
            "qgf/command": (ros.Command, command),
            "qgf/status": (ros.Status, lambda d: ros.Status(state=d.randrange(256))),  # an elder twin ends us
            "qgf_gate/status": (ros.Status, lambda d: ros.Status(reason=d.choice(EVIL), state=5, tick=2**60)),
            "qgf_gate/passed": (ros.Command, command),
            "joint_states": (ros.JointState, lambda d: ros.JointState(name=EVIL, position=[0.0] * d.randrange(9))),
            "qgf/estop": (ros.Bool, None),
        }  # fmt: skip
        publishers = {t: create(kind, t, 10) for t, (kind, _) in rubbish.items()}
        for topic, publisher in publishers.items():
            robot.wait(publisher.get_subscription_count, 10, f"a listener on {topic}", gate)
        for _ in range(4):
            abuse(robot, dice, "qgf", proc)
            abuse(robot, dice, "qgf_gate", gate)
            for topic, publisher in publishers.items():
                with contextlib.suppress(Exception):  # some of it our own middleware does not send
                    publisher.publish(dice.choice(BYTES))
                if rubbish[topic][1] is not None:
                    publisher.publish(rubbish[topic][1](dice))
        for publisher in publishers.values():
            robot.node.destroy_publisher(publisher)
        (result,) = robot.call(
            robot.node.create_client(ros.SetParameters, "qgf_gate/set_parameters"),
            ros.SetParameters.Request(
                parameters=[ros.Parameter(name="limits_scale", value=ros.ParameterValue(type=99))]
            ),
        ).results
        assert not result.successful and "99" in result.reason
        assert gate.running and proc.running
        while robot.state != ros.RUN:
            robot.reset() if robot.state == ros.FAULT else robot.enable()
            robot.wait_statuses(1)
        robot.wait_commands(5, 10.0)
        robot.estop(True)
        robot.wait_state(ros.FAULT, 3, proc, reason="ESTOP")
        robot.wait(
            lambda: robot.gate_statuses[-1].msg.state == ros.FAULT, 3, "the gate's FAULT", gate
        )
        proc.stop()


@pytest.mark.parametrize("sec, nanosec", TIMES[1:])
def test_fault_127_a_clock_of_nonsense_is_a_hold_of_the_gate_and_no_end(domain, sec, nanosec):
    with gate_of(domain, use_sim_time=True) as gate:
        robot = ros.FakeRobot(domain)
        try:
            statuses = robot.record(ros.Status, "qgf_gate/status", 1000)
            clock = robot.node.create_publisher(ros.Clock, "/clock", 10)
            robot.wait(clock.get_subscription_count, 10, "the gate's clock", gate)
            clock.publish(ros.Clock(clock=ros.Time(sec=sec, nanosec=nanosec)))
            begin = len(statuses)
            if sec < 0:
                robot.wait(
                    lambda: statuses and statuses[-1].msg.reason == "CALLBACK", 3, "word", gate
                )
                assert any("CALLBACK" in w for w in statuses[-1].msg.warnings)
            clock.publish(ros.Clock(clock=ros.Time(sec=1000)))
            robot.wait(lambda: len(statuses) > begin + 3 and statuses[-1].msg.state == ros.READY, 5,
                       "READY again", gate)  # fmt: skip
        finally:
            robot.close()


def test_fault_127_a_simulation_lives_on_too(domain):
    sim = ros.Proc(
        [*ros.node_command("qgf_sim"), *ros.ros_args(wait_for_command=False)], domain, deadline=60.0
    )
    robot = ros.Wire(domain, "abuser")
    try:
        sim.wait_line("READY")
        abuse(robot, random.Random(1), "qgf_sim", sim)
        publisher = robot.node.create_publisher(
            ros.Float64MultiArray, "velocity_controller/commands", 1
        )
        robot.wait(publisher.get_subscription_count, 10, "the simulation", sim)
        for data in BYTES:
            publisher.publish(data)
        publisher.publish(ros.Float64MultiArray(data=[float("nan")] * 1000))
        clock = robot.record(ros.Clock, "/clock", 10)
        robot.wait(lambda: len(clock) > 10, 5, "time that goes on", sim)
        sim.stop()
    finally:
        sim.close()
        robot.close()


def test_fault_127_a_lifecycle_request_of_nonsense_is_answered(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        for number in (0, 42, 255):
            assert not robot.transition(number)
        client = robot.node.create_client(GetState, "qgf/get_state")
        assert robot.call(client, GetState.Request()).current_state.label == "active"


@pytest.mark.parametrize("kept", [True, False], ids=["", "where rclpy takes by another name"])
def test_fault_133_what_cannot_be_taken_leaves_the_executor_hearing(monkeypatch, kept):
    """Also where the private names are gone by which rclpy takes messages."""
    if not kept:
        for take in ("_take_subscription", "_take_service", "_take_client"):
            monkeypatch.delattr(EnduringExecutor, take)
    context = ros.Context()
    context.init(args=[])
    failures, heard = [], []
    node_ = ros.LeanNode("deaf", context=context)
    executor = EnduringExecutor(failures.append, context=context)
    try:
        executor.add_node(node_)
        publisher = node_.create_publisher(ros.Bool, "topic", 10)
        subscription = node_.create_subscription(ros.Bool, "topic", heard.append, 10)
        until = time.monotonic() + 10
        while not publisher.get_subscription_count() and time.monotonic() < until:
            time.sleep(0.01)
        real, subscription.msg_type = subscription.msg_type, "no type"  # which take_message refuses
        publisher.publish(ros.Bool())
        while not failures and time.monotonic() < until:
            executor.spin_once(timeout_sec=0.05)
        assert failures
        subscription.msg_type = real
        publisher.publish(ros.Bool(data=True))
        while not heard and time.monotonic() < until:
            executor.spin_once(timeout_sec=0.05)
        assert heard
    finally:
        executor.shutdown()
        node_.destroy_node()
        context.try_shutdown()
    for take in ("_take_subscription", "_take_service", "_take_client"):
        assert hasattr(SingleThreadedExecutor, take)


# An emergency stop that comes while nobody runs.


class Heartbeat:
    """Of a button, at 100 Hz, pressed for 50 ms when it is told to be."""

    def __init__(self, robot, latched=False):
        self._publisher = robot.estop_publisher if latched else robot.node.create_publisher(
            ros.Bool, "qgf/estop", 1
        )  # fmt: skip
        if not latched:
            robot.node.destroy_publisher(robot.estop_publisher)
        self._robot = robot
        robot.wait(self._publisher.get_subscription_count, 10, "a listener on estop")

    def meet(self, proc):
        """Returns once the node has heard a press: that its subscription is known here does not mean
        that it knows this publisher, and what it does not know it does not hear."""

        def pressed():
            self._publisher.publish(ros.Bool(data=True))
            return self._robot.state == ros.FAULT

        self._robot.wait(pressed, 10, "the node hears the button", proc)
        self.beat(0.2)
        assert self._robot.reset().success

    def beat(self, seconds, pressed=False):
        for _ in range(round(seconds / 0.01)):
            self._publisher.publish(ros.Bool(data=pressed))
            time.sleep(0.01)


@pytest.mark.parametrize("latched", [False, True])
def test_fault_128_a_press_within_a_stall_is_heard_after_it(domain, latched):
    with ros.node_and_robot(domain) as (proc, robot):
        heart = Heartbeat(robot, latched)
        heart.meet(proc)
        robot.drive(proc)
        heart.beat(0.1)
        proc.send(signal.SIGSTOP)
        heart.beat(0.1)
        heart.beat(0.05, pressed=True)
        heart.beat(0.2)
        begin = len(robot.statuses)
        proc.send(signal.SIGCONT)
        heart.beat(0.3)
        robot.wait_state(ros.FAULT, 3, proc, reason="ESTOP")
        assert robot.reset().success, "it was released"
        heart.beat(1.0)
        assert ros.RUN not in {s.msg.state for s in robot.statuses[begin + 2 :]}


def test_fault_129_after_a_stall_a_robot_with_an_emergency_stop_asks_before_it_moves(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        heart = Heartbeat(robot)
        heart.meet(proc)
        robot.drive(proc)
        proc.send(signal.SIGSTOP)
        time.sleep(0.5)  # the fault's length
        proc.send(signal.SIGCONT)
        robot.wait_state(ros.READY, 5, proc)
        heart.beat(1.0)
        assert robot.state == ros.READY
        assert robot.enable().success
        robot.wait_state(ros.RUN, 3, proc)


def test_fault_130_the_gate_hears_it_where_the_node_does_not(domain):
    """The node's own ears are remapped away: the gate's word is a FAULT of the node, too."""
    with gate_of(domain) as gate, robot_of(domain, gate) as robot:
        args = ros.ros_args(("qgf/estop:=nowhere",), policy="planar_arm", gate="outside")
        proc = ros.Proc([*ros.node_command(), *args], domain)
        try:
            proc.wait_line("qgf: READY")
            robot.run(proc)
            began = robot.estop(True)
            robot.wait(lambda: robot.stopped(began), 3, "a command to rest", gate)
            robot.wait_state(ros.FAULT, 3, proc, reason="ESTOP")
            assert not robot.reset().success
            robot.estop(False)
            robot.wait(
                lambda: robot.gate_statuses[-1].msg.state != ros.FAULT, 3, "its release", gate
            )
            robot.wait(lambda: robot.reset().success, 3, "a reset", proc)
            robot.run(proc)
            assert gate.running
            proc.stop()
        finally:
            proc.close()


def test_fault_131_a_heartbeat_that_ends_is_a_fault(domain):
    with ros.node_and_robot(domain, estop_timeout=0.5) as (proc, robot):
        robot.speak()
        robot.wait_state(ros.WAITING, 10, proc, reason="ESTOP_MISSING")
        heart = Heartbeat(robot)
        heart.beat(0.2)
        robot.wait_state(ros.READY, 5, proc)
        assert robot.enable().success
        heart.beat(0.2)
        robot.wait_state(ros.FAULT, 3, proc, reason="ESTOP_LOST")
        assert not robot.reset().success
