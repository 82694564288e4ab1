"""How fast recorded data is read, against the least that anyone could do with it; and what it costs
to prepare ten times as much.

    python bench/data.py [--messages 120000] [--repeats 7] [--bags 10] [--out FILE]

Bags with the topics of the simulated planar arm are written to a temporary folder. Times are of the
CPU, and both sides take turns, so that a busy machine slows both: read the ratios, not the rates.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tyro
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from qgf_ros.bags.sources import contract_sources
from qgf_ros.console import emit, say, table, track
from qgf_ros.errors import exit_codes
from qgf_ros.processes import process_pool
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from training.pipeline.chunks import ChunkTable
from training.pipeline.readers.rosbag2 import Rosbag2Reader
from training.pipeline.store import prepare
from training.pipeline.writers.bag import BagWriter

START = 1_760_000_000 * 10**9
PERIOD = 10**7  # ns between two states
MESSAGES_PER_BAG = 3000


@dataclass(frozen=True)
class Bench:
    """Measures how fast recorded data is read."""

    messages: int = 120_000
    repeats: int = 7
    bags: int = 10
    """Prepared against ten times as many."""
    out: Path | None = None  # JSON file; none: bench/results/data-DATE.json
    json: bool = False

    def run(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            document = {
                "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
                "rosbags": version("rosbags"),
                "reading": reading(Path(folder), self.messages, self.repeats),
                "preparing": preparing(Path(folder), self.bags, min(3, self.repeats)),
            }
        out = self.out or Path(__file__).parent / f"results/data-{time.strftime('%Y-%m-%d')}.json"
        out.write_text(json.dumps(document, indent=1) + "\n")
        say(f"written: {out}")
        if self.json:
            emit(document)


def reading(folder: Path, messages: int, repeats: int) -> dict[str, Any]:
    """A bag by its contract, every message a row of numbers, against rosbags giving the same
    messages of the same topics as objects. Ratio: our time by theirs."""
    contract = Contract.load(world_folder("planar_arm") / "contract.yaml")
    count = write_bags(folder, contract, messages)
    results = {}
    for storage in ("mcap", "sqlite3"):
        ours, theirs = [], []
        for _ in range(repeats):
            ours.append(seconds(count, Rosbag2Reader().read, folder, storage, contract))
            theirs.append(seconds(count, deserialised, folder / storage))
        results[storage] = {
            "messages": count,
            "ours_per_s": round(count / median(ours)),
            "rosbags_per_s": round(count / median(theirs)),
            "ratio": round(median(a / b for a, b in zip(ours, theirs)), 3),
            "ratios": sorted(round(a / b, 3) for a, b in zip(ours, theirs)),
        }
    columns = ("messages", "ours_per_s", "rosbags_per_s", "ratio")
    rows = [(name, *(r[c] for c in columns)) for name, r in results.items()]
    table("Reading a bag", ("storage", "messages", "ours [1/s]", "rosbags [1/s]", "ratio"), rows)
    return results


def preparing(folder: Path, bags: int, repeats: int) -> dict[str, Any]:
    """Some bags and ten times as many, prepared into memory-mapped arrays, each in a process of its
    own; then batches are cut out of them. Memory is anonymous memory: mapped pages are the system's
    to take back."""
    contract = Contract.load(world_folder("planar_arm") / "contract.yaml")
    for number in track(range(10 * bags), 10 * bags, "writing bags"):
        bag = folder / "many" / f"bag_{number:04d}"
        write_bag(bag, contract, MESSAGES_PER_BAG, seed=number)
        if number < bags:
            shutil.copytree(bag, folder / "few" / bag.name)
    found: dict[str, list[dict[str, float]]] = {"few": [], "many": []}
    for repeat, name in ((r, n) for r in range(repeats) for n in found):
        with process_pool(1) as pool:
            work = pool.submit(prepared, folder / name, folder / f"cache_{name}_{repeat}", contract)
            found[name].append(work.result())
    results: dict[str, Any] = {"bags": [bags, 10 * bags]}
    for key in ("ticks", "cpu_s", "peak_mb", "batches_peak_mb"):
        results[key] = [round(median(r[key] for r in found[n]), 2) for n in found]
    ratios = [b["cpu_s"] / a["cpu_s"] for a, b in zip(found["few"], found["many"])]
    results["time_ratio"] = round(median(ratios), 3)
    results["time_ratios"] = sorted(round(r, 3) for r in ratios)
    rows = [(key, *results[key]) for key in ("ticks", "cpu_s", "peak_mb", "batches_peak_mb")]
    table("Preparing", ("", f"{bags} bags", f"{10 * bags} bags"), rows)
    say(f"ten times the data takes {results['time_ratio']} times the time")
    return results


def prepared(data: Path, cache: Path, contract: Contract) -> dict[str, float]:
    """In a fresh process: what preparing `data` takes, and batches out of it."""
    first = next(iter(sorted(data.iterdir())))
    prepare(first, contract, folder=cache.with_name("warm"))  # imports, types
    with Peak() as peak:
        begin = time.process_time()
        arrays, report = prepare(data, contract, folder=cache)
        spent = time.process_time() - begin
    chunks = ChunkTable(arrays, contract.time.horizon, 0.99)
    rng = np.random.default_rng(0)
    with Peak() as batches:
        for _ in range(500):
            chunks.cut(rng.integers(len(chunks), size=256), to_go=False)
    return {
        "ticks": report.ticks,
        "cpu_s": spent,
        "peak_mb": peak.mb,
        "batches_peak_mb": batches.mb,
    }


class Peak:
    """The most anonymous memory of this process within a block [MB]."""

    def __enter__(self) -> Peak:
        self.mb, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            (line,) = (
                s for s in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in s
            )
            self.mb = max(self.mb, int(line.split()[1]) / 1024)
            if self._over.wait(0.02):
                return


def seconds(count: int, work: Callable[..., Any], *arguments: Any) -> float:
    """CPU time of `work`, which must account for `count` messages."""
    begin = time.process_time()
    result = work(*arguments)
    spent = time.process_time() - begin
    found = result if isinstance(result, int) else sum(map(len, result.streams.values()))
    assert found == count, f"{found} of {count} messages"
    return spent


def deserialised(bag: Path) -> int:
    """What rosbags does for anyone who asks for messages."""
    with AnyReader([bag]) as reader:
        count = 0
        for connection, _, raw in reader.messages():
            reader.deserialize(raw, connection.msgtype)
            count += 1
    return count


def write_bag(path: Path, contract: Contract, messages: int, seed: int = 0) -> int:
    """MCAP: every fourth state, a command and a reward. -> how many messages."""
    sources = contract_sources(contract)
    rng = np.random.default_rng(seed)
    with BagWriter(path, sources) as bag:
        bag.write("episode_start", START, START, np.array([1.0]))
        count, tick = 1, 0
        while count < messages:
            at = START + tick * PERIOD
            fast = [n for n in ("joints", "goal", "obstacle") if n in sources]
            for name in fast if tick % 4 else (*fast, "arm", "reward"):
                bag.write(name, at, at + 10**5, rng.normal(size=len(sources[name].labels)))
                count += 1
            tick += 1
    return count


def write_bags(folder: Path, contract: Contract, messages: int) -> int:
    """The same messages as MCAP and as sqlite3."""
    count = write_bag(folder / "mcap", contract, messages)
    with (
        AnyReader([folder / "mcap"]) as reader,
        Writer(folder / "sqlite3", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        targets = {
            c.id: writer.add_connection(c.topic, c.msgtype, typestore=reader.typestore)
            for c in reader.connections
        }
        for connection, at, raw in reader.messages():
            writer.write(targets[connection.id], at, raw)
    return count


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Bench, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
