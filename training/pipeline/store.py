"""Recordings prepared once: memory-mapped arrays of episodes, keyed by what is in them.

    pieces/<key>.piece   one recording's episodes; the key is the hash of its files, the contract, the
                         labels and the versions of the stages that made it (see `stages`), so an
                         interrupted preparation goes on where it was, and a bag more, or a label,
                         means one recording to read
    episodes/<key>/      the arrays of a whole dataset, and index.json

Everything carries its checksum, which is looked at whenever it is used: what is damaged is said and
prepared anew, once more also where it is cleared or damaged meanwhile. Nothing here is precious: the
folder may be deleted at any time but during training.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.bags.sources import contract_sources
from qgf_ros.bags.types import foreign_definitions
from qgf_ros.console import say
from qgf_ros.errors import DataRefused, StorageError
from qgf_ros.files.atomic import replaced_file, replaced_folder
from qgf_ros.files.regular import NotRegular, lock_file, open_regular
from qgf_ros.spaces.contract import Contract
from training.pipeline.align import Report
from training.pipeline.episodes import Episode, EpisodeArrays
from training.pipeline.labels import Label
from training.pipeline.readers.load import Progress, contents, each, read_episodes, refuse_nothing
from training.pipeline.stages import stages
from training.pipeline.streams import Reader

MAGIC = b"qgf piece "  # then the SHA-256 of key and content in hexadecimal digits, a new line, the content
ARRAYS = ("obs", "action", "reward")


class Damaged(Exception):
    """What lies in the cache is not what was put there; the text says which, and why."""


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
        OSError, StorageError: the cache cannot be written, or does not keep what is.
    """
    path, folder = Path(path), folder or cache_folder()
    reader, names, labels = contents(path, contract)
    state = {name: _state(reader, path, name, contract) for name in names}
    keys = [_key(reader, path, n, contract, labels.get(n)) for n in names]
    pieces = {name: folder / "pieces" / f"{key}.piece" for name, key in zip(names, keys)}
    whole = hashlib.sha256("".join(keys).encode()).hexdigest()
    out = folder / "episodes" / whole
    work = partial(_piece, reader, path, contract, labels, pieces, state)

    def prepared() -> tuple[EpisodeArrays, Report]:
        with _alone(folder / "locks", whole):
            if os.path.lexists(out):
                try:
                    return _open(out)
                except Damaged as damage:
                    _discard(out, damage)
            (folder / "pieces").mkdir(parents=True, exist_ok=True)
            for rest in out.parent.glob(
                f".{whole}.*.tmp"
            ):  # of who was killed: nobody else is here
                shutil.rmtree(rest, ignore_errors=True)
            missing = [name for name, piece in pieces.items() if not _sound(piece)]
            for _ in each(work, missing, workers, progress) if missing else ():
                pass
            _assemble(path, list(pieces.values()), out)
            return _open(out)

    for last in (False, True):
        try:
            return prepared()
        except (Damaged, FileNotFoundError) as error:
            lost = _lost(error, folder)
        if not last:
            say(
                f"what was being prepared was cleared away or damaged, and is prepared anew: {lost}"
            )
    raise StorageError(
        f"{lost}, right after it was written, and again; look at the disk, and for who clears {folder}, "
        "or choose another place by QGF_CACHE"
    )


def _lost(error: Damaged | FileNotFoundError, folder: Path) -> str:
    """What of the cache went away, or was damaged. Raises the error where it is of something else."""
    if isinstance(error, Damaged):
        return str(error)
    if not Path(str(error.filename or "")).is_relative_to(folder):
        raise error
    return f"{error.filename} is not there"


@contextlib.contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """One preparation of a dataset at a time; the next finds it done. Pieces need none: they are
    moved into their places whole, and one is as good as the other."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = lock_file(folder / name)
    except NotRegular as error:  # never written to: who knows what it leads to
        _discard(folder / name, Damaged(f"{folder / name}: {error.strerror}"))
        file = lock_file(folder / name)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _discard(path: Path, damage: Damaged) -> None:
    say(f"what was prepared is damaged and is prepared anew: {damage}")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sound(piece: Path) -> bool:
    """Whether a recording is prepared; what is damaged is put away."""
    if not os.path.lexists(piece):
        return False
    try:
        _read_piece(piece)
    except Damaged as damage:
        _discard(piece, damage)
        return False
    return True


def _key(
    reader: Reader, path: Path, name: str, contract: Contract, labels: Mapping[str, Label] | None
) -> str:
    """What decides a recording's episodes."""
    said = sorted((labels or {}).items())
    about = f"{stages(reader)} {contract.hash} {name} {said}"
    hashed = hashlib.sha256(about.encode(errors="surrogateescape"))
    hashed.update(foreign_definitions(s.type for s in contract_sources(contract).values()).encode())
    for file in reader.files(path, name):
        with _readable(file):
            status = file.stat()
            changed = (status.st_mtime_ns, status.st_ctime_ns)
            hashed.update(f"{file.name} {_content(file, status.st_size, changed)}".encode())
    return hashed.hexdigest()


