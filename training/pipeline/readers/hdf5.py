"""HDF5: robomimic, ALOHA and Minari; one file, or a folder of them. A row is one tick.

    robomimic   data/demo_0/{obs/*, next_obs/*, actions, rewards, dones, states}
    ALOHA       a file per episode: observations/{qpos, qvel, images/*}, action
    Minari      data/main_data.hdf5: episode_0/{observations, actions, rewards, terminations, truncations}

What is called obs/qpos in a file is the column `obs.qpos` here. Files have no names for numbers: a
contract picks them by their place, and says so: `column: obs.qpos[0:7]`. Where observations have one
row more than actions, or there is a next_obs, every action counts, and the last row only holds a
state. Images are named and not read.

Nothing is read before its size is known and its storage fits; links, and arrays that lie in other
files, are refused; Python objects are never made.
"""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.bags.files import check_file
from qgf_ros.errors import DataRefused
from qgf_ros.spaces.contract import Contract
from training.pipeline.readers.endings import Endings, has_rewards, kind_of, read_endings
from training.pipeline.readers.tables import (
    Column,
    Rows,
    inside,
    needs_endings,
    opened,
    rate_of,
    recording,
    survey,
    wanted,
)
from training.pipeline.streams import Recording, Survey

SUFFIXES = (".hdf5", ".h5")
MAGIC = b"\x89HDF\r\n\x1a\n"
BUDGET = 2**31  # bytes of all that is read of one episode
MARGIN = 2**28  # bytes of memory for what is not numbers
MAX_CHUNK = 2**28  # bytes that are decompressed at once
MAX_RATIO = 1000  # of an array to what is stored of it, where it is more than MIN_RATIO_BYTES
MIN_RATIO_BYTES = 2**20
MAX_EPISODES = 1_000_000
MAX_MEMBERS = 4096  # groups and arrays of one episode
MAX_DEPTH = 6  # groups in groups
MAX_TEXT = 2**20  # bytes of an attribute
EPISODE = re.compile(r"(?:demo|episode|traj|ep)_?(\d{1,9})")
DAMAGE = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
    MemoryError)  # fmt: skip


