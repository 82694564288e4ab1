"""How long `qgf replay` takes for hours of bags, and whether its memory stays flat.

    python bench/replay.py [--hours 1] [--workers 2] [--data FOLDER] [--out FILE]

A made-up robot of 16 joints says its state 50 times a second and takes 5 velocities: bags of ten
minutes, each with numbers of its own, are written message by message as MCAP. The policy has random
weights, 3x256 networks, chunks of 5 that are executed whole, 10 denoising steps; one sample per
chunk, one beta. `qgf replay` runs as a user's would, in a process of its own with its workers, and
from outside all of them are watched: resident memory every half second, and CPU time.

With --data the bags are kept there, and what is there already is not written again.

Exit code 8 where an hour of bags takes more than a minute, or where a process holds more memory
after nine tenths of the time than half-way, by more than a tenth. The first process gathers sums
until it has as many as it keeps, about three hours' worth; in the end it makes the figures and
their intervals, which takes some megabytes more however long the bags were.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from qgf_ros.bags.sources import contract_sources
from qgf_ros.console import emit, say, table, track
from qgf_ros.errors import CriterionNotMet, QgfError, UsageError, exit_codes
from qgf_ros.executors import each
from qgf_ros.policy.description import Flow, Network
from qgf_ros.policy.folder import write_policy
from qgf_ros.spaces.contract import Contract
from training.pipeline.writers.bag import BagWriter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "support"))

from qgf_make import description, tensors, velocity_dict  # noqa: E402

RATE = 50  # Hz
BAG_MINUTES = 10
JOINTS = [f"joint_{i}" for i in range(16)]
DRIVEN = JOINTS[:5]
START = 1_760_000_000 * 10**9
BETA = 0.1
SECONDS_PER_HOUR = 60.0  # of wall time, at most
HALF, LATE, FLAT = 0.5, 0.9, 1.1  # shares of the time, and of the memory
LOOK = 0.5  # s between two looks at the processes


@dataclass(frozen=True)
class Bench:
    """Replays hours of bags; measures time, CPU and memory of each process."""

    hours: float = 1.0
    """Of bags, a whole number of ten minutes."""
    workers: int = 2
    data: Path | None = None
    """Folder for bags and policy, kept; none: a temporary one."""
    out: Path | None = None
    """JSON file; none: bench/results/replay-DATE.json."""
    json: bool = False

    def run(self) -> None:
        count = round(self.hours * 60 / BAG_MINUTES)
        if count < 1 or self.workers < 1:
            raise UsageError(f"hours {self.hours:g}, workers {self.workers}; at least 1/6, and 1")
        with contextlib.ExitStack() as stack:
            data = self.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            bags = write_bags(data, count, self.workers)
            before = os.getloadavg()[0]
            found, measured = replay(data, bags, self.workers)
            size = sum(f.stat().st_size for bag in bags for f in bag.iterdir())
        document = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine() | {"load_average_before": round(before, 2)},
            "bags": count,
            "hours": found["bag_seconds"] / 3600,
            "bags_mb": round(size / 1e6, 1),
            "ticks": found["ticks"],
            "samples": found["results"][0]["samples"],
            "inference_ms": found["results"][0]["inference_ms"],
            "workers": self.workers,
            **measured,
        }
        document["seconds_per_hour"] = round(document["wall_s"] / document["hours"], 2)
        out = self.out or ROOT / f"bench/results/replay-{document['date']}.json"
        out.write_text(json.dumps(document, indent=1) + "\n")
        show(document)
        say(f"written: {out}")
        if self.json:
            emit(document)
        judge(document)


def write_bags(data: Path, count: int, workers: int) -> list[Path]:
    """The policy, and bags that are not there yet; an interrupted one is not taken for whole."""
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "policy").exists():
        own = robot()
        nets = {
            name: Network(f"{name}.safetensors", (256,) * 3, members=members)
            for name, members in (("velocity", 1), ("critic", 2))
        }
        described = description(own, **nets, flow=Flow(10))
        write_policy(data / "policy", described, tensors(own, described))
    bags = [data / "bags" / f"part_{number:03d}" for number in range(count)]
    (data / "bags").mkdir(exist_ok=True)
    strangers = set((data / "bags").iterdir()) - set(bags)
    if strangers:
        raise UsageError(f"{data / 'bags'} holds more than {count} bags; give another --data")
    missing = [bag for bag in bags if not bag.exists()]
    for _ in each(write_bag, missing, workers, track, "writing bags"):
        pass
    return bags


def robot() -> Contract:
    value = velocity_dict(period=1 / RATE)
    (joints, _), (arm,) = value["observations"], value["actions"]
    value["observations"] = [joints | {"names": JOINTS}]
    arm |= {"names": DRIVEN, "limits": {n: {"min": -2.0, "max": 2.0, "rate": 80.0} for n in DRIVEN}}
    return Contract.from_dict(value)


def write_bag(path: Path) -> None:
    """Joints that swing slowly, each at its own phase; commands that follow them, with noise."""
    rng = np.random.default_rng(int(path.name.rpartition("_")[2]))
    phase, period = rng.uniform(0, 2 * np.pi, len(JOINTS)), 10**9 // RATE
    unfinished = path.with_name(f".{path.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    with BagWriter(unfinished, contract_sources(robot())) as bag:
        for tick in range(BAG_MINUTES * 60 * RATE):
            at, angle = START + tick * period, phase + 0.2 * tick / RATE
            received, sent = at + rng.integers((10**5, 2 * 10**6), (2 * 10**6, 8 * 10**6))
            state = np.concatenate([np.sin(angle), 0.2 * np.cos(angle)])
            bag.write("joints", at, int(received), state)
            command = 0.3 * state[: len(DRIVEN)] + 0.02 * rng.normal(size=len(DRIVEN))
            bag.write("arm", int(sent), int(sent), command)
    unfinished.rename(path)


@dataclass
class Watched:
    """One process, looked at from outside."""

    name: str
    at: list[float] = field(default_factory=list)  # s since the start
    mb: list[float] = field(default_factory=list)  # resident

    def near(self, at: float) -> float:
        """MB at that time; a worker may have begun a moment later."""
        return self.mb[int(np.argmin(np.abs(np.array(self.at) - at)))]


def replay(data: Path, bags: list[Path], workers: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """-> what the replay said, and what it took."""
    policy = ["--policy", str(data / "policy"), "--beta", str(BETA)]
    qgf = [sys.executable, "-m", "qgf_ros.cli", "replay"]
    command = [*qgf, str(data / "bags"), *policy, "--workers", str(workers), "--json"]
    watched: dict[int, Watched] = {}
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said)
        try:
            while process.poll() is None:
                look(process.pid, time.monotonic() - began, watched)
                time.sleep(LOOK)
        finally:
            process.kill()
        wall = time.monotonic() - began
        said.seek(0)
        if process.returncode:
            raise QgfError(f"qgf replay ended with {process.returncode}; it says why above")
        found = json.load(said)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    driven = found["ticks"] / (len(bags) * BAG_MINUTES * 60 * RATE)
    if not 0.99 < driven <= 1.01:
        raise QgfError(f"only {driven:.1%} of the ticks were driven")
    whole = [
        w for w in watched.values() if w.at[-1] > LATE * wall
    ]  # no resource tracker of a moment
    processes = [
        {
            "process": w.name,
            "mb_half": round(w.near(HALF * wall), 1),
            "mb_late": round(w.near(LATE * wall), 1),
            "mb_end": round(w.mb[-1], 1),
            "mb_peak": round(max(w.mb), 1),
            "mb_by_tenths": [round(w.near(k / 10 * wall), 1) for k in range(1, 11)],
        }
        for w in whole
    ]
    return found, {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "processes": processes}


def look(parent: int, at: float, watched: dict[int, Watched]) -> None:
    """Notes the resident memory of a process and its children."""
    for pid in (parent, *children(parent)):
        with contextlib.suppress(OSError, StopIteration):  # it has just ended
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            kb = next(line for line in status if line.startswith("VmRSS")).split()[1]
            name = "qgf replay" if pid == parent else role(pid)
            process = watched.setdefault(pid, Watched(name))
            process.at.append(at)
            process.mb.append(int(kb) / 1024)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def role(pid: int) -> str:
    tracker = b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return "resource tracker" if tracker else f"worker {pid}"


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [x.split(":", 1)[1].strip() for x in info.splitlines() if x.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def show(document: dict[str, Any]) -> None:
    names = ("process", "mb_half", "mb_late", "mb_end", "mb_peak")
    rows = [[p[name] for name in names] for p in document["processes"]]
    columns = ("process", "half-way", "after nine tenths", "at the end", "peak")
    table("Resident memory [MB]", columns, rows)
    say(
        f"{document['hours']:.2f} h of bags ({document['bags']}, {document['bags_mb']:.0f} MB, "
        f"{document['ticks']} ticks, {document['samples']} samples) in {document['wall_s']:.0f} s, "
        f"{document['cpu_s']:.0f} s of CPU: {document['seconds_per_hour']:.1f} s per hour"
    )


def judge(document: dict[str, Any]) -> None:
    """Raises CriterionNotMet."""
    slow = document["seconds_per_hour"]
    if slow > SECONDS_PER_HOUR:
        raise CriterionNotMet(f"an hour took {slow:.1f} s; allowed: {SECONDS_PER_HOUR:g}")
    for p in document["processes"]:
        if p["mb_late"] > FLAT * p["mb_half"]:
            raise CriterionNotMet(
                f"{p['process']} grew from {p['mb_half']} to {p['mb_late']} MB; "
                f"allowed: by {FLAT - 1:.0%}"
            )


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Bench, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
