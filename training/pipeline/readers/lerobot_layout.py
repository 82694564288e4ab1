"""Where a LeRobot dataset has its episodes: meta/info.json, meta/episodes and the parquet footers."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qgf_ros.bags.files import check_file, leads
from qgf_ros.console import say
from qgf_ros.errors import DataRefused
from qgf_ros.files.strict_json import parse_json
from qgf_ros.files.strict_yaml import clipped
from training.pipeline.readers.row_times import rate_of
from training.pipeline.readers.tables import inside

VERSIONS = ("v2.0", "v2.1", "v3.0")
EPISODES = "meta/episodes/*/*.parquet"
LIST = "meta/episodes.jsonl"  # of versions 2.x
INDEX = ["episode_index", "data/chunk_index", "data/file_index"]
# What a data_path may be made of: a width of ten thousand digits would be a bomb.
TEMPLATE = r"(?:[^{}]|\{(?:%s)(?::0?\d?d)?\})+"
LIKE = {  # what it is like, its placeholders, and the other version's name for the first
    "v2": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        ("episode_chunk", "episode_index"),
        "chunk_index",
    ),
    "v3": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        ("chunk_index", "file_index"),
        "episode_chunk",
    ),
}
MAX_EPISODES = 1_000_000
MAX_INFO = 2**26  # bytes of info.json

DAMAGE = (OSError, pa.ArrowException, ValueError, KeyError, TypeError, OverflowError)


def read_info(path: Path) -> dict[str, Any]:
    """The checked content of meta/info.json that is needed."""
    file = inside(path, "meta/info.json")
    check_file(file)
    try:
        if file.stat().st_size > MAX_INFO:
            raise ValueError(f"{file.stat().st_size} bytes")
        info = parse_json(file.read_text(encoding="utf-8"))
        version = info["codebase_version"]
        if version not in VERSIONS:
            raise DataRefused(
                f"{path} is LeRobot {version}; this version reads {', '.join(VERSIONS)}"
            )
        keys = ("codebase_version", "fps", "features", "data_path", "chunks_size", "total_episodes")
        needed = {k: info[k] for k in keys} | {"video_path": info.get("video_path")}
        needed["fps"] = rate_of(needed["fps"])
        for key, least, most in (
            ("chunks_size", 1, MAX_EPISODES),
            ("total_episodes", 0, MAX_EPISODES),
        ):
            if type(needed[key]) is not int or not least <= needed[key] <= most:
                raise ValueError(
                    f"{key} is {clipped(repr(needed[key]), 80)}; a whole number from {least} to {most} "
                    "is allowed"
                )
        if not isinstance(needed["features"], dict):
            raise ValueError(f"features are {clipped(repr(needed['features']), 80)}, no mapping")
        needed["data_path"] = _data_path(path, version, needed["data_path"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataRefused(
            f"{path}/meta/info.json is damaged: {type(error).__name__}: {error}"
        ) from None
    return needed


def listed_files(path: Path, info: dict[str, Any]) -> list[str]:
    """Version 2.x: the files of the episodes that there are, by meta/episodes.jsonl: deleted ones
    leave gaps, and a part of a dataset may begin anywhere. Without that file those from 0 on.

    Raises DataRefused where the list is damaged.
    """
    return list(_places(path, *_fixed(path, info)))


def _lengths(path: Path, info: dict[str, Any]) -> dict[int, int | None]:
    """Version 2.x: episode -> its number of rows, None where nobody says."""
    if not os.path.lexists(path / LIST):
        return dict.fromkeys(range(info["total_episodes"]))
    file = inside(path, LIST)
    listed = _read_list(file, *state_of(file))
    _compare(path, info["total_episodes"], len(listed), LIST)
    return listed


def of_episode(path: Path, info: dict[str, Any], name: str) -> tuple[int, int | None]:
    """Version 2.x: the episode that a file's place means, and its rows where they are listed."""
    return _places(path, *_fixed(path, info))[name]


def _fixed(path: Path, info: dict[str, Any]) -> tuple[str, int, int, tuple[int, int] | None]:
    """What decides where episodes are."""
    listed = state_of(path / LIST) if os.path.lexists(path / LIST) else None
    return info["data_path"], info["chunks_size"], info["total_episodes"], listed


