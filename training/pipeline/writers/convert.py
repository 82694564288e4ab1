"""Recordings in another format: bags message for message, tables on the control grid."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qgf_ros.bags.sources import contract_sources
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.files.atomic import replaced_file
from qgf_ros.processes import process_pool
from qgf_ros.spaces.contract import Contract
from training.pipeline.align import Report
from training.pipeline.labels import Label
from training.pipeline.readers.load import Progress, contents
from training.pipeline.readers.npz import stored, write_npz
from training.pipeline.record import EPOCH
from training.pipeline.streams import Reader, Recording, Stream
from training.pipeline.writers.bag import BagWriter
from training.pipeline.writers.lerobot import LeRobotWriter
from training.pipeline.writers.table import layout, on_grid, rate

Format = Literal["mcap", "sqlite3", "lerobot-v2.1", "lerobot-v3.0", "npz"]
BAGS = ("mcap", "sqlite3")
STATE = "conversion.json"  # in the folder: what it is made of, and at the end the counts
PARTS = ".parts"  # in the folder until it is whole: the counts of each recording that is


def convert(
    data: Path,
    contract_path: Path,
    out: Path,
    number: int | None,
    to: Format = "mcap",
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Writes recording `number` of `data`, or all of them (None), below the folder `out`; one
    recording as a bag is `out` itself. Counts of messages per topic; of a table its episodes and
    rows, and what alignment dropped. Tables hold what labels say of the episodes; bags do not.

    Whatever is written has another name until it is whole. What is whole already is kept, so that
    an interrupted conversion goes on. Table rows have no date: in a bag their first row becomes a
    fixed one.

    Raises:
        UsageError: there is no such recording, `out` exists and is something else, or the contract
            is one that data can be read by, but not written.
        DataRefused: the data does not have what the contract names, or no usable episode.
    """
    contract = Contract.load(contract_path)
    reader, names, labels = contents(data, contract)
    if number is not None and not 0 <= number < len(names):
        raise UsageError(
            f"recording {number} does not exist: {data} has {len(names)}, counted from 0"
        )
    if out.resolve().is_relative_to(data.resolve()):
        raise UsageError(f"{out} lies within {data}, which is only read; choose another folder")
    work = partial(_one, reader, data, contract, to, labels)
    if to in BAGS and number is not None:
        if out.exists():
            raise UsageError(f"{out} exists already; choose another folder or remove it")
        return work(out, names[number])
    if to not in BAGS:
        layout(contract)  # refuses what cannot be written before anything is
    chosen = names if number is None else [names[number]]
    plan = _plan(reader, data, contract, to, chosen, labels)
    counts = _begin(out, plan)
    if counts is None:
        counts = _all(work, out, chosen, workers, progress)
        if to not in BAGS and not counts.get("episodes"):
            raise DataRefused(f"{data} holds no usable episode ({counts})")
        if to.startswith("lerobot"):
            _assemble(out, to.removeprefix("lerobot-"), contract)
        _write(out / STATE, {"plan": plan, "counts": counts})
        shutil.rmtree(out / PARTS)
    return counts


def _plan(
    reader: Reader,
    data: Path,
    contract: Contract,
    to: str,
    names: Sequence[str],
    labels: Mapping[str, Mapping[str, Label]],
) -> dict[str, Any]:
    """What must be the same for a conversion to go on."""
    files = hashlib.sha256(repr(sorted(labels.items())).encode())
    for name in names:
        for file in reader.files(data, name):
            state = file.stat()
            files.update(f"{file}\n{state.st_size} {state.st_mtime_ns}\n".encode())
    return {
        "data": str(data.resolve()),
        "files": files.hexdigest(),
        "contract": contract.hash,
        "to": to,
        "recordings": len(names),
    }


