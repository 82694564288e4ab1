"""Any recorded dataset to episodes: finds the reader, reads, aligns, counts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from qgf_ros.contract import Contract
from qgf_ros.errors import DataRefused
from training.data.alignment import Report, align
from training.data.episodes import Episode
from training.data.labels import Label, load_labels
from training.data.lerobot import LeRobotReader
from training.data.rosbag2 import Rosbag2Reader
from training.data.streams import Reader

READERS: tuple[Reader, ...] = (LeRobotReader(), Rosbag2Reader())
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, how many, what) -> items


def find_reader(path: Path) -> Reader:
    """The reader for a path. Raises DataRefused where there is none, or nothing at all."""
    if not path.exists():
        raise DataRefused(
            f"{path} does not exist; give a bag, a folder of bags, or a LeRobot dataset"
        )
    for reader in READERS:
        if reader.recognises(path):
            return reader
    raise DataRefused(
        f"{path} is no dataset that can be read: neither a rosbag2 folder (metadata.yaml), a folder of "
        "them, nor LeRobot v2.1 (meta/info.json)"
    )


def load_episodes(
    path: str | Path, contract: Contract, workers: int = 1, progress: Progress | None = None
) -> tuple[list[Episode], Report]:
    """Every episode of a dataset, in a fixed order whatever `workers` is.

    Raises:
        DataRefused: the data does not have what the contract names, or holds no usable episode.
        UsageError: its label file is broken, or names what it does not have.
    """
    path = Path(path)
    reader = find_reader(path)
    names = reader.recordings(path)
    labels = load_labels(path, contract)
    mine = labels.by_recording(path, names) if labels is not None else {}
    work = partial(_one, reader, path, contract, mine)
    report, episodes = Report(), []
    wrap = progress or (lambda items, total, what: items)
    if workers > 1 and len(names) > 1:
        # spawn: a forked child would share torch's and rclpy's threads, which do not survive it
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            results = list(wrap(pool.map(work, names), len(names), "reading"))
    else:
        results = [work(name) for name in wrap(names, len(names), "reading")]
    for found, partial_report in results:
        episodes += found
        report.merge(partial_report)
    episodes = _without_duplicates(episodes, report)
    if not episodes:
        reasons = "; ".join(f"{why}: {count}" for why, count in report.dropped.items() if count)
        raise DataRefused(f"{path} holds no usable episode ({reasons or 'it is empty'})")
    return episodes, report


def data_hash(episodes: Sequence[Episode]) -> str:
    """SHA-256 over the content of all episodes, in order; names do not matter."""
    return hashlib.sha256("".join(map(_content, episodes)).encode()).hexdigest()


def _one(
    reader: Reader, path: Path, contract: Contract, labels: dict[str, dict[str, Label]], name: str
) -> tuple[list[Episode], Report]:
    report = Report()
    recording = reader.read(path, name, contract)
    return align(recording, contract, report, labels.get(name)), report


def _content(episode: Episode) -> str:
    digest = hashlib.sha256()
    for array in (episode.obs, episode.action, episode.reward):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _without_duplicates(episodes: list[Episode], report: Report) -> list[Episode]:
    """An episode that is there twice would leak from training into the report."""
    seen: dict[str, Episode] = {}
    for episode in episodes:
        seen.setdefault(_content(episode), episode)
    kept = list(seen.values())
    report.dropped["duplicate episode"] += len(episodes) - len(kept)
    report.episodes -= len(episodes) - len(kept)
    report.ticks -= sum(map(len, episodes)) - sum(map(len, kept))
    return kept
