"""LeRobot datasets, versions 2.0, 2.1 (a parquet file per episode) and 3.0 (many episodes per
file). No lerobot needed."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qgf_ros.contract import Contract
from qgf_ros.errors import DataRefused
from training.data.streams import Recording, Survey
from training.data.tables import Column, Rows, inside, on_grid, recording, survey, wanted

VERSIONS = ("v2.0", "v2.1", "v3.0")
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
LAST, TERMINAL = "is_last", "is_terminal"  # as RLDS has them: the last row only holds a state
EPISODES = "meta/episodes/*/*.parquet"
INDEX = ("episode_index", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")  # fmt: skip
# What a data_path may be made of: a width of ten thousand digits would be a bomb.
TEMPLATE = r"(?:[^{}]|\{(?:%s)(?::0?\d?d)?\})+"
MAX_EPISODES = 1_000_000
MAX_INFO = 2**26  # bytes of info.json
MAX_NUMBERS = 2**28  # in what is read at once: 2 GiB as float64

DAMAGE = (OSError, pa.ArrowException, ValueError, KeyError, TypeError, OverflowError)


class LeRobotReader:
    """One recording per episode."""

    def recognises(self, path: Path) -> bool:
        return (path / "meta" / "info.json").is_file()

    def recordings(self, path: Path) -> list[str]:
        info = _info(path)
        if info["codebase_version"] == "v3.0":
            return [f"episode_{e:06d}" for e in _index(path, info)]
        return [
            info["data_path"].format(episode_chunk=e // info["chunks_size"], episode_index=e)
            for e in range(info["total_episodes"])
        ]

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        info = _info(path)
        parts = wanted(path, contract, _available(path, info, name))
        rows, rejected = _rows(path, info, name, [column for column, _ in parts.values()])
        rejected = {why: n for why, n in rejected.items() if "departs" not in why}
        return recording(Path(name).stem, path / name, contract, parts, rows, rejected)

    def survey(self, path: Path, name: str) -> Survey:
        info = _info(path)
        columns, others = [], {}
        kinds = _schema(path, _place(path, info, name)[0])
        for column in dict.fromkeys([*kinds, *info["features"]]):
            if column in (*BOOKKEEPING, LAST, TERMINAL):
                continue
            if column in kinds and _numeric(kinds[column]) and column in info["features"]:
                columns.append(column)
            else:
                others[column] = _kind(info, column, kinds)
        rows, rejected = _rows(path, info, name, columns)
        found = {}
        for column in columns if len(rows.stamp) else ():
            try:
                found[column] = rows.column(column)
            except DataRefused as error:
                rejected[str(error)] = len(rows.stamp)
        return survey(Path(name).stem, found, rows.stamp, others, rejected, float(info["fps"]))

    def files(self, path: Path, name: str) -> list[Path]:
        info = _info(path)
        index = sorted(path.glob(EPISODES)) if info["codebase_version"] == "v3.0" else []
        return [path / "meta" / "info.json", *index, _place(path, info, name)[0]]


def _info(path: Path) -> dict[str, Any]:
    """The checked content of meta/info.json that is needed."""
    file = inside(path, "meta/info.json")
    try:
        if file.stat().st_size > MAX_INFO:
            raise ValueError(f"{file.stat().st_size} bytes")
        info = json.loads(file.read_text())
        version = info["codebase_version"]
        if version not in VERSIONS:
            raise DataRefused(
                f"{path} is LeRobot {version}; this version reads {', '.join(VERSIONS)}"
            )
        keys = ("codebase_version", "fps", "features", "data_path", "chunks_size", "total_episodes")
        needed = {k: info[k] for k in keys}
        whole = all(
            type(needed[k]) is int and needed[k] >= 0 for k in ("chunks_size", "total_episodes")
        )
        fps = needed["fps"]
        sound = (
            whole
            and needed["chunks_size"] > 0
            and needed["total_episodes"] <= MAX_EPISODES
            and isinstance(fps, (int, float))
            and 0 < fps <= 1e5
        )
        if not (sound and type(fps) is not bool and isinstance(needed["features"], dict)):
            raise ValueError(
                f"fps {fps!r}, {needed['total_episodes']!r} episodes: these make no sense"
            )
        given = "chunk_index|file_index" if version == "v3.0" else "episode_chunk|episode_index"
        if not re.fullmatch(TEMPLATE % given, needed["data_path"]):
            raise ValueError(f"data_path {needed['data_path']!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataRefused(
            f"{path}/meta/info.json is damaged: {type(error).__name__}: {error}"
        ) from None
    return needed


def _index(path: Path, info: dict[str, Any]) -> dict[int, tuple[int, int, int]]:
    """Version 3.0: episode -> chunk, file and number of rows, by meta/episodes."""
    files = [inside(path, str(f.relative_to(path))) for f in sorted(path.glob(EPISODES))]
    index = _read_index(tuple((f, *_state(f)) for f in files))
    if len(index) != info["total_episodes"]:
        raise DataRefused(
            f"{path}: meta/info.json says {info['total_episodes']} episodes, meta/episodes lists {len(index)}"
        )
    return index


@lru_cache(maxsize=4)
def _read_index(files: tuple[tuple[Path, int, int], ...]) -> dict[int, tuple[int, int, int]]:
    index: dict[int, tuple[int, int, int]] = {}
    for file, *_ in files:
        try:
            with pq.ParquetFile(file) as source:
                if source.metadata.num_rows > MAX_EPISODES:
                    raise ValueError(f"{source.metadata.num_rows} episodes")
                table = source.read(list(INDEX))
            columns = [table[c].to_numpy().astype(np.int64).tolist() for c in INDEX]
        except DAMAGE as error:
            raise DataRefused(f"{file} is damaged: {_text(error)}") from None
        for episode, chunk, number, begin, end in zip(*columns):
            if episode in index or min(episode, chunk, number) < 0 or end < begin:
                raise DataRefused(
                    f"{file} is damaged: episode {episode} is there twice, or nonsense"
                )
            index[episode] = (chunk, number, end - begin)
    return dict(sorted(index.items()))


def _state(file: Path) -> tuple[int, int]:
    """Changes when the file does."""
    try:
        state = file.stat()
    except OSError as error:
        raise DataRefused(f"{file}: {error.strerror}") from None
    return state.st_mtime_ns, state.st_size


def _place(path: Path, info: dict[str, Any], name: str) -> tuple[Path, int | None, int]:
    """A recording's file, and in version 3.0 its episode and number of rows there."""
    if info["codebase_version"] != "v3.0":
        return inside(path, name), None, 0
    episode = int(name.removeprefix("episode_"))
    chunk, number, length = _index(path, info)[episode]
    file = info["data_path"].format(chunk_index=chunk, file_index=number)
    return inside(path, file), episode, length


