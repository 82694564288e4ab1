"""Where a trial's files lie, and in which order they come to be.

    OUT/trial.yaml            all that was said; the one truth
    OUT/unfinished/NAME       the bag of the episode that runs
    OUT/bags/NAME             bags of counted episodes: a dataset for `qgf train`
    OUT/bags/labels.yaml      how they ended, as `qgf data label` writes it

An episode counts from the moment that trial.yaml has it. Whatever a kill leaves half done is finished,
or thrown away where no verdict was given, when the trial goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from qgf_ros.errors import StorageError, UsageError
from qgf_ros.files.atomic import sync
from qgf_ros.files.strict_yaml import load_yaml
from qgf_ros.trial.record import FILE, Record, replace_file

ROOM = 10_000_000  # bytes that a bag may take: nobody drives for what the disk will not hold
LABELS = "labels.yaml"  # unless the contract names another file


class TrialFolder:
    """The folder of one trial."""

    def __init__(self, folder: Path, bags: bool = True, labels: str = LABELS) -> None:
        """bags: whether episodes are recorded. labels: the contract's name for their file."""
        self.folder, self._bags = folder, bags
        self.bags = folder / "bags"
        self._unfinished = folder / "unfinished"
        self._labels = self.bags / (labels or LABELS)

    def name(self, number: int) -> str:
        """Of an episode's bag; it does not tell which beta. "" where none is recorded."""
        return f"episode_{number:04d}" if self._bags else ""

    def begin(self, name: str) -> Path:
        """Where the bag of a new episode goes. Raises StorageError."""
        try:
            shutil.rmtree(self._unfinished, ignore_errors=True)
            self._unfinished.mkdir(parents=True)
            disk = os.statvfs(self._unfinished)
        except OSError as error:
            raise StorageError(f"cannot write {self._unfinished}: {error.strerror}") from None
        free = disk.f_bavail * disk.f_frsize
        if disk.f_blocks and free < ROOM:  # some file systems do not say
            raise StorageError(
                f"{self.folder} has room for {free / 1e6:.1f} MB, and the bag of an episode may take "
                f"{ROOM / 1e6:.0f}; make room, and the same command goes on"
            )
        return self._unfinished / name

    def keep(self, record: Record) -> None:
        """The last episode was judged, or judged again. Raises StorageError."""
        last = record.episodes[-1]
        if last.bag:
            _sync(self._unfinished / last.bag)
        record.save(self.folder)
        self._settle(record, {last.bag})

    def resume(self, record: Record) -> None:
        """Finishes what a kill left half done; other labels that are there stay as they are."""
        labelled = self._read() if self._labels.exists() else {}
        names = {e.bag for e in record.episodes} - set(labelled)
        if labelled and _younger(
            self.folder / FILE, self._labels
        ):  # the last verdict came too late
            names |= {e.bag for e in record.episodes[-1:]}
        self._settle(record, names)
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def _settle(self, record: Record, names: set[str]) -> None:
        """Puts bags in their places, and these names' labels into the file. A bag that lies in its
        place has its label at every moment."""
        labels = self._read() if self._labels.exists() else {}
        before = dict(labels)
        for episode in record.episodes:
            if episode.bag and episode.bag in names:
                labels[episode.bag] = episode.label
        gone = [e.bag for e in record.episodes if e.bag and e.outcome == "aborted"]
        try:
            for name in gone:
                labels.pop(name, None)
                if (self.bags / name).is_dir():
                    self._unfinished.mkdir(exist_ok=True)
                    (self.bags / name).rename(self._unfinished / name)
                shutil.rmtree(self._unfinished / name, ignore_errors=True)
            if labels != before:
                content = {"version": 1, "episodes": labels}
                text = "# Outcomes of episodes, by `qgf trial`.\n"
                text += yaml.safe_dump(content, sort_keys=False)
                replace_file(self._labels, text.encode())
            for name in {e.bag for e in record.counted if e.bag}:
                if (self._unfinished / name).is_dir():
                    self.bags.mkdir(exist_ok=True)
                    (self._unfinished / name).rename(self.bags / name)
                    sync(self.bags)
        except OSError as error:
            raise StorageError(f"cannot write {self.bags}: {error.strerror}") from None

    def _read(self) -> dict[str, Any]:
        content = load_yaml(self._labels)
        if not isinstance(content, Mapping) or not isinstance(content.get("episodes"), Mapping):
            raise UsageError(f"{self._labels} is no file of labels; move it away")
        return dict(content["episodes"])


def _younger(path: Path, than: Path) -> bool:
    return path.stat().st_mtime_ns >= than.stat().st_mtime_ns


def _sync(bag: Path) -> None:
    """What trial.yaml counts is on the disk before it does."""
    if not bag.is_dir():
        return
    for path in [*bag.iterdir(), bag, bag.parent]:
        sync(path)
