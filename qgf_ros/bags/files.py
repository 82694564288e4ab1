"""Which bags a path holds, which files a bag consists of, and how to open one without a trace.

Only metadata.yaml says which files belong together, and it may be damaged or missing: a recorder
that was killed leaves none. What a file is, its first bytes say.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from qgf_ros.bags import mcap, sqlite
from qgf_ros.bags.damage import ZSTD_MAGIC, Damage, Losses, ZstdDecompressor, budget
from qgf_ros.bags.types import Choose, Message
from qgf_ros.errors import DataRefused, StorageError
from qgf_ros.files.regular import NotRegular, open_regular
from qgf_ros.files.strict_yaml import clipped, parse_yaml

METADATA = "metadata.yaml"
MAX_METADATA = 2**20
BAG_FILE = re.compile(r"\.(mcap|db3)(\.zstd|\.zst)?$")
SPLIT = re.compile(r"(.*)_(\d+)$", re.DOTALL)
HUGGING_FACE = re.compile(r"(datasets|models)--.")
BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LFS = b"version https://git-lfs.github.com/spec/v1"
JOURNALS = ("-wal", "-journal")  # of sqlite3; what they hold is not in the file yet


@dataclass(frozen=True)
class Bag:
    """One recording: files in the order in which they were written."""

    path: Path
    files: tuple[Path, ...]
    missing: dict[str, int] = field(default_factory=dict)  # file -> messages, by metadata.yaml
    counts: dict[str, int] = field(default_factory=dict)  # the same of files that are there

    def messages(self, file: Path, choose: Choose, losses: Losses) -> Iterator[Message]:
        """Messages of one file, in the order in which they were written. Raises Damage where
        nothing of it can be read."""
        with _plain(file, losses) as plain:
            with open_regular(plain) as opened:
                begin = opened.read(16)
            if begin == sqlite.MAGIC:
                read = sqlite.read_sqlite
            elif begin.startswith(mcap.MAGIC):
                read = mcap.read_mcap
            else:
                raise Damage(f"{file.name} is {'neither MCAP nor sqlite3' if begin else 'empty'}")
            yield from read(plain, file.name, choose, losses, self.counts.get(file.name))

    def all_files(self) -> list[Path]:
        """Every file that what is read depends on."""
        journals = [Path(f"{f}{end}") for f in self.files for end in JOURNALS]
        there = [p for p in (self.path / METADATA, *journals) if p.is_file()]
        return sorted({*self.files, *there})


def read_messages(
    bag: Bag, choose: Choose, losses: Losses, file_ends: Callable[[], None] = lambda: None
) -> Iterator[int]:
    """Reads a bag; yields the receipt of each message [ns] when it has been taken, and calls
    `file_ends` when all of a file have been. What cannot be read is counted."""
    for file in bag.files:
        try:
            for take, receipt, raw in bag.messages(file, choose, losses):
                take(receipt, raw)
                yield receipt
        except (Damage, OSError) as error:
            why = f"{file.name}: {error.strerror}" if isinstance(error, OSError) else str(error)
            losses.add(f"file unreadable: {why}", bag.counts.get(file.name, 1))
        file_ends()
    for name, count in bag.missing.items():
        losses.add(f"file missing: {name}", count)


def names(path: Path) -> list[str]:
    """Bags below `path`, in a fixed order: itself ("."), or those in it, one level deep.

    Raises DataRefused where one lies outside: a link is not followed out of a dataset.
    """
    if path.is_file():
        return ["."] if BAG_FILE.search(path.name) else []
    found = _in_folder(path)
    if (path / METADATA).is_file() or not path.is_dir():
        return found
    inside: list[str] = []
    everything = sorted(path.iterdir())
    for folder in (p for p in everything if p.is_dir()):
        below = _in_folder(folder)
        if below:
            contained(path, folder)
        inside += [folder.name if name == "." else f"{folder.name}/{name}" for name in below]
    loose = [f.name for f in _bag_files(path)] if inside else found
    for link in everything if inside or loose else ():  # nobody can say that it was no recording
        leads(link)
    return sorted(loose + inside) if inside else found


def _in_folder(folder: Path) -> list[str]:
    """Without metadata.yaml, files that are called by their folder are one bag; others one each."""
    if (folder / METADATA).is_file():
        return ["."]
    files = _bag_files(folder)
    return ["."] if len(files) == 1 or _is_split(folder, files) else [f.name for f in files]


def _bag_files(folder: Path) -> list[Path]:
    """Files of bags in a folder, in the order of their numbers."""
    with suppress(OSError):
        bags = [p for p in folder.iterdir() if BAG_FILE.search(p.name)]
        found = [p for p in bags if p.is_file() or broken(p)]
        return sorted(found, key=lambda p: (_split(p), p.name))
    return []


def _split(file: Path) -> tuple[str, int]:
    stem = BAG_FILE.sub("", file.name)
    match = SPLIT.fullmatch(stem)
    return (match[1], int(match[2][:18])) if match else (stem, -1)


def _is_split(folder: Path, files: list[Path]) -> bool:
    """Whether files are parts of one bag, as a recorder calls them: by their folder, from 0 on."""
    name = folder.resolve().name
    return bool(files) and [_split(f) for f in files] == [(name, n) for n in range(len(files))]


def open_bag(path: Path, name: str) -> Bag:
    """The bag `name` of the dataset `path`. Raises DataRefused where there is none."""
    where = path / name
    contained(path, where)
    leads(where)
    if where.is_file():
        _check_bag_file(where)
        return Bag(where, (where,))
    leads(where / METADATA)
    contained(path, where / METADATA)
    known = _metadata(where / METADATA)
    there = [where / n for n in known if (where / n).is_file() or broken(where / n)]
    files = there or _bag_files(where)
    if not files:
        raise DataRefused(f"{where} is no bag, or an empty one: it holds no .mcap or .db3 file")
    for file in files:
        leads(file)
        contained(path, file)
        _check_bag_file(file)
    counts = {n: c for n, c in known.items() if c is not None}
    missing = {n: counts.get(n, 1) for n in known if there and where / n not in there}
    return Bag(where, tuple(files), missing, counts)


def _check_bag_file(file: Path) -> None:
    """Raises DataRefused where it, or what its storage has not yet written into it, cannot be read."""
    check_file(file)
    for end in JOURNALS:
        leads(Path(f"{file}{end}"))


def broken(path: Path) -> bool:
    """Whether it is a link that leads nowhere."""
    return path.is_symlink() and not path.exists()


def leads(path: Path) -> None:
    """Raises DataRefused where a link leads nowhere: what was recorded there would be left out without
    a word."""
    if broken(path):
        raise DataRefused(
            f"{path} is a link that leads nowhere ({clipped(os.readlink(path), 200)}); bring back what it "
            "led to, or remove the link to do without that recording"
        )


def contained(root: Path, path: Path) -> None:
    """Raises DataRefused where `path` leads out of `root`."""
    if not path.resolve().is_relative_to(root.resolve()) and not is_hugging_face(root, path):
        raise DataRefused(
            f"{path} is a link to a place outside of {root}; copy it into the dataset, or give "
            "the place itself"
        )


def is_hugging_face(root: Path, path: Path) -> bool:
    """Whether `path` is a link as the cache of Hugging Face has them: from a dataset's
    snapshots/REVISION, in which `root` is, to a file in the blobs of the same dataset."""
    root, target = root.resolve(), path.resolve()
    for place in (root, *root.parents):
        repository = place.parent.parent
        if place.parent.name == "snapshots" and HUGGING_FACE.match(repository.name):
            return target.parent == repository / "blobs" and bool(BLOB.fullmatch(target.name))
    return False


def check_file(file: Path) -> None:
    """Raises DataRefused where a file is no regular one, which nobody may open, or only the pointer
    that Git LFS puts in its place."""
    try:
        with open_regular(file) as opened:
            begin = opened.read(len(LFS))
    except NotRegular as error:
        raise DataRefused(f"{file}: {error.strerror}; recordings are files") from None
    except OSError:  # who reads it says why
        return
    if begin == LFS:
        raise DataRefused(
            f"{file} is a Git LFS pointer, not the file: run `git lfs pull` in its repository"
        )


def _metadata(path: Path) -> dict[str, int | None]:
    """Files that metadata.yaml names -> messages in them, where it says so; {} where it is
    damaged or missing. Only names count, so that none leads elsewhere."""
    try:
        with open_regular(path) as file:
            text = file.read(MAX_METADATA + 1)
        return dict(_counts(text)) if len(text) <= MAX_METADATA else {}
    except Exception:  # whatever a damaged text leads to
        return {}


@lru_cache(32)
def _counts(text: bytes) -> dict[str, int | None]:
    """Of a metadata.yaml's text, which is parsed once, however often its bag is opened."""
    info = parse_yaml(text, "metadata.yaml")["rosbag2_bagfile_information"]
    found = {_name(n): None for n in info["relative_file_paths"]}
    counts = {}
    with suppress(Exception):
        counts = {_name(f["path"]): _count(f["message_count"]) for f in info["files"]}
    with suppress(Exception):
        if len(found) == 1:
            counts = {name: _count(info["message_count"]) for name in found} | counts
    return {name: counts.get(name) for name in found if name}