def _schema(path: Path, file: Path) -> dict[str, pa.DataType]:
    try:
        schema = pq.read_schema(file)
    except DAMAGE as error:
        raise DataRefused(f"{file}: {_text(error)}") from None
    return dict(zip(schema.names, schema.types))


def _available(path: Path, info: dict[str, Any], name: str) -> list[str]:
    """Columns that are both in the file and described."""
    return [c for c in _schema(path, _place(path, info, name)[0]) if c in info["features"]]


def _rows(
    path: Path, info: dict[str, Any], name: str, columns: list[str]
) -> tuple[Rows, dict[str, int]]:
    """The episode, and how many of its rows have something about them."""
    file, episode, length = _place(path, info, name)
    there = _schema(path, file)
    extra = [c for c in ("timestamp", LAST, TERMINAL) if c in there]
    table = _table(file, tuple(sorted({*columns, *extra})), episode)
    if episode is not None and table.num_rows != length:
        raise DataRefused(
            f"{file} has {table.num_rows} rows of episode {episode}, meta/episodes says {length}"
        )
    period = 1e9 / info["fps"]
    seconds = (
        _values(file, table, "timestamp")[:, 0]
        if "timestamp" in extra
        else np.arange(table.num_rows) / info["fps"]
    )
    ticks, rejected = on_grid(file, seconds, info["fps"])
    kept = ticks >= 0

    def column(of: str) -> Column:
        values = _values(file, table, of)
        names = _names(info["features"][of])
        if names and len(names) != values.shape[1]:
            raise DataRefused(
                f"{file}: column {of!r} has {values.shape[1]} numbers and {len(names)} names"
            )
        return Column(values[kept], names)

    def said(of: str) -> bool | None:
        return bool(_values(file, table, of)[-1, 0] == 1) if of in extra and len(table) else None

    stamp = np.round(ticks[kept] * period).astype(np.int64)
    return Rows(stamp, round(period), column, bool(said(LAST)), said(TERMINAL)), rejected


