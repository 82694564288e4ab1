"""HDF5: robomimic, ALOHA and Minari; one file, or a folder of them. A row is one tick.

    robomimic   data/demo_0/{obs/*, next_obs/*, actions, rewards, dones, states}
    ALOHA       a file per episode: observations/{qpos, qvel, images/*}, action
    Minari      data/main_data.hdf5: episode_0/{observations, actions, rewards, terminations, truncations}

What is called obs/qpos in a file is the column `obs.qpos` here. Files have no names for numbers: a
contract picks them by their place, and says so: `column: obs.qpos[0:7]`. Where observations have one
row more than actions, or there is a next_obs, every action counts, and the last row only holds a
state. Images are named and not read.

How far such a file is trusted, hdf5_storage.py says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.bags.files import check_file
from qgf_ros.errors import DataRefused
from qgf_ros.files.regular import open_regular
from training.pipeline.readers.archives import EpisodeTable, ReadsArchives, cannot_be_read
from training.pipeline.readers.endings import Endings, has_rewards, kind_of, read_endings
from training.pipeline.readers.hdf5_storage import (
    BUDGET,
    DAMAGE,
    MARGIN,
    MAX_CHUNK,
    attribute,
    bounded,
    check,
    member,
)
from training.pipeline.readers.row_times import rate_of
from training.pipeline.readers.tables import (
    Column,
    Rows,
)

SUFFIXES = (".hdf5", ".h5")
MAGIC = b"\x89HDF\r\n\x1a\n"


MAX_EPISODES = 1_000_000
MAX_MEMBERS = 4096  # groups and arrays of one episode
MAX_DEPTH = 6  # groups in groups

EPISODE = re.compile(r"(?:demo|episode|traj|ep)_?(\d{1,9})")


def _natural(name: str) -> list[tuple[int, str]]:
    """episode_2 before episode_10."""
    parts = re.split(r"(\d+)", name)
    return [(int(p[:18]), p) if p.isdecimal() else (-1, p) for p in parts]


class Hdf5Archive:
    """One HDF5 file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        check_file(file)
        with open_regular(file) as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise DataRefused(f"{file} is no HDF5 file: it does not begin like one")
        import h5py as _  # noqa: F401  0.3 s, and more memory than what follows is given

        try:
            with bounded(MARGIN), self._source() as source:
                self._groups = self._episodes(source)
                self.fps = _rate(source)
        except DAMAGE as error:
            raise cannot_be_read(self.file, error) from None

    def _source(self) -> Any:
        import h5py

        return h5py.File(self.file, "r", locking=False)

    def __len__(self) -> int:
        return len(self._groups)

    def episode(self, number: int) -> Hdf5Episode:
        try:
            with bounded(MARGIN):
                return Hdf5Episode(self.file, self._source(), self._groups[number])
        except DAMAGE as error:
            raise cannot_be_read(self.file, error) from None

    def _episodes(self, source: Any) -> list[str]:
        for place in ("/data", "/"):
            group = member(source, place) if place != "/" else source
            if group is None or not hasattr(group, "keys"):
                continue
            if len(group) > MAX_EPISODES:
                raise ValueError(f"{len(group)} episodes; at most {MAX_EPISODES} are read")
            names = [n for n in group if EPISODE.fullmatch(n)]
            if names:
                return [f"{place.rstrip('/')}/{n}" for n in sorted(names, key=_natural)]
        if member(source, "/actions") is not None and any(
            member(source, f"/{n}") is not None for n in ("terminals", "timeouts")
        ):
            raise ValueError(
                "it holds all episodes behind each other, as D4RL does, which only npz files may: "
                "np.savez(file, **{name: f[name][:] for name in f if hasattr(f[name], 'shape')})"
            )
        if any(member(source, f"/{n}") is not None for n in ("action", "actions")):
            return ["/"]
        raise ValueError(
            "it has no episodes that are known: neither data/demo_0 (robomimic), nor episode_0 (Minari), "
            f"nor an array `action` (ALOHA); it has {', '.join(list(source)[:10]) or 'nothing'}"
        )


