"""What is kept of one recording: its episodes as arrays, and their checksum."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.files.atomic import replaced_file
from qgf_ros.files.regular import open_regular
from training.pipeline.episodes import Episode, EpisodeArrays
from training.pipeline.report import Report

MAGIC = b"qgf piece "  # then the SHA-256 of key and content in hexadecimal digits, a new line, the content
ARRAYS = ("obs", "action", "reward")


class Damaged(Exception):
    """What lies in the cache is not what was put there; the text says which, and why."""


def write_piece(piece: Path, episodes: Sequence[Episode], report: Report) -> None:
    """piece: the file, called by its key."""
    index = {"episodes": [_entry(e) for e in episodes], "report": plain(report)}
    arrays: dict[str, np.ndarray] = {}
    if episodes:
        joined = EpisodeArrays.of(episodes)
        arrays = {a: getattr(joined, a).astype(np.float32) for a in ARRAYS}
    content = io.BytesIO()
    np.savez(content, **arrays, index=np.array(json.dumps(index)))  # type: ignore[arg-type]
    piece.parent.mkdir(parents=True, exist_ok=True)  # it may be cleared at any time
    with replaced_file(piece) as file:
        file.write(MAGIC + digest_of(piece.stem, content.getbuffer()).encode() + b"\n")
        file.write(content.getbuffer())


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
