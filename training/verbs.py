"""Verbs of `qgf` that belong to no room of training. Thin, as those of its rooms: each calls one function
of another module.

Heavy imports stay inside `run`, so that `qgf --help` answers at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from qgf_ros.cli import Options, ReadsData
from qgf_ros.console import say, track
from qgf_ros.errors import DataLost
from training.pipeline.readers.formats import Data
from training.pipeline.writers.formats import Written


@dataclass(frozen=True)
class Record(Options):
    """Record scripted demonstrations in simulation as rosbag2 (MCAP)."""

    out: Path
    """Folder for the bags; it must not hold bags of the same names."""
    world: str = "planar_arm"
    """Simulated world."""
    episodes: int = 1000
    """How many demonstrations."""
    episodes_per_bag: int = 100
    """Episodes in each bag."""
    seed: int = 0
    """Same seed, same messages."""
    workers: int = 2
    """Processes."""

    def run(self) -> Mapping[str, Any]:
        from training.pipeline.record import record

        outcomes = record(
            self.out,
            self.world,
            self.episodes,
            self.seed,
            self.episodes_per_bag,
            self.workers,
            track,
        )
        say(f"{self.out}: " + ", ".join(f"{name} {count}" for name, count in outcomes.items()))
        return {"out": self.out, "outcomes": outcomes}


@dataclass(frozen=True)
class Export(Options):
    """Write sampler.onnx into a policy folder, held to the reference sampler."""

    policy: Annotated[Path, tyro.conf.Positional]
    """Policy folder."""

    def run(self) -> Mapping[str, Any]:
        from training.export.write import export, summary

        parity = export(self.policy)
        say(f"{self.policy}: {summary(parity)}, {parity.ties_left_out} ties left out")
        return {"policy": self.policy, "parity": vars(parity)}


@dataclass(frozen=True)
class DataConvert(ReadsData):
    """Write recordings in another format, by the contract.

    Bags get the recording message for message. Tables get its episodes, aligned as for training:
    one row per control period, the numbers that the robot said, by name. An interrupted conversion
    of all recordings goes on when the same command is given again.
    """

    data: Data
    contract: Path
    """contract.yaml: which topics or columns there are, and what they are called."""
    out: Path
    """Folder to write: the dataset; with --to mcap or sqlite3 and one recording, the bag."""
    to: Written = "mcap"
    """Format."""
    recording: int | Literal["all"] = "all"
    """Which one, counted from 0 in the dataset's order."""
    workers: int = 2
    """Processes."""

    def run(self) -> Mapping[str, Any]:
        from training.pipeline.report import Report
        from training.pipeline.writers.convert import convert

        number = None if self.recording == "all" else self.recording
        counts = convert(self.data, self.contract, self.out, number, self.to, self.workers, track)
        say(f"{self.out}: " + ", ".join(f"{what} {count}" for what, count in counts.items()))
        document = {"out": self.out, "to": self.to, "counts": counts}
        lost = Report(dropped=Counter(counts)).lost
        if lost:
            raise DataLost(
                f"{lost} messages or episodes could not be used (counted above)", document
            )
        return document


@dataclass(frozen=True)
class Demo(Options):
    """The whole path on the simulated arm: record, train, export, evaluate in process and over ROS."""

    out: Path = Path("demo")
    """Folder for bags, run, picture and results; an earlier demo there is replaced."""
    demonstrations: int = 1200
    """Recorded episodes."""
    episodes: int = 300
    """Fresh episodes per sampler, in process."""
    ros_episodes: int = 20
    """Fresh episodes per sampler over ROS topics; 0 leaves ROS out."""
    seed: int = 0
    """Of the demonstrations and of training."""
    workers: int = 2
    """Processes."""
    camera: bool = False
    """The arm seen by a camera: goal and post are in no topic, only in its image."""

    def run(self) -> Mapping[str, Any]:
        from training.demo import DemoConfig, demo

        return demo(
            DemoConfig(
                self.out,
                self.demonstrations,
                self.episodes,
                self.ros_episodes,
                self.seed,
                self.workers,
                self.camera,
            )
        )
