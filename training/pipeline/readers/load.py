"""Any recorded dataset to episodes: finds the reader, reads, aligns, counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from qgf_ros.errors import DataRefused
from qgf_ros.executors import Progress, each
from qgf_ros.spaces.contract import Contract
from training.pipeline.align import align
from training.pipeline.episodes import Episode
from training.pipeline.labels import Label, load_labels
from training.pipeline.readers.foreign import remedy
from training.pipeline.readers.formats import READABLE, READERS
from training.pipeline.report import Report
from training.pipeline.streams import Reader

NEEDED = ("version", "recognises", "recordings", "read", "survey", "files")  # of a Reader


def find_reader(path: Path) -> Reader:
    """The reader for a path. Raises DataRefused where there is none, or nothing at all; with what is
    broken of other packages, which takes no format but its own down."""
    if not path.exists():
        raise DataRefused(f"{path} does not exist; give {READABLE}")
    broken = []
    for name in READERS.names:
        try:
            reader = READERS.load(name)()
            missing = [method for method in NEEDED if not hasattr(reader, method)]
            if missing and name not in READERS.own:
                raise TypeError(f"its reader has no {', '.join(missing)}")
            if reader.recognises(path):
                return reader
        except Exception as error:
            if name in READERS.own:
                raise
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            broken.append(f"format {name!r} of another package is broken ({why})")
    known = remedy(path) or f"{path} is no dataset that can be read"
    raise DataRefused(f"{'; '.join([known, *broken])}: give {READABLE}")


def load_episodes(
    path: str | Path, contract: Contract, workers: int = 1, progress: Progress | None = None
) -> tuple[list[Episode], Report]:
    """Every episode of a dataset into memory, in a fixed order whatever `workers` is; float64.
    What is trained on goes through `store.prepare` instead.

    Raises:
        DataRefused: the data does not have what the contract names, or holds no usable episode.
        UsageError: its label file is broken, or names what it does not have.
    """
    path = Path(path)
    reader, names, labels = contents(path, contract)
    report, episodes = Report(), []
    work = partial(read_episodes, reader, path, contract, labels)
    for found, partial_report in each(work, names, workers, progress, "reading"):
        episodes += found
        report.merge(partial_report)
    kept = without_duplicates(episodes, report)
    refuse_nothing(path, len(kept), report)
    return kept, report


def contents(
    path: Path, contract: Contract
) -> tuple[Reader, list[str], dict[str, dict[str, Label]]]:
    """What reads a dataset, its recordings in order, and what people said of each and its episodes.

    Raises:
        DataRefused: there is nothing that can be read.
        UsageError: its label file is broken, or names what it does not have.
    """
    reader = find_reader(path)
    names = reader.recordings(path)
    labels = load_labels(path, contract)
    return reader, names, labels.by_recording(path, names) if labels is not None else {}


def read_episodes(
    reader: Reader, path: Path, contract: Contract, labels: dict[str, dict[str, Label]], name: str
) -> tuple[list[Episode], Report]:
    """The episodes of one recording, and what became of it."""
    report = Report()
    recording = reader.read(path, name, contract)
    return align(recording, contract, report, labels.get(name)), report


def without_duplicates(episodes: Sequence[Episode], report: Report) -> list[Episode]:
    """The first of each that are the same, in order; the others are counted."""
    first: dict[str, Episode] = {}
    for episode in episodes:
        first.setdefault(episode.digest, episode)
    kept = list(first.values())
    report.without_duplicates(
        len(episodes) - len(kept), sum(map(len, episodes)) - sum(map(len, kept))
    )
    return kept


def refuse_nothing(path: Path, episodes: int, report: Report) -> None:
    """Raises DataRefused where no episode is left, with what became of them."""
    if not episodes:
        reasons = "; ".join(f"{why}: {count}" for why, count in report.dropped.items() if count)
        raise DataRefused(f"{path} holds no usable episode ({reasons or 'it is empty'})")
