"""`qgf replay`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from qgf_ros.cli import ReadsData
from qgf_ros.console import track
from qgf_ros.errors import CriterionNotMet, DataLost, DataRefused, UsageError


@dataclass(frozen=True)
class Replay(ReadsData):
    """Drive the control core with recorded bags, and report what it would have done."""

    bags: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Bags, or folders of bags. Tables become bags with `qgf data convert`."""
    policy: str
    """Policy folder, or the name of a shipped one."""
    beta: tuple[float, ...] = ()
    """Temperatures to replay, `inf` for unguided; the policy's default and `inf` where none is
    given."""
    against: str = ""
    """Another policy for the same robot, on the same bags: differences are paired."""
    thresholds: Path | None = None
    """YAML file of what the figures must keep; where one does not, the exit code is 8."""
    rate: float = 0.0
    """Of bag time to real time; 0 is as fast as the machine goes. The figures are the same."""
    params: Path | None = None
    """The node's parameter file: its seed, candidates, guards, blending, limits. Defaults without
    one. Of its beta and policy nothing is taken."""
    backend: str = "auto"
    """What runs the sampler, as the node's parameter."""
    workers: int = 2
    """Processes; each takes a bag at a time."""

    def run(self) -> Mapping[str, Any]:
        from qgf_ros.files.share import find_policy
        from qgf_ros.policy.folder import load_policy
        from qgf_ros.replay.recorded import DIFFERENCES
        from qgf_ros.replay.run import Plan, document, replay
        from qgf_ros.replay.settings import load_settings
        from qgf_ros.replay.show import show
        from qgf_ros.replay.thresholds import judged, load_thresholds
        from qgf_ros.statistics import Interval

        self._check()
        began = time.monotonic()
        folders = tuple(find_policy(p) for p in (self.policy, self.against) if p)
        policy = load_policy(folders[0])
        betas = self.beta or (policy.description.beta.default, float("inf"))
        rules = load_thresholds(self.thresholds, betas) if self.thresholds else []
        given = load_settings(self.params) if self.params else {}
        plan = Plan(folders, betas, given, self.rate, self.backend)
        played = replay(plan, self.bags, self.workers, track)
        found = document(plan, played, began)
        nan = float("nan")
        again = {n: Interval(getattr(played.sameness, n), nan, nan) for n in DIFFERENCES}
        figures = {
            r["beta"]: {name: Interval(**f) for name, f in r["figures"].items()} | again
            for r in found["results"][: len(betas)]
        }
        if rules:
            found["thresholds"] = judged(rules, figures)
        show(found)
        if not any(r["samples"] for r in found["results"]):
            why = ", ".join(found["results"][0]["seconds_not_driven"]) or "there is no tick"
            raise DataRefused(f"the policy was never driven by these bags: {why}", found)
        missed = [r for r in found.get("thresholds", ()) if not r["met"]]
        if missed:
            first = missed[0]
            raise CriterionNotMet(
                f"{len(missed)} of {len(found['thresholds'])} thresholds are not met, first "
                f"{first['figure']} = {first['value']:.4g} at beta {first['beta']:g} (allowed "
                f"{first['min']:g} to {first['max']:g})",
                found,
            )
        lost = sum(played.losses.values())
        if lost:
            worst, count = played.losses.most_common(1)[0]
            raise DataLost(
                f"replayed, but {lost} messages could not be used; {count} x {worst}", found
            )
        return found

    def _check(self) -> None:
        if not self.bags:
            raise UsageError("no bag was given; give one, or a folder of bags")
        if not 0 <= self.rate <= 1000 or self.workers < 1:
            raise UsageError(
                f"rate {self.rate:g}, workers {self.workers}; allowed: 0 to 1000, and at least 1"
            )
