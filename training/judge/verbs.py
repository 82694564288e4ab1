"""The verbs of `qgf` that judge a policy. Heavy imports stay inside `run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from qgf_ros.cli import Options, ReadsData
from training.pipeline.readers.formats import DataOfPolicy


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
