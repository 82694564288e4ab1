"""What a ROS executable of ours does around its node: signals, spinning, exit codes.

rclpy's own signal handling shuts the context down at once, and a last stop command is then lost;
so the handlers here only set a flag, and the node says its last words before the shutdown.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from qgf_ros.errors import UsageError, exit_codes
from qgf_ros.policy.vetting import Interrupted
from qgf_ros.processes import signal_at_parents_death
from qgf_ros.ros.lean import EnduringExecutor
from qgf_ros.ros.transport import share_no_memory
from qgf_ros.signals import Flag

SPIN_SLICE = 0.05  # s, how soon a signal is noticed
STOPPING = Flag()  # SIGINT or SIGTERM has come: whatever takes long looks at it
PARENT = os.getppid()  # as early as this is imported: it may die while the node is being made


class Program(Protocol):
    """A node of ours."""

    @property
    def node(self) -> Node: ...

    @property
    def done(self) -> threading.Event:
        """Set: the work is finished."""

    @property
    def error(self) -> Exception | None:
        """Why it ended, if not well."""

    def start(self) -> str:
        """Begins to work; what to print when that is done, "READY" if nothing is left to do."""

    def raised(self, error: Exception) -> None:
        """A callback raised this; the program goes on, unless it raises it again."""

    def close(self) -> None:
        """Last words, then everything is released. Called once, also after an error."""


def exit_with_parent() -> None:
    """From now on the death of the process that started this one is a SIGTERM: a killed launch, or
    a lost terminal, leaves nobody behind who moves the robot.

    Raises UsageError where the kernel cannot do it (other than Linux).
    """
    if why := signal_at_parents_death(signal.SIGTERM):
        raise UsageError(f"exit_with_parent: {why}; leave it false")
    if os.getppid() != PARENT:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)


def run(make: Callable[[], Program], name: str, commands: bool = False) -> int:
    """Runs a program until SIGINT, SIGTERM or its own end. Returns 0; errors exit by their code.
    commands: it commands a robot, and nobody who is stopped may hold it up."""
    if commands:
        share_no_memory()
    try:
        _run(make, name)
    except SystemExit as end:
        _leave(end.code)
        raise
    _leave(0)
    return 0


def _leave(code: Any) -> None:
    """Ends the process here where a thread of ours is still at work. In native code (a sampler, a
    session that is being built) it would come back into an interpreter that is being taken down,
    and abort the process."""
    if any(t.name.startswith("qgf-") and t.is_alive() for t in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _run(make: Callable[[], Program], name: str) -> None:
    stop = STOPPING
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop.set)
    with exit_codes(debug="--debug" in sys.argv):
        try:
            rclpy.init(
                args=[a for a in sys.argv if a != "--debug"],
                signal_handler_options=SignalHandlerOptions.NO,
            )
        except Exception as error:  # rclpy raises its own types for bad --ros-args
            raise UsageError(f"ROS arguments: {' '.join(str(error).split())}") from None
        try:
            with contextlib.suppress(Interrupted):  # by the signal, while it was starting
                _spin(make(), stop, name)
        finally:
            rclpy.try_shutdown()
            # All is said. A second Ctrl-C must not hit the interpreter while it is being taken
            # down, when it would have its default handlers back: `ros2 launch` always sends one.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)


def _spin(program: Program, stop: Flag, name: str) -> None:
    executor = EnduringExecutor(program.raised)
    program.node.failed = program.raised  # type: ignore[attr-defined]
    executor.add_node(program.node)
    try:
        print(f"{name}: {program.start()}", flush=True)
        while not (stop.is_set() or program.done.is_set()):
            try:
                executor.spin_once(timeout_sec=SPIN_SLICE)
            except Exception as error:
                if not rclpy.ok():  # nothing will ever come again
                    raise
                program.raised(error)
        if program.done.is_set() and program.error is not None:
            raise program.error
    finally:
        program.close()
        executor.remove_node(program.node)
        executor.shutdown(timeout_sec=1.0)
        program.node.destroy_node()
