"""What a replay must keep to pass, from a YAML file: the gate of a CI."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qgf_ros.errors import UsageError
from qgf_ros.files.strict_yaml import build, load_yaml
from qgf_ros.replay.recorded import DIFFERENCES
from qgf_ros.replay.tally import FIGURES
from qgf_ros.statistics import Interval

MOST = 1000  # rules of one file


@dataclass(frozen=True)
class Threshold:
    """One rule: `figure` lies within min..max. beta: of that one alone; None: of each."""

    figure: str
    min: float = -math.inf
    max: float = math.inf
    beta: float | None = None

    def __post_init__(self) -> None:
        known = (*FIGURES, *DIFFERENCES)
        if self.figure not in known:
            raise ValueError(f"figure is {self.figure!r}; known: {', '.join(known)}")
        if not self.min <= self.max or (self.min, self.max) == (-math.inf, math.inf):
            raise ValueError(f"{self.figure}: give min, max, or both, with min <= max")

    def meets(self, value: float) -> bool:
        """A figure that is not known (NaN) meets nothing."""
        return self.min <= value <= self.max


def load_thresholds(path: Path, betas: Sequence[float]) -> list[Threshold]:
    """The rules of a file: a list under the key `thresholds`.

    Raises:
        UsageError: the file is broken, names no figure of a replay, or a beta that is not replayed.
    """
    content = load_yaml(path)
    rows = content.get("thresholds") if isinstance(content, Mapping) else None
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST or len(content) > 1:
        raise UsageError(
            f"{path} must have one key, thresholds, with a list of {{figure, min, max, beta}}"
        )
    rules = [build(Threshold, row, f"{path}: thresholds[{i}]") for i, row in enumerate(rows)]
    strangers = sorted({r.beta for r in rules if r.beta is not None and r.beta not in betas})
    if strangers:
        raise UsageError(
            f"{path}: beta {', '.join(f'{b:g}' for b in strangers)} is not replayed; --beta has "
            f"{', '.join(f'{b:g}' for b in betas)}"
        )
    return rules


def judged(
    rules: Sequence[Threshold], found: Mapping[float, Mapping[str, Interval]]
) -> list[dict[str, Any]]:
    """Each rule for each beta that it is about, with the value, and whether that meets it."""
    return [
        asdict(rule)
        | {
            "beta": beta,
            "value": figures[rule.figure].mean,
            "met": rule.meets(figures[rule.figure].mean),
        }
        for rule in rules
        for beta, figures in found.items()
        if rule.beta in (None, beta)
    ]
