"""Recordings prepared once: memory-mapped arrays of episodes, keyed by what is in them.

    pieces/<key>.npz     one recording's episodes; the key is the hash of its files, the contract,
                         the labels and of the code that reads them, so an interrupted preparation goes on where it was,
                         and a bag more, or a label, means one recording to read
    episodes/<key>/      the arrays of a whole dataset, and index.json

Nothing here is precious: the folder may be deleted at any time but during training.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import qgf_ros
import training.data
from qgf_ros.atomic import replaced_file, replaced_folder
from qgf_ros.bags.sources import contract_sources
from qgf_ros.bags.types import foreign_definitions
from qgf_ros.contract import Contract
from training.data.alignment import Report
from training.data.episodes import Episode, EpisodeArrays
from training.data.labels import Label
from training.data.load import Progress, contents, each, read_episodes, refuse_nothing
from training.data.streams import Reader

ARRAYS = ("obs", "action", "reward")


def cache_folder() -> Path:
    """`QGF_CACHE`, else qgf_ros in the user's cache folder."""
    given = os.environ.get("QGF_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(home) / "qgf_ros"


def prepare(
    path: str | Path,
    contract: Contract,
    workers: int = 1,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> tuple[EpisodeArrays, Report]:
    """The episodes of a dataset as arrays that are mapped from files, in float32.

    No more than one recording per worker is held in memory. folder: of the cache.

    Raises:
        DataRefused: the data does not have what the contract names, or holds no usable episode.
        UsageError: its label file is broken, or names what it does not have.
        OSError: the cache cannot be written.
    """
    path, folder = Path(path), folder or cache_folder()
    reader, names, labels = contents(path, contract)
    keys = [_key(reader, path, n, contract, labels.get(n)) for n in names]
    pieces = [folder / "pieces" / f"{key}.npz" for key in keys]
    whole = hashlib.sha256("".join(p.name for p in pieces).encode()).hexdigest()
    out = folder / "episodes" / whole
    if not (out / "index.json").is_file():
        (folder / "pieces").mkdir(parents=True, exist_ok=True)
        where = {name: piece for name, piece in zip(names, pieces)}
        missing = [name for name, piece in where.items() if not piece.is_file()]
        work = partial(_piece, reader, path, contract, labels, where)
        for _ in each(work, missing, workers, progress) if missing else ():
            pass
        _assemble(path, pieces, out)
    return _open(out)


def _key(
    reader: Reader, path: Path, name: str, contract: Contract, labels: Mapping[str, Label] | None
) -> str:
    """What decides a recording's episodes."""
    said = sorted((labels or {}).items())
    about = f"{_code()} {contract.hash} {type(reader).__name__} {name} {said}"
    hashed = hashlib.sha256(about.encode(errors="surrogateescape"))
    hashed.update(foreign_definitions(s.type for s in contract_sources(contract).values()).encode())
    for file in reader.files(path, name):
        status = file.stat()
        hashed.update(f"{file.name} {_content(file, status.st_size, status.st_mtime_ns)}".encode())
    return hashed.hexdigest()


@cache
def _code() -> str:
    hashed = hashlib.sha256()
    for file in sorted(file for package in (qgf_ros, training.data) for file in _modules(package)):
        hashed.update(file.read_bytes())
    return hashed.hexdigest()


def _modules(package: ModuleType) -> list[Path]:
    return [p for folder in package.__path__ for p in Path(folder).glob("*.py")]


@cache
def _content(file: Path, size: int, changed: int) -> str:
    hashed = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def _piece(
    reader: Reader,
    path: Path,
    contract: Contract,
    labels: dict[str, dict[str, Label]],
    where: dict[str, Path],
    name: str,
) -> None:
    """Reads one recording and writes its piece."""
    episodes, report = read_episodes(reader, path, contract, labels, name)
    index = {"episodes": [_entry(e) for e in episodes], "report": _plain(report)}
    arrays: dict[str, np.ndarray] = {}
    if episodes:
        joined = EpisodeArrays.of(episodes)
        arrays = {a: getattr(joined, a).astype(np.float32) for a in ARRAYS}
    with replaced_file(where[name]) as file:
        np.savez(file, **arrays, index=np.array(json.dumps(index)))  # type: ignore[arg-type]


def _entry(episode: Episode) -> dict[str, Any]:
    return {
        "name": episode.name,
        "steps": len(episode),
        "terminal": episode.terminal,
        "success": episode.success,
        "origin": episode.origin,
        "digest": episode.digest,
    }


def _plain(report: Report) -> dict[str, Any]:
    return {
        "episodes": report.episodes,
        "ticks": report.ticks,
        "dropped": dict(sorted(report.dropped.items())),
        "noticed": dict(sorted(report.noticed.items())),
    }


def _report(plain: Mapping[str, Any]) -> Report:
    counters = {key: Counter(plain[key]) for key in ("dropped", "noticed")}
    return Report(plain["episodes"], plain["ticks"], **counters)


def _assemble(path: Path, pieces: Sequence[Path], out: Path) -> None:
    """The pieces behind each other, an episode that is there twice only once."""
    report, kept, seen = Report(), [], set()
    copies = Counter[str]()
    for number, piece in enumerate(pieces):
        with np.load(piece) as file:
            index = json.loads(str(file["index"]))
        report.merge(_report(index["report"]))
        first = 0
        for entry in index["episodes"]:
            if entry["digest"] in seen:
                copies.update(episodes=1, ticks=entry["steps"])
            else:
                kept.append((number, first, entry))
            seen.add(entry["digest"])
            first += entry["steps"] + 1
    report.without_duplicates(copies["episodes"], copies["ticks"])
    refuse_nothing(path, len(kept), report)
    rows = sum(entry["steps"] + 1 for _, _, entry in kept)
    with replaced_folder(out) as folder:
        arrays: dict[str, np.ndarray] = {}
        at, opened, loaded = 0, -1, {}
        for number, first, entry in kept:
            if number != opened:  # one piece in memory at a time
                with np.load(pieces[number]) as file:
                    loaded = {a: file[a] for a in ARRAYS}
                opened = number
            count = entry["steps"] + 1
            for a in ARRAYS:
                if a not in arrays:
                    shape = (rows, *loaded[a].shape[1:])
                    arrays[a] = np.lib.format.open_memmap(
                        folder / f"{a}.npy", "w+", np.float32, shape
                    )
                arrays[a][at : at + count] = loaded[a][first : first + count]
            at += count
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]
        (folder / "index.json").write_text(
            json.dumps({"episodes": [entry for _, _, entry in kept], "report": _plain(report)})
        )


def _open(folder: Path) -> tuple[EpisodeArrays, Report]:
    index = json.loads((folder / "index.json").read_text())
    entries, report = index["episodes"], index["report"]
    steps = np.array([e["steps"] for e in entries], np.int64)
    obs, action, reward = (np.load(folder / f"{a}.npy", mmap_mode="r") for a in ARRAYS)
    arrays = EpisodeArrays(
        obs,
        action,
        reward,
        begin=np.concatenate([[0], np.cumsum(steps + 1)[:-1]]).astype(np.int64),
        steps=steps,
        terminal=np.array([e["terminal"] for e in entries], bool),
        success=tuple(e["success"] for e in entries),
        names=tuple(e["name"] for e in entries),
        origins=tuple(e["origin"] for e in entries),
        digests=tuple(e["digest"] for e in entries),
    )
    return arrays, _report(report)
