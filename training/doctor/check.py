"""What a check is, and what several of them need."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

from training.doctor.dataset import Dataset
from training.doctor.summary import STEADY, SignalSummary

# unknown: there was nothing to judge by, so that nothing is said to be right
Verdict = Literal["ok", "unknown", "warn", "bad"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)  # from good to bad
SHOWN = 5  # of a list, in a sentence


@dataclass(frozen=True)
class Check:
    """One question to the data. `where` are the places worth a look, most serious first."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""
    where: tuple[str, ...] = ()


def unseen(name: str, found: str, fix: str = "") -> Check:
    """What a check says that had nothing to look at."""
    return Check(name, "unknown", f"nothing to judge by: {found}", fix)


def told(data: Dataset) -> list[SignalSummary]:
    """States and commands."""
    return [s for s in data.signals.values() if s.role in ("state", "command") and s.messages]


def steady(data: Dataset) -> list[SignalSummary]:
    """Signals with a rate."""
    return [s for s in told(data) if s.messages >= STEADY * s.recordings]


def of_all(few: int, all_of: int, what: str) -> str:
    """ "3 signals", "2 of 3 signals"."""
    return f"{few} of {all_of} {what}" if few < all_of else f"{few} {what}"


def worst_of(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(k, n) for k, n in Counter(counts).most_common() if n]
