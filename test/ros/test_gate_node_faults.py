"""The node behind `qgf_gate`: killed, stopped, hung, ended, restarted, and overruled by a person.

The robot hears the gate alone. Pinned: a robot that goes on with the last command of a process that
is gone; a stale command of a process that was stopped; a restarted node that is never heard again.
"""

import contextlib
import signal
import sys
import time
from pathlib import Path

import pytest
import ros_harness as ros
from qgf_make import SCALE
from ros_gated import COMMANDS, ZERO, Robot, gate_and_robot, gate_of, node, robot_of

T = ros.PERIOD
TIMEOUT = 2 * T  # command_timeout by default
COUNT = min(3 * SCALE, 20)
PHASES = [i / COUNT for i in range(COUNT)]  # where in the period a signal falls
RESTARTS = PHASES[::2] if SCALE == 1 else PHASES  # of those with a node each, which takes seconds
HELPER = str(Path(__file__).parents[1] / "support" / "gil_holder.py")


def stop_in_run(robot, phase, end):
    """Sends signals by `end` at this phase of the period. Returns when, and when the robot was told to
    rest [s, steady]."""
    robot.wait_commands(1)
    time.sleep(phase * T)  # where in the period, not a wait for an event
    sent = time.monotonic()
    end()
    rest = robot.wait(lambda: robot.stopped(sent), 5, "a command to rest")
    print(f"phase {phase:.2f}: rest {(rest - sent) * 1e3:.0f} ms after the signal")
    return sent, rest


# Processes that are gone.


def test_fault_074_080_whenever_it_is_killed_the_robot_rests_and_a_new_one_is_heard(domain):
    """Each round is a restart behind the same gate, which has silenced the one before."""
    with gate_of(domain) as gate:
        for phase in RESTARTS:  # a robot each, which discovers the living only
            with robot_of(domain, gate) as robot, node(domain) as proc:
                robot.run(proc)
                ros.watch_stalls()
                sent, rest = stop_in_run(robot, phase, lambda p=proc: p.send(signal.SIGKILL))
                assert rest - sent <= TIMEOUT + 4 * T + ros.slack()  # two, and two to be heard
                robot.wait(
                    lambda r=robot: r.gate_statuses[-1].msg.reason == "CANDIDATES_STOPPED",
                    2,
                    "the reason",
                    gate,
                )
                robot.wait_silence(0.3)
                assert robot.commands[-1].values == ZERO
                assert robot.passed[-1].msg.owner == "/qgf_gate"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_fault_072_a_signal_in_run_is_a_hold_and_ends_with_0(domain, number):
    with gate_of(domain) as gate:
        for phase in RESTARTS:
            with robot_of(domain, gate) as robot, node(domain) as proc:
                robot.run(proc)
                sent, rest = stop_in_run(robot, phase, lambda p=proc: p.send(number))
                assert proc.wait(3.0) == 0, proc.log
                assert rest - sent <= 1.0
                robot.wait_silence(0.3)
                assert robot.commands[-1].values == ZERO
                assert robot.candidates[-1].msg.names == [], "an explicit hold, no timeout"
                assert "Traceback" not in "\n".join(proc.err)


def test_fault_073_ten_signals_are_no_more_than_one(domain):
    with gate_and_robot(domain) as (_, robot), node(domain) as proc:
        robot.run(proc)
        sent = time.monotonic()
        for k in range(10):
            with contextlib.suppress(ProcessLookupError):
                proc.send(signal.SIGINT if k % 2 else signal.SIGTERM)
        assert proc.wait(5.0) in (0, 130, 143), proc.log
        assert time.monotonic() - sent <= 3.0 + ros.slack()
        robot.wait(lambda: robot.stopped(sent), 3, "a command to rest")
        assert "Traceback" not in "\n".join(proc.err)