def _name(text: Any) -> str:
    return PurePath(text).name if isinstance(text, str) and "\0" not in text else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 2**40 else None


@contextmanager
def _plain(file: Path, losses: Losses) -> Iterator[Path]:
    """The file itself, or a copy in a place of our own: decompressed, or with what its journal
    holds, or without a page that was cut. The original is never written to, nothing is left beside
    it."""
    with open_regular(file) as opened:
        packed = opened.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC
    journals = [j for end in JOURNALS if (j := Path(f"{file}{end}")).is_file() and j.stat().st_size]
    whole = sqlite.whole_pages(file)
    if not packed and not journals and whole == file.stat().st_size:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="qgf_bag_") as folder:
        copy = Path(folder, "bag")
        try:
            if packed:
                _unpack(file, copy, losses)
            elif journals:
                for source in (file, *journals):
                    contained(file.parent, source)
                    if source is not file and sqlite.names_another_file(source):
                        raise Damage(f"{source.name} names another file, which no bag's does")
                    shutil.copyfile(source, f"{copy}{source.name[len(file.name) :]}")
                sqlite.apply_journal(copy, file.name, losses)
            else:
                shutil.copyfile(file, copy)
            if (whole := sqlite.whole_pages(copy)) < copy.stat().st_size:
                os.truncate(copy, whole)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(
                    f"no room in {folder} for a copy of {file}; set TMPDIR"
                ) from None
            raise
        yield copy


def _unpack(file: Path, copy: Path, losses: Losses) -> None:
    """Decompresses as much of a file as there is."""
    frame, left = ZstdDecompressor(), budget(file.stat().st_size)
    with open_regular(file) as source, copy.open("wb") as target:
        while left > 0:
            if frame.eof:
                data = frame.unused_data or source.read(2**16)
                if not data:
                    return
                frame = ZstdDecompressor()
            else:
                data = source.read(2**16) if frame.needs_input else b""
                if frame.needs_input and not data:
                    losses.add(f"file cut short: {file.name} ends inside of its compressed data")
                    return
            try:
                piece = frame.decompress(data, max_length=min(2**20, left))
            except Exception as error:  # zstd has its own
                losses.add(f"file damaged: {file.name}: zstd: {error}")
                return
            left -= target.write(piece)
    losses.add(f"file cut short: {file.name} becomes too much when it is decompressed")
