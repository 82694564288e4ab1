"""A process that stops the robot when the trial that enabled it is gone: `kill -9`, a stopped or
hanging process, a lost terminal. It can disable the node and nothing else.

On stdin each byte is a sign of life: `+` the robot is enabled, `-` it is not. After `+` the end of
stdin, or silence for PATIENCE, disables it; only `-` says that there is nothing to disable any more.
Whatever is read is answered by a byte on stdout: a guard that does not hear guards nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import rclpy
from rclpy.client import Client
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool

from qgf_ros.errors import QgfError
from qgf_ros.ros.lean import EnduringExecutor, LeanNode

PATIENCE = 2.0  # s, of either for the other
ANSWER = 2.0  # s for the node to answer, then it is asked again
TRIES = 5
STARTING = 20.0  # s for the process
ENDING = TRIES * ANSWER + 1.0  # s that it lives on without the trial, at most
READY = "READY"


class Guard:
    """The trial's end of the pipe."""

    def __init__(self, service: str, interrupted: Callable[[], bool] = lambda: False) -> None:
        """service: ~/enable by its full name. Raises QgfError where the process does not come up,
        KeyboardInterrupt where `interrupted` says so before."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qgf_ros.ros.trial_guard", service],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # the terminal's signals are the trial's
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._unanswered: float | None = None  # since when, steady
        until = time.monotonic() + STARTING
        while not (found := select.select([self._stdout], [], [], 0.1)[0]):
            if interrupted() or time.monotonic() > until:
                break
        if not found or READY.encode() not in self._stdout.readline():
            self.close()
            if interrupted():
                raise KeyboardInterrupt
            raise QgfError("the guard, which stops the robot where the trial dies, did not start")

    def arm(self) -> None:
        """The robot is about to be enabled: returns when the guard knows. Raises QgfError."""
        self.beat()
        while self._unanswered is not None:
            select.select([self._stdout], [], [], 0.05)
            self._listen()

    def beat(self) -> None:
        """The robot is or will be enabled, and the trial lives.

        Raises QgfError: the guard has ended, or answers nothing for PATIENCE.
        """
        self._listen()
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
        try:
            self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    def _listen(self) -> None:
        if select.select([self._stdout], [], [], 0.0)[0] and os.read(self._stdout.fileno(), 4096):
            self._unanswered = None
        elif self._unanswered is not None and time.monotonic() - self._unanswered > PATIENCE:
            raise QgfError(
                "the guard, which stops the robot where the trial dies, has not answered for "
                f"{PATIENCE:g} s"
            )

    def _say(self, word: bytes) -> None:
        if self._unanswered is None:
            self._unanswered = time.monotonic()
        with contextlib.suppress(BlockingIOError):  # it does not read, which its silence says
            os.write(self._stdin.fileno(), word)


def main() -> int:
    """Argument: the service, such as /qgf/enable."""
    for number in (signal.SIGINT, signal.SIGHUP):  # meant for the trial; its end is noticed
        signal.signal(number, signal.SIG_IGN)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = LeanNode("qgf_trial_guard", start_parameter_services=False, enable_rosout=False)
    executor = EnduringExecutor(lambda error: None)
    executor.add_node(node)
    client: Client = node.create_client(SetBool, sys.argv[1])
    while not client.service_is_ready():
        # Nothing is said before READY: what can be read is the end of the trial.
        if select.select([0], [], [], 0.05)[0]:
            return 1
    print(READY, flush=True)
    enabled = False
    while True:
        heard = select.select([0], [], [], PATIENCE if enabled else None)[0]
        said = os.read(0, 4096) if heard else b""
        if said:
            enabled = said.endswith(b"+")
            with contextlib.suppress(OSError):  # it ended meanwhile, which the next read says
                os.write(1, b".")
            continue
        if heard:  # and nothing was said: the other end is closed
            signal.alarm(round(ENDING))
        if enabled and not _disabled(client, executor):
            print(f"STOP THE ROBOT BY HAND: {client.srv_name} does not answer", file=sys.stderr)
        if heard:
            return 0


def _disabled(client: Client, executor: EnduringExecutor) -> bool:
    """Whether the node has answered."""
    for _ in range(TRIES):
        future = client.call_async(SetBool.Request(data=False))
        until = time.monotonic() + ANSWER
        while not future.done() and time.monotonic() < until:
            with contextlib.suppress(Exception):  # whatever is heard, the robot is to be stopped
                executor.spin_once(timeout_sec=0.1)
        if future.done():
            return True
        client.remove_pending_request(future)
    return False


if __name__ == "__main__":
    sys.exit(main())
