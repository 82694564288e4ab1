"""The verbs that look at a dataset before there is a contract: `qgf data inspect`, `qgf data init`.

Thin, as those of `training.verbs`: heavy imports stay inside `run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgf_ros.cli import ReadsData
from qgf_ros.console import say
from qgf_ros.errors import DataLost, DataRefused
from training.pipeline.readers.formats import Data


@dataclass(frozen=True)
class DataInspect(ReadsData):
    """Say what is in a dataset before anyone trains on it, and what to do about it."""

    data: Data
    contract: Path | None = None
    """contract.yaml; with it, also what training would keep, drop and see. None is needed."""
    out: Path = Path("inspect")
    """Folder for inspect.json and inspect.html."""
    strict: bool = False
    """Exit with code 5 when a check is bad."""
    workers: int = 2
    """Processes that read data."""

    def run(self) -> Mapping[str, Any]:
        from training.doctor.examine import examine

        document = examine(self.data, self.out, self.contract, self.workers)
        bad = [c["name"] for c in document["checks"] if c["verdict"] == "bad"]
        if self.strict and bad:
            raise DataRefused(
                f"{self.data}: {', '.join(bad)}: bad; {self.out}/inspect.html says what to do",
                document,
            )
        lost = sum(document["rejected"].values())
        if lost or document["refused"]:
            raise DataLost(
                f"inspected, but {lost} messages and {len(document['refused'])} recordings of {self.data} "
                f"could not be read; {self.out}/inspect.html names them",
                document,
            )
        return document


@dataclass(frozen=True)
class DataInit(ReadsData):
    """Draft a contract from a recording, with everything that was guessed marked to confirm."""

    data: Data
    out: Path = Path("contract.yaml")
    """File to write; one that is there is not written over."""
    period: float | None = None
    """Control period [s]; by default that of the recorded commands."""
    horizon: int = 8
    """Actions per chunk."""
    workers: int = 2
    """Processes that read data."""

    def run(self) -> Mapping[str, Any]:
        from training.draft.draft import draft

        drafted = draft(self.data, self.out, self.period, self.horizon, self.workers)
        for line in drafted.to_fill_in:
            say(f"fill in: {line}")
        say(
            f"{self.out}: {drafted.guesses} guesses to confirm, {len(drafted.to_fill_in)} to fill in"
        )
        return {
            "out": self.out,
            "loads": drafted.loads,
            "guesses": drafted.guesses,
            "to_fill_in": drafted.to_fill_in,
        }
