"""Cameras of LeRobot datasets: mp4 files (h264, hevc, av1) beside the tables, or images in a column.

Where a video lies is said by `video_path` of meta/info.json; in version 3.0 one holds many episodes, and
meta/episodes says where each begins in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from qgf_ros.bags.files import check_file
from qgf_ros.errors import DataRefused
from qgf_ros.images import compressed
from qgf_ros.images.raw import BadImage, check_size
from training.pipeline.readers.lerobot_layout import DAMAGE, EPISODES, state_of, text_of
from training.pipeline.readers.tables import inside

VIDEO, IMAGE = "video", "image"  # a feature's dtype
TEMPLATE = r"(?:[^{}]|\{(?:%s)(?::0?\d?d)?\})+"
LIKE = {
    "v2": (
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        ("episode_chunk", "video_key", "episode_index"),
        "chunk_index",
    ),
    "v3": (
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        ("video_key", "chunk_index", "file_index"),
        "episode_chunk",
    ),
}
NEAR = 0.5  # of a frame's time: a frame further from a row is another one


def cameras_of(info: dict[str, Any]) -> dict[str, str]:
    """Columns that are cameras: VIDEO or IMAGE by name."""
    kinds = {n: f.get("dtype") for n, f in info["features"].items() if isinstance(f, dict)}
    return {n: kind for n, kind in kinds.items() if kind in (VIDEO, IMAGE)}


def video_of(path: Path, info: dict[str, Any], camera: str, episode: int) -> tuple[Path, float]:
    """The file of an episode's video, and where the episode begins in it [s]. Raises DataRefused."""
    template = _template(path, info)
    if info["codebase_version"] != "v3.0":
        chunk = episode // info["chunks_size"]
        said = {"episode_chunk": chunk, "episode_index": episode, "video_key": camera}
        return inside(path, template.format(**said)), 0.0
    files = tuple((f, *state_of(f)) for f in sorted(path.glob(EPISODES)))
    try:
        chunk, number, begin = _videos(files, camera)[episode]
    except KeyError:
        raise DataRefused(
            f"{path}: meta/episodes does not say where episode {episode} is in the videos of {camera}"
        ) from None
    said = {"chunk_index": chunk, "file_index": number, "video_key": camera}
    return inside(path, template.format(**said)), begin


def video_frames(file: Path, seconds: np.ndarray, rate: float) -> Iterator[np.ndarray | BadImage]:
    """(H, W, 3) uint8 of each time (N,), increasing [s]; what there is of it where the video ends early
    or is damaged is a BadImage. rate: frames per second, of which half a one may lie between a time and its
    frame.

    Raises DataRefused where the file is no video.
    """
    import av

    check_file(file)
    at, near = 0, NEAR / rate
    try:
        with av.open(str(file), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise DataRefused(f"{file} holds no video")
            stream = container.streams.video[0]
            check_size(stream.width, stream.height)
            stream.thread_type = "NONE"  # one core each: recordings are read side by side
            if len(seconds) and seconds[0] > 1.0 and stream.time_base:
                container.seek(int((seconds[0] - near) / stream.time_base), stream=stream)
            held: Any = None  # the frame before the one that was decoded last
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                while at < len(seconds) and held is not None and seconds[at] <= (held.time + frame.time) / 2:
                    yield _shown(held, seconds[at], near)
                    at += 1
                held = frame
                if at == len(seconds):
                    return
            while at < len(seconds) and held is not None:
                yield _shown(held, seconds[at], near)
                at += 1
    except (av.FFmpegError, ValueError) as error:
        if not at and isinstance(error, (av.FileNotFoundError, av.InvalidDataError)):
            if isinstance(error, av.FileNotFoundError):
                raise DataRefused(
                    f"{file} is not there; fetch the dataset with its videos, or leave the camera out of the contract"
                ) from None
            raise DataRefused(
                f"{file} is no video that can be read: empty, cut short while it was copied or recorded, or of "
                "another format; fetch it again, or record it again"
            ) from None
        for _ in range(at, len(seconds)):
            yield BadImage(f"damaged video: {text_of(error)}")
        return
    for _ in range(at, len(seconds)):
        yield BadImage("the video has no frame at that time")


def _shown(frame: Any, second: float, near: float) -> np.ndarray | BadImage:
    if abs(frame.time - second) > near:
        return BadImage("the video has no frame at that time")
    image: np.ndarray = frame.to_ndarray(format="rgb24")
    return image


def column_images(values: Any) -> Iterator[np.ndarray | BadImage]:
    """Of a column of encoded images, as the datasets library writes them: {bytes, path} each."""
    for row in values:
        said = row.as_py() if row is not None else None
        data = said.get("bytes") if isinstance(said, dict) else None
        if not isinstance(data, bytes):
            yield BadImage("a row without the bytes of an image")
            continue
        try:
            yield compressed.pixels(SimpleNamespace(format="", data=data), "rgb")
        except BadImage as error:
            yield error


def _template(path: Path, info: dict[str, Any]) -> str:
    like, names, slip = LIKE["v3" if info["codebase_version"] == "v3.0" else "v2"]
    given = info.get("video_path")
    if not isinstance(given, str):
        given = like
    meant = re.sub(rf"\{{{slip}(?=[}}:])", "{" + names[0 if slip == "chunk_index" else 1], given)
    if not re.fullmatch(TEMPLATE % "|".join(names), meant):
        raise DataRefused(
            f"{path}/meta/info.json: video_path is {given[:200]!r}; allowed are "
            f"{', '.join(f'{{{n}}}' for n in names)} in it, as in {like!r}"
        )
    return meant


@lru_cache(maxsize=8)
def _videos(
    files: tuple[tuple[Path, int, int], ...], camera: str
) -> dict[int, tuple[int, int, float]]:
    """Version 3.0: episode -> chunk and file of its video, and where it begins in that [s]."""
    found: dict[int, tuple[int, int, float]] = {}
    names = [f"videos/{camera}/{n}" for n in ("chunk_index", "file_index", "from_timestamp")]
    for file, *_ in files:
        check_file(file)
        try:
            table = pq.read_table(file, columns=["episode_index", *names])
            rows = zip(*(table[c].to_pylist() for c in table.column_names))
            for episode, chunk, number, begin in rows:
                if not (min(episode, chunk, number) >= 0 and 0 <= begin < 1e6):
                    raise ValueError(f"episode {episode} at {begin} s")
                found[int(episode)] = (int(chunk), int(number), float(begin))
        except DAMAGE as error:
            raise DataRefused(f"{file}: the videos of {camera}: {text_of(error)}") from None
    return found