def _state(reader: Reader, path: Path, name: str, contract: Contract) -> tuple[Any, ...]:
    """What changes when something is written to a recording, or the types it is read by change.
    Cheap, and so looked at twice; the time of an inode's last change cannot be set by anybody."""
    types = foreign_definitions(s.type for s in contract_sources(contract).values())
    files = []
    for file in reader.files(path, name):
        with _readable(file):
            files.append((file, file.stat()))
    return types, [(f, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for f, s in files]


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Raises DataRefused where a file of the dataset is not there, or none that can be read."""
    try:
        yield
    except OSError as error:
        raise DataRefused(f"{file}: {error.strerror}") from None


@cache
def _content(file: Path, size: int, changed: tuple[int, int]) -> str:
    hashed = hashlib.sha256()
    with open_regular(file) as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def _piece(
    reader: Reader,
    path: Path,
    contract: Contract,
    labels: dict[str, dict[str, Label]],
    where: dict[str, Path],
    before: dict[str, tuple[Any, ...]],
    name: str,
) -> None:
    """Reads one recording and writes its piece. Raises DataRefused where it is no longer as it was
    `before` its key was made: something else would be found under that key for ever."""
    episodes, report = read_episodes(reader, path, contract, labels, name)
    if _state(reader, path, name, contract) != before[name]:
        raise DataRefused(
            f"{path}: {name} was written to while it was read; begin again when nothing writes there"
        )
    index = {"episodes": [_entry(e) for e in episodes], "report": _plain(report)}
    arrays: dict[str, np.ndarray] = {}
    if episodes:
        joined = EpisodeArrays.of(episodes)
        arrays = {a: getattr(joined, a).astype(np.float32) for a in ARRAYS}
    content = io.BytesIO()
    np.savez(content, **arrays, index=np.array(json.dumps(index)))  # type: ignore[arg-type]
    where[name].parent.mkdir(parents=True, exist_ok=True)  # it may be cleared at any time
    with replaced_file(where[name]) as file:
        digest = _digest(where[name].stem, content.getbuffer())
        file.write(MAGIC + digest.encode() + b"\n")
        file.write(content.getbuffer())


def _read_piece(piece: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Index and arrays of one recording. Raises Damaged."""
    raw = _bytes(piece)
    head, at = raw[: len(MAGIC) + 65], len(MAGIC) + 65
    content = memoryview(raw)[at:]
    if head != MAGIC + _digest(piece.stem, content).encode() + b"\n":
        raise Damaged(f"{piece} does not have its checksum")
    try:
        with np.load(io.BytesIO(content)) as file:
            arrays = {a: file[a] for a in ARRAYS if a in file.files}
            return json.loads(str(file["index"])), arrays
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise Damaged(f"{piece}: {error}") from None


def _file_digest(file: Path) -> str:
    """Raises Damaged."""
    try:
        with open_regular(file, follow=False) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise Damaged(f"{file}: {error.strerror}") from None


def _digest(key: str, content: Any) -> str:
    """Of what belongs to a key: the same content in another's place is wrong there."""
    hashed = hashlib.sha256(key.encode())
    hashed.update(content)
    return hashed.hexdigest()


def _bytes(file: Path) -> bytes:
    """Raises Damaged where it cannot be read, or is no regular file."""
    try:
        with open_regular(file, follow=False) as stream:
            return stream.read()
    except OSError as error:
        raise Damaged(f"{file}: {error.strerror}") from None


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
        index, _ = _read_piece(piece)
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
        at, opened = 0, -1
        loaded: dict[str, np.ndarray] = {}
        for number, first, entry in kept:
            if number != opened:  # one piece in memory at a time
                _, loaded = _read_piece(pieces[number])
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
        content = json.dumps({
            "episodes": [entry for _, _, entry in kept],
            "report": _plain(report),
            "arrays": {a: _file_digest(folder / f"{a}.npy") for a in ARRAYS},
        })  # fmt: skip
        digest = _digest(out.name, content.encode())
        (folder / "index.json").write_text(json.dumps({"sha256": digest, "content": content}))


def _open(folder: Path) -> tuple[EpisodeArrays, Report]:
    """The arrays of a whole dataset. Raises Damaged where they are not what was written."""
    if folder.is_symlink():
        raise Damaged(f"{folder} is a link")
    try:
        index = json.loads(_bytes(folder / "index.json"))
        content = index["content"]
        if index["sha256"] != _digest(folder.name, content.encode()):
            raise Damaged(f"{folder}/index.json does not have its checksum")
        index = json.loads(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{folder}/index.json: {type(error).__name__}") from None
    for name, digest in index["arrays"].items():
        if _file_digest(folder / f"{name}.npy") != digest:
            raise Damaged(f"{folder}/{name}.npy does not have its checksum")
    entries, report = index["episodes"], index["report"]
    steps = np.array([e["steps"] for e in entries], np.int64)
    try:
        obs, action, reward = (np.load(folder / f"{a}.npy", mmap_mode="r") for a in ARRAYS)
    except (OSError, ValueError) as error:  # gone since it was looked at
        raise Damaged(f"{folder}: {error}") from None
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
