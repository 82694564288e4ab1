"""How fast recorded data is read, against the least that anyone could do with it.

    python bench/data.py [--messages 120000] [--repeats 7] [--out FILE]

Bags with the topics of the simulated planar arm are written to a temporary folder. Times are of the
CPU, and both sides take turns, so that a busy machine slows both: read the ratios, not the rates.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
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

from qgf_ros.console import emit, say, table
from qgf_ros.contract import Contract
from qgf_ros.errors import exit_codes
from qgf_ros.sim.world import world_folder
from training.data.rosbag2 import BagWriter, Rosbag2Reader, contract_sources

START = 1_760_000_000 * 10**9
PERIOD = 10**7  # ns between two states


@dataclass(frozen=True)
class Bench:
    """Measures how fast recorded data is read."""

    messages: int = 120_000
    repeats: int = 7
    out: Path | None = None  # JSON file; none: bench/results/data-DATE.json
    json: bool = False

    def run(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            document = {
                "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
                "rosbags": version("rosbags"),
                "reading": reading(Path(folder), self.messages, self.repeats),
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


def write_bags(folder: Path, contract: Contract, messages: int) -> int:
    """The same messages as MCAP and as sqlite3: every fourth state, a command and a reward."""
    sources = contract_sources(contract)
    rng = np.random.default_rng(0)
    with BagWriter(folder / "mcap", sources) as bag:
        bag.write("episode_start", START, START, np.array([1.0]))
        count, tick = 1, 0
        while count < messages:
            at = START + tick * PERIOD
            fast = [n for n in ("joints", "goal", "obstacle") if n in sources]
            for name in fast if tick % 4 else (*fast, "arm", "reward"):
                bag.write(name, at, at + 10**5, rng.normal(size=len(sources[name].labels)))
                count += 1
            tick += 1
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
