"""Recordings in another format: bags message for message, tables on the control grid."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.executors import Progress, each
from qgf_ros.files.atomic import replaced_file
from qgf_ros.spaces.contract import Contract
from training.pipeline.frames import as_recorded
from training.pipeline.labels import Label
from training.pipeline.readers.load import contents
from training.pipeline.streams import Reader
from training.pipeline.writers.formats import PARTS, Written, writer

STATE = "conversion.json"  # in the folder: what it is made of, and at the end the counts


def convert(
    data: Path,
    contract_path: Path,
    out: Path,
    number: int | None,
    to: Written = "mcap",
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
    kept = as_recorded(contract)
    work = partial(_one, reader, data, kept, to, labels)
    target = writer(to)
    if target.messages and number is not None:
        if out.exists():
            raise UsageError(f"{out} exists already; choose another folder or remove it")
        return work(out, names[number])
    target.check(contract)
    chosen = names if number is None else [names[number]]
    plan = _plan(reader, data, contract, to, chosen, labels)
    counts = _begin(out, plan)
    if counts is None:
        counts = _all(work, out, chosen, workers, progress)
        if not target.messages and not counts.get("episodes"):
            raise DataRefused(f"{data} holds no usable episode ({counts})")
        target.finish(out, contract)
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
    totals: Counter[str] = Counter()
    for counts in each(
        partial(_once, work), list(zip(paths, names)), workers, progress, "converting"
    ):
        totals.update(counts)
    return {what: count for what, count in totals.items() if count}


def _once(work: Any, item: tuple[Path, str]) -> dict[str, int]:
    path, name = item
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
    to: Written,
    labels: Mapping[str, Mapping[str, Label]],
    path: Path,
    name: str,
) -> dict[str, int]:
    recording = reader.read(data, name, contract)
    return writer(to).write(recording, contract, labels.get(name), path)


def _write(file: Path, value: Any) -> None:
    with replaced_file(file) as opened:
        opened.write(json.dumps(value).encode())
