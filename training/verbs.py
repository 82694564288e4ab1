"""The verbs of `qgf` that live in training. Thin: each calls one function of another module.

Heavy imports stay inside `run`, so that `qgf --help` answers at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from qgf_ros.cli import Options, ReadsData
from qgf_ros.console import say, table, track
from qgf_ros.errors import DataLost
from training.learn.config import FitConfig
from training.pipeline.readers.formats import Data, DataOfPolicy


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
class Train(ReadsData):
    """Train flow policy and critic on recorded data, and export the policy."""

    data: Data
    contract: Path
    """contract.yaml: which topics and fields are state, action and outcome."""
    out: Path
    """Run folder: policy/, metrics.csv and tensorboard/ are written there."""
    resume: bool = False
    """Go on where a run in --out was interrupted; from the start where there is none."""
    strict: bool = False
    """Refuse data of which messages or episodes were lost, instead of training without them."""
    fit: FitConfig = field(default_factory=FitConfig)

    def run(self) -> Mapping[str, Any]:
        from qgf_ros.policy.folder import load_policy
        from training.export.write import export, guidance, summary
        from training.learn.distributed import joined
        from training.learn.fit import fit

        with joined() as world:
            fitted = fit(
                self.data, self.contract, self.out, self.fit, self.resume, self.strict, world
            )
            if not world.first:
                return {}
        say("export: writing sampler.onnx and comparing the samplers, about half a minute")
        parity = export(fitted.policy)
        beta = load_policy(fitted.policy).description.beta
        table(
            "Held-out episodes",
            ("figure", "value"),
            [(k, f"{v:.4g}") for k, v in fitted.metrics.items()],
        )
        say(f"export: {summary(parity)}")
        say(f"policy: {fitted.policy}")
        say(guidance(beta))
        document = {
            "policy": fitted.policy,
            "metrics": fitted.metrics,
            "parity": vars(parity),
            "beta": beta,
        }
        if fitted.lost:
            raise DataLost(
                f"trained, but {fitted.lost} recorded messages or episodes could not be used (counted above)",
                document,
            )
        return document


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
class Evaluate(Options):
    """Success in simulation on fresh episodes, with intervals: unguided, guided, best-of-N."""

    policy: Annotated[str, tyro.conf.Positional]
    """Policy folder, or the name of a shipped one."""
    world: str = "planar_arm"
    """Simulated world."""
    beta: tuple[float, ...] = ()
    """Temperatures to try; the policy's default where none is given. `inf` is unguided, and is
    always there."""
    candidates: tuple[int, ...] = (4,)
    """N of best-of-N, unguided."""
    episodes: int = 100
    """Per sampler."""
    seed: int | None = None
    """Of the first episode. By default several betas are tried on other episodes than one is
    reported on."""
    ros: bool = False
    """Over ROS topics, simulator and node as two processes, instead of in process."""
    workers: int = 2
    """Processes, without --ros."""

    def run(self) -> Mapping[str, Any]:
        from qgf_ros.files.share import find_policy
        from training.judge.compare import compare

        return compare(
            find_policy(self.policy),
            self.world,
            self.beta,
            self.candidates,
            self.episodes,
            self.seed,
            self.ros,
            self.workers,
        )


@dataclass(frozen=True)
class Analyze(ReadsData):
    """How far a policy's flow and critic can be trusted: noise, distance to the data, stability."""

    policy: Annotated[str, tyro.conf.Positional]
    """Policy folder, or the name of a shipped one."""
    data: DataOfPolicy
    contract: Path | None = None
    """contract.yaml; the policy's own by default."""
    out: Path = Path("analysis")
    """Folder for analysis.json and analysis.png."""
    states: int = 256
    """Held-out states to look at; fewer where there are not as many."""
    seed: int = 0
    """Same seed, same figures."""
    workers: int = 1
    """Processes that read data."""

    def run(self) -> Mapping[str, Any]:
        from qgf_ros.files.share import find_policy
        from training.judge.analysis.run import analyze

        return analyze(
            find_policy(self.policy),
            self.data,
            self.out,
            self.contract,
            self.states,
            self.seed,
            self.workers,
        )


@dataclass(frozen=True)
class Report(ReadsData):
    """One page on a policy before it moves a robot: is its critic fit to guide, and which beta?"""

    policy: Annotated[str, tyro.conf.Positional]
    """Policy folder, or the name of a shipped one."""
    data: DataOfPolicy
    contract: Path | None = None
    """contract.yaml; the policy's own by default."""
    out: Path = Path("report.html")
    """File to write; open it in a browser. It needs no network."""
    seed: int = 0
    """Same seed, same figures."""
    workers: int = 1
    """Processes that read data."""

    def run(self) -> Mapping[str, Any]:
        from qgf_ros.files.share import find_policy
        from training.judge.report import report

        return report(
            find_policy(self.policy), self.data, self.out, self.contract, self.seed, self.workers
        )


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
    to: Literal["mcap", "sqlite3", "lerobot-v2.1", "lerobot-v3.0", "npz"] = "mcap"
    """Format."""
    recording: int | Literal["all"] = "all"
    """Which one, counted from 0 in the dataset's order."""
    workers: int = 2
    """Processes."""

    def run(self) -> Mapping[str, Any]:
        from training.pipeline.align import Report
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
            )
        )
