"""Any recorded dataset to episodes: finds the reader, reads, aligns, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qgf_ros.errors import DataRefused
from qgf_ros.processes import process_pool
from qgf_ros.spaces.contract import Contract
from training.pipeline.align import Report, align
from training.pipeline.episodes import Episode
from training.pipeline.labels import Label, load_labels
from training.pipeline.readers.foreign import remedy
from training.pipeline.readers.formats import FORMATS, READABLE
from training.pipeline.streams import Reader

READERS = tuple(f.make() for f in FORMATS)
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, how many, what) -> items


def find_reader(path: Path) -> Reader:
    """The reader for a path. Raises DataRefused where there is none, or nothing at all."""
    if not path.exists():
        raise DataRefused(f"{path} does not exist; give {READABLE}")
    for reader in READERS:
        if reader.recognises(path):
            return reader
    known = remedy(path)
    raise DataRefused(f"{known or f'{path} is no dataset that can be read'}: give {READABLE}")


def load_episodes(
    path: str | Path, contract: Contract, workers: int = 1, progress: Progress | None = None
) -> tuple[list[Episode], Report]:
    """Every episode of a dataset into memory, in a fixed order whatever `workers` is; float64.
    What is trained on goes through `cache.prepare` instead.

    Raises:
        DataRefused: the data does not have what the contract names, or holds no usable episode.
        UsageError: its label file is broken, or names what it does not have.
    """
    path = Path(path)
    reader, names, labels = contents(path, contract)
    report, episodes = Report(), []
    work = partial(read_episodes, reader, path, contract, labels)
    for found, partial_report in each(work, names, workers, progress):
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


def each(
    work: Callable[[str], Any], names: Sequence[str], workers: int, progress: Progress | None
) -> Iterator[Any]:
    """work(name) for each recording, in order; in `workers` processes where there are several."""
    wrap = progress or (lambda items, total, what: items)
    if workers == 1 or len(names) == 1:
        yield from wrap(map(work, names), len(names), "reading")
        return
    with process_pool(min(workers, len(names))) as pool:
        yield from wrap(pool.map(work, names), len(names), "reading")


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