@lru_cache(maxsize=4)  # asked for every episode, of which there may be very many
def _places(
    path: Path, template: str, chunk: int, total: int, listed: tuple[int, int] | None
) -> dict[str, tuple[int, int | None]]:
    found: dict[str, tuple[int, int | None]] = {}
    for episode, length in _lengths(path, {"total_episodes": total}).items():
        name = template.format(episode_chunk=episode // chunk, episode_index=episode)
        if name in found:
            raise DataRefused(
                f"{path}/meta/info.json: data_path puts episodes {found[name][0]} and {episode} into "
                f"one file, {name!r}; it must hold {{episode_index}}, as in {LIKE['v2'][0]!r}"
            )
        found[name] = (episode, length)
    return found


@lru_cache(maxsize=4)
def _read_list(file: Path, changed: int, size: int) -> dict[int, int | None]:
    found: dict[int, int | None] = {}
    check_file(file)
    try:
        if size > MAX_INFO:
            raise ValueError(f"{size} bytes")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            said = parse_json(line)
            episode, length = said["episode_index"], said["length"] if "length" in said else 0
            for key, value in (("episode_index", episode), ("length", length)):
                if type(value) is not int or not 0 <= value < 10**9:
                    raise ValueError(f"line {number}: {key} is {clipped(repr(value), 40)}")
            if episode in found:
                raise ValueError(f"episode {episode} is listed twice")
            found[episode] = length if "length" in said else None
            if len(found) > MAX_EPISODES:
                raise ValueError(f"more than {MAX_EPISODES} episodes")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataRefused(f"{file} is damaged: {text_of(error)}") from None
    return dict(sorted(found.items()))


def _data_path(path: Path, version: str, given: str) -> str:
    """The template of info.json, in the words of its version. Raises DataRefused where it is none."""
    like, names, slip = LIKE["v3" if version == "v3.0" else "v2"]
    # Each version calls the chunk by another name, and scripts write one for the other.
    meant = re.sub(rf"\{{{slip}(?=[}}:])", "{" + names[0], given)
    if not re.fullmatch(TEMPLATE % "|".join(names), meant):
        raise DataRefused(
            f"{path}/meta/info.json: data_path is {given!r}; LeRobot {version} allows "
            f"{{{names[0]}}} and {{{names[1]}}} in it, as in {like!r}"
        )
    return meant


def episode_index(path: Path, info: dict[str, Any]) -> dict[int, tuple[int, int, int]]:
    """Version 3.0: episode -> chunk, file and number of rows, by meta/episodes."""
    for chunk in sorted(path.glob(EPISODES.rpartition("/")[0])):
        leads(chunk)
    files = [inside(path, str(f.relative_to(path))) for f in sorted(path.glob(EPISODES))]
    index = _read_index(tuple((f, *state_of(f)) for f in files))
    _compare(path, info["total_episodes"], len(index), "meta/episodes")
    return index


@lru_cache(maxsize=64)  # once
def _compare(path: Path, said: int, listed: int, where: str) -> None:
    """Who deletes episodes seldom counts again: what is listed is read, and the difference said."""
    if said != listed:
        say(f"{path}: meta/info.json says {said} episodes, {where} lists {listed}: those are read")


@lru_cache(maxsize=4)
def _read_index(files: tuple[tuple[Path, int, int], ...]) -> dict[int, tuple[int, int, int]]:
    index: dict[int, tuple[int, int, int]] = {}
    for file, *_ in files:
        check_file(file)
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as source:
                if source.metadata.num_rows > MAX_EPISODES:
                    raise ValueError(f"{source.metadata.num_rows} episodes")
                # The two indices do not go on from file to file in some converted datasets (#2057).
                named = "length" in source.schema_arrow.names
                span = ["length"] if named else ["dataset_from_index", "dataset_to_index"]
                table = source.read(INDEX + span)
            columns = [table[c].to_numpy().astype(np.int64).tolist() for c in INDEX]
            spans = [table[c].to_numpy().astype(np.int64) for c in span]
            lengths = (spans[-1] if named else spans[1] - spans[0]).tolist()
        except DAMAGE as error:
            raise DataRefused(f"{file} is damaged: {text_of(error)}") from None
        for episode, chunk, number, length in zip(*columns, lengths):
            if episode in index or min(episode, chunk, number, length) < 0:
                raise DataRefused(
                    f"{file} is damaged: episode {episode} is there twice, or nonsense"
                )
            index[episode] = (chunk, number, length)
    return dict(sorted(index.items()))


def state_of(file: Path) -> tuple[int, int]:
    """Changes when the file does."""
    try:
        state = file.stat()
    except OSError as error:
        raise DataRefused(f"{file}: {error.strerror}") from None
    return state.st_mtime_ns, state.st_size


def place(path: Path, info: dict[str, Any], name: str) -> tuple[Path, int, int | None]:
    """A recording's file, its episode, and the number of its rows by meta/; None: nobody says."""
    if info["codebase_version"] != "v3.0":
        return inside(path, name), *of_episode(path, info, name)
    episode = int(name.removeprefix("episode_"))
    chunk, number, length = episode_index(path, info)[episode]
    # LeRobot's converter long named the file before the one that an episode begins (#2401).
    after = divmod(chunk * info["chunks_size"] + number + 1, info["chunks_size"])
    said, following = (
        inside(path, info["data_path"].format(chunk_index=c, file_index=n))
        for c, n in ((chunk, number), after)
    )
    if groups(said, episode) or not following.is_file() or not groups(following, episode):
        return said, episode, length
    return following, episode, length


def metadata_of(file: Path) -> pq.FileMetaData:
    try:
        return _read_metadata(file, *state_of(file))
    except DAMAGE as error:
        raise DataRefused(f"{file}: {text_of(error)}") from None


@lru_cache(maxsize=4)
def _read_metadata(file: Path, changed: int, size: int) -> pq.FileMetaData:
    check_file(file)
    return pq.read_metadata(file)


def groups(file: Path, episode: int | None) -> list[int]:
    """Row groups that can hold an episode, by their statistics; all of them for None."""
    metadata = metadata_of(file)
    return [g for g in range(metadata.num_row_groups) if _can_hold(metadata, g, episode)]


def schema_of(file: Path) -> dict[str, pa.DataType]:
    try:
        schema = metadata_of(file).schema.to_arrow_schema()
    except DAMAGE as error:
        raise DataRefused(f"{file}: {text_of(error)}") from None
    return dict(zip(schema.names, schema.types))


def _can_hold(metadata: pq.FileMetaData, group: int, episode: int | None) -> bool:
    if episode is None:
        return True
    part = metadata.row_group(group)
    for i in range(part.num_columns):
        column = part.column(i)
        if column.path_in_schema == "episode_index":
            said = column.statistics
            return said is None or not said.has_min_max or said.min <= episode <= said.max
    return False


def text_of(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
