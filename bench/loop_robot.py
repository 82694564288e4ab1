"""The robot of the benchmarks on real topics, what it heard of the node, and what the node used up."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "support"))

import ros_harness as ros  # noqa: E402
from ros_gaps import gaps, listen, unexplained  # noqa: E402

STATES_PER_PERIOD = 2
BELONGS = 5  # periods within which a command can be that of a candidate
JOINTS = ("a=0.3", "b=-0.2")
GOAL = {"goal": (0.1, 0.0)}


def start(stack: contextlib.ExitStack, command: list[str], domain: int) -> ros.Proc:
    process = ros.Proc(command, domain, deadline=3600.0)
    stack.callback(process.close)
    return process


@dataclass(frozen=True)
class Usage:
    """Of a process: processor time [s], and resident memory [MB]."""

    cpu: float
    memory: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # user and system, after the name
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        page = os.sysconf("SC_PAGE_SIZE") / 2**20
        return cls(ticks / os.sysconf("SC_CLK_TCK"), pages * page)


class Robot(ros.Wire):
    """Says state and keeps what it hears, with the middleware's times of arrival [ns, system]."""

    def __init__(
        self,
        domain: int,
        rate: float,
        says_joints: bool,
        points: Mapping[str, tuple[float, float]] = GOAL,
        commands: str = "commands",
        candidates: bool = True,
    ) -> None:
        """candidates: are heard too; `figures` needs them."""
        super().__init__(domain, "bench_robot", spin=False)
        self._period = 1 / rate
        self._says_joints = says_joints
        self.commands = listen(self, ros.Float64MultiArray, commands)
        self.candidates = listen(self, ros.Command, "qgf/command") if candidates else []
        self.q_values = listen(self, ros.QValues, "qgf/q_values")
        self.statuses = listen(self, ros.Status, "qgf/status")
        self.gate_statuses = listen(self, ros.Status, "qgf_gate/status")
        create = self.node.create_publisher
        self._joints = create(ros.JointState, "joint_states", ros.qos_profile_sensor_data)
        self._points = {
            create(ros.PointStamped, topic, ros.qos_profile_sensor_data): ros.Point(x=x, y=y)
            for topic, (x, y) in points.items()
        }
        self._enable = self.node.create_client(ros.SetBool, "qgf/enable")
        self._quiet = threading.Event()
        self._heart = threading.Thread(target=self._say, name="bench-robot-state", daemon=True)
        self.begin()
        self._heart.start()

    def _say(self) -> None:
        """On absolute deadlines; late is late."""
        names = [j.split("=")[0] for j in JOINTS]
        rest = [float(j.split("=")[1]) for j in JOINTS]
        pause = self._period / STATES_PER_PERIOD
        due, count = time.monotonic(), 0
        while not self._quiet.is_set():
            now = time.time_ns()
            header = ros.Header(stamp=ros.time_msg(now))
            if self._says_joints:
                position = [at + 0.05 * math.sin(now * 1e-9) for at in rest]
                self._joints.publish(
                    ros.JointState(header=header, name=names, position=position, velocity=[0.0] * 2)
                )
            if count % 5 == 0:
                for publisher, point in self._points.items():
                    publisher.publish(ros.PointStamped(header=header, point=point))
            count += 1
            due = max(due + pause, time.monotonic() - pause)
            self._quiet.wait(max(0.0, due - time.monotonic()))

    def enable(self, node: ros.Proc) -> None:
        """Until it moves; refused as long as no complete state has arrived."""
        self.wait(
            lambda: self.call(self._enable, ros.SetBool.Request(data=True)).success,
            20.0,
            "the node to be enabled",
            node,
        )
        self.wait(lambda: self.commands, 10.0, "commands", node)

    def close(self) -> None:
        self._quiet.set()
        self._heart.join(timeout=2.0)
        super().close()

    def figures(self, begin: int, end: int) -> dict[str, Any]:
        """Of what arrived from `begin` to `end`."""
        period = self._period
        statuses = list(self.statuses)
        inside = [c.sent for c in list(self.commands) if begin <= c.sent < end]
        intervals = np.diff(inside) * 1e-6
        pauses = untold = gaps(inside, period)
        for said_by in (statuses, list(self.gate_statuses)):
            untold = unexplained(untold, said_by, period)
        candidates = [
            c.msg for c in list(self.candidates) if begin <= ros.ns(c.msg.execute_at) < end
        ]
        sampled = {ros.ns(q.msg.observation_stamp) for q in list(self.q_values)}
        # A candidate's numbers are its name: nothing limits them here, and hardly two are alike.
        arrived: dict[tuple[float, ...], list[int]] = {}
        for command in list(self.commands):
            arrived.setdefault(tuple(command.msg.data), []).append(command.received)
        from_state: dict[str, list[float]] = {"with_inference": [], "without": []}
        from_tick: dict[str, list[float]] = {"with_inference": [], "without": []}
        admitted = 0
        for msg in candidates:
            tick, stamp = ros.ns(msg.execute_at), ros.ns(msg.header.stamp)
            times = arrived.get(tuple(msg.values), ())
            at = min((t for t in times if tick <= t < tick + BELONGS * period * 1e9), default=None)
            if at is None:
                continue
            admitted += 1
            which = "with_inference" if stamp in sampled else "without"
            from_state[which].append((at - stamp) * 1e-6)
            from_tick[which].append((at - tick) * 1e-6)
        first, last = (next(s.msg for s in reversed(statuses) if s.sent <= t) for t in (begin, end))
        said = [s.msg for s in statuses if begin <= s.sent < end]
        jitter = np.abs(intervals - period * 1e3)
        return {
            "commands": len(inside),
            "share_of_ticks": round(admitted * period / ((end - begin) * 1e-9), 5),
            "largest_gap_ms": round(float(intervals.max(initial=0)), 2),
            "gap_p99_ms": round(float(np.percentile(intervals, 99)), 2),
            "gaps": len(pauses),
            "unexplained_gaps": len(untold),
            "jitter_p50_ms": round(float(np.percentile(jitter, 50)), 3),
            "jitter_p99_ms": round(float(np.percentile(jitter, 99)), 3),
            "state_to_command_ms": {k: percentiles(v) for k, v in from_state.items()},
            "tick_to_command_ms": {k: percentiles(v) for k, v in from_tick.items()},
            "inference_p99_ms": round(last.inference_p99_ms, 3),
            "overruns": last.overruns - first.overruns,
            "states": sorted({m.state for m in said}),
            "reasons": sorted({m.reason for m in said} - {""}),
        }


def percentiles(values: list[float]) -> list[float]:
    """p50, p99 and p99.9 of what there is."""
    return [round(float(p), 3) for p in np.percentile(values, [50, 99, 99.9])] if values else []
