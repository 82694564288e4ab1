"""What every reader gives: for each source of the contract, when and what it said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from qgf_ros.spaces.contract import Contract
from training.pipeline.frames import Frames


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
    cut: bool = False  # it ended before its outcome: even `assume_success` does not make it one
    # (N,) int64 ns, by receipt: when a state was entered after which nothing comes, won or not.
    over: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    # action -> (K,) int64 ns, when messages were meant that cannot be used: no older one stands in
    # for them.
    refused: dict[str, np.ndarray] = field(default_factory=dict)
    # camera -> its frames; its stream says the number of the frame that each message was
    frames: dict[str, Frames] = field(default_factory=dict)


@dataclass(frozen=True)
class Signal:
    """One topic or column of a recording as it is, without a contract: all its numbers."""

    topic: str  # or the column
    type: str  # of its messages, "sensor_msgs/JointState"; "" in tables
    labels: tuple[str, ...]  # a name per number, as a contract would: "position.elbow"
    # values (N, labels); NaN where a message has not that number, infinite where it gives NaN for a joint
    stream: Stream
    units: str = ""  # where the recording says so
    frames: dict[str, int] = field(default_factory=dict)  # messages per frame_id, if they have one
    channels: str = ""  # of a camera: rgb, mono or depth
    pictures: tuple[np.ndarray, ...] = ()  # of a camera, some, small: (H, W, 1 or 3) uint8

    def __post_init__(self) -> None:
        if self.stream.values.shape != (len(self.stream), len(self.labels)):
            raise ValueError(
                f"{self.topic}: values {self.stream.values.shape}, {len(self.labels)} labels"
            )


@dataclass(frozen=True)
class Survey:
    """What is in one recording, for those who have no contract yet."""

    name: str
    signals: dict[str, Signal]  # by topic or column, those with numbers
    others: dict[str, str] = field(default_factory=dict)  # topic or column -> type, without numbers
    rejected: dict[str, int] = field(default_factory=dict)  # messages per reason
    rate: float = 0.0  # Hz, where the dataset says so, by its timestamps first; 0: nobody did
    stated: float = 0.0  # Hz that it states, where its timestamps have another rate
    one_episode: bool = False  # the whole recording is one episode
    unread: dict[str, dict[str, int]] = field(default_factory=dict)  # topic -> reason -> messages
    # that are whole, and hold nothing that a contract could name
    simulated: bool = False  # receipts were wall time, and are led to simulated time by /clock
    unreadable: dict[str, str] = field(default_factory=dict)  # column with numbers -> why
    unusable: dict[str, str] = field(
        default_factory=dict
    )  # of others: why, where they have numbers


class Reader(Protocol):
    """One file per format implements this. Whatever cannot be read is counted in `rejected` or
    refused; a file is never written to, and nothing outside of `path` is read.

    version: raised whenever `read` gives something else for the same files, see `stages`."""

    version: int

    def recognises(self, path: Path) -> bool: ...

    def recordings(self, path: Path) -> list[str]:
        """Names of what can be read from `path`, in a fixed order."""

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        """Raises DataRefused when the recording does not have what the contract names."""

    def survey(self, path: Path, name: str) -> Survey:
        """Everything that has numbers, without a contract."""

    def files(self, path: Path, name: str) -> list[Path]:
        """The files that `read` of this recording depends on, in a fixed order: the cache's key."""
