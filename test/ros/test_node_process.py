"""What happens to the node's process from outside: a parent that dies, signals by the dozen, a
sampler that never comes back. In the end the robot stands, and nothing is left running.

Pinned: a node that went on driving after its launch was killed; a traceback of the second Ctrl-C.
"""

import contextlib
import shlex
import signal
import sys
import time

import pytest
import ros_harness as ros

T = ros.PERIOD
ZERO = [0.0, 0.0]


@contextlib.contextmanager
def started(command, domain):
    robot = ros.FakeRobot(domain)
    proc = ros.Proc(command, domain)
    try:
        proc.wait_line("qgf: READY")
        yield proc, robot
    finally:
        proc.close()
        robot.close()


def under_a_shell(command):
    """`sh` stays between: it prints the child's number, and waits for it."""
    return ["sh", "-c", f"{shlex.join(command)} & echo child $!; wait; true"]


def alive(number):
    """A zombie whose parent is gone may stay for a while where nobody reaps it."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rsplit(") ", 1)[1][0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("on", [True, False])
def test_fault_076_exit_with_parent_stops_the_robot_when_the_launch_is_killed(domain, on):
    command = [*ros.node_command(), *ros.ros_args(policy="planar_arm", exit_with_parent=on)]
    with started(under_a_shell(command), domain) as (proc, robot):
        child = int(proc.wait_line("child").split()[1])
        robot.drive(proc)
        robot.freeze()
        robot.wait(lambda: max(map(abs, robot.commands[-1].values)) > 0.5, 8, "motion")
        killed = proc.send(signal.SIGKILL)
        if not on:
            robot.wait(lambda: robot.commands[-1].at > killed + 1.0, 5, "an orphan that goes on")
            return  # the harness kills the group
        robot.wait(lambda: not alive(child), 5.0, "the end of the orphan")
        took = time.monotonic() - killed
        robot.wait_silence(0.2)
        last = robot.commands[-1].at - killed
        print(f"ended {took:.3f} s after its parent, last command {last:.3f} s after it")
        assert robot.commands[-1].values == ZERO
        assert robot.state == ros.SHUTDOWN
        assert last <= 1.0 + ros.slack()
        assert took <= 2.5 + ros.slack()  # the process, on a machine that is busy


CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("told", file=sys.stderr), sys.exit(0)))
from qgf_ros.ros.process import PARENT, exit_with_parent
print("begun", flush=True)
while os.getppid() == PARENT:
    time.sleep(0.01)
exit_with_parent()
time.sleep(20)
"""
PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE).stdout.readline()
"""


def test_fault_076_a_parent_that_died_during_the_start_counts():
    """The kernel tells of a death that is still to come only."""
    proc = ros.Proc([sys.executable, "-c", PARENT, CHILD], 1)
    try:
        proc.wait_line("told")
    finally:
        proc.close()


def test_fault_073_a_storm_of_signals_ends_cleanly(domain):
    """The installed executable, as a person runs it who presses Ctrl-C until something happens."""
    command = [ros.installed("qgf_node"), *ros.ros_args(policy="planar_arm")]
    with started(command, domain) as (proc, robot):
        robot.drive(proc)
        first = proc.send(signal.SIGINT)
        for i in range(9):
            time.sleep(0.03)
            if proc.running:
                proc.send(signal.SIGINT if i % 2 else signal.SIGTERM)
        code = proc.wait(6.0)
        took = time.monotonic() - first
        print(f"code {code} after {took:.3f} s")
        assert code == 0
        assert took <= 3.0 + ros.slack()
        assert "Traceback" not in proc.log
        robot.wait_silence(0.2)
        assert robot.commands[-1].values == ZERO


def catches(proc, number):
    """Whether the process has a handler of its own for this signal."""
    try:
        with open(f"/proc/{proc.process.pid}/status") as file:
            mask = next(line.split()[1] for line in file if line.startswith("SigCgt"))
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        return False
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_fault_073_signals_while_it_starts_leave_no_traceback(domain, number):
    command = [ros.installed("qgf_node"), *ros.ros_args(policy="planar_arm")]
    for delay in (0.0, 0.3, 0.7):
        proc = ros.Proc(command, domain)
        try:
            until = time.monotonic() + 20
            while not catches(proc, signal.SIGTERM):  # before that it is Python that starts
                if not proc.running or time.monotonic() > until:
                    raise ros.TimedOut(f"no handler of SIGTERM\n{proc.log}")
                time.sleep(0.01)
            time.sleep(delay)
            for _ in range(5):
                if proc.running:
                    proc.send(number)
                time.sleep(0.02)
            assert proc.wait(10.0) in (0, 128 + number, -number), proc.log
            assert "Traceback" not in proc.log
        finally:
            proc.close()


HANGING = """
import sys, threading
from qgf_ros.ros import node
make = node.make_sampler
def hanging(*args):
    sampler, calls = make(*args), []
    class Hanging:
        backend, device = sampler.backend, sampler.device
        details, note = sampler.details, sampler.note
        def __call__(self, *request):
            calls.append(1)
            if len(calls) > 20:  # after those that time it
                threading.Event().wait()
            return sampler(*request)
    return Hanging()
node.make_sampler = hanging
sys.exit(node.main())
"""


def test_fault_053_a_sampler_that_hangs_is_a_fault_and_sigterm_still_ends_the_node(domain):
    command = [sys.executable, "-c", HANGING, *ros.ros_args(policy="planar_arm")]
    with started(command, domain) as (proc, robot):
        robot.speak()
        robot.wait_state(ros.READY, 10, proc)
        robot.enabled()
        held = robot.wait_state(ros.HOLD, 10, proc, reason="OVERRUN")
        fault = robot.wait_state(ros.FAULT, 3, proc, reason="INFER_HUNG")
        print(
            f"HOLD {held.at - robot.candidates[-1].at:.3f} s after the last command of the policy"
        )
        assert fault.at - held.at <= 1.2 + ros.slack()
        robot.wait_statuses(5)
        sent = proc.send(signal.SIGTERM)
        assert proc.wait(6.0) == 0, proc.log
        took = time.monotonic() - sent
        print(f"ended after {took:.3f} s")
        assert took <= 3.0 + ros.slack()  # 2 s, and one for a machine that is busy
        assert "Traceback" not in proc.log
