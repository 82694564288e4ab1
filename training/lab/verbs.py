"""The verbs of `qgf` that teach. Heavy imports stay inside `run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgf_ros.cli import Options
from qgf_ros.console import say


@dataclass(frozen=True)
class Lab(Options):
    """Write a page that shows what guidance and its knobs do, on flows known in closed form."""

    out: Path = Path("lab.html")
    """File to write; open it in a browser. It needs no network."""

    def run(self) -> Mapping[str, Any]:
        from training.lab.lab import lab

        written = lab(self.out)
        say(
            f"{self.out}: {written['bytes'] / 1e6:.1f} MB, with {written['numbers']} numbers of our own"
        )
        return written