@contextmanager
def bounded(extra: int) -> Iterator[None]:
    """No more than `extra` bytes of memory beyond what the process has: what a damaged file makes
    the library ask for then ends in MemoryError, and not in the whole machine's memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # no Linux
        yield
        return
    limit = pages * resource.getpagesize() + extra
    fits = soft == resource.RLIM_INFINITY or limit < soft
    try:
        if fits:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Hdf5Reader:
    """One recording per episode: "<file>#<number in the file>"."""

    version = 2  # raised when the same files give something else, see `stages`

    def recognises(self, path: Path) -> bool:
        if path.is_file():
            return path.suffix.lower() in SUFFIXES
        return bool(_names_in(path))

    def recordings(self, path: Path) -> list[str]:
        return [
            f"{name}#{k}"
            for name in ([path.name] if path.is_file() else _names_in(path))
            for k in range(len(opened(Archive, _file(path, name)).episodes))
        ]

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        file, archive, group = _find(path, name)
        with archive.episode(group) as episode:
            if episode.endings.unsaid and needs_endings(contract):
                raise DataRefused(f"{file}, {group}: {episode.endings.unsaid}")
            parts = wanted(f"{file}, {group}", contract, [*episode.columns, *episode.apart])
            period = round(1e9 / archive.fps) if archive.fps else round(contract.time.period * 1e9)
            return recording(_short(name), file, contract, parts, episode.rows(period), {})

    def survey(self, path: Path, name: str) -> Survey:
        """Where the file does not say its rate, rows are stamped a second apart and rate is 0."""
        _, archive, group = _find(path, name)
        with archive.episode(group) as episode:
            rows = episode.rows(round(1e9 / (archive.fps or 1.0)))
            found = {c: rows.column(c) for c in (*episode.columns, *episode.enders)}
            told = survey(_short(name), found, rows.stamp, episode.others, {}, archive.fps)
            return replace(told, unusable=episode.unusable)

    def files(self, path: Path, name: str) -> list[Path]:
        return [_file(path, name.rpartition("#")[0])]


def _names_in(path: Path) -> list[str]:
    """Files of a folder; of a Minari dataset those in its `data`."""
    for folder in (path, path / "data"):
        if folder.is_dir():
            # What is no file, or a link to nowhere, is refused by its name and not left out.
            found = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
            if names := [str(p.relative_to(path)) for p in found]:
                return sorted(names, key=_natural)
    return []


def _natural(name: str) -> list[tuple[int, str]]:
    """episode_2 before episode_10."""
    parts = re.split(r"(\d+)", name)
    return [(int(p[:18]), p) if p.isdecimal() else (-1, p) for p in parts]


def _file(path: Path, name: str) -> Path:
    return path if path.is_file() else inside(path, name)


def _find(path: Path, name: str) -> tuple[Path, Archive, str]:
    base, _, number = name.rpartition("#")
    file = _file(path, base)
    archive = opened(Archive, file)
    return file, archive, archive.episodes[int(number)]


def _short(name: str) -> str:
    base, _, number = name.rpartition("#")
    return f"{Path(base).stem}#{number}"


class Archive:
    """One HDF5 file. episodes: paths of their groups, in order. fps: 0 where it does not say."""

    def __init__(self, file: Path) -> None:
        self.file = file
        check_file(file)
        with file.open("rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise DataRefused(f"{file} is no HDF5 file: it does not begin like one")
        import h5py as _  # noqa: F401  0.3 s, and more memory than what follows is given

        try:
            with bounded(MARGIN), self._source() as source:
                self.episodes = self._episodes(source)
                self.fps = _rate(source)
        except DAMAGE as error:
            raise self.refused(error) from None

    def _source(self) -> Any:
        import h5py

        return h5py.File(self.file, "r", locking=False)

    def episode(self, group: str) -> Episode:
        try:
            with bounded(MARGIN):
                return Episode(self, self._source(), group)
        except DAMAGE as error:
            raise self.refused(error) from None

    def refused(self, error: Exception) -> DataRefused:
        text = " ".join(str(error).split())[:300]
        return DataRefused(f"{self.file} cannot be read ({type(error).__name__}: {text})")

    def _episodes(self, source: Any) -> list[str]:
        for place in ("/data", "/"):
            group = _member(source, place) if place != "/" else source
            if group is None or not hasattr(group, "keys"):
                continue
            if len(group) > MAX_EPISODES:
                raise ValueError(f"{len(group)} episodes; at most {MAX_EPISODES} are read")
            names = [n for n in group if EPISODE.fullmatch(n)]
            if names:
                return [f"{place.rstrip('/')}/{n}" for n in sorted(names, key=_natural)]
        if _member(source, "/actions") is not None and any(
            _member(source, f"/{n}") is not None for n in ("terminals", "timeouts")
        ):
            raise ValueError(
                "it holds all episodes behind each other, as D4RL does, which only npz files may: "
                "np.savez(file, **{name: f[name][:] for name in f if hasattr(f[name], 'shape')})"
            )
        if any(_member(source, f"/{n}") is not None for n in ("action", "actions")):
            return ["/"]
        raise ValueError(
            "it has no episodes that are known: neither data/demo_0 (robomimic), nor episode_0 (Minari), "
            f"nor an array `action` (ALOHA); it has {', '.join(list(source)[:10]) or 'nothing'}"
        )


class Episode:
    """The arrays of one episode. columns: names of those with a row of numbers per tick; apart: of
    those that a contract may name, and that are no state of a robot; enders: those of `apart` that say
    how the episode ended, together `endings`."""

    def __init__(self, archive: Archive, source: Any, group: str) -> None:
        self._archive, self._source, self._group = archive, source, group
        self.columns: list[str] = []
        self.apart: list[str] = []
        self.others: dict[str, str] = {}
        self.unusable: dict[str, str] = {}  # why one of the others is there, though it has numbers
        self._arrays: dict[str, Any] = {}
        self._left, self._members = BUDGET, 0

    def __enter__(self) -> Episode:
        try:
            with bounded(MARGIN):
                self._look()
                self.endings = self._endings()
        except DAMAGE as error:
            self._source.close()
            raise self._archive.refused(error) from None
        return self

    def _look(self) -> None:
        """What there is, by its shapes and types."""
        group = self._source if self._group == "/" else _member(self._source, self._group)
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
            member = _member(group, name)
            if hasattr(member, "keys"):
                yield from self._walk(member, f"{prefix}{name}.", depth + 1)
            elif hasattr(member, "shape"):
                yield f"{prefix}{name}", member

    def _sort(self, name: str, array: Any) -> None:
        """A column, or something else."""
        shape: tuple[int, ...] = array.shape or ()
        dtype = array.dtype
        picture = dtype.kind == "u" and (len(shape) > 2 or "image" in name.lower())
        fits = len(shape) in (1, 2) and shape[0] in (self._steps, self._steps + 1)
        if dtype.kind in "fiub" and fits and not picture:
            _check(name, array)
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

    def rows(self, period: int) -> Rows:
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
        last = self._last or bool(self.endings.last.any())
        return Rows(stamp, period, column, last, self.endings.terminal)

    def _following(self, name: str) -> np.ndarray | None:
        """The last row of the states after each row."""
        group = self._source if self._group == "/" else self._source[self._group]
        array = _member(group, "next_obs")
        array = None if array is None else _member(array, name.removeprefix("next_obs."))
        if array is None or len(array.shape) not in (1, 2) or array.shape[0] != self._steps:
            return None
        return self._read(name, array)[-1:] if self._steps else None

    @property
    def enders(self) -> list[str]:
        return [name for name in self.apart if kind_of(name)]

    def _endings(self) -> Endings:
        columns = {name: self._array(name)[: self._steps] for name in self.enders}
        rewards = has_rewards(self.columns)
        return read_endings(columns, self._steps, rewards=rewards, following=self._last, one=True)

    def _array(self, name: str) -> np.ndarray:
        return self._read(name, self._arrays[name])

    def _read(self, name: str, array: Any) -> np.ndarray:
        try:
            _check(name, array)
            self._left -= array.size * array.dtype.itemsize
            if self._left < 0:
                raise ValueError(f"more than {BUDGET} bytes of {self._group} would have to be read")
            with bounded(2 * array.size * array.dtype.itemsize + MAX_CHUNK + MARGIN):
                return np.asarray(array[...])
        except DAMAGE as error:
            raise self._archive.refused(error) from None


def _member(group: Any, name: str) -> Any:
    """A member of a group, or None. Raises ValueError where it is a link."""
    import h5py

    at = group
    for part in filter(None, name.split("/")):
        link = at.get(part, getlink=True) if hasattr(at, "keys") and part in at.keys() else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"{part!r} is a link, which is not followed; copy the arrays themselves into the file"
            )
        at = at[part]
    return at


def _check(name: str, array: Any) -> None:
    """Raises ValueError where an array lies elsewhere, or is not as large as it says."""
    if array.is_virtual or array.external:
        raise ValueError(f"{name} lies in another file; copy the numbers themselves into this one")
    size, stored = array.size * array.dtype.itemsize, array.id.get_storage_size()
    if size > BUDGET or size > max(MIN_RATIO_BYTES, MAX_RATIO * stored):
        raise ValueError(
            f"{name} says {array.dtype}{list(array.shape)}, and {stored} bytes are stored"
        )
    if array.chunks and int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize > MAX_CHUNK:
        raise ValueError(f"{name} has chunks of {list(array.chunks)}, which is too much")
    # What was never written is read as zeros, which nobody has measured.
    each = array.chunks or array.shape
    whole = int(np.prod([-(-n // c) for n, c in zip(array.shape, each, strict=True)]))
    there = array.id.get_num_chunks() if array.chunks else int(stored > 0)
    if array.size and there < whole:
        raise ValueError(f"{name} was not written whole: {there} of {whole} parts are in the file")


def _rate(source: Any) -> float:
    """Hz, by an attribute `fps`, or by robomimic's env_args; 0: it does not say. Raises ValueError
    where what it says is no rate."""
    for place in ("/", "/data"):
        group = source if place == "/" else _member(source, place)
        if group is None or not hasattr(group, "attrs"):
            continue
        if "fps" in group.attrs:
            said = _attribute(group, "fps")
            kind = group.attrs.get_id("fps")
            return rate_of(f"{kind.dtype}{kind.shape}" if said is None else said)
        if isinstance(text := _attribute(group, "env_args"), str):
            try:
                arguments = json.loads(text)["env_kwargs"]
                told = "control_freq" in arguments
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # the arguments of another simulator
            if told:
                return rate_of(arguments["control_freq"], "control_freq of env_args")
    return 0.0


def _attribute(group: Any, name: str) -> Any:
    """A small attribute: a number or a text; else None."""
    if name not in group.attrs:
        return None
    kind = group.attrs.get_id(name)
    if kind.get_space().get_simple_extent_npoints() != 1 or kind.get_storage_size() > MAX_TEXT:
        return None
    value = group.attrs[name]
    return value.decode(errors="replace") if isinstance(value, bytes) else value
