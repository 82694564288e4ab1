"""Bags in, one document out: every bag is played once, to the cores of every policy and beta."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.bags import files
from qgf_ros.control.checks import CHECKS
from qgf_ros.control.exchange import check_exchange
from qgf_ros.control.settings import Settings, resolve
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.executors import Progress, each
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import Policy, load_policy
from qgf_ros.replay.drive import Drive
from qgf_ros.replay.events import BagEvents
from qgf_ros.replay.player import Player, Segment
from qgf_ros.replay.recorded import Recorded, Sameness
from qgf_ros.replay.score import DISTANCES, INTERVALS, Scorer
from qgf_ros.replay.tally import COMPARED, FIGURES, Resampled, Tally
from qgf_ros.statistics import between


@dataclass(frozen=True)
class Plan:
    """What is replayed. policies: the one, or it and the one that it is compared with. given: the
    node's settings, by name; what is left out is at its default."""

    policies: tuple[Path, ...]
    betas: tuple[float, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 0.0
    backend: str = "auto"

    def settings(self, policy: Policy, beta: float | None = None) -> Settings:
        """Those of a core with one of the policies. beta: None: the policy's default."""
        return resolve({**self.given, "beta": beta}, policy)

    def said(self, policy: Policy) -> dict[str, Any]:
        """The settings but beta, as plain values: those of the checks as they were given."""
        plain = asdict(replace(self.settings(policy), checks=()))
        checks = {spec.name: spec.default for check in CHECKS for spec in check.settings}
        plain |= {name: self.given.get(name, default) for name, default in checks.items()}
        return {name: value for name, value in plain.items() if name not in ("beta", "checks")}


@dataclass
class Played:
    """What became of some bags. tallies: by policy, then by beta."""

    tallies: list[list[Tally]]
    losses: Counter[str] = field(default_factory=Counter)
    ticks: int = 0
    episodes: int = 0
    jumps: int = 0
    sameness: Sameness = field(default_factory=Sameness)  # of bags of a node

    def merge(self, other: Played) -> None:
        for own, others in zip(self.tallies, other.tallies):
            for tally, more in zip(own, others):
                tally.merge(more)
        self.losses.update(other.losses)
        self.ticks += other.ticks
        self.episodes += other.episodes
        self.jumps += other.jumps
        self.sameness.merge(other.sameness)


def replay(
    plan: Plan, paths: Sequence[Path], workers: int = 1, progress: Progress | None = None
) -> Played:
    """Plays every bag below `paths`; what comes out does not depend on `workers`.

    Raises:
        UsageError: settings, a beta among them, that a policy cannot have, or two policies for
            different robots.
        PolicyRefused, DataRefused: a policy or a bag that cannot be used.
    """
    policies = [load_policy(folder) for folder in plan.policies]
    _check(plan, policies)
    bags = [(path, name) for path in paths for name in _bags(path)]
    jobs = [(plan, *bag) for bag in bags]
    return _together(plan, each(_job, jobs, workers, progress, "replaying"))


def _check(plan: Plan, policies: Sequence[Policy]) -> None:
    if not plan.betas or len(set(plan.betas)) < len(plan.betas):
        raise UsageError(f"beta is {list(plan.betas)}; give each once, inf for unguided")
    for policy in policies:
        for beta in plan.betas:
            try:
                plan.settings(policy, beta)
            except UsageError as error:
                raise UsageError(f"{policy.folder}: {error}") from None
    for other in policies[1:]:
        check_exchange(other, policies[0].contract)
        if other.cameras != policies[0].cameras:
            raise UsageError(
                f"{other.folder} and {policies[0].folder} encode their cameras otherwise, and a bag is encoded "
                "once; replay each by itself"
            )


def _bags(path: Path) -> list[str]:
    if not path.exists():
        raise DataRefused(f"{path} does not exist; give a bag, or a folder of bags")
    found = files.names(path)
    if not found and path.suffix.lower() == ".bag":
        raise DataRefused(
            f"{path} is a ROS 1 bag; convert it: `rosbags-convert --src {path.name} --dst FOLDER`"
        )
    if not found:
        raise DataRefused(
            f"{path} holds no bag (.mcap or .db3); tables become bags with `qgf data convert`"
        )
    return found


def _together(plan: Plan, parts: Iterable[Played]) -> Played:
    total = _nothing(plan)
    for part in parts:
        total.merge(part)
    return total


def _nothing(plan: Plan) -> Played:
    return Played([[Tally() for _ in plan.betas] for _ in plan.policies])


@lru_cache(maxsize=4)
def _loaded(folder: Path, backend: str) -> tuple[Policy, Sampler, Scorer]:
    """Once per process."""
    policy = load_policy(folder)
    return policy, make_sampler(policy, backend, "cpu"), Scorer(policy)


def _job(job: tuple[Plan, Path, str]) -> Played:
    plan, path, name = job
    loaded = [_loaded(folder, plan.backend) for folder in plan.policies]
    played = _nothing(plan)
    each = [
        (Drive(policy, sampler, plan.settings(policy, beta)), scorer, tally)
        for (policy, sampler, scorer), tallies in zip(loaded, played.tallies)
        for beta, tally in zip(plan.betas, tallies)
    ]
    horizon = max(policy.horizon for policy, _, _ in loaded)

    def score(segment: Segment, recorded: np.ndarray) -> None:
        played.ticks += segment.ticks
        for (_, scorer, tally), track in zip(each, segment.tracks):
            tally.add(scorer(segment, track, recorded), track)

    contract = loaded[0][0].contract
    events = BagEvents(path, name, contract, encoders_of(plan.policies[0]))
    player = Player(contract, [drive for drive, _, _ in each], horizon, score, plan.rate)
    recorded = Recorded(*loaded[0][:2], plan.settings(loaded[0][0]))
    player.play(recorded.watch(events))
    played.losses.update(events.losses)
    played.episodes, played.jumps = player.episodes, player.jumps
    played.sameness = recorded.found
    return played


@lru_cache(maxsize=2)
def encoders_of(folder: Path) -> dict[str, Any]:
    """The encoders of a policy's cameras, by name; nothing of them is imported where it has none."""
    policy = load_policy(folder)
    if not policy.cameras:
        return {}
    from qgf_ros.images.encoder import CameraEncoder

    return {name: CameraEncoder(policy, name) for name in policy.cameras}


def document(plan: Plan, played: Played, began: float) -> dict[str, Any]:
    """All that is known, as plain values. began: by time.monotonic()."""
    policies = [load_policy(folder) for folder in plan.policies]
    steps = min(p.horizon for p in policies)
    resampled = [[Resampled(t.segments) for t in row] for row in played.tallies]
    out: dict[str, Any] = {
        "policies": [
            {"name": p.name, "sha256": p.sha256, "folder": str(p.folder)} for p in policies
        ],
        "settings": plan.said(policies[0]),
        "bag_seconds": played.ticks * policies[0].contract.time.period,
        "ticks": played.ticks,
        "episodes": played.episodes,
        "jumps": played.jumps,
        "messages_lost": dict(played.losses),
        "recorded_by_node": _recorded(policies[0], played.sameness),
        "results": [
            {"policy": policy.name, "beta": beta} | _result(policy, tally, rows, steps)
            for policy, tallies, group in zip(policies, played.tallies, resampled)
            for beta, tally, rows in zip(plan.betas, tallies, group)
        ],
        "seconds": time.monotonic() - began,
    }
    if len(policies) > 1:
        out["compared"] = [
            {"beta": beta, "figures": _compared(first, second, steps)}
            for beta, first, second in zip(plan.betas, *resampled)
        ]
    return out


def _result(policy: Policy, tally: Tally, rows: Resampled, steps: int) -> dict[str, Any]:
    period = policy.contract.time.period
    return {
        "ticks": tally.ticks,
        "samples": tally.samples,
        "segments": len(tally.segments),
        "figures": {name: asdict(between(f(rows, steps))) for name, f in FIGURES.items()},
        "joints": _joints(policy, rows),
        "gain_by_distance": _by_distance(rows),
        "seconds_not_driven": {why: n * period for why, n in tally.states.most_common()},
        "commands_refused": dict(tally.refused),
        "guards": dict(tally.guards),
        "inference_ms": tally.latency_ms(),
    }


def _recorded(policy: Policy, found: Sameness) -> dict[str, Any] | None:
    """None: the bags have no ticks of a node."""
    if not found.ticks:
        return None
    others = sorted(found.policies - {policy.sha256})
    return asdict(found) | {"policies": sorted(found.policies), "other_policy": bool(others)}


def _joints(policy: Policy, rows: Resampled) -> dict[str, Any]:
    """RMSE of each commanded number in its own unit, by horizon step, in each interval."""
    low, high, _ = policy.contract.limits
    found: dict[str, Any] = {}
    for kind in ("error", "error_unguided"):
        for name in INTERVALS:
            key = f"{kind}/{name}"
            if key not in rows:
                continue
            total, count = rows.sums(key)[0]
            with np.errstate(invalid="ignore"):
                rmse = np.sqrt(total / count) * (high - low)  # (H, A)
            for j, joint in enumerate(policy.contract.action_names):
                found.setdefault(joint, {}).setdefault(kind, {})[name] = rmse[:, j].tolist()
    return found


def _by_distance(rows: Resampled) -> list[dict[str, float]]:
    if "gain_by_distance" not in rows:
        return []
    total, count = rows.sums("gain_by_distance")[0]
    return [
        {"from": low, "to": high, "samples": int(n), "q_gain": t / n if n else math.nan}
        for low, high, t, n in zip(DISTANCES, DISTANCES[1:], total, count)
    ]


def _compared(first: Resampled, second: Resampled, steps: int) -> dict[str, Any]:
    """The first policy less the second, segment by segment of the same bags."""
    out = {}
    for name in COMPARED:
        difference = between(FIGURES[name](first, steps) - FIGURES[name](second, steps))
        out[name] = asdict(difference) | {"first_is": difference.side("lower", "higher")}
    return out