def _table(file: Path, columns: tuple[str, ...], episode: int | None) -> pa.Table:
    """Columns of one episode, or of a whole file. Only those parts of the file are read that can
    hold the episode."""
    try:
        with pq.ParquetFile(file) as source:
            if not columns:  # nothing to read, and yet the number of rows is asked for
                columns = ("episode_index",)
            groups = [
                g for g in range(source.num_row_groups) if _can_hold(source.metadata, g, episode)
            ]
        parts = []
        for group in groups:
            part = _group(file, *_state(file), group, columns, episode is not None)
            if episode is not None:
                part = part.filter(pc.equal(part["episode_index"], episode))
            parts.append(part)
        if parts:
            return pa.concat_tables(parts)
        with pq.ParquetFile(file) as source:
            return source.schema_arrow.empty_table()
    except DAMAGE as error:
        raise DataRefused(f"{file}: {_text(error)}") from None


def _can_hold(metadata: pq.FileMetaData, group: int, episode: int | None) -> bool:
    if episode is None:
        return True
    part = metadata.row_group(group)
    for i in range(part.num_columns):
        column = part.column(i)
        if column.path_in_schema == "episode_index":
            said = column.statistics
            return said is None or not said.has_min_max or said.min <= episode <= said.max
    raise ValueError("it has no column episode_index")


@lru_cache(maxsize=2)  # in version 3.0 one of these holds many episodes, which are read in order
def _group(
    file: Path, changed: int, size: int, group: int, columns: tuple[str, ...], shared: bool
) -> pa.Table:
    with pq.ParquetFile(file, page_checksum_verification=True) as source:
        part = source.metadata.row_group(group)
        read = {*columns, "episode_index"} if shared else set(columns)
        leaves = [part.column(i) for i in range(part.num_columns)]
        numbers = sum(
            max(leaf.num_values, leaf.total_uncompressed_size // 8)
            for leaf in leaves
            if any(
                leaf.path_in_schema == c or leaf.path_in_schema.startswith(f"{c}.") for c in read
            )
        )
        if numbers > MAX_NUMBERS:
            raise ValueError(f"{numbers} numbers in one row group; at most {MAX_NUMBERS} are read")
        return source.read_row_group(group, sorted(read))


def _numeric(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _kind(info: dict[str, Any], column: str, kinds: dict[str, pa.DataType]) -> str:
    feature = info["features"].get(column)
    said = feature.get("dtype") if isinstance(feature, dict) else None
    return str(said or kinds.get(column, ""))


def _values(file: Path, table: pa.Table, column: str) -> np.ndarray:
    """(N, d) float64; a null, in a row or of a row, is NaN, which alignment counts."""
    where = f"{file}: column {column!r}"
    try:
        data = table[column].combine_chunks()
        if not _numeric(data.type):
            raise DataRefused(f"{where} does not hold numbers but {data.type}")
        count, there, width = len(data), slice(None), 1
        if pa.types.is_list(data.type) or pa.types.is_fixed_size_list(data.type):
            there = data.is_valid().to_numpy(zero_copy_only=False)
            widths = pc.unique(pc.list_value_length(data.drop_null())).to_pylist()
            if len(widths) > 1:
                raise DataRefused(f"{where} has rows of different length")
            width = widths[0] if widths else 0
            data = data.flatten()
        values = data.to_numpy(zero_copy_only=False).astype(np.float64)
        out = np.full((count, width), np.nan)
        out[there] = values.reshape(-1, width) if width else 0
        return out
    except DAMAGE as error:
        raise DataRefused(f"{where}: {_text(error)}") from None


def _names(feature: Any) -> tuple[str, ...]:
    """A feature's names: a list, a list of lists, or {"motors": [...]}, as public datasets have them."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        names = list(names.values())
    flat: list[Any] = []
    for item in names if isinstance(names, list) else []:
        flat += item if isinstance(item, list) else [item]
    return tuple(map(str, flat))


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
