"""What the node says about itself: `~/status` and `/diagnostics`."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.node import Node

from qgf_ros.control.core import ControlCore
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import Status, diagnostic_message, status_message

DIAGNOSTICS_EVERY = 10  # statuses


class Reports:
    """Publishes the status when it is asked to, and the diagnostics with every tenth of them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._status = node.create_publisher(Status, "~/status", qos.REPORT)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", qos.REPORT)
        self._sent: deque[float] = deque(maxlen=1024)  # steady times of commands
        self._statuses = 0
        self._level: Any = None  # of the last diagnostics

    def sent(self) -> None:
        """A command went out."""
        self._sent.append(time.monotonic())

    def deliver(self, patience: Duration) -> None:
        """Waits until the last status has arrived."""
        self._status.wait_for_all_acked(patience)

    def publish(self, core: ControlCore | None, state: State, error: Exception | None) -> None:
        now = self._node.get_clock().now().nanoseconds
        reason = core.supervisor.reason if core is not None and state > State.INACTIVE else None
        if error is not None:
            reason = Problem(f"ERROR_{getattr(error, 'code', 1)}", str(error))
        owner = self._node.get_fully_qualified_name()
        fields = self._measured(core, now) if core is not None else {}
        status = status_message(now, owner, state, reason, **fields)
        self._status.publish(status)
        self._statuses += 1
        hardware = core.policy.contract.robot if core is not None else ""
        diagnostics = diagnostic_message(status, hardware)
        level = diagnostics.status[0].level
        if level != self._level or self._statuses % DIAGNOSTICS_EVERY == 1:
            self._diagnostics.publish(diagnostics)
            self._level = level

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
            "inference_p50_ms": p50,
            "inference_p99_ms": p99,
            "inference_max_ms": largest,
            "achieved_rate": float(sum(t > recent for t in list(self._sent))),
            "overruns": core.overruns,
            "dropped": core.assembler.dropped,
            "limit_hits": core.gate.limit_hits,
            "warnings": [f"{p.code}: {p.detail}" for p in core.notices.current(now)],
            "state_score": core.assembler.state_score,
        }
