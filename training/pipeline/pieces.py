"""What is kept of one recording: its episodes as arrays, and their checksum."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.console import say
from qgf_ros.files.atomic import replaced_file
from qgf_ros.files.regular import open_regular
from training.pipeline.episodes import Episode, EpisodeArrays
from training.pipeline.frames import BLOCK, ByColumn, Size, used
from training.pipeline.report import Report

MAGIC = b"qgf piece "  # then the SHA-256 of key and content in hexadecimal digits, a new line, the content
ARRAYS = ("obs", "action", "reward")


class Damaged(Exception):
    """What lies in the cache is not what was put there; the text says which, and why."""


def discard(path: Path, damage: Damaged) -> None:
    """Puts away what is damaged, whatever it is, and says so."""
    say(f"what was prepared is damaged and is prepared anew: {damage}")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_piece(piece: Path, episodes: Sequence[Episode], report: Report) -> None:
    """piece: the file, called by its key; frames that its episodes name lie in one beside it."""
    index = {"episodes": [_entry(e) for e in episodes], "report": plain(report)}
    arrays: dict[str, np.ndarray] = {}
    if episodes:
        joined = EpisodeArrays.of(episodes)
        kept, obs = used(joined.frames, joined.obs)
        arrays = {a: getattr(joined, a).astype(np.float32) for a in ARRAYS}
        arrays["obs"] = obs.astype(np.float32)
        if kept:
            index["frames"] = _write_frames(frames_of(piece), joined.frames, kept)
    content = io.BytesIO()
    np.savez(content, **arrays, index=np.array(json.dumps(index)))  # type: ignore[arg-type]
    piece.parent.mkdir(parents=True, exist_ok=True)  # it may be cleared at any time
    with replaced_file(piece) as file:
        file.write(MAGIC + digest_of(piece.stem, content.getbuffer()).encode() + b"\n")
        file.write(content.getbuffer())


def frames_of(piece: Path) -> Path:
    """The file with a piece's frames."""
    return piece.with_suffix(".frames")


def _write_frames(
    path: Path, frames: ByColumn, kept: Mapping[int, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Cameras behind each other; -> by column, as text, what `read_frames` needs."""
    index, at = {}, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        for column, numbers in kept.items():
            hashed = hashlib.sha256()
            for first in range(0, len(numbers), BLOCK):
                block = frames[column][numbers[first : first + BLOCK]].tobytes()
                hashed.update(block)
                file.write(block)
            shape = [len(numbers), *frames[column].shape]
            about = {"at": at, "shape": shape, "size": list(frames[column].size)}
            index[str(column)] = about | {"sha256": hashed.hexdigest()}
            at += math.prod(shape)
    return index


def read_frames(
    path: Path, index: Mapping[str, Mapping[str, Any]]
) -> dict[int, tuple[np.ndarray, Size]]:
    """By column the frames (N, H, W, C) of one recording, mapped from its file, and the size of the images
    that they were made of. Raises Damaged."""
    found: dict[int, tuple[np.ndarray, Size]] = {}
    try:
        for column, about in index.items():
            shape = tuple(about["shape"])
            with open_regular(path, follow=False) as file:
                array = np.memmap(file, np.uint8, "r", about["at"], shape)
            if hashlib.sha256(array.data).hexdigest() != about["sha256"]:
                raise Damaged(f"{path} does not have its checksum")
            width, height = about["size"]
            found[int(column)] = array, (int(width), int(height))
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: {error}") from None
    return found


def read_piece(piece: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Index and arrays of one recording. Raises Damaged."""
    raw = read_whole(piece)
    head, at = raw[: len(MAGIC) + 65], len(MAGIC) + 65
    content = memoryview(raw)[at:]
    if head != MAGIC + digest_of(piece.stem, content).encode() + b"\n":
        raise Damaged(f"{piece} does not have its checksum")
    try:
        with np.load(io.BytesIO(content)) as file:
            arrays = {a: file[a] for a in ARRAYS if a in file.files}
            return json.loads(str(file["index"])), arrays
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise Damaged(f"{piece}: {error}") from None


def file_digest(file: Path) -> str:
    """Raises Damaged."""
    try:
        with open_regular(file, follow=False) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise Damaged(f"{file}: {error.strerror}") from None


def digest_of(key: str, content: Any) -> str:
    """Of what belongs to a key: the same content in another's place is wrong there."""
    hashed = hashlib.sha256(key.encode())
    hashed.update(content)
    return hashed.hexdigest()


def read_whole(file: Path) -> bytes:
    """Raises Damaged where it cannot be read, or is no regular file."""
    try:
        with open_regular(file, follow=False) as stream:
            return stream.read()
    except OSError as error:
        raise Damaged(f"{file}: {error.strerror}") from None


def _entry(episode: Episode) -> dict[str, Any]:
    return {
        "name": episode.name,
        "steps": len(episode),
        "terminal": episode.terminal,
        "success": episode.success,
        "origin": episode.origin,
        "digest": episode.digest,
    }


def plain(report: Report) -> dict[str, Any]:
    return {
        "episodes": report.episodes,
        "ticks": report.ticks,
        "dropped": dict(sorted(report.dropped.items())),
        "noticed": dict(sorted(report.noticed.items())),
    }


def report_of(plain: Mapping[str, Any]) -> Report:
    counters = {key: Counter(plain[key]) for key in ("dropped", "noticed")}
    return Report(plain["episodes"], plain["ticks"], **counters)
