"""What `qgf_gate` says about itself: `~/gate_status`, the same as `~/status`, `/diagnostics`, and its
words for `~/passed`."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from qgf_ros.control.arbiter import Arbiter, Moment
from qgf_ros.control.gate import Candidate, Output
from qgf_ros.control.notices import Notices
from qgf_ros.control.pauses import Pauses
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import (
    Command,
    GateStatus,
    Status,
    as_status,
    command_message,
    gate_status_message,
)
from qgf_ros.ros.diagnostics import diagnostic_message, level_of
from qgf_ros.ros.log import ThrottledLog
from qgf_ros.spaces.contract import Contract

DIAGNOSTICS_EVERY = 10  # statuses
LATE_PERIODS = 1.9  # between two commands: from there on it counts, at two it is never silent


class GateReports:
    """Status when the state changes and when it is asked to, the diagnostics with every tenth."""

    def __init__(
        self, node: Node, arbiter: Arbiter, contract: Contract, policy_sha256: str
    ) -> None:
        self._arbiter = arbiter
        self._robot = contract.robot
        self._pauses = Pauses(round(LATE_PERIODS * contract.time.period * 1e9))
        self._policy = policy_sha256
        self._name = node.get_fully_qualified_name()
        self._status = node.create_publisher(Status, "~/status", qos.REPORT)
        self._gate_status = node.create_publisher(GateStatus, "~/gate_status", qos.REPORT)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", qos.REPORT)
        self._notices = Notices()
        self._sent: deque[float] = deque(maxlen=1024)  # steady times of commands
        self._commands = self._holds = self._sequence = self._statuses = self._refused = 0
        self._log = ThrottledLog(node.get_logger())
        self._state = State.READY
        self._level: Any = None  # of the last diagnostics

    def passed(self, output: Output, offered: Candidate | None, now: int, after: int) -> Command:
        """The command that went out between `now` and `after` [ns], and whose it is: the owner's, or the
        gate's own hold."""
        # No hold, and yet a gap: neither process got its turn in time.
        self._pauses.sent(now, after, counts=self._state is State.RUN)
        self._sent.append(time.monotonic())
        self._commands += 1
        assert output.values is not None
        names = self._arbiter.names
        if output.admitted and offered is not None:
            self._sequence = offered.sequence
            return command_message(dataclasses.replace(offered, values=output.values))
        self._holds += 1
        epoch = self._arbiter.gate.epoch
        hold = Candidate(self._name, self._holds, epoch, now, now, now, names, output.values)
        return command_message(hold)

    def refused(self, problem: Problem) -> None:
        """Something that came has no say."""
        self._refused += 1
        self._notices.note(time.monotonic_ns(), problem)
        self._log.warning(problem.code_text, f"refused: {problem}")

    def note(self, now: Moment) -> None:
        """Says a change of state at once."""
        state, reason = self._arbiter.state, self._arbiter.reason
        if state is self._state:
            return
        text = f"{self._state.name} -> {state.name} {reason.detail if reason else ''}".rstrip()
        (self._log.warning if state is State.HOLD else self._log.info)(state.name, text)
        self._state = state
        self.publish(now)

    def publish(self, now: Moment, shared: Callable[[], list[str]] = list) -> None:
        """`shared`: topics of the robot on which somebody else publishes too; asked once per second."""
        arbiter = self._arbiter
        if self._statuses % DIAGNOSTICS_EVERY == 0:
            for topic in shared():
                text = f"somebody else publishes on {topic}"
                self._notices.note(now.steady, Problem("COMMAND_CONFLICT", "", text))
        recent = time.monotonic() - 1.0
        own = gate_status_message(
            now.control,
            self._name,
            arbiter.state,
            arbiter.reason,
            self._notices.current(now.steady),
            commanding=arbiter.owner or "",
            epoch=arbiter.gate.epoch,
            sequence=self._sequence,
            owners=list(arbiter.owners),
            owner_age=arbiter.ages(now),
            commands=self._commands,
            holds=self._holds,
            refused=self._refused + arbiter.refused,
            limited=arbiter.gate.limit_hits,
            pauses=self._pauses.count,
            achieved_rate=float(sum(t > recent for t in list(self._sent))),
            policy_sha256=self._policy,
        )
        status = as_status(own)
        self._status.publish(status)
        if self._gate_status.get_subscription_count() > 0:
            self._gate_status.publish(own)
        self._statuses += 1
        level = level_of(arbiter.state, False, bool(status.warnings), 0.0)
        if level != self._level or self._statuses % DIAGNOSTICS_EVERY == 1:
            self._level = level
            if self._diagnostics.get_subscription_count() > 0:
                self._diagnostics.publish(diagnostic_message(status, level, self._robot))
