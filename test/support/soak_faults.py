"""The faults of test/faults/soak.py. Each does its harm, sees the node answer, and ends it.

They take the soak's run: `robot`, `node`, `rng`, `domain`. Raises AssertionError where the node did
not do what it must.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from typing import Any

import ros_harness as ros

STORM = [sys.executable, str(ros.REPO / "test" / "support" / "ros_storm.py"), "joint_states", "inf"]
STOPS_WITHIN = 8.0  # s; a busy machine is slow, the tests of the single rows are strict


def _stopped(run: Any, reason: str = "") -> None:
    """The node says that it holds, and it is no policy that commands."""
    robot = run.robot
    robot.wait(
        lambda: robot.state in (ros.HOLD, ros.FAULT) and reason in robot.statuses[-1].msg.reason,
        STOPS_WITHIN,
        f"a hold {reason}",
        run.node,
    )
    time.sleep(run.rng.uniform(0.0, 1.5))
    robot.speak()


def state_stops(run: Any) -> None:
    run.robot.hush(*run.rng.choice([("joint_states",), ("goal",), ros.STATE_TOPICS]))
    _stopped(run, "STATE_STALE")


def state_nan(run: Any) -> None:
    robot, bad = run.robot, run.rng.choice([math.nan, math.inf, 1e308])

    def make(stamp: int) -> Any:
        msg = robot.joint_state(stamp)
        msg.position = [bad, msg.position[1]]
        return msg

    robot.say["joint_states"] = make
    _stopped(run, "joint_states")


def stale_stamps(run: Any) -> None:
    robot = run.robot
    robot.say["joint_states"] = lambda stamp: robot.joint_state(stamp - 2_000_000_000)
    _stopped(run, "joint_states")


def future_stamps(run: Any) -> None:
    robot = run.robot
    robot.say["joint_states"] = lambda stamp: robot.joint_state(stamp + 10_000_000_000)
    _stopped(run, "joint_states")


def wrong_names(run: Any) -> None:
    robot, names = run.robot, run.rng.choice([("a", "b"), ("shoulder", "shoulder"), ("elbow",), ()])

    def make(stamp: int) -> Any:
        msg = robot.joint_state(stamp)
        msg.name = list(names)
        return msg

    robot.say["joint_states"] = make
    _stopped(run, "STATE_SCHEMA")


def storm(run: Any) -> None:
    joints = [f"{n}={p}" for n, p in zip(("shoulder", "elbow"), run.robot.position)]
    proc = ros.Proc([*STORM, *joints], run.domain)
    try:
        proc.wait_line("READY")
        time.sleep(1.0)
        proc.stop()
    finally:
        proc.close()


def emergency_stop(run: Any) -> None:
    run.robot.estop(True)
    _stopped(run, "ESTOP")
    run.robot.estop(False)
    run.robot.wait(lambda: run.robot.reset().success, 5.0, "a reset", run.node)


def parameter_garbage(run: Any) -> None:
    bad = {"beta": [0.0, -1.0, math.nan, "x", True], "limits_scale": [0.0, 2.0, math.nan],
           "seed": [1], "no_such_parameter": [1.0], "num_candidates": [0, 10**6]}  # fmt: skip
    for _ in range(10):
        name = run.rng.choice(sorted(bad))
        value = run.rng.choice(bad[name])
        (result,) = run.robot.set(**{name: value})
        assert not result.successful, f"{name} = {value!r} was taken"


def process_pauses(run: Any) -> None:
    run.node.send(signal.SIGSTOP)
    time.sleep(0.3)
    run.node.send(signal.SIGCONT)


def disable(run: Any) -> None:
    robot = run.robot
    assert robot.enable(False).success
    robot.wait_state(ros.READY, STOPS_WITHIN, run.node)


def deactivate(run: Any) -> None:
    robot = run.robot
    assert robot.transition(ros.Transition.TRANSITION_DEACTIVATE)
    robot.wait_state(ros.INACTIVE, STOPS_WITHIN, run.node)
    assert robot.transition(ros.Transition.TRANSITION_ACTIVATE)


def killed(run: Any) -> None:
    """Behind the gate only: without it nobody stops the robot."""
    run.node.send(signal.SIGKILL)
    robot = run.robot
    robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], STOPS_WITHIN, "rest by the gate")
    run.start()
    robot.wait_statuses(3, 10.0)


EVERYWHERE = [state_stops, state_nan, stale_stamps, future_stamps, wrong_names, storm, emergency_stop,
              parameter_garbage, process_pauses, disable, deactivate]  # fmt: skip
FAULTS = {"inside": EVERYWHERE, "outside": [*EVERYWHERE, killed]}
