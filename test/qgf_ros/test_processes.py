"""A pool's workers end with the process that made them, and with the pool."""

import ast
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from qgf_tasks import begun, deaf, fails

from qgf_ros.processes import process_pool

ROOT = Path(__file__).resolve().parents[2]
# Stands for any verb and script: all of them go through `executors.each`, as the last test reads.
SCRIPT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from qgf_ros import executors, processes

if {alone}:
    processes.signal_at_parents_death = lambda number: "not here"

def busy(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    list(executors.each(busy, [sys.argv[1]] * 8, workers=2))
"""


def alive(pid):
    """Whether there is such a process that has not ended; one that nobody waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("alone", [False, True], ids=["by the kernel", "by the pipe"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_no_worker_outlives_its_parent(tmp_path, number, alone):
    script, folder = tmp_path / "script.py", tmp_path / "workers"
    script.write_text(SCRIPT.format(root=str(ROOT), alone=alone))
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, script, folder], stderr=subprocess.PIPE, start_new_session=True
    ) as parent:
        try:
            until(lambda: len(os.listdir(folder)) == 2)
            workers = [int(name) for name in os.listdir(folder)]
            assert all(map(alive, workers))
            parent.send_signal(number)
            status = parent.wait(60)
            until(lambda: not any(map(alive, workers)))
            assert len(os.listdir(folder)) == 2, "nothing more was begun"
            if number == signal.SIGTERM:
                assert status == 143
                assert parent.stderr.read() == b"", "ended in order, with nothing to clean up"
        finally:
            with contextlib.suppress(ProcessLookupError):  # a group of its own, if anybody is left
                os.killpg(parent.pid, signal.SIGKILL)


@pytest.mark.parametrize("task", [begun, deaf], ids=lambda t: t.__name__)
def test_a_failure_does_not_wait_for_the_others(tmp_path, task):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="one fails"):
        with process_pool(2) as pool:
            slow = pool.submit(task, tmp_path / "pid")
            assert signal.getsignal(signal.SIGTERM) is not before
            pool.submit(fails, tmp_path / "pid").result(60)
    assert slow.done() and not alive(int((tmp_path / "pid").read_text()))
    assert (tmp_path / "pid.ended").exists() == (task is begun), "it may clean up"
    assert signal.getsignal(signal.SIGTERM) is before


def test_all_that_was_submitted_is_done_in_order():
    with process_pool(2) as pool:
        assert list(pool.map(pow, [2, 3, 4], [5, 2, 3])) == [32, 9, 64]
        last = pool.submit(bytes, 10_000_000)
    assert last.done() and len(last.result()) == 10_000_000


def processes_made(tree):
    """What a file calls that makes processes of this interpreter, by the name it is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", ""))
            if name in ("ProcessPoolExecutor", "process_pool", "Pool", "Process", "fork"):
                yield name


# Two benchmarks need more of a process than its result: its memory alone, or what it has loaded. The
# contest of samplers speaks to each of its processes by a pipe of its own; they end as a pool's.
OTHERS = {
    "qgf_ros/executors.py": ["process_pool"],
    "bench/data.py": ["process_pool"],
    "bench/ogbench.py": ["process_pool"],
    "bench/sampler.py": ["Process"],
}


def test_all_parallel_work_goes_through_the_executors():
    found = {}
    for folder in ("qgf_ros", "training", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            made = list(processes_made(ast.parse(path.read_text())))
            if made:
                found[str(path.relative_to(ROOT))] = made
    assert found == OTHERS
    assert "end_with_parent()" in (ROOT / "bench/sampler.py").read_text()
