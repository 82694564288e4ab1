"""Every way to stop: emergency stop, signals, the life cycle. A stop is a command on the wire.

Pinned: rclpy's own signal handling, with which a last stop command never arrived; an emergency
stop that was released by its own button; a hold that fell silent while the robot still moved.
"""

import signal
import time

import pytest
import ros_harness as ros
from qgf_make import SCALE

T = ros.PERIOD
ZERO = [0.0, 0.0]


def moving(robot, speed=0.5):
    robot.wait(
        lambda: max(map(abs, robot.commands[-1].values)) > speed,
        8,
        f"a command beyond {speed} rad/s",
    )


# Emergency stop.


def test_fault_114_emergency_stop_ramps_to_rest_and_latches_until_reset(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.drive(proc)
        moving(robot)
        pressed = robot.estop(True)
        fault = robot.wait_state(ros.FAULT, 2, proc, reason="ESTOP")
        assert not fault.msg.enabled
        zero = robot.wait(
            lambda: next(
                (c.at for c in robot.commands if c.at > pressed and c.values == ZERO), None
            ),
            2,
            "zero",
        )
        print(
            f"zero {(zero - pressed) * 1e3:.0f} ms after the button, FAULT {(fault.at - pressed) * 1e3:.0f} ms"
        )
        assert zero - pressed <= 2 * T + ros.slack()
        assert robot.candidates[-1].at - pressed <= T + ros.slack()
        candidates = len(robot.candidates)
        robot.wait_silence(0.4)
        assert robot.commands[-1].values == ZERO

        answer = robot.reset()
        assert not answer.success and "pressed" in answer.message, (
            "first the button, then the reset"
        )
        robot.estop(False)
        robot.wait_statuses(5)
        assert robot.state == ros.FAULT, "the button's release is no permission to move"
        answer = robot.enable()
        assert not answer.success and "reset" in answer.message
        robot.wait_statuses(3)
        assert robot.state == ros.FAULT and len(robot.candidates) == candidates

        assert robot.reset().success
        robot.wait_state(ros.READY, 3, proc)
        robot.wait_statuses(5)
        assert len(robot.candidates) == candidates, "a reset does not move the robot"
        robot.enabled()
        robot.wait_state(ros.RUN, 3, proc)
        robot.wait_candidates(5)


def test_fault_114_emergency_stop_pressed_before_the_node_started_counts(domain):
    """The button's topic is latched: a node that comes later hears it."""
    watcher = ros.FakeRobot(domain)
    watcher.estop_publisher.publish(ros.Bool(data=True))
    proc = ros.Proc(
        [*ros.node_command(), *ros.ros_args(policy="planar_arm", enable_on_start=True)], domain
    )
    try:
        proc.wait_line("qgf: READY")
        watcher.wait_state(ros.FAULT, 10, proc, reason="ESTOP")
        watcher.speak()
        watcher.wait_statuses(10)
        assert watcher.state == ros.FAULT and not watcher.candidates
        proc.stop()
    finally:
        proc.close()
        watcher.close()


@pytest.mark.parametrize("when", ["unconfigured", "inactive"])
def test_fault_114_emergency_stop_pressed_before_activation_counts(domain, when):
    with ros.node_and_robot(domain, autostart=False) as (proc, robot):
        robot.wait_statuses(1, 10)
        if when == "inactive":
            assert robot.transition(ros.Transition.TRANSITION_CONFIGURE)
        robot.estop(True)
        robot.wait_statuses(3)
        if when == "unconfigured":
            assert robot.transition(ros.Transition.TRANSITION_CONFIGURE)
        assert robot.transition(ros.Transition.TRANSITION_ACTIVATE)
        robot.speak()
        robot.wait(lambda: robot.state >= ros.READY, 5, "a complete state", proc)
        robot.enable()
        robot.wait_statuses(5)
        assert robot.state == ros.FAULT and not robot.candidates
        assert not robot.reset().success, "it is still pressed"


def test_fault_114_a_volatile_publisher_stops_the_robot_too(domain):
    """`rclpy`'s default QoS, as in most joystick and button nodes."""
    with ros.node_and_robot(domain) as (proc, robot):
        robot.drive(proc)
        plain = robot.node.create_publisher(ros.Bool, "qgf/estop", 10)
        robot.wait(
            lambda: plain.get_subscription_count() > 0,
            5,
            "a listener that hears a plain publisher",
            proc,
        )
        plain.publish(ros.Bool(data=True))
        robot.wait_state(ros.FAULT, 2, proc, reason="ESTOP")


# Disable.


def test_disable_brings_the_robot_to_rest_and_enable_moves_it_again(domain, slow_policy):
    rate = 10.0
    with ros.node_and_robot(domain, policy=slow_policy(rate), rate=rate) as (proc, robot):
        robot.drive(proc)
        moving(robot)
        asked = time.monotonic()
        assert robot.enable(False).success
        robot.wait(lambda: robot.commands[-1].values == ZERO, 2, "rest")
        assert robot.candidates[-1].at - asked <= 2 * T + ros.slack()
        robot.wait_state(ros.READY, 3, proc)
        robot.wait_silence(0.3)
        assert robot.enable(True).success
        robot.wait_state(ros.RUN, 3, proc)
        robot.wait_candidates(5)


# Limits of change that need longer than the hold is repeated.


def test_a_hold_does_not_fall_silent_before_the_robot_is_at_rest(domain, slow_policy):
    rate = 1.0
    with ros.node_and_robot(domain, policy=slow_policy(rate), rate=rate) as (proc, robot):
        robot.freeze()
        robot.drive(proc)
        moving(robot, 1.2)
        robot.hush()
        robot.wait_state(ros.HOLD, 3, proc)
        robot.wait_silence(0.4, 10)
        print(f"last command {robot.commands[-1].values}")
        assert robot.commands[-1].values == ZERO


def test_a_hold_that_ends_before_the_robot_is_at_rest_goes_on_from_there(domain, slow_policy):
    rate = 1.0
    with ros.node_and_robot(domain, policy=slow_policy(rate), rate=rate) as (proc, robot):
        robot.freeze()
        robot.drive(proc)
        moving(robot, 1.2)
        robot.hush()
        robot.wait_state(ros.HOLD, 3, proc)
        robot.speak()
        robot.wait_state(ros.RUN, 3, proc)
        robot.wait_candidates(3)
        robot.refuse_violations()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_fault_072_the_last_words_reach_rest_however_slow_the_ramp(
    domain, slow_policy, number, rate
):
    with ros.node_and_robot(domain, policy=slow_policy(rate)) as (proc, robot):
        robot.freeze()
        robot.drive(proc)
        moving(robot, 1.2)
        proc.send(number)
        assert proc.wait(6.0) == 0, proc.log
        robot.wait_silence(0.3)
        print(f"last command {robot.commands[-1].values}")
        assert robot.commands[-1].values == ZERO


def test_fault_072_the_final_ramp_is_as_gentle_in_time_as_the_contract(domain, slow_policy):
    """The contract's rate is per second: steps of one period may not come faster than that."""
    rate = 10.0
    with ros.node_and_robot(domain, policy=slow_policy(rate), rate=rate) as (proc, robot):
        robot.freeze()
        robot.drive(proc)
        moving(robot, 1.2)
        proc.send(signal.SIGTERM)
        assert proc.wait(3.0) == 0, proc.log
        robot.wait_silence(0.3)
        ramp = [c for c in robot.commands if c.at > robot.candidates[-1].at - T / 2]
        zero = next(i for i, c in enumerate(ramp) if c.values == ZERO)
        fell = max(map(abs, ramp[0].values))
        took = ramp[zero].at - ramp[0].at
        print(
            f"from {fell:.2f} rad/s to rest in {took:.3f} s; the contract wants {fell / rate:.3f} s"
        )
        assert took >= fell / rate - T - ros.slack()


# Signals.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("phase", [(i + 0.5) / SCALE for i in range(SCALE)])
def test_fault_072_a_signal_in_run_sends_a_last_zero_and_ends_with_0(domain, number, phase):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.drive(proc)
        moving(robot)
        robot.wait_commands(1)
        time.sleep(phase * T)  # where in the period the signal falls, not a wait for an event
        sent = proc.send(number)
        assert proc.wait(3.0) == 0, proc.log
        took = time.monotonic() - sent
        robot.wait_silence(0.2)
        words = [c for c in robot.commands if c.at > sent]
        print(
            f"ended after {took:.3f} s, {len(words)} last words, first {words[0].at - sent if words else -1:.3f} s after the signal"
        )
        assert robot.commands[-1].values == ZERO
        assert words and words[-1].values == ZERO
        assert took <= 1.0
        assert robot.state == ros.SHUTDOWN, "the last status says so"
        assert "Traceback" not in "\n".join(proc.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_fault_072_a_signal_before_anything_moved_sends_nothing(domain, number):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.speak()
        robot.wait_state(ros.READY, 10, proc)
        proc.send(number)
        assert proc.wait(3.0) == 0, proc.log
        assert robot.commands == []


# Life cycle.


def test_life_cycle_deactivate_activate_cleanup_configure(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.drive(proc)
        moving(robot)
        assert robot.life_cycle() == "active"

        assert robot.transition(ros.Transition.TRANSITION_DEACTIVATE)
        assert robot.life_cycle() == "inactive"
        robot.wait_state(ros.INACTIVE, 3, proc)
        robot.wait_silence(0.3)
        assert robot.commands[-1].values == ZERO
        candidates = len(robot.candidates)
        answer = robot.enable()
        assert not answer.success and "INACTIVE" in answer.message

        assert robot.transition(ros.Transition.TRANSITION_ACTIVATE)
        robot.wait_state(ros.READY, 3, proc)
        robot.wait_statuses(8)
        assert robot.state == ros.READY and len(robot.candidates) == candidates, (
            "not enabled, not moving"
        )
        robot.enabled()
        robot.wait_candidates(6)

        assert robot.transition(ros.Transition.TRANSITION_DEACTIVATE)
        assert robot.transition(ros.Transition.TRANSITION_CLEANUP)
        assert robot.life_cycle() == "unconfigured"
        robot.wait_state(ros.UNCONFIGURED, 3, proc)
        robot.wait(
            lambda: robot.node.count_publishers("velocity_controller/commands") == 0,
            3,
            "no publisher of commands",
        )
        assert not robot.enable().success and not robot.reset().success

        assert robot.transition(ros.Transition.TRANSITION_CONFIGURE)
        assert robot.transition(ros.Transition.TRANSITION_ACTIVATE)
        robot.drive(proc)
        assert robot.set(beta=0.05)[0].successful
        robot.wait(lambda: robot.q_values[-1].msg.beta == 0.05, 3, "the new beta")

        assert robot.transition(ros.Transition.TRANSITION_ACTIVE_SHUTDOWN)
        robot.wait_state(ros.SHUTDOWN, 3, proc)
        robot.wait_silence(0.3)
        assert robot.commands[-1].values == ZERO
        assert robot.life_cycle() == "finalized"


def test_a_beta_set_while_unconfigured_or_inactive_is_the_one_that_counts(domain):
    with ros.node_and_robot(domain, autostart=False) as (proc, robot):
        robot.wait_statuses(1, 10)
        assert robot.set(beta=0.05)[0].successful
        assert robot.transition(ros.Transition.TRANSITION_CONFIGURE)
        robot.wait(lambda: robot.statuses[-1].msg.beta == 0.05, 3, "the status")
        assert robot.set(beta=0.1)[0].successful
        assert robot.transition(ros.Transition.TRANSITION_ACTIVATE)
        robot.drive(proc)
        robot.wait(lambda: robot.q_values, 3, "a chunk")
        assert {q.msg.beta for q in robot.q_values} == {0.1}


def test_a_failed_configure_that_was_repaired_leaves_no_trace_in_the_exit_code(domain):
    with ros.node_and_robot(domain, autostart=False) as (proc, robot):
        robot.wait_statuses(1, 10)
        assert robot.set(beta=0.001)[0].successful, "the floor is not known yet"
        assert not robot.transition(ros.Transition.TRANSITION_CONFIGURE)
        proc.wait_line("0.014", 2)
        assert robot.set(beta=0.05)[0].successful
        assert robot.transition(ros.Transition.TRANSITION_CONFIGURE)


# Names.


def test_namespace_moves_every_topic_of_the_robot(domain):
    with ros.node_and_robot(domain, remaps=("__ns:=/left",), namespace="left") as (proc, robot):
        robot.drive(proc)
        robot.wait_commands(3)
        assert robot.statuses[-1].msg.owner == robot.candidates[-1].msg.owner == "/left/qgf"
        ours = {
            name for name, _ in robot.node.get_publisher_names_and_types_by_node("qgf", "/left")
        }
        assert {
            "/left/velocity_controller/commands",
            "/left/qgf/command",
            "/left/qgf/status",
            "/left/qgf/q_values",
        } <= ours
        outside = {n for n in ours if not n.startswith("/left/")} - {
            "/diagnostics",
            "/rosout",
            "/parameter_events",
        }
        assert not outside
        taken = {n for n, _ in robot.node.get_subscriber_names_and_types_by_node("qgf", "/left")}
        assert {"/left/joint_states", "/left/goal", "/left/obstacle", "/left/qgf/estop"} <= taken


def test_another_node_name_moves_its_own_topics(domain):
    robot = ros.FakeRobot(domain, node="arm_policy")
    proc = ros.Proc(
        [*ros.node_command(), *ros.ros_args(("__node:=arm_policy",), policy="planar_arm")], domain
    )
    try:
        proc.wait_line("qgf: READY")
        robot.drive(proc)
        proc.stop()
    finally:
        proc.close()
        robot.close()
