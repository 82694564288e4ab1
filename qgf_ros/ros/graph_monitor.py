"""What outside of the control core forbids motion, or deserves a warning."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node

from qgf_ros.control.reasons import Problem
from qgf_ros.errors import UsageError
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import Status
from qgf_ros.ros.estop import EmergencyStop
from qgf_ros.ros.outside_gate import OutsideGate
from qgf_ros.ros.peers import DuplicateNode, Endpoint, ForeignCommands, unheard
from qgf_ros.spaces.contract import Contract

PATIENCE = 1.0  # s without an error in a callback, or without a sign of a twin, until all is well
LOOK_PERIOD = 0.5  # s between two looks at the graph
# s after the start, in which DDS has discovered the other (it takes 0.05 s or about 2.8 s); later,
# this node may be the one that others rely on.
DUPLICATE_IS_ERROR = 4.0
# s between two turns of `look`, about 0.1 in health: beyond it the executor has heard nothing, no
# emergency stop either, because the process stood still or because a callback kept it.
DEAF = 0.3


class GraphMonitor:
    """The emergency stop, other commanders, a second node of this name, peers that cannot be heard,
    errors of callbacks. `problem` is for the control thread, the rest for the executor's."""

    def __init__(
        self,
        node: Node,
        estop_required: bool,
        estop_timeout: float,
        stop: Callable[[Problem | None], None],
        stalled: Callable[[Problem, bool], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """
        Args:
            stop: called when the emergency stop is pressed (None), or is lost although required.
            stalled: called after a while in which nothing was heard, with what it was, and whether
                the robot may only go on when a person says so.
            fail: called with the reason why this node has to end.
        """
        self.connections: list[Problem] = []  # peers that DDS does not connect
        self.callback_errors = 0
        self._node = node
        self._stop = stop
        self._stalled = stalled
        self._fail = fail
        self._estop = EmergencyStop(node, lambda: stop(None), estop_required, timeout=estop_timeout)
        self._duplicate = DuplicateNode(node, self._on_duplicate)
        self._gate: OutsideGate | None = None
        self._foreign: ForeignCommands | None = None
        self._endpoints: list[Endpoint] = []
        self._lost: Problem | None = None
        self._listened: float | None = None  # steady time of the last look; None: not active
        self._ticks = 0
        self._started: float | None = None  # steady times
        self._twin_at = self._raised_at = self._looked_at = -60.0
        self._twin_sure = False
        self._raised = Problem("CALLBACK", "", "")
        self.release()

    # What the node tells.

    def started(self) -> None:
        """From now on a twin may show itself."""
        self._started = time.monotonic()

    def configure(self, contract: Contract, gate: OutsideGate | None) -> None:
        """gate: where the commands go through one of another process."""
        self._gate = gate
        self._endpoints += [Endpoint(o.topic, o.type, (qos.STATE,)) for o in contract.observations]
        if gate is None:
            self._endpoints += [
                Endpoint(topic, kind, (qos.COMMAND,), publishes=True)
                for topic, kind in {a.topic: a.type for a in contract.actions}.items()
            ]

    def activate(self, contract: Contract) -> None:
        """Listens for other commanders from now on."""
        if self._gate is None:
            self._foreign = ForeignCommands(self._node, contract)
        self.hear()
        if self._estop.is_pressed:
            self._stop(None)
        elif self._estop.blocks:
            self._stop(self._estop.lost)
        self._listened = time.monotonic()

    def deactivate(self) -> None:
        self._listened = None
        if self._foreign is not None:
            self._foreign.destroy()
            self._foreign = None

    def release(self) -> None:
        """Forgets the contract."""
        self._gate = None
        self._endpoints = [
            Endpoint("~/estop", "std_msgs/Bool", (qos.ESTOP_LATCHED, qos.ESTOP)),
            Endpoint("~/command", "qgf_ros/Command", (qos.COMMAND,), publishes=True),
        ]

    def raised(self, error: Exception) -> None:
        """A callback raised this."""
        self.callback_errors += 1
        self._raised = Problem(
            "CALLBACK", "", f"a callback failed: {type(error).__name__}: {error}"
        )
        self._raised_at = time.monotonic()

    @property
    def foreign(self) -> ForeignCommands | None:
        """Who has to be told what goes out to the robot."""
        return self._foreign

    def said(self, status: Status) -> None:
        """This status goes out now."""
        self._duplicate.sent(status)
        self._ticks = status.tick

    # What the node asks.

    def problem(self) -> Problem | None:
        """Why the robot may not move, if it may not."""
        now, listened = time.monotonic(), self._listened
        if now - self._raised_at < PATIENCE:
            return self._raised
        if listened is not None and now - listened > DEAF:
            return _deaf(now - listened)
        foreign, gate = self._foreign, self._gate  # one look each: the executor may take them away
        return (
            self._estop.problem()
            or (foreign.problem() if foreign is not None else None)
            or (gate.problem() if gate is not None else None)
        )

    def reset_refusal(self) -> str:
        """Why a reset makes no sense yet, or ""."""
        if self._estop.is_pressed:
            return (
                "the emergency stop is still pressed: release it first (where several publish on "
                "~/estop, a false counts once only one of them is left)"
            )
        if self._gate is not None and self._gate.stopped is not None:
            return f"the gate outside is still stopped: {self._gate.stopped.detail}"
        lost = self._estop.lost
        return lost.detail if self._estop.required and lost is not None else ""

    def hear(self) -> None:
        """Hears all that waits on ~/estop: before anything that may lead to motion."""
        try:
            self._estop.drain()
        except Exception as error:
            self.raised(error)

    def look(self) -> list[Problem]:
        """Looks around, about ten times a second. Returns what deserves a warning."""
        now, listened = time.monotonic(), self._listened
        self.hear()
        if listened is not None:
            if now - listened > DEAF:  # told first: until then, `problem` says it
                self._stalled(_deaf(now - listened), self._estop.heard)
            self._listened = now
        self._estop.look()
        if self._foreign is not None:
            self._foreign.look()
        if self._estop.lost is not None and self._lost is None and self._estop.required:
            self._stop(self._estop.lost)
        self._lost = self._estop.lost
        if now - self._looked_at >= LOOK_PERIOD:
            self._looked_at = now
            self.connections = unheard(self._node, self._endpoints)
        warnings = [*self.connections]
        if self._lost is not None and not self._estop.required:
            warnings.append(self._lost)
        if now - self._twin_at < PATIENCE:
            name = self._node.get_fully_qualified_name()
            text = f"another live node is called {name}"
            if not self._twin_sure:
                text = (
                    f"somebody else publishes on {name}/status, under another name or not for long"
                )
            warnings.append(Problem("DUPLICATE_NAME", "", text))
        if now - self._raised_at < PATIENCE:
            warnings.append(self._raised)
        return warnings

    def _on_duplicate(self, ticks: int, sure: bool) -> None:
        """The younger one ends. `ticks`: of the other; sure: there is one, and no mere message."""
        self._twin_at, self._twin_sure = time.monotonic(), sure
        early = self._started is not None and self._twin_at - self._started <= DUPLICATE_IS_ERROR
        if sure and early and ticks >= self._ticks:
            self._fail(
                UsageError(
                    f"a node called {self._node.get_fully_qualified_name()} is already running; stop "
                    "it, or give this one another name (-r __node:=...) or namespace"
                )
            )


def _deaf(seconds: float) -> Problem:
    return Problem(
        "PROCESS_STALLED",
        "",
        f"nothing could be heard for {seconds:.2f} s, no emergency stop either",
    )
