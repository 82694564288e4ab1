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
from qgf_ros.strict_yaml import load_yaml
from qgf_ros.trial.record import Record, replace_file

LABELS = "labels.yaml"  # unless the contract names another file


class Shelf:
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
        except OSError as error:
            raise StorageError(f"cannot write {self._unfinished}: {error.strerror}") from None
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
        last = {e.bag for e in record.episodes[-1:]}
        self._settle(record, {e.bag for e in record.episodes} - set(labelled) | last)
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def _settle(self, record: Record, names: set[str]) -> None:
        """Puts bags in their places, and these names' labels into the file."""
        labels = self._read() if self._labels.exists() else {}
        before = dict(labels)
        try:
            for episode in record.episodes:
                place, staged = self.bags / episode.bag, self._unfinished / episode.bag
                if not episode.bag or episode.bag not in names:
                    continue
                if episode.outcome == "aborted":
                    labels.pop(episode.bag, None)
                    shutil.rmtree(staged, ignore_errors=True)
                    shutil.rmtree(place, ignore_errors=True)
                    continue
                if staged.is_dir():
                    self.bags.mkdir(exist_ok=True)
                    staged.rename(place)
                labels[episode.bag] = episode.label
        except OSError as error:
            raise StorageError(f"cannot write {self.bags}: {error.strerror}") from None
        if labels != before:
            text = yaml.safe_dump({"version": 1, "episodes": labels}, sort_keys=False)
            replace_file(self._labels, b"# Outcomes of episodes, by `qgf trial`.\n" + text.encode())

    def _read(self) -> dict[str, Any]:
        content = load_yaml(self._labels)
        if not isinstance(content, Mapping) or not isinstance(content.get("episodes"), Mapping):
            raise UsageError(f"{self._labels} is no file of labels; move it away")
        return dict(content["episodes"])


def _sync(bag: Path) -> None:
    """What trial.yaml counts is on the disk before it does."""
    if not bag.is_dir():
        return
    for path in [*bag.iterdir(), bag]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
