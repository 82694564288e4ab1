"""The nodes of the wire tests begin as forks of one process that has imported what they import.

A node takes 0.7 s of a processor before its first line: the interpreter, numpy, rclpy. Hundreds of tests
start one. `start()` is `subprocess.Popen` for `python -m qgf_ros.ros...`: same module, arguments, environment,
folder, streams and session, but the imports are done, and nothing of ROS is running yet. Installed
executables and whatever is not such a module start as they do for a user.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PRELOADED = ("qgf_ros.ros.node", "qgf_ros.ros.gate_node", "qgf_ros.ros.sim_node")
SCRIPTS = (str(Path(__file__).with_name("fault_sampler.py")),)  # a node too
WANTED = ("qgf_ros.policy.folder", "qgf_ros.guidance.registry", "qgf_ros.guidance.backends.native")
# Whose C libraries are loaded when a type is first used.
TYPES = {
    "builtin_interfaces.msg": "Time",
    "diagnostic_msgs.msg": "DiagnosticArray",
    "geometry_msgs.msg": "PointStamped Twist TwistStamped",
    "lifecycle_msgs.msg": "TransitionEvent",
    "lifecycle_msgs.srv": "ChangeState GetAvailableStates GetAvailableTransitions GetState",
    "qgf_ros.msg": "Command GateStatus PolicyInfo QValues Status Tick",
    "qgf_ros.srv": "LoadPolicy",
    "rcl_interfaces.msg": "Log ParameterEvent",
    "rcl_interfaces.srv": "DescribeParameters GetParameters GetParameterTypes ListParameters SetParameters "
    "SetParametersAtomically",
    "rosgraph_msgs.msg": "Clock",
    "sensor_msgs.msg": "JointState",
    "std_msgs.msg": "Bool Float64MultiArray String",
    "std_srvs.srv": "SetBool Trigger",
    "trajectory_msgs.msg": "JointTrajectory",
    "type_description_interfaces.srv": "GetTypeDescription",
    "visualization_msgs.msg": "MarkerArray",
}
MAX_REQUEST = 2**20
_server: _Server | None = None


def can_start(command: Sequence[str], changed: dict[str, str]) -> bool:
    """Whether it is one of our nodes, and finds the same code as this process."""
    return (
        command[0] == sys.executable
        and (command[1] in SCRIPTS or (command[1] == "-m" and command[2] in PRELOADED))
        and not changed.keys() & {"PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD"}
    )


def start(command: Sequence[str], env: dict[str, str], cwd: Path | None) -> Forked:
    """A process as `Popen(command, env=env, cwd=cwd, stdin=DEVNULL, stdout=PIPE, stderr=PIPE,
    start_new_session=True, text=True)`; `can_start(command, ...)` holds."""
    global _server
    if _server is None or _server.process.poll() is not None:
        _server = _Server()
    argv = list(command[1:] if command[1] in SCRIPTS else command[2:])
    return _server.start({"argv": argv, "env": env, "cwd": str(cwd or os.getcwd())})


class Forked:
    """What the tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, status: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self.stdout, self.stderr = (
            os.fdopen(fd, encoding="utf-8", errors="replace") for fd in (stdout, stderr)
        )

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            ready, _, _ = select.select([self._status], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            told = os.read(self._status, 64)
            self.returncode = int(told) if told else -signal.SIGKILL  # the server died, and it
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class _Server:
    """The test's end: asks the process that forks."""

    def __init__(self) -> None:
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(other.fileno())],
            pass_fds=[other.fileno()],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
        )
        other.close()
        atexit.register(self.close)

    def close(self) -> None:
        """Its children have ended by now."""
        self.socket.close()
        self.process.wait(10.0)

    def start(self, request: dict[str, Any]) -> Forked:
        pipes = [os.pipe() for _ in range(3)]
        data = json.dumps(request).encode()
        socket.send_fds(self.socket, [data], [write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        return Forked(int(self.socket.recv(64)), *(read for read, _ in pipes))


# In the process that forks.


def _preload() -> None:
    """What each node would do by itself, and what takes a tenth of a second or more there."""
    from rclpy.type_support import check_for_type_support

    for module in (*PRELOADED, *WANTED):
        importlib.import_module(module)
    for module, names in TYPES.items():
        for name in names.split():
            check_for_type_support(getattr(importlib.import_module(module), name))
    # rclpy's logger looks for the line that it is called from among all modules, and remembers them.
    inspect.getmodule(sys._getframe())
    gc.freeze()


def _serve(control: socket.socket) -> dict[str, Any]:
    """Forks at every request. Returns in the child, with what it is to be."""
    statuses: dict[int, int] = {}  # by process, where its exit code goes
    looks, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([control, looks], [], [])
        if looks in ready:
            os.read(looks, 4096)
            _report(statuses)
        if control not in ready:
            continue
        data, fds, _, _ = socket.recv_fds(control, MAX_REQUEST, 3)
        if not data:
            os._exit(0)  # the tests have ended
        status, stdout, stderr = fds
        if pid := os.fork():
            statuses[pid] = status
            os.close(stdout)
            os.close(stderr)
            control.send(str(pid).encode())
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        for fd in {stdout, stderr, looks, wakes, control.detach(), status, *statuses.values()}:
            os.close(fd)
        return json.loads(data)  # type: ignore[no-any-return]


def _report(statuses: dict[int, int]) -> None:
    """The exit codes of the children that have ended, as `Popen.returncode` gives them."""
    for pid in list(statuses):
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            status = statuses.pop(pid)
            os.write(status, str(os.waitstatus_to_exitcode(code)).encode())
            os.close(status)


def _become(request: dict[str, Any]) -> None:
    """Runs the module as `python -m` does, or the script, and ends.

    The interpreter is not taken down: a tracing library below rclpy would cancel a thread of its own, which
    the fork has not. What is to be proven of that is proven with an installed executable.
    """
    import qgf_ros.ros.process
    from qgf_ros.policy import vetting

    vetting._run = _forked_vetting(vetting, vetting._run)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.path[0] = os.getcwd()
    sys.argv = request["argv"]
    qgf_ros.ros.process.PARENT = os.getppid()
    name, code = request["argv"][0], 1
    try:
        if name in SCRIPTS:
            runpy.run_path(name, run_name="__main__")
        else:
            del sys.modules[name]  # it is run as __main__, as if nobody had imported it
            runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _forked_vetting(vetting: Any, started: Any) -> Any:
    """`vetting._run`, whose child is a fork as well while a node begins: 0.35 s of a processor less.

    Its answer, limits and end are those of the child that a robot starts. At a swap that one is
    started: nothing is forked beside a sampler that runs.
    """
    begun = threading.Event()

    def run(file: Any, stopping: Any, until: float, module: str = vetting.HERE) -> tuple[bytes, int]:
        if begun.is_set() or module != vetting.HERE:
            return started(file, stopping, until, module)  # type: ignore[no-any-return]
        begun.set()
        answer, written = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.setsid()
                null = os.open(os.devnull, os.O_WRONLY)
                for fd, number in ((file.fileno(), 0), (written, 1), (null, 2)):
                    os.dup2(fd, number)
                os.closerange(3, 1024)
                sys.stdin = os.fdopen(0, closefd=False)
                vetting.child()
            finally:
                os._exit(1)
        os.close(written)
        try:
            return vetting._read(answer, stopping, until), os.waitstatus_to_exitcode(
                os.waitpid(pid, 0)[1]
            )
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        finally:
            os.close(answer)

    return run


if __name__ == "__main__":
    _preload()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
