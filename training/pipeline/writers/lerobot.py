"""LeRobot datasets of version 2.1 and 3.0, written without lerobot. Cameras are videos, one per episode."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qgf_ros.errors import DataRefused
from qgf_ros.spaces.contract import Contract
from training.pipeline.readers.lerobot import LAST, TERMINAL
from training.pipeline.writers.formats import PARTS
from training.pipeline.writers.npz import NpzFormat, stored
from training.pipeline.writers.table import TableEpisode, cameras, layout, rate
from training.pipeline.writers.video import pixels_of, write_video

Version = Literal["v2.1", "v3.0"]
CHUNK = 1000  # files per folder
FILE_BYTES = 100 * 2**20  # about, of a data file of version 3.0
DATA_PATH = {
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
VIDEO_PATH = {
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


@dataclass(frozen=True)
class Video:
    """One camera of one episode. feature: what meta/info.json says of it. stats: of its colours."""

    file: Path
    feature: dict[str, Any]
    stats: dict[str, Any]


class LeRobotFormat(NpzFormat):
    """One dataset of all recordings, which are npz files, and videos beside them, until all of them are
    there."""

    def folder(self, out: Path) -> Path:
        return out / PARTS

    def put_aside(
        self, episodes: list[TableEpisode], contract: Contract, beside: Path
    ) -> list[TableEpisode]:
        """Videos, in the folder `beside`."""
        seen = cameras(contract)
        specs = {o.name: o.image for o in contract.cameras if o.image is not None}
        if not seen or not episodes:
            return episodes
        part = beside.parent / f".{beside.name}.part"
        for folder in (part, beside):
            shutil.rmtree(folder, ignore_errors=True)
        part.mkdir()
        for k, episode in enumerate(episodes):
            for c, (camera, name) in enumerate(seen.items()):
                file, images = part / f"{k:06d}-{c}.mp4", episode.images[camera]
                said = write_video(file, images, rate(contract), pixels_of(specs[name], images.shape))
                file.with_suffix(".json").write_text(json.dumps(said))
        part.rename(beside)
        return [replace(e, images={}) for e in episodes]

    def finish(self, out: Path, contract: Contract) -> None:
        for folder in ("data", "meta", "videos"):
            shutil.rmtree(out / folder, ignore_errors=True)
        task = contract.description or contract.robot
        names, fps = layout(contract), rate(contract)
        version: Any = self.name.removeprefix("lerobot-")
        writer = LeRobotWriter(out, version, fps, names, contract.robot, task)
        for part in sorted(self.folder(out).glob("recording_*.npz")):
            for k, episode in enumerate(stored(part)):
                files = {
                    camera: part.with_suffix("") / f"{k:06d}-{c}.mp4"
                    for c, camera in enumerate(cameras(contract))
                }
                said = {n: json.loads(f.with_suffix(".json").read_text()) for n, f in files.items()}
                writer.add(episode, {n: Video(f, **said[n]) for n, f in files.items()})
        writer.close()


class LeRobotWriter:
    """Writes episodes one after the other. The folder is a dataset from `close` on, not before.

    names: of the numbers of each column; columns without have one number. fps: rows per second.
    """

    def __init__(
        self,
        folder: Path,
        version: Version,
        fps: float,
        names: dict[str, tuple[str, ...]],
        robot: str,
        task: str,
    ) -> None:
        self._folder, self._version, self._fps = folder, version, fps
        self._names, self._robot, self._task = names, robot, task
        self._features: dict[str, Any] = {}
        self._videos: dict[str, dict[str, Any]] = {}  # features of cameras
        self._episodes: list[dict[str, Any]] = []
        self._stats: list[dict[str, dict[str, np.ndarray]]] = []
        self._frames = 0
        self._file = -1  # of version 3.0: its number, what is in it, and who writes it
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, episode: TableEpisode, videos: Mapping[str, Video] | None = None) -> None:
        """One more episode; all must have the same columns. videos: by camera, of a frame per row.

        Raises DataRefused where a camera's images have another size than before: a dataset has one.
        """
        videos = videos or {}
        number, count = len(self._episodes), len(episode)
        index = np.arange(count)
        columns = episode.columns | {
            LAST: index == count - 1,
            TERMINAL: (index == count - 1) & episode.terminal,
            "timestamp": (index / self._fps).astype(np.float32),
            "frame_index": index,
            "episode_index": np.full(count, number),
            "index": self._frames + index,
            "task_index": np.zeros(count, np.int64),
        }
        self._features = {name: self._feature(name, values) for name, values in columns.items()}
        self._same_features(number, videos)
        table = pa.table({name: _arrow(values) for name, values in columns.items()})
        row: dict[str, Any] = {"episode_index": number, "tasks": [self._task], "length": count}
        if self._version == "v2.1":
            place = {"episode_chunk": number // CHUNK, "episode_index": number}
            name = DATA_PATH["v2.1"].format(**place)
            pq.write_table(table, self._new_file(name), write_page_checksum=True)
        else:
            self._append(table)
            row["data/chunk_index"], row["data/file_index"] = divmod(self._file, CHUNK)
            row["dataset_from_index"] = self._frames
            row["dataset_to_index"] = self._frames + count
        for camera, video in videos.items():
            row |= self._place(camera, video, number, count)
        stats = {name: _stats(values) for name, values in columns.items()}
        seen = {n: {k: np.array(v) for k, v in video.stats.items()} for n, video in videos.items()}
        self._stats.append(stats | seen)
        self._episodes.append(row)
        self._frames += count

    def close(self) -> None:
        """Writes meta/, info.json last."""
        if self._writer is not None:
            self._writer.close()
        if self._version == "v2.1":
            _lines(self._new_file("meta/episodes.jsonl"), self._episodes)
            stats = [
                {"episode_index": i, "stats": {n: _plain(s) for n, s in stats.items()}}
                for i, stats in enumerate(self._stats)
            ]
            _lines(self._new_file("meta/episodes_stats.jsonl"), stats)
            _lines(self._new_file("meta/tasks.jsonl"), [{"task_index": 0, "task": self._task}])
        else:
            self._close_v30()
        text = json.dumps(self._info(), indent=4)
        part = self._new_file("meta/info.json.part")
        part.write_text(text)
        part.replace(part.with_suffix(""))

    def _same_features(self, number: int, videos: Mapping[str, Video]) -> None:
        for camera, video in videos.items():
            known = self._videos.setdefault(camera, video.feature)
            if known["shape"] != video.feature["shape"]:
                (height, width, _), (tall, wide, _) = video.feature["shape"], known["shape"]
                raise DataRefused(
                    f"{camera} is {width} x {height} pixels in episode {number} and {wide} x {tall} before; a "
                    "LeRobot dataset has one size: convert those recordings by themselves"
                )

    def _place(self, camera: str, video: Video, number: int, count: int) -> dict[str, Any]:
        """Puts a video where it belongs; what meta/episodes of version 3.0 says of that. Linked, not moved:
        an interrupted conversion finds it again."""
        chunk, within = divmod(number, CHUNK)
        place = {"episode_chunk": chunk, "episode_index": number} | {
            "chunk_index": chunk, "file_index": within, "video_key": camera
        }  # fmt: skip
        target = self._new_file(VIDEO_PATH[self._version].format(**place))
        try:
            os.link(video.file, target)
        except OSError:  # not every file system has links
            shutil.copyfile(video.file, target)
        if self._version == "v2.1":
            return {}
        said = {"chunk_index": chunk, "file_index": within, "from_timestamp": 0.0, "to_timestamp": count / self._fps}
        return {f"videos/{camera}/{key}": value for key, value in said.items()}

    def _append(self, table: pa.Table) -> None:
        """One row group per episode, into the file at hand or a new one."""
        if self._writer is None or self._bytes + table.nbytes > FILE_BYTES:
            if self._writer is not None:
                self._writer.close()
            self._file, self._bytes = self._file + 1, 0
            chunk, number = divmod(self._file, CHUNK)
            name = DATA_PATH["v3.0"].format(chunk_index=chunk, file_index=number)
            self._writer = pq.ParquetWriter(
                self._new_file(name), table.schema, write_page_checksum=True
            )
        self._writer.write_table(table)
        self._bytes += table.nbytes

    def _close_v30(self) -> None:
        rows = [
            row
            | {f"stats/{n}/{k}": v for n, s in stats.items() for k, v in _plain(s).items()}
            | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
            for row, stats in zip(self._episodes, self._stats)
        ]
        file = self._new_file("meta/episodes/chunk-000/file-000.parquet")
        pq.write_table(pa.Table.from_pylist(rows), file, write_page_checksum=True)
        pq.write_table(_tasks(self._task), self._new_file("meta/tasks.parquet"))
        every = [*self._features, *self._videos]
        total = {n: _plain(_merged([s[n] for s in self._stats])) for n in every}
        self._new_file("meta/stats.json").write_text(json.dumps(total, indent=4))

    def _info(self) -> dict[str, Any]:
        count = len(self._episodes)
        of_version = (
            {"total_videos": count * len(self._videos), "total_chunks": -(-count // CHUNK)}
            if self._version == "v2.1"
            else {"data_files_size_in_mb": FILE_BYTES >> 20, "video_files_size_in_mb": 500}
        )
        return {
            "codebase_version": self._version,
            "robot_type": self._robot,
            "total_episodes": count,
            "total_frames": self._frames,
            "total_tasks": 1,
            **of_version,
            "chunks_size": CHUNK,
            "fps": self._fps,
            "splits": {"train": f"0:{count}"},
            "data_path": DATA_PATH[self._version],
            "video_path": VIDEO_PATH[self._version] if self._videos else None,
            "features": self._features | self._videos,
        }

    def _feature(self, name: str, values: np.ndarray) -> dict[str, Any]:
        named = self._names.get(name)
        return {
            "dtype": str(values.dtype),
            "shape": [values.shape[1] if values.ndim == 2 else 1],
            "names": list(named) if named else None,
        }

    def _new_file(self, name: str) -> Path:
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


def _arrow(values: np.ndarray) -> pa.Array:
    """A single number per row is a scalar in LeRobot, not a list of one."""
    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _stats(values: np.ndarray) -> dict[str, np.ndarray]:
    """min, max, mean and std of each number, (d,), and count, (1,)."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    found = {k: getattr(rows, k)(axis=0) for k in ("min", "max", "mean", "std")}
    return found | {"count": np.array([len(rows)])}


def _merged(stats: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Of all episodes together. The variance is that within them and that between their means."""
    count = np.array([s["count"] for s in stats])
    mean = np.array([s["mean"] for s in stats])
    square = np.array([s["std"] ** 2 + s["mean"] ** 2 for s in stats])
    share = (count / count.sum()).reshape(-1, *[1] * (mean.ndim - 1))
    total = (share * mean).sum(axis=0)
    return {
        "min": np.min([s["min"] for s in stats], axis=0),
        "max": np.max([s["max"] for s in stats], axis=0),
        "mean": total,
        "std": np.sqrt(np.maximum((share * square).sum(axis=0) - total**2, 0)),
        "count": count.sum(axis=0),
    }


def _plain(stats: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {k: v.tolist() for k, v in stats.items()}


def _lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _tasks(task: str) -> pa.Table:
    """As pandas writes {"task_index": [0]} with the task as the index "task"; LeRobot reads it so."""
    table = pa.table({"task_index": np.array([0]), "task": [task]})

    def column(name: str, kind: str, numpy_type: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": numpy_type,
            "metadata": None,
        }

    described = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