class Hdf5Episode:
    """The arrays of one episode, while it is entered."""

    def __init__(self, file: Path, source: Any, group: str) -> None:
        self._file, self._source, self._group = file, source, group
        self.columns: list[str] = []
        self.apart: list[str] = []
        self.others: dict[str, str] = {}
        self.unusable: dict[str, str] = {}
        self._arrays: dict[str, Any] = {}
        self._left, self._members = BUDGET, 0

    def __enter__(self) -> EpisodeTable:
        try:
            with bounded(MARGIN):
                self._look()
                self._ends = self._endings()
        except DAMAGE as error:
            self._source.close()
            raise cannot_be_read(self._file, error) from None
        return EpisodeTable(
            f"{self._file}, {self._group}", self.columns, self.apart, self.others, self._ends, self._rows,
            self.unusable,
        )  # fmt: skip

    def _look(self) -> None:
        """What there is, by its shapes and types."""
        group = self._source if self._group == "/" else member(self._source, self._group)
        found = dict(self._walk(group, ""))
        rows = {n: a.shape[0] for n, a in found.items() if n in ("action", "actions")}
        if len(rows) != 1:
            raise ValueError(f"{self._group} must have one array `action` or `actions`")
        self._steps = next(iter(rows.values()))
        following = [n for n in found if n.startswith("next_obs.")]
        for name, array in found.items():
            if name in following and f"obs.{name.partition('.')[2]}" in found:
                continue  # the last row of it is the last row of that
            self._sort(name, array)
        if not {"action", "actions"} & set(self.columns):
            raise ValueError(f"the actions of {self._group} are no table of numbers")
        states = [n for n in self.columns if n.partition(".")[0] in ("obs", "observations")]
        longer = [n for n in states if self._arrays[n].shape[0] == self._steps + 1]
        self._last = bool(longer) or bool(following)

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def _walk(self, group: Any, prefix: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
        for name in group:
            self._members += 1  # a group may hold itself: nobody goes round in circles for long
            if depth > MAX_DEPTH or self._members > MAX_MEMBERS:
                raise ValueError(f"{self._group} has more groups or arrays than an episode")
            inner = member(group, name)
            if hasattr(inner, "keys"):
                yield from self._walk(inner, f"{prefix}{name}.", depth + 1)
            elif hasattr(inner, "shape"):
                yield f"{prefix}{name}", inner

    def _sort(self, name: str, array: Any) -> None:
        """A column, or something else."""
        shape: tuple[int, ...] = array.shape or ()
        dtype = array.dtype
        picture = dtype.kind == "u" and (len(shape) > 2 or "image" in name.lower())
        fits = len(shape) in (1, 2) and shape[0] in (self._steps, self._steps + 1)
        if dtype.kind in "fiub" and fits and not picture:
            check(name, array)
            self._arrays[name] = array
            if name == "states" and self._group.startswith("/data/"):
                self.apart.append(name)
                self.others[name] = f"{dtype}{list(shape)}"
                self.unusable[name] = "the state of a simulator, which no robot measures"
            else:
                (self.apart if kind_of(name) else self.columns).append(name)
        else:
            if picture:
                self.unusable[name] = "images, which are not read"
            self.others[name] = f"{'images ' * picture}{dtype}{list(shape)}"

    def _rows(self, period: int) -> Rows:
        count = self._steps + self._last

        def column(name: str) -> Column:
            values = self._array(name)
            if len(values) < count:
                after = f"next_obs.{name.removeprefix('obs.')}"
                last = self._following(after) if name.startswith("obs.") else None
                end = values[-1:] if last is None else last.reshape(1, *values.shape[1:])
                values = np.concatenate([values, end])[:count]
            return Column(values[:count].reshape(count, -1).astype(np.float64))

        stamp = np.arange(count, dtype=np.int64) * period
        last = self._last or bool(self._ends.last.any())
        return Rows(stamp, period, column, last, self._ends.terminal)

    def _following(self, name: str) -> np.ndarray | None:
        """The last row of the states after each row."""
        group = self._source if self._group == "/" else self._source[self._group]
        array = member(group, "next_obs")
        array = None if array is None else member(array, name.removeprefix("next_obs."))
        if array is None or len(array.shape) not in (1, 2) or array.shape[0] != self._steps:
            return None
        return self._read(name, array)[-1:] if self._steps else None

    def _endings(self) -> Endings:
        columns = {name: self._array(name)[: self._steps] for name in self.apart if kind_of(name)}
        rewards = has_rewards(self.columns)
        return read_endings(columns, self._steps, rewards=rewards, following=self._last, one=True)

    def _array(self, name: str) -> np.ndarray:
        return self._read(name, self._arrays[name])

    def _read(self, name: str, array: Any) -> np.ndarray:
        try:
            check(name, array)
            self._left -= array.size * array.dtype.itemsize
            if self._left < 0:
                raise ValueError(f"more than {BUDGET} bytes of {self._group} would have to be read")
            with bounded(2 * array.size * array.dtype.itemsize + MAX_CHUNK + MARGIN):
                return np.asarray(array[...])
        except DAMAGE as error:
            raise cannot_be_read(self._file, error) from None


class Hdf5Reader(ReadsArchives):
    version = 2  # raised when the same files give something else, see `stages`
    suffixes, archive = SUFFIXES, Hdf5Archive

    def names_in(self, folder: Path) -> list[str]:
        """Files of a folder; of a Minari dataset those in its `data`."""
        for place in (folder, folder / "data"):
            if place.is_dir():
                # What is no file, or a link to nowhere, is refused by its name and not left out.
                found = (
                    p for p in place.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir()
                )
                if names := [str(p.relative_to(folder)) for p in found]:
                    return sorted(names, key=_natural)
        return []


def _rate(source: Any) -> float:
    """Hz, by an attribute `fps`, or by robomimic's env_args; 0: it does not say. Raises ValueError
    where what it says is no rate."""
    for place in ("/", "/data"):
        group = source if place == "/" else member(source, place)
        if group is None or not hasattr(group, "attrs"):
            continue
        if "fps" in group.attrs:
            said = attribute(group, "fps")
            kind = group.attrs.get_id("fps")
            return rate_of(f"{kind.dtype}{kind.shape}" if said is None else said)
        if isinstance(text := attribute(group, "env_args"), str):
            try:
                arguments = json.loads(text)["env_kwargs"]
                told = "control_freq" in arguments
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # the arguments of another simulator
            if told:
                return rate_of(arguments["control_freq"], "control_freq of env_args")
    return 0.0
