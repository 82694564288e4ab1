"""LeRobot datasets, version 2.1: meta/info.json and one parquet file per episode. No lerobot needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qgf_ros.contract import Contract, Source
from qgf_ros.errors import DataRefused
from training.data.rosbag2 import contract_sources
from training.data.streams import Recording, Stream


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
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise DataRefused(f"{path}: info.json points outside the dataset: {name!r}")
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
                at = stamp + round(period) if key in ("reward", "success") else stamp
                if key == "success":  # told once, where it becomes true
                    rows = np.flatnonzero(values[:, 0])[:1]
                    at, values = at[rows], values[rows]
                streams[key] = Stream(at, at, values)
            elif source not in contract.outcome.sources.values():
                raise DataRefused(
                    f"{path}: the contract gives no column for {key!r}; columns: {', '.join(table.column_names)}"
                )
        return Recording(Path(name).stem, streams, one_episode=True)


def _info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads((path / "meta" / "info.json").read_text())
        version = info["codebase_version"]
        needed = {
            k: info[k] for k in ("fps", "features", "data_path", "chunks_size", "total_episodes")
        }
    except (OSError, ValueError, KeyError) as error:
        raise DataRefused(f"{path}/meta/info.json is damaged: {error}") from None
    if version != "v2.1":
        raise DataRefused(f"{path} is LeRobot {version}; this version reads v2.1")
    return needed


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
    data = table[column].combine_chunks()
    if pa.types.is_list(data.type) or pa.types.is_fixed_size_list(data.type):
        values = data.flatten().to_numpy(zero_copy_only=False).reshape(len(data), -1)
    else:
        values = data.to_numpy(zero_copy_only=False)[:, None]
    wanted = source.names or source.labels
    names = np.ravel(info["features"][column].get("names") or []).tolist()
    if names:
        missing = [n for n in wanted if n not in names]
        if missing:
            raise DataRefused(
                f"{path}: column {column!r} has no {', '.join(missing)}; it has {', '.join(names)}"
            )
        values = values[:, [names.index(n) for n in wanted]]
    elif values.shape[1] != len(wanted):
        raise DataRefused(
            f"{path}: column {column!r} has {values.shape[1]} numbers, the contract names {len(wanted)}"
        )
    return values.astype(np.float64)
