"""What alignment to a contract keeps and drops, and how the data fits the contract's figures."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qgf_ros.errors import DataRefused
from qgf_ros.spaces.contract import Contract
from training.doctor.sample import Sample
from training.doctor.summary import ROWS
from training.pipeline.align import align
from training.pipeline.episodes import Episode
from training.pipeline.labels import Label
from training.pipeline.report import Report
from training.pipeline.streams import Reader, Recording

ROUNDING = 1e-6  # of a limit's range, which a float32 command may be off


@dataclass(frozen=True)
class EpisodeLine:
    """One aligned episode."""

    name: str
    ticks: int
    success: bool | None
    terminal: bool
    total: float  # sum of its rewards
    content: str  # hash


@dataclass(frozen=True)
class Aligned:
    """Of one recording, or of several together."""

    report: Report = field(default_factory=Report)
    episodes: tuple[EpisodeLine, ...] = ()
    rewards: tuple[float, float] = (np.inf, -np.inf)  # smallest and largest of a period
    ages: dict[str, Sample] = field(default_factory=dict)  # s, of each message when its next came
    beyond: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (A,) commands beyond limits
    faster: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (A,) changes beyond the rate
    refused: dict[str, str] = field(default_factory=dict)  # recording -> why

    def merge(self, other: Aligned) -> Aligned:
        report = Report()
        report.merge(self.report)
        report.merge(other.report)
        return replace(
            self,
            report=report,
            episodes=self.episodes + other.episodes,
            rewards=(
                min(self.rewards[0], other.rewards[0]),
                max(self.rewards[1], other.rewards[1]),
            ),
            ages=other.ages
            | {
                k: s.merge(other.ages[k], ROWS) if k in other.ages else s
                for k, s in self.ages.items()
            },
            beyond=_sum(self.beyond, other.beyond),
            faster=_sum(self.faster, other.faster),
            refused=self.refused | other.refused,
        )


def aligned(
    reader: Reader, path: Path, name: str, contract: Contract, labels: Mapping[str, Label]
) -> Aligned:
    """Reads one recording by the contract; a refusal is kept, not raised.

    Raises UsageError where a label names an episode that there is not.
    """
    report = Report()
    try:
        recording = reader.read(path, name, contract)
        episodes = align(recording, contract, report, labels)
    except DataRefused as error:
        return Aligned(refused={name: str(error)})
    low, high, rate = contract.limits
    slack = ROUNDING * (high - low)
    beyond, faster = np.zeros(len(low)), np.zeros(len(low))
    for e in episodes:
        beyond += ((e.action < low - slack) | (e.action > high + slack)).sum(axis=0)
        change = np.abs(np.diff(e.action, axis=0))
        faster += (change > rate * contract.time.period + slack).sum(axis=0)
    return Aligned(
        report,
        tuple(_line(e) for e in episodes),
        (
            min((float(e.reward.min()) for e in episodes), default=np.inf),
            max((float(e.reward.max()) for e in episodes), default=-np.inf),
        ),
        _ages(recording, contract),
        beyond,
        faster,
    )


def _line(e: Episode) -> EpisodeLine:
    return EpisodeLine(e.name, len(e), e.success, e.terminal, float(e.reward.sum()), e.digest)


def _ages(recording: Recording, contract: Contract) -> dict[str, Sample]:
    """How old each message had become when the next one replaced it: the oldest that it was used."""
    ages = {}
    starts = recording.streams.get("episode_start")
    begins = np.empty(0, np.int64) if starts is None else starts.receipt
    for source in contract.observations:
        stream = recording.streams[source.name]
        rng = np.random.default_rng(zlib.crc32(f"{recording.name} {source.name}".encode()))
        age = ((stream.receipt[1:] - stream.stamp[:-1]) * 1e-9 + source.delay)[
            np.diff(np.searchsorted(begins, stream.receipt, side="right")) == 0
        ]
        ages[source.name] = Sample.of(age[:, None], ROWS, rng)
    return ages


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return b if not len(a) else a if not len(b) else a + b