def test_fault_135_killed_in_any_state_the_robot_rests_and_nothing_begins_by_itself(domain):
    """In RUN it is row 74; before it is active, a node sends nothing."""
    with gate_of(domain) as gate:
        for state in (ros.WAITING, ros.READY, ros.HOLD, ros.FAULT):
            with robot_of(domain, gate) as robot, node(domain) as proc:
                if state in (ros.HOLD, ros.FAULT):
                    robot.run(proc)
                    (robot.hush if state == ros.HOLD else lambda r=robot: r.estop(True))()
                elif state == ros.READY:
                    robot.speak()
                robot.wait_state(state, 15, proc)
                proc.send(signal.SIGKILL)
                proc.wait(5.0)
                if state in (ros.HOLD, ros.FAULT):
                    robot.wait(lambda r=robot: r.commands[-1].values == ZERO, 5, "rest", gate)
                    robot.wait_silence(0.3)
                    assert robot.commands[-1].values == ZERO
                else:
                    assert not robot.commands
                with node(domain) as again:
                    robot.speak()
                    before = len(robot.commands)
                    if state == ros.FAULT:  # who pressed it is told nothing of a process's death
                        robot.wait_state(ros.FAULT, 15, again, reason="ESTOP")
                        robot.estop(False)
                        robot.wait(lambda r=robot: was_reset(r), 30, "a reset", again)
                    robot.wait_state(ros.READY, 15, again)
                    robot.wait_statuses(5)
                    assert len(robot.commands) == before, "a new process waits for its enable"


def was_reset(robot):
    """A request may have gone to the server of the dead node, which discovery remembers for a while."""
    try:
        return robot.reset().success
    except ros.TimedOut:
        return False


# Processes that do not run for a while.


def test_fault_169_nobody_who_is_stopped_holds_up_the_node_or_the_gate(domain):
    """A subscriber that is stopped within its reading of Fast DDS's shared memory holds a lock that a
    publisher waits for, a second for each message; who maps none waits for nobody."""
    with gate_and_robot(domain) as (gate, robot), node(domain) as proc:
        robot.run(proc)
        for program in (gate, proc):
            maps = Path(f"/proc/{program.process.pid}/maps").read_text()
            assert "libfast" in maps, "another middleware than this was written for"
            assert "/dev/shm/fast" not in maps

def test_fault_075_whenever_it_is_stopped_the_robot_rests_and_nothing_old_comes_after(domain):
    with gate_and_robot(domain) as (_, robot), node(domain) as proc:
        robot.run(proc)
        for phase in PHASES:
            ros.watch_stalls()
            sent, rest = stop_in_run(robot, phase, lambda: proc.send(signal.SIGSTOP))
            assert rest - sent <= TIMEOUT + 4 * T + ros.slack()  # two, and two to be heard
            time.sleep(max(0.0, sent + 2.0 - time.monotonic()))  # the fault lasts 2 s
            epoch = robot.passed[-1].msg.epoch
            woken, count = time.time_ns(), len(robot.passed)
            began = proc.send(signal.SIGCONT)
            robot.wait(lambda at=began: robot.moves(at), 8, "motion again", proc)
            fresh = robot.wait(
                lambda begin=count: [p.msg for p in robot.passed[begin:] if p.msg.owner == "/qgf"],
                2,
                "what was passed",
                proc,
            )
            assert all(ros.ns(m.execute_at) >= woken - T * 1e9 for m in fresh), "stale"
            assert fresh[0].epoch > epoch, "what was begun before the stop is void"
        no_burst(robot)


def test_fault_054_a_sampler_that_keeps_the_gil_is_stopped_by_the_gate(domain, tmp_path):
    trigger = tmp_path / "hang"
    command = [sys.executable, HELPER, str(trigger)]
    with gate_and_robot(domain) as (_, robot), node(domain, command) as proc:
        robot.run(proc)
        ros.watch_stalls()
        sent = time.monotonic()
        trigger.touch()
        rest = robot.wait(lambda: robot.stopped(sent), 5, "a command to rest", proc)
        assert not trigger.exists()
        last = max(c.at for c in robot.candidates if c.at < rest)
        print(f"rest {(rest - last) * 1e3:.0f} ms after the last candidate")
        assert rest - last <= 4 * T + ros.slack()
        robot.wait(lambda: robot.moves(rest), 10, "motion again", proc)
        proc.stop()
        no_burst(robot)


def no_burst(robot):
    """At no time more commands than one per period; the hold's first step may fall between two. Times
    are those of sending: on a busy machine they arrive together."""
    at = [h.sent * 1e-9 for h in list(robot.sent)]
    most = max(sum(t <= u < t + 1.0 for u in at) for t in at)
    assert most <= 1.0 / T + 3, f"{most} commands within a second"


# Somebody else commands.


