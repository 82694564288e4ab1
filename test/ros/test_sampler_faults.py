"""A sampler that is late, raises, gives NaN or nothing, or loses its device: what the robot sees."""

import contextlib
import math
import sys
import time
from pathlib import Path

import pytest
import ros_harness as ros

T = ros.PERIOD
ZERO = [0.0, 0.0]
NODE = Path(__file__).resolve().parents[1] / "support" / "fault_sampler.py"
TIMED = 11  # calls before the first one of the control loop
LATER = TIMED + 8  # a call when the robot is in motion


@contextlib.contextmanager
def faulty(domain, kind, first=LATER, count=1, **parameters):
    """The node whose sampler goes wrong at some calls, and the robot, which speaks."""
    robot = ros.FakeRobot(domain)
    command = [sys.executable, str(NODE), *ros.ros_args(policy="planar_arm", **parameters)]
    proc = ros.Proc(command, domain, QGF_FAULT=f"{kind}:{first}:{count}")
    try:
        proc.wait_line("qgf: READY")
        yield proc, robot
        assert all(math.isfinite(v) for c in robot.commands for v in c.values)
        robot.refuse_violations()
        proc.stop()
        assert "Traceback" not in proc.log
    finally:
        proc.close()
        robot.close()


def enabled(robot, proc):
    robot.speak()
    robot.wait_state(ros.READY, 10, proc)
    robot.enabled()


def warned(robot, code):
    return any(w.startswith(code) for s in robot.statuses for w in s.msg.warnings)


def test_fault_051_a_single_late_sample_is_a_warning_and_no_gap(domain):
    with faulty(domain, "late") as (proc, robot):
        ros.watch_stalls()
        enabled(robot, proc)
        robot.wait(lambda: warned(robot, "OVERRUN"), 10, "the warning", proc)
        robot.wait_candidates(10)
        at = [c.at for c in robot.commands]
        gap = max(b - a for a, b in zip(at, at[1:]))
        print(f"largest gap {gap * 1e3:.1f} ms, {robot.statuses[-1].msg.overruns} overruns")
        assert gap <= 3 * T + ros.slack()
        once = robot.state == ros.RUN and len({c.msg.epoch for c in robot.candidates}) == 1
        assert once or robot.fell_silent()


def test_fault_052_sustained_lateness_is_a_hold_without_queue_or_burst(domain):
    with faulty(domain, "later", count=6) as (proc, robot):
        enabled(robot, proc)
        held = robot.wait_state(ros.HOLD, 10, proc, reason="OVERRUN")
        last = max(c.at for c in robot.candidates if c.at <= held.at)
        print(f"HOLD {held.at - last:.3f} s after the last command of the policy")
        assert held.at - last <= 4 * T + ros.slack()
        epoch = robot.candidates[-1].msg.epoch
        robot.wait(lambda: robot.candidates[-1].msg.epoch > epoch, 15, "relief", proc)
        began = len(robot.candidates) - 1
        robot.wait_candidates(20)
        stamps = [ros.ns(c.msg.execute_at) for c in robot.candidates[began:]]
        assert all(b - a >= 0.99 * T * 1e9 for a, b in zip(stamps, stamps[1:])), "no burst"


def test_fault_055_nan_once_is_a_hold_and_is_sampled_again(domain):
    with faulty(domain, "nan") as (proc, robot):
        enabled(robot, proc)
        robot.wait_state(ros.HOLD, 10, proc, reason="ACTION_NONFINITE")
        robot.wait_state(ros.RUN, 5, proc)
        robot.wait_candidates(6)


@pytest.mark.parametrize(
    ("row", "kind", "reason", "said"),
    [
        (56, "nan", "ACTION_NONFINITE", "finite"),
        (57, "none", "ACTION_SCHEMA", "NoneType"),
        (57, "shape", "ACTION_SCHEMA", "9"),
        (57, "complex", "ACTION_SCHEMA", "complex"),
        (58, "raise", "INFERENCE", "ZeroDivisionError"),
    ],
)
def test_fault_056_057_058_what_does_not_heal_is_a_fault(domain, row, kind, reason, said):
    with faulty(domain, kind, count=10**6) as (proc, robot):
        enabled(robot, proc)
        fault = robot.wait_state(ros.FAULT, 10, proc, reason=reason)
        print(fault.msg.detail)
        assert said in fault.msg.detail and not fault.msg.enabled
        robot.wait(lambda: robot.commands[-1].values == ZERO, 2, "rest")
        assert fault.at - robot.candidates[-1].at <= 5 * T + ros.slack()
        count = len(robot.candidates)
        robot.wait_statuses(10)
        assert robot.state == ros.FAULT and len(robot.candidates) == count
        assert any(said in s.message for d in robot.diagnostics for s in d.msg.status)


def test_fault_059_an_invalid_critic_is_unguided_then_a_hold_that_ends_with_it(domain):
    with faulty(domain, "q", count=30) as (proc, robot):
        enabled(robot, proc)
        robot.wait(lambda: warned(robot, "Q_INVALID"), 10, "the warning", proc)
        assert robot.state == ros.RUN
        robot.wait(lambda: any("q_invalid" in q.msg.guards for q in robot.q_values), 3, "the guard")
        robot.wait_state(ros.HOLD, 10, proc, reason="Q_INVALID")
        robot.wait_state(ros.RUN, 10, proc)
        robot.wait_candidates(6)


def test_fault_062_a_lost_device_is_a_hold_and_resumes_on_the_sampler_that_is_made_again(domain):
    with faulty(domain, "cuda") as (proc, robot):
        enabled(robot, proc)
        held = robot.wait_state(ros.HOLD, 10, proc, reason="DEVICE")
        assert "CUDA error" in held.msg.detail
        assert held.at - robot.candidates[-1].at <= 3 * T + ros.slack()
        robot.wait_state(ros.RUN, 10, proc)
        robot.wait_candidates(6)


def test_fault_062_a_device_that_is_lost_again_is_a_fault(domain):
    with faulty(domain, "cuda", count=10**6) as (proc, robot):
        enabled(robot, proc)
        fault = robot.wait_state(ros.FAULT, 15, proc, reason="DEVICE")
        print(fault.msg.detail)
        robot.wait_statuses(5)
        assert robot.state == ros.FAULT


def test_fault_063_a_slow_first_call_delays_ready_and_nothing_is_commanded_before(domain):
    began = time.monotonic()
    with faulty(domain, "first", first=0, enable_on_start=True) as (proc, robot):
        assert time.monotonic() - began > 3.0
        ready = time.monotonic()
        robot.speak()
        robot.wait_state(ros.RUN, 10, proc)
        robot.wait_candidates(6)
        assert min(c.at for c in robot.commands) > ready - 0.5
