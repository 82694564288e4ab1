"""What a path holds that is not read, and what to do about it: a folder is told the same as a file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

LOOKED_AT = 2000  # entries of a folder
NPZ = "write its arrays to an npz file (observations, actions, rewards, terminals, timeouts)"
REMEDIES = {
    "ROS 1": "is a ROS 1 bag; convert it: `rosbags-convert --src {name} --dst FOLDER` (comes with rosbags)",
    "Zarr": f"is Zarr, which is not read; {NPZ}",
    "RLDS": "is RLDS (TFRecords), which is not read; convert it to LeRobot, or " + NPZ,
    "pickle": "is a pickle, which runs code when it is opened and is never read; where you trust it, "
    + NPZ,
    "archive": "is an archive; unpack it, and give what is in it",
    "conversion": "is of a conversion that is not finished, and no dataset yet; give its `qgf data convert` "
    "command again: it goes on",
    "text": f"is a table of text, which is not read; {NPZ}",
    "video": "is a video; the numbers of a robot are in other files beside it",
}
SUFFIXES = {
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), "pickle"),
    **dict.fromkeys((".tar", ".tgz", ".gz", ".zip", ".7z", ".xz"), "archive"),
    **dict.fromkeys((".csv", ".json", ".jsonl"), "text"),
    **dict.fromkeys((".mp4", ".avi", ".mkv"), "video"),
    ".bag": "ROS 1",
    ".zarr": "Zarr",
    ".tfrecord": "RLDS",
}


def remedy(path: Path) -> str:
    """ "PATH is ...; do ...", or "" where nothing is known of it."""
    kind, found = _kind(path), path
    if not kind and path.is_dir():
        kinds = {}
        for entry in _entries(path):
            inner = _kind(entry)
            if inner and inner not in kinds:
                kinds[inner] = entry
        kind = next((k for k in REMEDIES if k in kinds), "")
        found = kinds.get(kind, path)
    return f"{found} {REMEDIES[kind].format(name=found.name)}" if kind else ""


def _entries(folder: Path) -> Iterable[Path]:
    with suppress(OSError):
        return sorted(islice(folder.iterdir(), LOOKED_AT))
    return []


def _kind(path: Path) -> str:
    """What a path is by its name, or a folder by what is in it."""
    if ".tfrecord" in path.name:
        return "RLDS"
    if path.is_dir():
        names = {p.name for p in _entries(path)}
        if names & {".zgroup", ".zarray", "zarr.json"}:
            return "Zarr"
        if {"dataset_info.json", "features.json"} <= names:
            return "RLDS"
        return "Zarr" if path.suffix.lower() == ".zarr" else ""
    if path.name == "conversion.json":  # `training.pipeline.writers.convert.STATE`
        return "conversion"
    return SUFFIXES.get(path.suffix.lower(), "")
