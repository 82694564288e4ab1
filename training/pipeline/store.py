"""Recordings prepared once: memory-mapped arrays of episodes, keyed by what is in them.

    pieces/<key>.frames  the frames of its cameras that its ticks name, where there are any
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
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.console import say
from qgf_ros.errors import DataRefused, StorageError
from qgf_ros.executors import Progress, each
from qgf_ros.files.atomic import replaced_folder
from qgf_ros.files.regular import NotRegular, lock_file
from qgf_ros.spaces.contract import Contract
from training.pipeline.cache import cache_folder as cache_folder
from training.pipeline.episodes import EpisodeArrays
from training.pipeline.frames import MOST, Frames, Size
from training.pipeline.keys import key_of, state_of
from training.pipeline.labels import Label
from training.pipeline.pieces import (
    ARRAYS,
    Damaged,
    digest_of,
    discard,
    file_digest,
    frames_of,
    plain,
    read_frames,
    read_piece,
    read_whole,
    report_of,
    write_piece,
)
from training.pipeline.readers.load import contents, read_episodes, refuse_nothing
from training.pipeline.report import Report
from training.pipeline.streams import Reader


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
    state = {name: state_of(reader, path, name, contract) for name in names}
    keys = [key_of(reader, path, n, contract, labels.get(n)) for n in names]
    pieces = {name: folder / "pieces" / f"{key}.piece" for name, key in zip(names, keys)}
    whole = hashlib.sha256("".join(keys).encode()).hexdigest()
    out = folder / "episodes" / whole
    work = partial(_prepare, reader, path, contract, labels, pieces, state)

    def prepared() -> tuple[EpisodeArrays, Report]:
        with _alone(folder / "locks", whole):
            if os.path.lexists(out):
                try:
                    return _open(out)
                except Damaged as damage:
                    discard(out, damage)
            (folder / "pieces").mkdir(parents=True, exist_ok=True)
            for rest in out.parent.glob(
                f".{whole}.*.tmp"
            ):  # of who was killed: nobody else is here
                shutil.rmtree(rest, ignore_errors=True)
            missing = [name for name, piece in pieces.items() if not _sound(piece)]
            for _ in each(work, missing, workers, progress, "reading"):
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
        discard(folder / name, Damaged(f"{folder / name}: {error.strerror}"))
        file = lock_file(folder / name)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _sound(piece: Path) -> bool:
    """Whether a recording is prepared; what is damaged is put away."""
    if not os.path.lexists(piece):
        return False
    try:
        index, _ = read_piece(piece)
        read_frames(frames_of(piece), index.get("frames", {}))
    except Damaged as damage:
        discard(piece, damage)
        return False
    return True


def _prepare(
    reader: Reader,
    path: Path,
    contract: Contract,
    labels: dict[str, dict[str, Label]],
    where: dict[str, Path],
    before: dict[str, tuple[Any, ...]],
    name: str,
) -> None:
    """One recording: read -> align -> encode -> store. Raises DataRefused where it is no longer as it
    was `before` its key was made: something else would be found under that key for ever."""
    episodes, report = read_episodes(reader, path, contract, labels, name)
    if state_of(reader, path, name, contract) != before[name]:
        raise DataRefused(
            f"{path}: {name} was written to while it was read; begin again when nothing writes there"
        )
    write_piece(where[name], episodes, report)


def _assemble(path: Path, pieces: Sequence[Path], out: Path) -> None:
    """The pieces behind each other, an episode that is there twice only once."""
    report, kept, seen = Report(), [], set()
    copies = Counter[str]()
    frames = _FrameIndex()
    for number, piece in enumerate(pieces):
        index, _ = read_piece(piece)
        report.merge(report_of(index["report"]))
        first = 0
        frames.add(pieces[number], index.get("frames", {}))
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
                _, loaded = read_piece(pieces[number])
                opened = number
            count = entry["steps"] + 1
            for a in ARRAYS:
                if a not in arrays:
                    shape = (rows, *loaded[a].shape[1:])
                    arrays[a] = np.lib.format.open_memmap(
                        folder / f"{a}.npy", "w+", np.float32, shape
                    )
                arrays[a][at : at + count] = loaded[a][first : first + count]
            frames.renumber(number, arrays["obs"][at : at + count])
            at += count
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]
        content = json.dumps({
            "episodes": [entry for _, _, entry in kept],
            "report": plain(report),
            "arrays": {a: file_digest(folder / f"{a}.npy") for a in ARRAYS},
            "frames": frames.pieces,
        })  # fmt: skip
        digest = digest_of(out.name, content.encode())
        (folder / "index.json").write_text(json.dumps({"sha256": digest, "content": content}))


class _FrameIndex:
    """Which frames of a dataset lie in which piece's file: those of all pieces behind each other."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, dict[str, Any]]] = []  # name of the file, as `read_frames` takes it
        self._before: list[dict[int, int]] = []  # of each piece, frames before its own by column
        self._count: dict[int, int] = {}

    def add(self, piece: Path, index: dict[str, Any]) -> None:
        """Raises DataRefused where there are more than can be numbered."""
        self._before.append(dict(self._count))
        for column, about in index.items():
            count = self._count.get(int(column), 0) + about["shape"][0]
            if count > MOST:
                raise DataRefused(f"more than {MOST} frames of one camera; train on less at once")
            self._count[int(column)] = count
        if index:
            self.pieces.append((frames_of(piece).name, index))

    def renumber(self, piece: int, obs: np.ndarray) -> None:
        """Rows of that piece: numbers within it become those of the dataset, in place."""
        for column in self._count:
            obs[:, column] += self._before[piece].get(column, 0)


def _frames(folder: Path, pieces: Sequence[tuple[str, dict[str, Any]]]) -> dict[int, Frames]:
    """Of a whole dataset. Raises Damaged."""
    parts: dict[int, list[tuple[np.ndarray, Size]]] = {}
    for name, index in pieces:
        for column, part in read_frames(folder / name, index).items():
            parts.setdefault(column, []).append(part)
    return {column: Frames(*zip(*of_camera)) for column, of_camera in parts.items()}


def _open(folder: Path) -> tuple[EpisodeArrays, Report]:
    """The arrays of a whole dataset. Raises Damaged where they are not what was written."""
    if folder.is_symlink():
        raise Damaged(f"{folder} is a link")
    try:
        index = json.loads(read_whole(folder / "index.json"))
        content = index["content"]
        if index["sha256"] != digest_of(folder.name, content.encode()):
            raise Damaged(f"{folder}/index.json does not have its checksum")
        index = json.loads(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{folder}/index.json: {type(error).__name__}") from None
    for name, digest in index["arrays"].items():
        if file_digest(folder / f"{name}.npy") != digest:
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
        frames=_frames(folder.parent.parent / "pieces", index["frames"]),
    )
    return arrays, report_of(report)
