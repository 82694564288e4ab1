"""What a check is, and what several of them need."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from training.data.doctor.dataset import Dataset
from training.data.doctor.summary import STEADY, SignalSummary

Verdict = Literal["ok", "warn", "bad"]
SHOWN = 5  # of a list, in a sentence


@dataclass(frozen=True)
class Check:
    """One question to the data. `where` are the places worth a look, most serious first."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""
    where: tuple[str, ...] = ()


def told(data: Dataset) -> list[SignalSummary]:
    """States and commands."""
    return [s for s in data.signals.values() if s.role in ("state", "command") and s.messages]


def steady(data: Dataset) -> list[SignalSummary]:
    """Signals with a rate."""
    return [s for s in told(data) if s.messages >= STEADY * s.recordings]


def worst_of(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(k, n) for k, n in Counter(counts).most_common() if n]