def _begin(out: Path, plan: dict[str, Any]) -> dict[str, int] | None:
    """Takes the folder into use. The counts, where the same conversion was finished there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        out.mkdir(parents=True, exist_ok=True)
        _write(out / STATE, {"plan": plan})
        return None
    try:
        state = json.loads((out / STATE).read_text())
        differ = [k for k, v in plan.items() if state["plan"].get(k) != v]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise UsageError(
            f"{out} exists already and is no conversion that could go on; choose another folder"
        ) from None
    if differ:
        raise UsageError(
            f"{out} is a conversion of something else: {', '.join(differ)} differ; choose another "
            "folder or remove it"
        )
    return state.get("counts")


def _all(
    work: Any, out: Path, names: Sequence[str], workers: int, progress: Progress | None
) -> dict[str, int]:
    """Every recording as `out`/recording_<number>, those that are not there yet."""
    (out / PARTS).mkdir(exist_ok=True)
    paths = [out / f"recording_{i:06d}" for i in range(len(names))]
    wrap = progress or (lambda items, total, what: items)
    totals: Counter[str] = Counter()
    if workers > 1 and len(names) > 1:
        with process_pool(workers) as pool:
            done = list(
                wrap(pool.map(partial(_once, work), paths, names), len(names), "converting")
            )
    else:
        done = list(wrap(map(partial(_once, work), paths, names), len(names), "converting"))
    for counts in done:
        totals.update(counts)
    return {what: count for what, count in totals.items() if count}


def _once(work: Any, path: Path, name: str) -> dict[str, int]:
    done = path.parent / PARTS / f"{path.name}.json"
    if not done.exists():
        if path.is_dir():  # whole, but for its counts: they come last
            shutil.rmtree(path)
        _write(done, work(path, name))
    return json.loads(done.read_text())


def _one(
    reader: Reader,
    data: Path,
    contract: Contract,
    to: str,
    labels: Mapping[str, Mapping[str, Label]],
    path: Path,
    name: str,
) -> dict[str, int]:
    """One recording: the bag `path`, or the table `path`.npz."""
    recording = reader.read(data, name, contract)
    if to in BAGS:
        return _bag(recording, contract, to, path)
    report = Report()
    episodes = list(on_grid(recording, contract, report, labels.get(name)))
    folder = path.parent if to == "npz" else path.parent / PARTS
    part = folder / f".{path.name}.part.npz"
    write_npz(part, episodes, layout(contract), rate(contract))
    part.replace(folder / f"{path.name}.npz")
    return {"episodes": len(episodes), "rows": sum(map(len, episodes))} | dict(report.dropped)


def _bag(recording: Recording, contract: Contract, to: Any, path: Path) -> dict[str, int]:
    if recording.cut and contract.outcome.assume_success:
        raise UsageError(
            f"{recording.name} was cut, and the contract assumes success; a bag cannot say so: give "
            "the contract a success source, or leave this recording out"
        )
    sources = contract_sources(contract)
    streams = _as_said(recording, contract)
    times = [int(s.receipt[0]) for s in streams.values() if len(s)]
    if not times:
        raise DataRefused(f"{recording.name} is empty")
    first = np.array([min(times)])
    if recording.one_episode and "episode_start" in sources:
        width = len(sources["episode_start"].labels)
        streams["episode_start"] = Stream(first, first, np.zeros((1, width)))
    shift = EPOCH if first[0] < EPOCH // 2 else 0
    rows = [
        (int(receipt) + shift, name, int(stamp) + shift, values)
        for name, stream in streams.items()
        for stamp, receipt, values in zip(stream.stamp, stream.receipt, stream.values)
    ]
    part = path.parent / f".{path.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with BagWriter(part / path.name, sources, to) as bag:
        for receipt, name, stamp, values in sorted(rows, key=lambda row: row[:2]):
            bag.write(name, stamp, receipt, values)
    (part / path.name).rename(path)
    part.rmdir()
    counts = {sources[name].topic: len(stream) for name, stream in streams.items()}
    return counts | {f"message rejected: {reason}": n for reason, n in recording.rejected.items()}


def _as_said(recording: Recording, contract: Contract) -> dict[str, Stream]:
    """The streams as messages. Of many attempts a table says of each row whether it is a success; in
    a bag a message that says false would be a failure."""
    streams, success = dict(recording.streams), contract.outcome.success
    if contract.outcome.attempts is None or not recording.one_episode:
        return streams
    if success is not None and not success.test and "success" in streams:
        said = streams["success"]
        won = said.receipt[said.values[:, 0] != 0]
        at = np.union1d(won, recording.over)  # a terminal state that is no success is a failure
        streams["success"] = Stream(at, at, np.isin(at, won)[:, None].astype(np.float64))
    return streams


def _assemble(out: Path, version: Any, contract: Contract) -> None:
    """The LeRobot dataset of all parts, in their order."""
    for folder in ("data", "meta"):
        shutil.rmtree(out / folder, ignore_errors=True)
    task = contract.description or contract.robot
    writer = LeRobotWriter(out, version, rate(contract), layout(contract), contract.robot, task)
    for part in sorted((out / PARTS).glob("recording_*.npz")):
        for episode in stored(part):
            writer.add(episode)
    writer.close()


def _write(file: Path, value: Any) -> None:
    with replaced_file(file) as opened:
        opened.write(json.dumps(value).encode())
