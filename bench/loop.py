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
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from loop_robot import JOINTS, ROOT, Robot, Usage, start

from qgf_ros.console import emit, say, table, track
from qgf_ros.errors import CriterionNotMet, exit_codes
from qgf_ros.spaces.contract import Contract

sys.path.insert(0, str(ROOT / "test" / "support"))

import ros_harness as ros
from qgf_make import velocity_dict, write_tiny
from ros_gaps import SAYS_SO_WITHIN

SETTLE = 2.0  # s of motion that are not counted
ENOUGH = {50: 0.995, 100: 0.995}  # share of ticks with a command, where nothing else runs
BURN = "while True: pass"
CONDITIONS = ("quiet", "storm", "busy")


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
    from training.export import write as export

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
            storm = start(stack, [*command, "joint_states", "inf", *JOINTS], domain)
        if gate == "outside":
            start(stack, gate_command(policy), domain).wait_line("READY")
        own = {"gate": gate} if gate == "outside" else {}
        node = start(stack, [*ros.node_command(), *ros.ros_args(policy=policy, **own)], domain)
        node.wait_line("qgf: READY")
        robot.enable(node)
        if condition == "busy":
            for _ in range(2):
                start(stack, [sys.executable, "-c", BURN], domain)
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
