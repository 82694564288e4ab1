"""The guard's own process, with a robot that is said to be there: what it does with what it hears.

Pinned: a guard that outlives its trial for ever because the node's answer never comes.
"""

import os
import select
import signal
import subprocess
import sys
import time

import pytest
import ros_harness as ros

from qgf_ros.errors import QgfError
from qgf_ros.ros import trial_guard

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
    def __init__(self, failed): pass
    def add_node(self, node): pass

def disabled(client, executor):
    print("DISABLED", flush=True)
    {then}

guard.rclpy.init = lambda **options: None
guard.LeanNode, guard.EnduringExecutor, guard._disabled = Node, Executor, disabled
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


def test_fault_074_a_guard_that_lost_its_trial_lives_on_for_a_while_only():
    assert trial_guard.ENDING > trial_guard.TRIES * trial_guard.ANSWER


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_fault_073_signals_of_the_terminal_are_meant_for_the_trial(number):
    with Process() as guard:
        guard.hear(b"READY\n")
        guard.popen.send_signal(number)
        guard.say(b"+")
        guard.hear(b".")
        out, _, code = guard.end()
    assert b"DISABLED" in out and code == 0


# The trial's end of the pipe, with another process in the guard's place.

ANSWERS = "import os\nprint('READY', flush=True)\nwhile os.read(0, 1): os.write(1, b'.')"
SILENT = "import os\nprint('READY', flush=True)\nwhile os.read(0, 1): pass"
ENDS = "print('READY', flush=True)"
MUTE = "import os\nprint('READY', flush=True)\nos.close(1)\nwhile os.read(0, 1): pass"
DEAF = "import time\nprint('READY', flush=True)\ntime.sleep(3600)"


@pytest.fixture
def guarded(monkeypatch):
    """Makes a Guard whose process runs a script; all of them are gone afterwards."""
    popen, made = subprocess.Popen, []

    def make(script, **options):
        def run(args, **kwargs):
            assert args[1:] == ["-m", "qgf_ros.ros.trial_guard", "/qgf/enable"]
            assert kwargs["start_new_session"]
            made.append(popen([sys.executable, "-c", script], **kwargs))
            return made[-1]

        monkeypatch.setattr(trial_guard.subprocess, "Popen", run)
        return trial_guard.Guard("/qgf/enable", **options)

    make.made = made
    monkeypatch.setattr(trial_guard, "ENDING", 5.0)
    yield make
    for process in made:
        process.kill()
        process.wait()


def test_fault_074_a_guard_that_answers_may_be_relied_on(guarded):
    guard = guarded(ANSWERS)
    for _ in range(3):
        guard.arm()
        assert guard._unanswered is None
        guard.rest()
    guard.close()
    assert guarded.made[0].returncode == 0


def test_fault_075_a_guard_that_answers_nothing_is_missed_from_the_first_word_on(
    guarded, monkeypatch
):
    monkeypatch.setattr(trial_guard, "PATIENCE", 0.5)
    guard = guarded(SILENT)
    began = time.monotonic()
    with pytest.raises(QgfError, match="has not answered for 0.5 s"):
        while time.monotonic() - began < HARD:  # to speak again must not be patience anew
            guard.beat()
            time.sleep(0.02)
    assert time.monotonic() - began > 0.5


def test_fault_075_waiting_for_a_silent_guard_ends(guarded, monkeypatch):
    monkeypatch.setattr(trial_guard, "PATIENCE", 0.3)
    guard = guarded(SILENT)
    with pytest.raises(QgfError, match="has not answered"):
        guard.arm()


def test_fault_075_what_closed_its_mouth_has_not_answered(guarded, monkeypatch):
    """The end of what it says can be read for ever, and is no answer."""
    monkeypatch.setattr(trial_guard, "PATIENCE", 0.3)
    guard = guarded(MUTE)
    with pytest.raises(QgfError, match="has not answered"):
        guard.arm()


def test_fault_074_nobody_waits_for_a_guard_who_has_been_interrupted(guarded, monkeypatch):
    monkeypatch.setattr(trial_guard, "STARTING", 3600.0)
    monkeypatch.setattr(trial_guard, "ENDING", 0.2)
    with pytest.raises(KeyboardInterrupt):
        guarded("import time; time.sleep(3600)", interrupted=lambda: True)


def test_fault_074_a_guard_that_has_ended_is_no_guard(guarded, monkeypatch):
    monkeypatch.setattr(trial_guard, "PATIENCE", float(HARD))
    guard = guarded(ENDS)
    guarded.made[0].wait(HARD)
    with pytest.raises(QgfError, match="has ended"):
        guard.beat()
    guard.rest()
    guard.close()


@pytest.mark.parametrize(
    "script", ["print('HELLO', flush=True)", "import time; time.sleep(3600)", ""]
)
def test_fault_074_a_guard_that_does_not_come_up_is_an_error(guarded, monkeypatch, script):
    monkeypatch.setattr(trial_guard, "STARTING", 1.0)
    monkeypatch.setattr(trial_guard, "ENDING", 0.2)
    with pytest.raises(QgfError, match="did not start"):
        guarded(script)
    assert guarded.made[0].poll() is not None


def test_fault_072_ctrl_c_while_the_guard_starts_counts(guarded, monkeypatch):
    monkeypatch.setattr(trial_guard, "ENDING", 0.2)
    with pytest.raises(KeyboardInterrupt):
        guarded("import time; time.sleep(3600)", interrupted=lambda: True)


def test_fault_053_a_guard_that_does_not_end_is_ended(guarded, monkeypatch):
    guard = guarded(DEAF)
    monkeypatch.setattr(trial_guard, "ENDING", 0.2)
    guard.close()
    assert guarded.made[0].returncode == -signal.SIGKILL


class Future:
    def __init__(self, after):
        self.after = after

    def done(self):
        return self.after == 0


class Node:
    """A client whose calls are answered after so many spins, or never (-1)."""

    def __init__(self, *answers):
        self.answers, self.calls, self.removed, self.spun = list(answers), [], [], 0

    def call_async(self, request):
        assert request.data is False
        self.calls.append(Future(self.answers.pop(0)))
        return self.calls[-1]

    def remove_pending_request(self, future):
        self.removed.append(future)

    def spin_once(self, timeout_sec):
        self.spun += 1
        time.sleep(0.01)
        self.calls[-1].after -= 1


@pytest.mark.parametrize("answers, asked", [([2], 1), ([-1, 2], 2), ([-1] * 9, trial_guard.TRIES)])
def test_fault_074_the_node_is_asked_until_it_answers(monkeypatch, answers, asked):
    monkeypatch.setattr(trial_guard, "ANSWER", 0.2)
    node = Node(*answers)
    assert trial_guard._disabled(node, node) is (answers[-1] > 0)
    assert len(node.calls) == asked
    assert len(node.removed) == asked - (answers[-1] > 0), "what is not awaited is forgotten"
    assert node.spun >= 2
    if answers == [2]:
        assert node.spun == 2, "an answer is not waited for any longer"
