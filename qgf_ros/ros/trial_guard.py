"""A process that stops the robot when the trial that enabled it is gone: `kill -9`, a stopped or
hanging process, a lost terminal. It can disable the node and nothing else.

On stdin each byte is a sign of life: `+` the robot is enabled, `-` it is not. After `+` the end of
stdin, or silence for PATIENCE, disables it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

import rclpy
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool

from qgf_ros.errors import QgfError
from qgf_ros.ros.lean import LeanNode

PATIENCE = 2.0  # s
ANSWER = 2.0  # s for the node to answer, then it is asked again
TRIES = 5
STARTING = 20.0  # s for the process
READY = "READY"


class Guard:
    """The trial's end of the pipe."""

    def __init__(self, service: str) -> None:
        """service: ~/enable by its full name. Raises QgfError where the process does not come up."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qgf_ros.ros.trial_guard", service],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # the terminal's signals are the trial's
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        found = select.select([self._stdout], [], [], STARTING)[0]
        if not found or READY.encode() not in self._stdout.readline():
            self.close()
            raise QgfError("the guard, which stops the robot where the trial dies, did not start")

    def beat(self) -> None:
        """The robot is or will be enabled, and the trial lives. Raises QgfError: the guard does not."""
        try:
            self._say(b"+")
        except OSError:
            raise QgfError(
                "the guard, which stops the robot where the trial dies, has ended"
            ) from None

    def rest(self) -> None:
        """The robot is disabled."""
        with contextlib.suppress(OSError):  # nothing to guard, and the next `beat` says it
            self._say(b"-")

    def close(self) -> None:
        """If it was not told to rest, it disables the robot now."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2 * ANSWER)
        self._stdout.close()

    def _say(self, word: bytes) -> None:
        self._stdin.write(word)
        self._stdin.flush()


def main() -> int:
    """Argument: the service, such as /qgf/enable."""
    for number in (signal.SIGINT, signal.SIGHUP):  # meant for the trial; its end is noticed
        signal.signal(number, signal.SIG_IGN)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = LeanNode("qgf_trial_guard", start_parameter_services=False, enable_rosout=False)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    client: Client = node.create_client(SetBool, sys.argv[1])
    while not client.service_is_ready():
        if select.select([0], [], [], 0.05)[
            0
        ]:  # nothing is said before it is ready: the trial is gone
            return 1
    print(READY, flush=True)
    enabled = False
    while True:
        heard = select.select([0], [], [], PATIENCE if enabled else None)[0]
        said = os.read(0, 4096) if heard else b""
        if said:
            enabled = said.endswith(b"+")
            continue
        if enabled:
            _disable(client, executor)
            enabled = False
        if heard:  # and nothing was said: the other end is closed
            return 0


def _disable(client: Client, executor: SingleThreadedExecutor) -> None:
    for _ in range(TRIES):
        future = client.call_async(SetBool.Request(data=False))
        until = time.monotonic() + ANSWER
        while not future.done() and time.monotonic() < until:
            executor.spin_once(timeout_sec=0.1)
        if future.done():
            return


if __name__ == "__main__":
    sys.exit(main())
