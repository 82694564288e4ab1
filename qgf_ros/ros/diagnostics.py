"""`/diagnostics`: the status in the form that ROS tools show, with the times of each stage."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from qgf_ros.control.core import TickResult
from qgf_ros.control.latency import Latency
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.ros.conversions import Status

HOLD_IS_ERROR = 1.0  # s

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
LEVELS = {
    State.UNCONFIGURED: STALE,
    State.INACTIVE: OK,
    State.WAITING: WARN,
    State.READY: OK,
    State.RUN: OK,
    State.HOLD: WARN,
    State.FAULT: ERROR,
    State.SHUTDOWN: STALE,
}


def level_of(state: State, failed: bool, warned: bool, held: float) -> bytes:
    """held: s in HOLD so far."""
    level: bytes = LEVELS[state]
    if failed or (state is State.HOLD and held >= HOLD_IS_ERROR):
        return ERROR
    return WARN if level == OK and warned else level


class Stages:
    """Where the time between an observation and a command goes; the last 1000 ticks."""

    def __init__(self) -> None:
        self._age, self._assemble, self._gate = Latency(), Latency(), Latency()
        self._publish, self._tick = Latency(), Latency()

    def add(self, result: TickResult, publish: float, whole: float) -> None:
        """One tick; `publish` and `whole` in s, the rest is in the result."""
        if result.observation_age is not None:
            self._age.add(result.observation_age)
        self._assemble.add(result.assemble_seconds)
        self._gate.add(result.gate_seconds)
        self._publish.add(publish)
        self._tick.add(whole)

    def values(self, inference: Latency) -> dict[str, str]:
        """p50 and p99 of each stage."""
        stages = {
            "observation age": self._age,
            "assemble": self._assemble,
            "inference": inference,
            "gate": self._gate,
            "publish": self._publish,
            "whole tick": self._tick,
        }
        figures = {name: latency.percentiles_ms() for name, latency in stages.items()}
        return {
            f"{name} p50, p99 [ms]": f"{p50:.3f}, {p99:.3f}"
            for name, (p50, p99, _) in figures.items()
        }


def diagnostic_message(
    status: Status,
    level: bytes,
    hardware: str,
    measured: dict[str, str] | None = None,
    connections: Sequence[Problem] | None = None,
) -> DiagnosticArray:
    """The control, and the peers on the topics that do not connect, where that was looked at."""
    values = {
        "beta": f"{status.beta:g}",
        "achieved rate [Hz]": f"{status.achieved_rate:.1f}",
        "overruns": str(status.overruns),
        "messages dropped": str(status.dropped),
        "limit hits": str(status.limit_hits),
        "policy": status.policy_sha256,
        **(measured or {}),
    }
    values |= {
        f"age of {topic} [s]": f"{age:.3f}" for topic, age in zip(status.topics, status.topic_age)
    }
    said = [f"{State(status.state).name} {status.detail}".strip(), *status.warnings]
    control = DiagnosticStatus(
        level=level,
        name=f"{status.owner}: control",
        message="; ".join(said),
        hardware_id=hardware,
        values=_key_values(values),
    )
    entries = [control]
    if connections is not None:
        entries.append(_connections(status, hardware, connections))
    return DiagnosticArray(header=status.header, status=entries)


def _connections(status: Status, hardware: str, connections: Sequence[Problem]) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=ERROR if connections else OK,
        name=f"{status.owner}: connections",
        message="; ".join(p.detail for p in connections) or "all peers on the topics connect",
        hardware_id=hardware,
        values=_key_values({p.code_text: p.detail for p in connections}),
    )


def _key_values(values: dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value) for key, value in values.items()]
