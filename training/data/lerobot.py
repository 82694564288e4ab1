"""LeRobot datasets, version 2.1: meta/info.json and one parquet file per episode. No lerobot needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qgf_ros.contract import Contract, EndSource, Source
from qgf_ros.errors import DataRefused
from training.data.rosbag2 import contract_sources
from training.data.streams import Recording, Stream

RENAME = (  # a message's fields have fixed names; guessing who is who would mix x, y, z, w with w, x, y, z
    "; name them in meta/info.json as the message's fields are named"
)


class LeRobotReader:
    """One recording per episode. A row is one tick: its values are known at its time, its reward
    and success are of the period that follows."""

    def recognises(self, path: Path) -> bool:
        return (path / "meta" / "info.json").is_file()

    def recordings(self, path: Path) -> list[str]:
        info = _info(path)
        names = [
            info["data_path"].format(episode_chunk=e // info["chunks_size"], episode_index=e)
            for e in range(info["total_episodes"])
        ]
        for name in names:
            if not (path / name).resolve().is_relative_to(path.resolve()):
                raise DataRefused(
                    f"{path}: info.json or a link points outside the dataset: {name!r}"
                )
        return names

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        info = _info(path)
        try:
            table = pq.read_table(path / name)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataRefused(f"{path / name}: {error}") from None
        period = 1e9 / info["fps"]
        # Not the timestamp column: its float32 seconds are off by microseconds after a minute.
        stamp = np.round(np.arange(table.num_rows) * period).astype(np.int64)
        streams = {}
        for key, source in contract_sources(contract).items():
            if source.column:
                values = _column(path, info, table, key, source)
                tested = isinstance(source, EndSource) and source.test  # a state, as any other
                told = isinstance(source, EndSource) and not tested
                at = stamp + round(period) if key == "reward" or told else stamp
                if told:  # once, where it becomes true
                    rows = np.flatnonzero(values[:, 0])[:1]
                    at, values = at[rows], values[rows]
                streams[key] = Stream(at, at, values)
            elif source not in contract.outcome.sources.values():
                raise DataRefused(
                    f"{path}: the contract gives no column for {key!r}; columns: {', '.join(table.column_names)}"
                )
        return Recording(Path(name).stem, streams, one_episode=True)


def _info(path: Path) -> dict[str, Any]:
    """The checked content of meta/info.json that is needed."""
    try:
        info = json.loads((path / "meta" / "info.json").read_text())
        version = info["codebase_version"]
        needed = {
            k: info[k] for k in ("fps", "features", "data_path", "chunks_size", "total_episodes")
        }
        if version != "v2.1":
            raise DataRefused(f"{path} is LeRobot {version}; this version reads v2.1")
        whole = all(
            type(needed[k]) is int and needed[k] >= 0 for k in ("chunks_size", "total_episodes")
        )
        fps = needed["fps"]
        sound = (
            whole and needed["chunks_size"] > 0 and isinstance(fps, (int, float)) and 0 < fps <= 1e5
        )
        if not (sound and type(fps) is not bool and isinstance(needed["features"], dict)):
            raise ValueError(
                f"fps {fps!r}, {needed['total_episodes']!r} episodes: these make no sense"
            )
        needed["data_path"].format(episode_chunk=0, episode_index=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataRefused(
            f"{path}/meta/info.json is damaged: {type(error).__name__}: {error}"
        ) from None
    return needed


def _names(feature: Any) -> list[str]:
    """A feature's names: a list, a list of lists, or {"motors": [...]}, as public datasets have them."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        names = list(names.values())
    flat: list[str] = []
    for item in names or []:
        flat += item if isinstance(item, list) else [item]
    return [str(n) for n in flat]


def _column(
    path: Path, info: dict[str, Any], table: pa.Table, key: str, source: Source
) -> np.ndarray:
    """The (N, d) numbers of a source, picked by the dataset's own names."""
    column = source.column
    if column not in table.column_names or column not in info["features"]:
        raise DataRefused(
            f"{path} has no column {column!r}, which the contract needs for {key!r}; "
            f"columns: {', '.join(table.column_names)}"
        )
    wanted = source.names or source.labels
    data = table[column].combine_chunks()
    if not len(data):
        return np.empty((0, len(wanted)))
    where = f"{path}: column {column!r}"
    width = 1
    if pa.types.is_list(data.type) or pa.types.is_fixed_size_list(data.type):
        widths = set(pc.list_value_length(data).to_pylist())
        if len(widths) > 1 or None in widths:
            raise DataRefused(f"{where} has rows of different length, or empty ones")
        width, data = widths.pop(), data.flatten()
    try:  # a null becomes NaN, which alignment counts
        values = data.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, width)
    except (TypeError, ValueError) as error:
        raise DataRefused(f"{where} does not hold numbers: {error}") from None
    names = _names(info["features"][column])
    if names and len(names) != width:
        raise DataRefused(f"{where} has {width} numbers and {len(names)} names")
    if names:
        missing = [n for n in wanted if n not in names]
        if missing:
            raise DataRefused(
                f"{where} has no {', '.join(missing)}; it has {', '.join(names)}"
                + ("" if source.names else RENAME)
            )
        values = values[:, [names.index(n) for n in wanted]]
    elif width != len(wanted):
        raise DataRefused(
            f"{where} has {width} numbers, the contract names {len(wanted)}: {', '.join(wanted)}"
        )
    return values
