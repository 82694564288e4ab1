"""Files of numpy arrays (npz): one file, or a folder of them. A row is one tick.

The layouts are OGBench's and D4RL's: every array has a row per tick, and where episodes end, and
how, `terminals`, `masks`, `timeouts` and the like say together (see `endings`). Where there is an
array `next_observations`, rows are transitions: every action counts, and the last state is the last
of those. With nothing of the kind a file is one episode whose actions all count.

Beyond that a file may hold
- `names`: JSON text {array: [a name per number]}. Without names a contract picks numbers by their
  place, and says so: `column: observations[0:7]`.
- `fps`: rows per second. Without it rows stand a control period of the contract apart.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from qgf_ros.bags.files import check_file
from qgf_ros.errors import DataRefused
from qgf_ros.files.regular import open_regular
from qgf_ros.files.strict_json import parse_json
from qgf_ros.images.raw import BadImage
from training.pipeline.readers.archives import EpisodeTable, ReadsArchives, cannot_be_read
from training.pipeline.readers.endings import (
    Endings,
    has_rewards,
    kind_of,
    read_endings,
    same_state,
)
from training.pipeline.readers.row_times import rate_of
from training.pipeline.readers.tables import (
    Column,
    Rows,
    names_of,
    told_apart,
)

BOOKKEEPING = ("names", "fps")
BUDGET = 2**31  # bytes of all that is read of one file, but for images
MAX_TEXT = 2**24  # bytes of names
MAX_ARRAYS = 4096
STORED = ("terminals", "masks", *BOOKKEEPING)  # beside the columns of `write_npz`
HEADERS: dict[Any, Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
DAMAGE = (
    OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, RuntimeError, SyntaxError,
    zlib.error,
)  # fmt: skip


class NpzArchive:
    """One npz file. Arrays are read when they are asked for; nothing is believed before it fits.

    columns: names of the arrays with a row of numbers per tick.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._left = BUDGET
        self._arrays: dict[str, np.ndarray] = {}
        self._reading: dict[str, tuple[int, Any]] = {}  # cameras: images read so far, and what goes on
        check_file(file)
        try:
            with open_regular(file) as opened, zipfile.ZipFile(opened) as source:
                members = source.infolist()
                if _said(source) not in (None, len(members)):
                    raise ValueError("its directory lost arrays")
                if len(members) > MAX_ARRAYS or len(set(source.namelist())) < len(members):
                    raise ValueError("it has too many arrays, or two of one name")
                if any(not i.filename.endswith(".npy") for i in members):
                    raise ValueError("it holds something else than arrays")
                self._headers = {
                    i.filename.removesuffix(".npy"): _header(source, i) for i in members
                }
        except DAMAGE as error:
            raise cannot_be_read(self.file, error) from None
        self._rows = self._length()
        self.enders = [name for name in self._headers if kind_of(name)]
        for name in self.enders:
            shape, dtype = self._headers[name]
            if shape not in ((self._rows,), (self._rows, 1)) or dtype.kind not in "fiub":
                raise cannot_be_read(
                    self.file, ValueError(f"{name} must have one number for each row")
                )
        self.columns: list[str] = []
        self.cameras: list[str] = []  # arrays with an image of bytes per row
        self.others: dict[str, str] = {}
        for name, (shape, dtype) in self._headers.items():
            if name in BOOKKEEPING or name in self.enders:
                continue
            if dtype.kind in "fiub" and len(shape) in (1, 2) and shape[0] == self._rows:
                self.columns.append(name)
            elif dtype == np.uint8 and len(shape) == 4 and shape[0] == self._rows and (
                shape[3] in (1, 3) and min(shape) > 0
            ):
                self.cameras.append(name)
                self.others[name] = f"{dtype}{list(shape)}"
            else:
                self.others[name] = f"{dtype}{list(shape)}"
        self.fps = self._rate()
        self.names = self._named()
        self.endings = self._endings()

    def __len__(self) -> int:
        return len(self.endings.episodes)

    @contextmanager
    def episode(self, number: int) -> Iterator[EpisodeTable]:
        rows = partial(self._of_episode, number)
        yield EpisodeTable(
            str(self.file),
            self.columns,
            [*self.enders, *self.cameras],
            self.others,
            self.endings,
            rows,
        )

    def _of_episode(self, number: int, period: int) -> Rows:
        """Those of an episode, `period` ns apart."""
        episode = self.endings.episodes[number]
        count = episode.stop - episode.start
        following = "next_observations" in self.columns
        last = bool(self.endings.last[number])
        terminal = self.endings.terminal
        over = None if terminal is None else terminal[episode]
        stamp = np.arange(count + following, dtype=np.int64) * period

        def column(name: str) -> Column:
            values = self._array(name)[episode]
            if following:
                after = self._array("next_observations") if name == "observations" else values
                end = episode.stop if name == "observations" else len(values)
                values = np.concatenate([values, after[end - 1 : end]])
            return Column(
                values.reshape(len(values), -1).astype(np.float64), self.names.get(name, ())
            )

        def images(name: str) -> Iterator[np.ndarray | BadImage]:
            yield from self._frames(name, episode)
            if following:
                yield BadImage("the last state of transitions has no image")

        return Rows(stamp, period, column, last or following, over, images)

    def _length(self) -> int:
        for name in ("terminals", "observations"):
            if name in self._headers and self._headers[name][0]:
                return self._headers[name][0][0]
        return max((shape[0] for shape, _ in self._headers.values() if shape), default=0)

    def _endings(self) -> Endings:
        following = "next_observations" in self.columns
        joined = None
        if following and "observations" in self.columns:
            joined = same_state(self._array("next_observations"), self._array("observations"))
        columns = {name: self._array(name) for name in self.enders}
        rewards = has_rewards(self.columns)
        try:
            return read_endings(
                columns, self._rows, rewards=rewards, following=following, joined=joined
            )
        except ValueError as error:
            raise cannot_be_read(self.file, error) from None

    def _rate(self) -> float:
        if "fps" not in self._headers:
            return 0.0
        shape, dtype = self._headers["fps"]
        small = shape in ((), (1,)) and dtype.itemsize <= MAX_TEXT
        try:
            return rate_of(self._array("fps") if small else f"{dtype}{list(shape)}")
        except ValueError as error:
            raise cannot_be_read(self.file, error) from None

    def _named(self) -> dict[str, tuple[str, ...]]:
        if "names" not in self._headers:
            return {}
        try:
            shape, dtype = self._headers["names"]
            if dtype.kind != "U" or shape not in ((), (1,)) or dtype.itemsize > MAX_TEXT:
                raise ValueError(f"it is {dtype}{list(shape)}")
            text = str(self._array("names").reshape(-1)[0])
            said = parse_json(text).items()
            if not all(isinstance(v, (list, dict)) for _, v in said):
                raise ValueError("a list of names is missing")
            named = {k: tuple(names_of(v)) for k, v in said}
            for name in self.columns:
                width = int(np.prod(self._headers[name][0][1:]))
                if name in named:
                    named[name] = told_apart(named[name], width)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataRefused(
                f"{self.file}: `names` must be JSON text, {{array: [a name per number]}}: {error}"
            ) from None
        return named

    def _frames(self, name: str, rows: slice) -> Iterator[np.ndarray]:
        """The images of a camera, one in memory at a time, whatever the array's size: episodes are read in
        order, so that what was unpacked for one goes on with the next."""
        shape, dtype = self._headers[name]
        size = _bytes(shape[1:], dtype)
        at, member = self._reading.pop(name, (0, None))
        try:
            if member is None or at > rows.start:
                at, member = 0, zipfile.ZipFile(open_regular(self.file)).open(f"{name}.npy")
                if HEADERS[npy.read_magic(member)](member) != (shape, False, dtype):
                    member = None  # by columns, as Fortran has it: an image is everywhere
            while member is not None and at < rows.stop:
                data = member.read(size)
                if len(data) != size:
                    raise ValueError(f"{name} ends early")
                at += 1
                if at > rows.start:
                    yield np.frombuffer(data, dtype).reshape(shape[1:])
        except DAMAGE as error:
            raise cannot_be_read(self.file, error) from None
        if member is None:
            yield from self._array(name)[rows]
        else:
            self._reading[name] = at, member

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            shape, dtype = self._headers[name]
            self._left -= _bytes(shape, dtype)
            if self._left < 0:
                raise DataRefused(f"{self.file}: more than {BUDGET} bytes would have to be read")
            try:
                with (
                    open_regular(self.file) as file,
                    np.load(file, allow_pickle=False) as source,
                ):
                    found = source[name]
                if (found.shape, found.dtype) != (shape, dtype):
                    raise ValueError(f"{name} was written to while it was read")
                self._arrays[name] = found
            except DAMAGE as error:
                raise cannot_be_read(self.file, error) from None
        return self._arrays[name]


class NpzReader(ReadsArchives):
    version = 3  # raised when the same files give something else, see `stages`
    suffixes, archive = (".npz",), NpzArchive

    def names_in(self, folder: Path) -> list[str]:
        return sorted(p.name for p in folder.glob("*.npz"))


def _header(source: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, which must be as large as the zip says."""
    with source.open(member) as file:
        version = npy.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"{member.filename} has format {version}")
        shape, _, dtype = HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects, which are not read")
        if min(shape, default=0) < 0 or file.tell() + _bytes(shape, dtype) != member.file_size:
            raise ValueError(f"{member.filename} says {dtype}{list(shape)} and has another size")
    return shape, dtype


def _said(source: zipfile.ZipFile) -> int | None:
    """How many members the end of a zip says there are; None where it does not say so plainly."""
    file: Any = source.fp
    file.seek(-22, os.SEEK_END)
    end = file.read(22)
    count = int.from_bytes(end[10:12], "little")
    return count if end.startswith(b"PK\5\6") and count != 0xFFFF else None


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    size = dtype.itemsize
    for n in shape:
        size *= n
    return size