class Person(ros.Wire):
    """Somebody who commands through the gate, as a teleoperation node does."""

    def __init__(self, domain, name):
        super().__init__(domain, "person")
        self.name = name
        self.publisher = self.node.create_publisher(ros.Command, f"{name}/command", 1)
        self.sequence = 0

    def say(self, values):
        self.sequence += 1
        now = time.time_ns()
        self.publisher.publish(
            ros.Command(
                owner=self.name,
                sequence=self.sequence,
                epoch=1,
                execute_at=ros.time_msg(now),
                deadline=ros.time_msg(now + 100_000_000),
                names=["arm.shoulder", "arm.elbow"],
                values=values,
            )
        )


@pytest.fixture
def person(domain):
    made = Person(domain, "/teleop")
    yield made
    made.close()


def test_fault_117_a_person_takes_over_and_only_enable_gives_it_back(domain, person):
    theirs = [-0.25, 0.25]
    with gate_and_robot(domain, owners="/teleop,qgf") as (gate, robot), node(domain) as proc:
        person.wait(person.publisher.get_subscription_count, 10, "the gate", gate)
        robot.run(proc)
        began = time.monotonic()
        while not any(s.msg.reason == "TAKEOVER" for s in robot.statuses):
            if time.monotonic() > began + 10:
                raise ros.TimedOut(f"no TAKEOVER for 10 s\n{gate.log}\n{proc.log}")
            person.say(theirs)
            time.sleep(T)
        assert not robot.statuses[-1].msg.enabled
        person.say(theirs)
        ended = time.monotonic()
        robot.wait(
            lambda: any(p.msg.owner == "/teleop" for p in robot.passed), 2, "their word", gate
        )
        owners = [p.msg.owner for p in robot.passed]
        since = owners.index("/teleop")
        assert "/qgf" not in owners[since:], "no mixed commands"
        first = robot.passed[since].at
        sent = {tuple(c.values) for c in robot.commands if c.at > first + ros.slack()}
        assert all(-0.25 <= x <= 0.0 and x == -y for x, y in sent), sent  # its ramps included

        robot.wait(lambda: robot.stopped(ended), 3, "a hold when they end", gate)
        robot.wait_state(ros.READY, 3, proc)
        robot.wait_statuses(10)
        assert {p.msg.owner for p in robot.passed[since:]} == {"/teleop", "/qgf_gate"}
        robot.run(proc)
        robot.wait(lambda: robot.passed[-1].msg.owner == "/qgf", 3, "its commands", proc)


def test_fault_079_two_nodes_the_second_one_is_told(domain):
    """`rival` is enabled first; the node that the gate puts first takes over."""
    rival_robot = Robot(domain, node="rival")
    remap = ros.ros_args(("__node:=rival",), policy="planar_arm", gate="outside")
    rival = ros.Proc([*ros.node_command(), *remap], domain)
    try:
        with gate_and_robot(domain, owners="qgf,rival") as (gate, robot), node(domain) as proc:
            rival.wait_line("qgf: READY")
            rival_robot.run(rival)
            robot.run(proc)
            robot.wait(
                lambda: any(s.msg.reason == "TAKEOVER" for s in rival_robot.statuses), 3, "word"
            )
            since = next(i for i, p in enumerate(robot.passed) if p.msg.owner == "/qgf")
            robot.wait_candidates(10)
            assert "/rival" not in [p.msg.owner for p in robot.passed[since:]]
            proc.stop()
        rival.stop()
    finally:
        rival.close()
        rival_robot.close()


# The gate itself.


def test_a_node_outside_of_the_gate_does_not_publish_on_the_robots_topics(domain):
    with gate_and_robot(domain) as (_, robot), node(domain) as proc:
        robot.run(proc)
        topics = {n for n, _ in robot.node.get_publisher_names_and_types_by_node("qgf", "/")}
        assert "/qgf/command" in topics and f"/{COMMANDS}" not in topics
        proc.stop()


def test_without_a_gate_the_node_does_not_run_and_says_what_is_missing(domain):
    robot = Robot(domain)
    try:
        with node(domain, enable_on_start=True) as proc:
            robot.speak()
            robot.wait_state(ros.WAITING, 10, proc, reason="GATE_MISSING")
            assert not robot.candidates
            proc.stop()
    finally:
        robot.close()


def test_a_gate_that_dies_ends_the_nodes_run(domain):
    with node(domain) as proc, gate_and_robot(domain) as (gate, robot):
        robot.run(proc)
        gate.send(signal.SIGKILL)
        robot.wait_state(ros.HOLD, 5, proc, reason="GATE_MISSING")
