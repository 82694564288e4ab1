"""LeRobot datasets, versions 2.0, 2.1 (a parquet file per episode) and 3.0 (many episodes per
file). No lerobot needed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qgf_ros.console import say
from qgf_ros.errors import DataRefused
from qgf_ros.images.raw import BadImage
from qgf_ros.spaces.contract import Contract
from training.pipeline.readers.endings import kind_of, read_endings
from training.pipeline.readers.lerobot_layout import (
    DAMAGE,
    EPISODES,
    LIST,
    episode_index,
    groups,
    listed_files,
    metadata_of,
    place,
    read_info,
    schema_of,
    state_of,
    text_of,
)
from training.pipeline.readers.lerobot_video import (
    VIDEO,
    cameras_of,
    column_images,
    video_frames,
    video_of,
)
from training.pipeline.readers.row_times import CLOCKS, DEPARTS, on_grid
from training.pipeline.readers.tables import (
    Column,
    Rows,
    kinds_fit,
    names_of,
    needs_endings,
    recording,
    seen_by,
    survey,
    told_apart,
    wanted,
)
from training.pipeline.streams import Recording, Survey

INDEX, FRAME = "episode_index", "frame_index"  # of a row, the latter within its episode
BOOKKEEPING = (*CLOCKS, INDEX, "index", "task_index")
LAST, TERMINAL = "is_last", "is_terminal"  # as RLDS has them: the last row only holds a state
# Whether an episode ended or was cut, in environments' words; `next.done` alone does not tell.
ENDERS = ("next.terminated", "next.truncated", "next.done")
MAX_NUMBERS = 2**28  # in what is read at once: 2 GiB as float64


class LeRobotReader:
    """One recording per episode."""

    version = 5  # raised when the same files give something else, see `stages`

    def recognises(self, path: Path) -> bool:
        return (path / "meta" / "info.json").is_file()

    def recordings(self, path: Path) -> list[str]:
        info = read_info(path)
        if info["codebase_version"] == "v3.0":
            return [f"episode_{e:06d}" for e in episode_index(path, info)]
        return listed_files(path, info)

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        info = read_info(path)
        available = _available(path, info, name)
        parts = wanted(path, contract, [*available, *cameras_of(info)])
        if needs_endings(contract) and _unsaid(available):
            raise DataRefused(
                f"{path / name}: next.done says where episodes end, and nothing says whether they ended in "
                "a terminal state or were cut, which decides whether a reward can still come; add "
                "next.terminated and next.truncated, or say in the contract how episodes ended, by a "
                "success source (`column: next.done`, where it means that), labels or assume_success"
            )
        seen = {o.name for o in contract.cameras}
        kinds_fit(path, contract, parts, cameras_of(info))
        wide = [column for name, (column, _) in parts.items() if name not in seen]
        rows, rate, rejected = _rows(path, info, name, wide)
        rejected.pop(DEPARTS, None)  # such rows stand where their clock says; none is lost
        if rate != info["fps"]:
            _tell(path, info["fps"], rate, _clock(schema_of(place(path, info, name)[0])))
        return recording(Path(name).stem, path / name, contract, parts, rows, rejected)

    def survey(self, path: Path, name: str) -> Survey:
        info = read_info(path)
        columns, others, unusable = list[str](), dict[str, str](), dict[str, str]()
        seen = cameras_of(info)
        kinds = schema_of(place(path, info, name)[0])
        for column in dict.fromkeys([*kinds, *info["features"]]):
            if column in (*BOOKKEEPING, LAST, TERMINAL):
                continue
            if column in kinds and _numeric(kinds[column]) and _described(info, column):
                columns.append(column)
                continue
            others[column] = _kind(info, column, kinds)
            if column not in info["features"]:
                unusable[column] = "it is in the table, and meta/info.json does not describe it: add it to features"
            elif column not in kinds and seen.get(column) != VIDEO:
                unusable[column] = "meta/info.json describes it, and the table has no such column"
        rows, rate, rejected = _rows(path, info, name, columns)
        found, unreadable = dict[str, Column](), dict[str, str]()
        for column in columns if len(rows.stamp) else ():
            try:
                found[column] = rows.column(column)
            except DataRefused as error:
                unreadable[column] = str(error)
        stated = float(info["fps"]) if rate != info["fps"] else 0.0
        stem = Path(name).stem
        whole = survey(stem, found, rows.stamp, others, rejected, rate, unreadable, stated, unusable)
        for camera in seen:
            seen_by(camera, rows, whole)
        return whole

    def files(self, path: Path, name: str) -> list[Path]:
        info = read_info(path)
        index = sorted(path.glob(EPISODES)) if info["codebase_version"] == "v3.0" else []
        if not index and os.path.lexists(listed := path / LIST):
            index = [listed]
        file, episode, _ = place(path, info, name)
        videos = [n for n, kind in cameras_of(info).items() if kind == VIDEO]
        seen = [video_of(path, info, camera, episode)[0] for camera in videos]
        there = [video for video in dict.fromkeys(seen) if video.is_file()]
        return [path / "meta" / "info.json", *index, file, *there]


def _unsaid(columns: list[str]) -> bool:
    """Whether a table says that episodes end, and not how."""
    return "next.done" in columns and not {*ENDERS[:2], TERMINAL, LAST} & {*columns}


@lru_cache(maxsize=64)
def _once(path: Path) -> list[int]:
    """Empty until it was said."""
    return []


def _tell(path: Path, stated: float, measured: float, clock: str) -> None:
    if said := _once(path):
        return
    said.append(1)
    say(
        f"{path}: meta/info.json says {stated:g} fps, and the {CLOCKS[clock]} go at {measured:.4g} Hz: "
        "they are believed"
    )


def _available(path: Path, info: dict[str, Any], name: str) -> list[str]:
    """Columns that are both in the file and described."""
    return [c for c in schema_of(place(path, info, name)[0]) if _described(info, c)]


def _described(info: dict[str, Any], column: str) -> bool:
    """Whether meta/info.json says what a column is. What says how episodes end needs no words: it is one
    number per row, and recorders leave it out there (`next.done`)."""
    return column in info["features"] or kind_of(column) is not None


def _clock(columns: Collection[str]) -> str:
    """The column that says where rows stand; "" where there is none."""
    return next((c for c in CLOCKS if c in columns), "")


def _rows(
    path: Path, info: dict[str, Any], name: str, columns: list[str]
) -> tuple[Rows, float, dict[str, int]]:
    """The episode, rows per second, and how many of its rows have something about them."""
    file, episode, length = place(path, info, name)
    there = schema_of(file)
    enders = ENDERS if {*ENDERS[:2]} & {*there} else ()
    shared = info["codebase_version"] == "v3.0"
    clock = _clock(there)
    said_of = [] if shared else [INDEX]
    extra = [c for c in dict.fromkeys((clock, FRAME, *said_of, LAST, TERMINAL, *enders)) if c in there]
    table = _table(file, tuple(sorted({*columns, *extra})), episode if shared else None)
    if not shared and INDEX in extra:
        _same_episode(file, _values(file, table, INDEX)[:, 0], episode)
    if length is not None and table.num_rows != length:
        raise DataRefused(
            f"{file} has {table.num_rows} rows of episode {episode}, "
            f"{'meta/episodes' if shared else LIST} says {length}"
        )
    seconds = np.arange(table.num_rows) / info["fps"]
    if clock:
        seconds = _values(file, table, clock)[:, 0] / (info["fps"] if clock == FRAME else 1)
    # A video has one image for each row, whatever rate it claims: where timestamps go at another, they
    # would pair a row with the image of another one.
    played = _values(file, table, FRAME)[:, 0] / info["fps"] if FRAME in extra else seconds
    ticks, rate, rejected = on_grid(file, seconds, info["fps"], clock or "timestamp")
    kept, period = ticks >= 0, 1e9 / rate

    def column(of: str) -> Column:
        values = _values(file, table, of)
        try:
            names = _names(info["features"].get(of), values.shape[1])
        except (ValueError, RecursionError) as error:
            raise DataRefused(
                f"{file}: column {of!r}: meta/info.json: features.{of} has {error}; "
                "name each number, or give names: null"
            ) from None
        return Column(values[kept], names)

    def said(of: str) -> bool:
        return bool(of in extra and len(table) and _values(file, table, of)[-1, 0] == 1)

    def images(of: str) -> Iterator[np.ndarray | BadImage]:
        if cameras_of(info)[of] == VIDEO:
            video, begin = video_of(path, info, of, episode)
            return video_frames(video, begin + played[kept], info["fps"])
        if of not in schema_of(file):
            raise DataRefused(
                f"{file}: {of!r} is images of the table by meta/info.json (dtype image, not video), and the table "
                "has no such column; if the dataset has videos of it, its dtype is video"
            )
        rows = _table(file, tuple(sorted({of, *said_of})), episode if shared else None)
        return column_images(value for value, there in zip(rows[of], kept) if there)

    stamp = np.round(ticks[kept] * period).astype(np.int64)
    last = said(LAST) and bool(kept[-1])
    over = _over(file, table, extra, kept, last)
    return Rows(stamp, round(period), column, last, over, images), rate, rejected


def _same_episode(file: Path, said: np.ndarray, episode: int) -> None:
    """Raises DataRefused where a file of version 2.x holds rows of another episode than its place says."""
    if (said != episode).any():
        found = ", ".join(f"{value:g}" for value in np.unique(said)[:5])
        raise DataRefused(
            f"{file}: its rows have {INDEX} {found}; only {episode} is allowed there. It holds another "
            "episode, or several: give each its own file, or write the column anew"
        )


def _over(
    file: Path, table: pa.Table, extra: list[str], kept: np.ndarray, last: bool
) -> np.ndarray | None:
    """Rows whose transition leads into a terminal state; None where no column says so."""
    if TERMINAL in extra and len(table):  # of the state that the episode was left in
        over = np.zeros(int(kept.sum()), bool)
        over[-1 - last : len(over)] = _values(file, table, TERMINAL)[-1, 0] == 1
        return over
    columns = {c: _values(file, table, c)[:, 0] for c in extra if kind_of(c) and c != LAST}
    if not columns:
        return None
    try:  # nothing is asked of rewards here: next.done alone leaves the end unsaid
        terminal = read_endings(columns, len(table), rewards=False, one=True).terminal
    except ValueError as error:
        raise DataRefused(f"{file}: {error}") from None
    return None if terminal is None else terminal[kept]


def _table(file: Path, columns: tuple[str, ...], episode: int | None) -> pa.Table:
    """Columns of one episode, or of a whole file. Only those parts of the file are read that can
    hold the episode."""
    columns = columns or (INDEX,)  # the number of rows is asked for all the same
    try:
        parts = []
        for group in groups(file, episode):
            part = _group(file, *state_of(file), group, columns, episode is not None)
            if episode is not None:
                part = part.filter(pc.equal(part[INDEX], episode))
            parts.append(part)
        if parts:
            return pa.concat_tables(parts)
        return metadata_of(file).schema.to_arrow_schema().empty_table()
    except DAMAGE as error:
        raise DataRefused(f"{file}: {text_of(error)}") from None


@lru_cache(maxsize=2)  # in version 3.0 one of these holds many episodes, which are read in order
def _group(
    file: Path, changed: int, size: int, group: int, columns: tuple[str, ...], shared: bool
) -> pa.Table:
    with pq.ParquetFile(file, page_checksum_verification=True) as source:
        part = source.metadata.row_group(group)
        read = {*columns, INDEX} if shared else set(columns)
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
        raise DataRefused(f"{where}: {text_of(error)}") from None


def _names(feature: Any, width: int) -> tuple[str, ...]:
    """A feature's names. Raises ValueError where there are not as many as numbers."""
    names = feature.get("names") if isinstance(feature, dict) else None
    return told_apart(names_of(names) if isinstance(names, (dict, list)) else [], width)
