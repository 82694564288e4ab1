"""The guard's own process, with a robot that is said to be there: what it does with what it hears.

Pinned: a guard that outlives its trial for ever because the node's answer never comes.
"""

import os
import select
import signal
import subprocess
import sys

import pytest
import ros_harness as ros

SCRIPT = """
import sys, time
import qgf_ros.ros.trial_guard as guard

guard.PATIENCE, guard.ENDING = 0.3, 1.0

class Client:
    srv_name = "/qgf/enable"
    def service_is_ready(self): return {ready}

class Node:
    def __init__(self, *args, **options): pass
    def create_client(self, *args): return Client()

class Executor:
    def add_node(self, node): pass

def disabled(client, executor):
    print("DISABLED", flush=True)
    {then}

guard.rclpy.init = lambda **options: None
guard.LeanNode, guard.SingleThreadedExecutor, guard._disabled = Node, Executor, disabled
sys.argv = ["guard", "/qgf/enable"]
sys.exit(guard.main())
"""
HARD = 30  # s, after which a process is killed and the test has failed


class Process:
    def __init__(self, then="return True", ready=True):
        self.popen = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(then=then, ready=ready)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            env=os.environ | ros.environment(0),
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.popen.kill()
        self.popen.communicate()

    def say(self, word):
        self.popen.stdin.write(word)

    def hear(self, wanted):
        """Reads on until `wanted` has come."""
        heard = b""
        while wanted not in heard:
            assert select.select([self.popen.stdout], [], [], HARD)[0], f"{wanted!r} did not come"
            more = os.read(self.popen.stdout.fileno(), 4096)
            assert more, f"it ended after {heard!r}: {self.popen.stderr.read()!r}"
            heard += more
        return heard

    def end(self):
        """Closes its stdin. -> what it still said, on stdout and stderr, and its exit code."""
        self.popen.stdin.close()
        self.popen.stdin = None
        out, err = self.popen.communicate(timeout=HARD)
        return out, err, self.popen.returncode


def test_fault_074_an_enabled_robot_is_disabled_when_the_trial_is_gone():
    with Process() as guard:
        guard.hear(b"READY\n")
        guard.say(b"+")
        guard.hear(b".")
        out, err, code = guard.end()
    assert b"DISABLED" in out and code == 0 and b"STOP" not in err


def test_fault_074_a_robot_at_rest_is_left_alone():
    with Process() as guard:
        guard.hear(b"READY\n")
        guard.say(b"+-")
        guard.hear(b".")
        out, _, code = guard.end()
    assert b"DISABLED" not in out and code == 0


def test_fault_075_silence_disables_again_and_again():
    with Process() as guard:
        guard.hear(b"READY\n")
        guard.say(b"+")
        guard.hear(b"DISABLED")
        guard.hear(b"DISABLED")


def test_fault_074_who_gets_no_answer_says_so():
    with Process(then="return False") as guard:
        guard.hear(b"READY\n")
        guard.say(b"+")
        guard.hear(b".")
        _, err, code = guard.end()
    assert b"STOP THE ROBOT BY HAND: /qgf/enable" in err and code == 0


def test_fault_053_a_guard_whose_node_hangs_does_not_live_on_without_its_trial():
    with Process(then="time.sleep(3600)") as guard:
        guard.hear(b"READY\n")
        guard.say(b"+")
        guard.hear(b".")
        _, _, code = guard.end()
    assert code == -signal.SIGALRM


def test_fault_074_a_trial_that_ends_before_the_node_is_there_takes_the_guard_with_it():
    with Process(ready=False) as guard:
        _, _, code = guard.end()
    assert code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_fault_073_signals_of_the_terminal_are_meant_for_the_trial(number):
    with Process() as guard:
        guard.hear(b"READY\n")
        guard.popen.send_signal(number)
        guard.say(b"+")
        guard.hear(b".")
        out, _, code = guard.end()
    assert b"DISABLED" in out and code == 0
