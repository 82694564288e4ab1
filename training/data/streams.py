"""What every reader gives: for each source of the contract, when and what it said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from qgf_ros.contract import Contract


@dataclass(frozen=True)
class Stream:
    """Messages of one source, in order of receipt."""

    stamp: np.ndarray  # (N,) int64 ns: when the value was true
    receipt: np.ndarray  # (N,) int64 ns: when it could be known
    values: np.ndarray  # (N, d) float64

    def __len__(self) -> int:
        return len(self.stamp)


@dataclass(frozen=True)
class Recording:
    """One bag, or one episode of a table. `streams` is keyed by the contract's names of
    observations and actions, and reward, success, episode_start where there are such sources."""

    name: str
    streams: dict[str, Stream]
    rejected: dict[str, int] = field(default_factory=dict)  # messages per reason
    one_episode: bool = False  # the whole recording is one episode


class Reader(Protocol):
    """One file per format implements this."""

    def recognises(self, path: Path) -> bool: ...

    def recordings(self, path: Path) -> list[str]:
        """Names of what can be read from `path`, in a fixed order."""

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        """Raises DataRefused when the recording does not have what the contract names."""
