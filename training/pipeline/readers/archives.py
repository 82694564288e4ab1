"""Files that hold episodes, one such file or a folder of them: what npz and HDF5 do alike. A recording
is an episode, "<file>#<its number in the file>"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from qgf_ros.bags.files import leads
from qgf_ros.errors import DataRefused
from qgf_ros.spaces.contract import Contract
from training.pipeline.readers.endings import Endings, kind_of
from training.pipeline.readers.tables import (
    Rows,
    inside,
    kinds_fit,
    needs_endings,
    recording,
    seen_by,
    survey,
    wanted,
)
from training.pipeline.streams import Recording, Survey


@dataclass(frozen=True)
class EpisodeTable:
    """One episode of a file.

    where: what it is called in errors. columns: with a row of numbers per tick. apart: those that a
    contract may name besides, and that are no state of a robot. others: array -> its type and shape,
    of what is no row of numbers per tick. endings: of the columns among `apart` that say how the
    episode ended. rows: its rows, so many ns apart. unusable: why, of those of `others` that have
    numbers.
    """

    where: str
    columns: Sequence[str]
    apart: Sequence[str]
    others: dict[str, str]
    endings: Endings
    rows: Callable[[int], Rows]
    unusable: dict[str, str] = field(default_factory=dict)


class Archive(Protocol):
    """One file. fps: rows per second; 0: it does not say."""

    fps: float

    def __len__(self) -> int:
        """Episodes."""

    def episode(self, number: int) -> AbstractContextManager[EpisodeTable]: ...


class ReadsArchives:
    """A reader of such files; a format says what opens one, which raises DataRefused, and which of a
    folder's are its own."""

    suffixes: tuple[str, ...]
    archive: Callable[[Path], Archive]

    def names_in(self, folder: Path) -> list[str]:
        """Paths of its files within a folder, in a fixed order."""
        raise NotImplementedError

    def recognises(self, path: Path) -> bool:
        if path.is_file():
            return path.suffix.lower() in self.suffixes
        return path.is_dir() and bool(self.names_in(path))

    def recordings(self, path: Path) -> list[str]:
        return [
            f"{name}#{k}"
            for name in ([path.name] if path.is_file() else self.names_in(path))
            for k in range(len(self._opened(path, name)))
        ]

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        (file,), number = self.files(path, name), _number(name)
        archive = self._with(path, name)
        with archive.episode(number) as table:
            if table.endings.unsaid and needs_endings(contract):
                raise DataRefused(f"{table.where}: {table.endings.unsaid}")
            for camera in contract.cameras:
                column = camera.column
                if column in table.others and column not in table.apart:
                    raise DataRefused(
                        f"{table.where}: {column!r} is {table.others[column]}; images of {camera.name!r} are bytes "
                        "(uint8) of (rows, height, width, 1 or 3)"
                    )
            parts = wanted(table.where, contract, [*table.columns, *table.apart])
            kinds_fit(table.where, contract, parts, [c for c in table.apart if c in table.others])
            period = round(1e9 / archive.fps) if archive.fps else round(contract.time.period * 1e9)
            return recording(_short(name), file, contract, parts, table.rows(period), {})

    def survey(self, path: Path, name: str) -> Survey:
        """Where the file does not say its rate, rows are stamped a second apart and rate is 0."""
        archive = self._with(path, name)
        with archive.episode(_number(name)) as table:
            rows = table.rows(round(1e9 / (archive.fps or 1.0)))
            enders = [name for name in table.apart if kind_of(name)]
            found = {c: rows.column(c) for c in (*table.columns, *enders)}
            others, unusable = table.others, table.unusable
            fps = archive.fps
            whole = survey(_short(name), found, rows.stamp, others, {}, fps, unusable=unusable)
            for camera in table.apart:
                if camera in others and rows.images is not None:
                    seen_by(camera, rows, whole)
            return whole

    def files(self, path: Path, name: str) -> list[Path]:
        return [_file(path, _base(name))]

    def _with(self, path: Path, name: str) -> Archive:
        """The file of an episode. Raises DataRefused where it has no such one any more."""
        archive = self._opened(path, _base(name))
        if not 0 <= _number(name) < len(archive):
            raise DataRefused(
                f"{_file(path, _base(name))} has {len(archive)} episodes, and had more: it was written to "
                "while it was read; begin again when nothing writes there"
            )
        return archive

    def _opened(self, path: Path, name: str) -> Archive:
        file = _file(path, name)
        leads(file)
        try:
            state = file.stat()
        except OSError as error:
            raise DataRefused(f"{file}: {error.strerror}") from None
        return _archive(type(self).archive, file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)  # episodes are read in the order of their files
def _archive(make: Callable[[Path], Any], file: Path, changed: int, size: int) -> Any:
    return make(file)


def cannot_be_read(file: Path, error: Exception) -> DataRefused:
    """With what reading it ran into."""
    text = " ".join(str(error).split())[:300]
    return DataRefused(f"{file} cannot be read ({type(error).__name__}: {text})")


def _file(path: Path, name: str) -> Path:
    return path if path.is_file() else inside(path, name)


def _base(name: str) -> str:
    return name.rpartition("#")[0]


def _number(name: str) -> int:
    return int(name.rpartition("#")[2])


def _short(name: str) -> str:
    return f"{Path(_base(name)).stem}#{_number(name)}"
