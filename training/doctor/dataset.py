"""All recordings of a dataset, one after the other, in the memory of a few."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from qgf_ros.errors import DataRefused
from qgf_ros.executors import Progress, each
from qgf_ros.spaces.contract import Contract
from training.doctor.contract import Aligned, aligned
from training.doctor.leads import Lead
from training.doctor.roles import Pair, pairs, role
from training.doctor.sample import column_quantile
from training.doctor.summary import (
    STEADY,
    RecordingSummary,
    SignalSummary,
    neighbours,
    summarise,
)
from training.pipeline.labels import Label, load_labels
from training.pipeline.readers.load import find_reader
from training.pipeline.streams import Reader, Survey

AHEAD = 2  # recordings per process that wait to be added up
PERIOD = 0.05  # s, for want of commands
FIRST = 3  # recordings that are looked at for what commands what


@dataclass
class Dataset:
    """What all recordings have in common, and a line about each."""

    path: Path
    format: str
    recordings: list[RecordingSummary] = field(default_factory=list)  # without their signals
    signals: dict[str, SignalSummary] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(
        default_factory=dict
    )  # of others: why, where they have numbers
    rejected: Counter[str] = field(default_factory=Counter)
    noticed: Counter[str] = field(default_factory=Counter)  # odd, but nothing was lost by it
    unread: dict[str, Counter[str]] = field(default_factory=dict)  # topic -> reason -> messages
    layouts: dict[str, list[str]] = field(default_factory=dict)  # topic -> recordings that differ
    unreadable: dict[str, str] = field(default_factory=dict)  # column -> why, in the first of all
    leads: dict[Pair, list[Lead]] = field(default_factory=dict)
    # camera -> of each recording the correlation of its motion with the state's, see `in_step`
    in_step: dict[str, list[np.ndarray]] = field(default_factory=dict)
    contract: Contract | None = None
    aligned: Aligned | None = None  # with a contract
    period: float = PERIOD  # s, of the commands

    @property
    def readable(self) -> list[RecordingSummary]:
        return [r for r in self.recordings if not r.refused]

    @property
    def refused(self) -> list[RecordingSummary]:
        return [r for r in self.recordings if r.refused]

    @property
    def episodes(self) -> int:
        return sum(r.episodes for r in self.recordings)

    @property
    def outcomes(self) -> dict[str, int]:
        """By the contract, where there is one; else as topics, columns and labels say."""
        total = Counter({"success": 0, "failure": 0, "unknown": 0})
        if self.aligned is not None:
            said = {True: "success", False: "failure", None: "unknown"}
            total.update(said[e.success] for e in self.aligned.episodes)
        else:
            for recording in self.readable:
                total.update(recording.outcomes)
        return dict(total)

    @property
    def timeless(self) -> bool:
        """A table that does not say how fast its rows were recorded."""
        return any(r.whole and not r.rate for r in self.readable)

    @property
    def stated(self) -> float:
        """Hz that the dataset states where most of its timestamps have another rate; 0: they agree."""
        other = [r.stated for r in self.readable if r.stated]
        return float(np.median(other)) if 2 * len(other) > len(self.readable) else 0.0

    @property
    def rate(self) -> float:
        """Hz that the dataset says, or else of its commands, or of its fastest state; 0: unknown."""
        said = [r.rate for r in self.readable if r.rate]
        if said or self.timeless:
            return float(np.median(said)) if said else 0.0
        for kind in ("command", "state"):
            rates = [rate(s) for s in self.signals.values() if s.role == kind]
            if rates and max(rates) > 0:
                return max(rates)
        return 0.0

    def of(self, kind: str) -> list[SignalSummary]:
        """Signals of a role."""
        return [s for s in self.signals.values() if s.role == kind]

    @property
    def undecoded(self) -> dict[str, str]:
        """Topic -> how many of its messages were rejected because none can be decoded, and why."""
        found = {}
        for topic, why in self.unusable.items():
            if count := self.rejected[why]:
                text = why.removeprefix(f"{topic.strip('/')}: ").removeprefix("cannot be decoded, ")
                found[topic] = f"{count} messages of {topic} cannot be decoded, {text}"
        return found

    def add(self, recording: RecordingSummary) -> None:
        number = len(self.recordings)
        self.recordings.append(replace(recording, signals={}, others={}, leads={}, rejected={}, in_step={}))
        self.others |= recording.others
        for topic, counts in recording.unread.items():
            self.unread.setdefault(topic, Counter()).update(counts)
        self.unreadable = recording.unreadable | self.unreadable
        self.unusable |= recording.unusable
        for why, count in recording.rejected.items():
            (self.noticed if "departs" in why else self.rejected)[why] += count
        for pair, lead in recording.leads.items():
            self.leads.setdefault(pair, []).append(lead)
        for camera, blocks in recording.in_step.items():
            self.in_step.setdefault(camera, []).append(blocks)
        for topic, summary in recording.signals.items():
            summary = summary.numbered(number)
            known = self.signals.get(topic)
            if known is None:
                self.signals[topic] = summary
            elif known.type == summary.type and set(known.labels) == set(summary.labels):
                self.signals[topic] = known.merge(summary.picked(known.labels))
            else:
                self.layouts.setdefault(topic, []).append(recording.name)


def rate(signal: SignalSummary) -> float:
    """Hz: the inverse of the median interval, of the joints that speak most often; 0 where there is none."""
    middle, _ = signal.pace()
    return 1 / middle if middle > 0 and signal.messages >= STEADY else 0.0


def survey_dataset(
    path: Path,
    contract: Contract | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Dataset:
    """Reads every recording once, and once more with a contract.

    Raises:
        DataRefused: there is no dataset, or none of its recordings can be read.
        UsageError: its label file is broken, or names what it does not have.
    """
    reader = find_reader(path)
    names = reader.recordings(path)
    data = Dataset(path, type(reader).__name__.removesuffix("Reader").lower(), contract=contract)
    file = load_labels(path, contract)
    labels = file.by_recording(path, names) if file is not None else {}
    matched, data.period = _first_look(reader, path, names)
    work = partial(_one, reader, path, matched, data.period, contract, labels)
    for recording, part in each(work, names, workers, progress, "inspecting", AHEAD):
        data.add(recording)
        if part is not None:
            data.aligned = part if data.aligned is None else data.aligned.merge(part)
    if not data.readable:
        why = f"; the first: {data.refused[0].refused}" if data.refused else ""
        raise DataRefused(f"{path}: none of {len(names)} recordings can be read{why}")
    return data


def _first_look(reader: Reader, path: Path, names: list[str]) -> tuple[list[Pair], float]:
    """Which number commands which, and the commands' period, from the first that can be read: of
    several, the one that tells most, because where nothing moves nothing can be matched."""
    best: tuple[list[Pair], float] | None = None
    looked = 0
    for name in names:
        try:
            survey = reader.survey(path, name)
        except DataRefused:
            continue
        if survey.one_episode and not survey.rate:
            break  # without a clock nothing leads anything
        period = _period(survey)
        found = pairs(survey, period)
        if best is None or len(found) > len(best[0]):
            best = found, period
        looked += 1
        if looked == FIRST or len(found) == _commanded(survey):
            break
    return best or ([], PERIOD)


def _commanded(survey: Survey) -> int:
    return sum(len(s.labels) for s in survey.signals.values() if role(s.topic, s.type) == "command")


def _period(survey: Survey) -> float:
    if survey.rate:
        return 1 / survey.rate
    steps = [
        step
        for s in survey.signals.values()
        if role(s.topic, s.type) == "command" and len(s.stream) >= STEADY
        for step in column_quantile(neighbours(s, np.empty(0))[1], 0.5)
    ]
    return float(min((s for s in steps if s > 0), default=PERIOD))


def _one(
    reader: Reader,
    path: Path,
    matched: list[Pair],
    period: float,
    contract: Contract | None,
    labels: dict[str, dict[str, Label]],
    name: str,
) -> tuple[RecordingSummary, Aligned | None]:
    try:
        said = labels.get(name, {})
        summary = summarise(reader.survey(path, name), matched, period, said)
    except DataRefused as error:
        return RecordingSummary(name, refused=str(error)), None
    return summary, aligned(reader, path, name, contract, said) if contract else None
