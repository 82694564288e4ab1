"""The node's side of `qgf_gate`: what it is sent, and whether it is there and passes our candidates."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.serialization import serialize_message

from qgf_ros.control.core import ControlCore
from qgf_ros.control.gate import Candidate, Output
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.errors import UsageError
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import Command, Status

GATE = "qgf_gate"  # its name in the node's namespace; remap <GATE>/status and <GATE>/passed for another
SIGN_OF_LIFE = 1.0  # s of steady time; the gate's status comes at 10 Hz
TURN = 0.5  # s of steady time in which our first candidate takes over from somebody else's, or not
# Candidates, and s of steady time, without one that passed: the robot stands, and would begin to move
# whenever the gate changes its mind. Longer than TURN, which has a better reason.
UNPASSED, UNPASSED_FOR = 10, 1.0

MAX_TEXT = 500  # characters of the gate's words


def check_size(owner: str, names: tuple[str, ...]) -> None:
    """Raises UsageError where the gate would not even look into a command of these names."""
    from qgf_ros.ros.gate_node import MAX_BYTES

    command = Command(owner=owner, names=list(names), values=[0.0] * len(names))
    size = len(serialize_message(command)) + 2**8  # a frame and times
    if size > MAX_BYTES:
        raise UsageError(
            f"a command of the contract's {len(names)} numbers has {size} bytes with their names, and {GATE} "
            f"takes up to {MAX_BYTES}; shorten the names, or use gate:=inside"
        )


class _Word(NamedTuple):
    """The gate's last status."""

    at: float  # steady time
    state: int
    problem: Problem | None  # why it holds

    @property
    def stop(self) -> Problem | None:
        """The emergency stop for which it holds, pressed now or not; a person has to enable again."""
        return self.problem if self.problem is not None and self.problem.row.is_stop else None


class OutsideGate:
    """From configure to cleanup, where the parameter `gate` is `outside`."""

    def __init__(self, node: Node, core: ControlCore) -> None:
        self._node = node
        self._core = core
        self._own = node.get_fully_qualified_name()
        check_size(self._own, core.policy.contract.action_names)
        self._gate = node.resolve_topic_name(f"{GATE}/passed").removesuffix("/passed")
        self._said: _Word | None = None
        self._ticks = 0  # what it had sent by then; less than before: another life of it
        self._passed_epoch = -1  # of our last candidate that passed
        self._began = (-1, 0.0)  # our last epoch, and the steady time of its first candidate
        self._unpassed = 0  # candidates since one passed, or since we asked for nothing
        self._unpassed_since = 0.0  # steady time of the first of them
        self._subscriptions = [
            node.create_subscription(Status, f"{GATE}/status", self._on_status, qos.REPORT),
            node.create_subscription(Command, f"{GATE}/passed", self._on_passed, qos.REPORT),
        ]

    def candidate(self, output: Output, wanted: Candidate | None, now: int) -> Candidate | None:
        """What to send at the tick `now` [ns]: the command as our own gate has limited it, or while
        that one holds an explicit hold. The first barrier counts where the second one stands too.
        """
        if output.values is None:
            return None
        if wanted is None or not output.admitted:
            self._unpassed = 0
            return self._core.explicit_hold(now)
        if self._unpassed == 0:
            self._unpassed_since = time.monotonic()
        self._unpassed += 1
        if wanted.epoch != self._began[0]:
            self._began = wanted.epoch, time.monotonic()
        return dataclasses.replace(wanted, values=output.values)

    def problem(self) -> Problem | None:
        """Why the robot may not move: there is no gate, or none that lets us."""
        now, said = time.monotonic(), self._said
        if said is None or now - said.at > SIGN_OF_LIFE:
            return Problem(
                "GATE_MISSING", "", f"no sign of life of {self._gate}; start it, or gate:=inside"
            )
        if self._unpassed > UNPASSED and now - self._unpassed_since > UNPASSED_FOR:
            if said.stop is not None:  # and we have not heard it ourselves
                self._core.estop(said.stop)
            return Problem(
                "GATE_REFUSES", "", f"{self._gate} passes none of our commands; its status says why"
            )
        return None

    @property
    def stopped(self) -> Problem | None:
        """The emergency stop that the gate hears now, if any."""
        said = self._said
        return said.stop if said is not None and said.state == State.FAULT else None

    def destroy(self) -> None:
        """Takes the subscriptions down."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_status(self, msg: Any) -> None:
        problem = Problem.parse(msg.reason[:MAX_TEXT], f"{self._gate}: {msg.detail}"[:MAX_TEXT])
        self._said = _Word(time.monotonic(), msg.state, problem)
        if (stopped := self.stopped) is not None:
            self._core.estop(stopped)
        if msg.tick < self._ticks:
            self._core.gate_restarted()
        self._ticks = msg.tick

    def _on_passed(self, msg: Any) -> None:
        if msg.owner == self._own:
            self._passed_epoch = msg.epoch
            self._unpassed = 0
        elif msg.owner != self._gate and self._overruled():
            self._core.takeover(msg.owner[:80])

    def _overruled(self) -> bool:
        """Whether another owner's command is a takeover: not while we do not run, nor while it may
        still be our turn that is only beginning."""
        supervisor, epoch = self._core.supervisor, self._core.epoch
        if supervisor.state is not State.RUN:
            return supervisor.reason is not None and supervisor.reason.code == "TAKEOVER"
        began, since = self._began
        begins = began != epoch or time.monotonic() - since < TURN
        return self._passed_epoch == epoch or not begins
