"""The control loop over real topics: rate, latency, jitter and cost, also on a machine that is busy.

    python bench/loop.py [--rates 50 100 250] [--seconds 20] [--gates inside outside] [--json]

The node runs a tiny policy, whose chunk of five actions is sampled every fifth tick, against a robot
of this process that says its joints twice per period. Under `storm` another process says them
instead, as fast as it can; under `busy` two processes burn the processor beside it. Times are the
middleware's own: latencies end where a message arrived, gaps are between those where the node sent.

State to command counts from the state's stamp, so it holds the wait for the next tick, of half a
period at most; tick to command is what the node adds. A gap is a pause of more than two periods
between commands, and is explained by a status that is not RUN, or counts an overrun, or warns anew.
Exit code 8 where a gap is unexplained, or less than 99.5 % of the ticks at 50 or 100 Hz had a
command on a machine that was not loaded on purpose.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import platform
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from qgf_ros.console import emit, say, table, track
from qgf_ros.contract import Contract
from qgf_ros.errors import CriterionNotMet, exit_codes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "support"))

import ros_harness as ros  # noqa: E402
from qgf_make import velocity_dict, write_tiny  # noqa: E402
from ros_gaps import SAYS_SO_WITHIN, gaps, listen, unexplained  # noqa: E402

SETTLE = 2.0  # s of motion that are not counted
ENOUGH = {50: 0.995, 100: 0.995}  # share of ticks with a command, where nothing else runs
STATES_PER_PERIOD = 2
BURN = "while True: pass"
BELONGS = 5  # periods within which a command can be that of a candidate
CONDITIONS = ("quiet", "storm", "busy")
JOINTS = ("a=0.3", "b=-0.2")


@dataclass(frozen=True)
class Loop:
    """Measures the control loop over real topics."""

    rates: tuple[int, ...] = (50, 100, 250)
    seconds: float = 20.0
    conditions: tuple[Literal["quiet", "storm", "busy"], ...] = CONDITIONS
    gates: tuple[Literal["inside", "outside"], ...] = ("inside",)
    """Where commands are judged: in the node, or in the process qgf_gate behind it."""
    out: Path | None = None  # JSON file; none: bench/results/loop-DATE.json
    json: bool = False

    def run(self) -> None:
        if ros.MISSING:
            raise CriterionNotMet(ros.MISSING)
        cases = [(r, c, g) for g in self.gates for r in self.rates for c in self.conditions]
        with tempfile.TemporaryDirectory() as scratch:
            policies = {rate: tiny(Path(scratch), rate) for rate in self.rates}
            rows = [
                {"rate_hz": rate, "condition": condition, "gate": gate}
                | measure(policies[rate], rate, condition, gate, self.seconds)
                for rate, condition, gate in track(cases, len(cases), "runs")
            ]
        document = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "seconds": self.seconds,
            "load_average_before": round(os.getloadavg()[2], 2),
            "runs": rows,
        }
        case = ("rate_hz", "condition", "gate")
        shown = (*case, "share_of_ticks", "gaps", "unexplained_gaps", "largest_gap_ms",
                 "jitter_p99_ms", "cpu_percent", "storm_hz")  # fmt: skip
        table("Control loop", shown, [[_brief(row[k]) for k in shown] for row in rows])
        for name in ("state_to_command_ms", "tick_to_command_ms"):
            columns = (*case, "with inference: p50, p99, p99.9", "without")
            lines = [[*(row[k] for k in case), *map(_brief, row[name].values())] for row in rows]
            table(name, columns, lines)
        out = self.out or ROOT / f"bench/results/loop-{time.strftime('%Y-%m-%d')}.json"
        out.write_text(json.dumps(document, indent=1) + "\n")
        say(f"written: {out}")
        if self.json:
            emit(document)
        _judge(rows)


def tiny(folder: Path, rate: int) -> Path:
    """A 2x32 policy with random weights, two joints driven by velocity, exported."""
    from training import export

    contract = velocity_dict(period=1 / rate, rate=1e4)  # no limit of change is met
    policy = folder / f"tiny_{rate}"
    write_tiny(policy, Contract.from_dict(contract))
    export.export(policy)
    return policy


def measure(policy: Path, rate: int, condition: str, gate: str, seconds: float) -> dict[str, Any]:
    """One run of the node; see the figures in the result."""
    domain = ros.take_domain()
    with contextlib.ExitStack() as stack:
        stack.callback(ros.free_domain, domain)
        robot = Robot(domain, rate, says_joints=condition != "storm")
        stack.callback(robot.close)
        storm = None
        if condition == "storm":
            command = [sys.executable, str(ROOT / "test/support/ros_storm.py")]
            storm = _process(stack, [*command, "joint_states", "inf", *JOINTS], domain)
        if gate == "outside":
            _process(stack, gate_command(policy), domain).wait_line("READY")
        own = {"gate": gate} if gate == "outside" else {}
        node = _process(stack, [*ros.node_command(), *ros.ros_args(policy=policy, **own)], domain)
        node.wait_line("qgf: READY")
        robot.enable(node)
        if condition == "busy":
            for _ in range(2):
                _process(stack, [sys.executable, "-c", BURN], domain)
        gc.collect()
        gc.freeze()  # a full collection here, beside torch, is a robot that says nothing for 0.15 s
        time.sleep(SETTLE)
        before, begin = Usage.of(node.process.pid), time.time_ns()
        time.sleep(seconds)
        after, end = Usage.of(node.process.pid), time.time_ns()
        time.sleep(SAYS_SO_WITHIN)  # what is said of the last gap
        figures = robot.figures(begin, end)
        node.stop()
        published = math.nan
        if storm is not None:
            storm.stop()
            said = json.loads(storm.out[-1])
            published = said["published"] / said["seconds"]
    return figures | {
        "cpu_percent": round(100 * (after.cpu - before.cpu) / ((end - begin) * 1e-9), 1),
        "memory_mb": [round(before.memory, 1), round(after.memory, 1)],
        "storm_hz": None if math.isnan(published) else round(published),
    }


def gate_command(policy: Path) -> list[str]:
    return [sys.executable, "-m", "qgf_ros.ros.gate_node", *ros.ros_args(policy=policy)]


def _process(stack: contextlib.ExitStack, command: list[str], domain: int) -> ros.Proc:
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

    def __init__(self, domain: int, rate: int, says_joints: bool) -> None:
        super().__init__(domain, "bench_robot", spin=False)
        self._period = 1 / rate
        self._says_joints = says_joints
        self.commands = listen(self, ros.Float64MultiArray, "commands")
        self.candidates = listen(self, ros.Command, "qgf/command")
        self.q_values = listen(self, ros.QValues, "qgf/q_values")
        self.statuses = listen(self, ros.Status, "qgf/status")
        self.gate_statuses = listen(self, ros.Status, "qgf_gate/status")
        create = self.node.create_publisher
        self._joints = create(ros.JointState, "joint_states", ros.qos_profile_sensor_data)
        self._goal = create(ros.PointStamped, "goal", ros.qos_profile_sensor_data)
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
                self._goal.publish(ros.PointStamped(header=header, point=ros.Point(x=0.1)))
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


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{v:.2f}" for v in value) or "-"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _judge(rows: list[dict[str, Any]]) -> None:
    wrong = []
    for row in rows:
        name = f"{row['rate_hz']} Hz {row['condition']}, gate {row['gate']}"
        if row["unexplained_gaps"]:
            wrong.append(f"{name}: {row['unexplained_gaps']} gaps without a status event")
        least = ENOUGH.get(row["rate_hz"], 0.0) if row["condition"] == "quiet" else 0.0
        if row["share_of_ticks"] < least:
            wrong.append(f"{name}: {row['share_of_ticks']:.2%} of the ticks, wanted {least:.1%}")
        if row["storm_hz"] is not None and row["storm_hz"] < 2000:
            wrong.append(f"{name}: the storm reached {row['storm_hz']} Hz only, wanted 2000")
    if wrong:
        raise CriterionNotMet("; ".join(wrong))


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Loop, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
