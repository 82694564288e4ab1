"""What the node says about itself: `~/status` and `/diagnostics`, and log lines for what is new."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.node import Node

from qgf_ros.control.core import ControlCore, TickResult
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import Status, status_message
from qgf_ros.ros.diagnostics import Stages, diagnostic_message, level_of
from qgf_ros.ros.log import ThrottledLog

DIAGNOSTICS_PERIOD = 1.0  # s


class Reports:
    """Publishes the status when it is asked to, and the diagnostics once a second and when their
    level or what they name changes, if somebody listens."""

    def __init__(self, node: Node) -> None:
        self.log = ThrottledLog(node.get_logger())
        self._node = node
        self._status = node.create_publisher(Status, "~/status", qos.REPORT)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", qos.REPORT)
        self._sent: deque[float] = deque(maxlen=1024)  # steady times of commands
        self._stages = Stages()
        self._held_since: float | None = None  # steady
        self._warned: set[str] = set()  # codes in the last status
        self._said: tuple[Any, float] = (None, 0.0)  # levels of the last diagnostics, and when
        self._counted = (0, 0)  # commands and limit hits at the last diagnostics

    def sent(self) -> None:
        """A command went out."""
        self._sent.append(time.monotonic())

    def ticked(self, result: TickResult, began: float, decided: float) -> None:
        """A tick of the core is published. began, decided: by time.perf_counter()."""
        now = time.perf_counter()
        self._stages.add(result, now - decided, now - began)

    def deliver(self, patience: Duration) -> None:
        """Waits until the last status has arrived."""
        self._status.wait_for_all_acked(patience)

    def status(
        self,
        core: ControlCore | None,
        state: State,
        error: Exception | None,
        warnings: Sequence[Problem],
        reason: Problem | None = None,
    ) -> Status:
        """The status as it is now; new warnings are logged.

        Args:
            warnings: what the core does not know of.
            reason: of the state; None: the core's newest.
        """
        now = self._node.get_clock().now().nanoseconds
        if reason is None and core is not None and state > State.INACTIVE:
            reason = core.supervisor.reason
        if error is not None:
            reason = Problem("ERROR", str(getattr(error, "code", 1)), str(error))
        noted = [*(core.notices.current(now) if core is not None else ()), *warnings]
        for problem in noted:
            if problem.code_text not in self._warned:
                self.log.warning(problem.code_text, str(problem))
        self._warned = {p.code_text for p in noted}
        fields = self._measured(core, now) if core is not None else {}
        owner = self._node.get_fully_qualified_name()
        return status_message(now, owner, state, reason, noted, **fields)

    def publish(
        self, status: Status, core: ControlCore | None, failed: bool, connections: Sequence[Problem]
    ) -> None:
        """The status, and the diagnostics when it is time for them."""
        self._status.publish(status)
        now, state = time.monotonic(), State(status.state)
        if state is not State.HOLD:
            self._held_since = None
        elif self._held_since is None:
            self._held_since = now
        held = now - self._held_since if self._held_since is not None else 0.0
        level = level_of(state, failed, bool(status.warnings), held)
        levels, (said, at) = (level, [p.code_text for p in connections]), self._said
        if levels == said and now - at < DIAGNOSTICS_PERIOD - 0.01:  # s; timers come a little early
            return
        self._said = levels, now
        if self._diagnostics.get_subscription_count() > 0:
            measured = self._timed(core) if core is not None else {}
            hardware = core.policy.contract.robot if core is not None else ""
            message = diagnostic_message(status, level, hardware, measured, connections)
            self._diagnostics.publish(message)

    def _timed(self, core: ControlCore) -> dict[str, str]:
        sent, hits = core.sequence, core.gate.limit_hits
        new = sent - self._counted[0]
        share = (hits - self._counted[1]) / new if new > 0 else 0.0
        self._counted = sent, hits
        return self._stages.values(core.inference_latency) | {
            "limited commands [1]": f"{share:.3f}"
        }

    def _measured(self, core: ControlCore, now: int) -> dict[str, Any]:
        p50, p99, largest = core.inference_latency.percentiles_ms()
        recent = time.monotonic() - 1.0
        return {
            "enabled": core.supervisor.enabled,
            "tick": core.ticks,
            "sequence": core.sequence,
            "epoch": core.epoch,
            "beta": core.beta,
            "policy_sha256": core.policy.sha256,
            "topics": [o.topic for o in core.policy.contract.observations],
            "topic_age": list(core.assembler.ages(now).values()),
            "state_score": core.assembler.state_score,
            "inference_p50_ms": p50,
            "inference_p99_ms": p99,
            "inference_max_ms": largest,
            "achieved_rate": float(sum(t > recent for t in list(self._sent))),
            "overruns": core.overruns,
            "dropped": core.assembler.dropped,
            "limit_hits": core.gate.limit_hits,
        }
