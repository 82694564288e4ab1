"""Success in simulation, through the same control core as on the robot, with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qgf_ros.control.core import ControlCore
from qgf_ros.control.inference import InlineInference
from qgf_ros.control.settings import resolve
from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.executors import Progress, each
from qgf_ros.guidance import protocols as base
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import Policy, load_policy
from qgf_ros.sim.episode import EpisodeResult, run_episode
from qgf_ros.sim.stream import NANOSECONDS, Stream
from qgf_ros.sim.world import Outcome, make_world, world_folder
from qgf_ros.spaces.contract import Contract
from qgf_ros.statistics import wilson

if TYPE_CHECKING:
    from training.guards import Guards

START = 1_000 * NANOSECONDS  # clocks at 0 hide errors


@dataclass(frozen=True)
class Reference:
    """What only the reference sampler can do: other estimators, GradStep, and their guards.

    grad_size: of GradStep's steps, per unit of Q in returns that are not scaled.
    support: the guard with the box that the policy stores.
    """

    estimator: str = "qgf"
    grad_steps: int = 0
    grad_size: float = 0.01
    guards: Guards | None = None
    support: bool = False


@dataclass(frozen=True)
class Variant:
    """One way of sampling from a policy. beta infinite: unguided. reference None: as exported.
    floor: whether the policy's floor of beta holds, as on the robot. guards: those of the robot."""

    name: str
    beta: float
    num_candidates: int = 1
    reference: Reference | None = None
    floor: bool = True
    guards: base.Guards = base.UNGUARDED


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % Wilson interval."""

    count: int
    total: int

    @property
    def value(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.count, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"


@dataclass(frozen=True)
class Evaluation:
    """What many episodes of one variant gave."""

    variant: Variant
    success: Rate
    collisions: int
    steps_to_goal: float  # mean control periods over successes, NaN without any
    sample_ms: float  # median time of the sampler
    gain: float  # mean of Q sampled - Q unguided
    guidance_ratio: float
    paths: list[np.ndarray] = field(default_factory=list, repr=False)
    seeds: list[int] = field(default_factory=list, repr=False)
    outcomes: list[Outcome] = field(default_factory=list, repr=False)

    @property
    def row(self) -> list[str]:
        v = self.variant
        return [
            v.name,
            f"{v.beta:g}",
            str(v.num_candidates),
            f"{self.success.count}/{self.success.total}",
            f"{self.success.value:.3f}",
            "{:.3f} to {:.3f}".format(*self.success.interval),
            str(self.collisions),
            f"{self.steps_to_goal:.0f}",
            f"{self.sample_ms:.2f}",
        ]


COLUMNS = ("sampler", "beta", "N", "success", "rate", "95 % interval", "hits", "steps", "ms")
LEGEND = (
    "N: candidates per sample; rate with its 95 % Wilson interval; hits: episodes that ended in a "
    "collision; steps: control periods to the goal; ms: median time of one sample"
)


def evaluate(
    policy: Path,
    world: str,
    variants: Sequence[Variant],
    episodes: int,
    first_seed: int,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Every variant on the same `episodes` seeds from `first_seed` on; results do not depend on `workers`."""
    seeds = range(first_seed, first_seed + episodes)
    blocks = [list(b) for b in np.array_split(list(seeds), min(episodes, 4 * workers))]
    jobs = [(variant, block) for variant in variants for block in blocks]
    done = list(each(partial(_job, policy, world), jobs, workers, progress, "evaluating"))
    period = load_policy(policy).contract.time.period
    per_variant = [
        list(itertools.chain(*done[i : i + len(blocks)])) for i in range(0, len(done), len(blocks))
    ]
    return [summarize(v, r, period) for v, r in zip(variants, per_variant)]


def summarize(variant: Variant, results: Sequence[EpisodeResult], period: float) -> Evaluation:
    """Episodes of one variant to figures."""
    won = [r for r in results if r.outcome is Outcome.SUCCESS]
    samples = [s for r in results for s in r.samples]
    seconds = float(np.mean([r.seconds for r in won])) if won else float("nan")
    return Evaluation(
        variant=variant,
        success=Rate(len(won), len(results)),
        collisions=sum(r.outcome is Outcome.COLLISION for r in results),
        steps_to_goal=seconds / period,
        sample_ms=float(np.median([s.inference_seconds for s in samples])) * 1e3
        if samples
        else float("nan"),
        gain=float(np.mean([s.q - s.q_unguided for s in samples])) if samples else float("nan"),
        guidance_ratio=float(np.mean([s.guidance_ratio for s in samples]))
        if samples
        else float("nan"),
        paths=[r.path for r in results],
        seeds=[r.seed for r in results],
        outcomes=[r.outcome for r in results],
    )


def plain(e: Evaluation) -> dict[str, Any]:
    """As a JSON document."""
    low, high = e.success.interval
    return {
        "sampler": e.variant.name,
        "beta": e.variant.beta,
        "candidates": e.variant.num_candidates,
        "successes": e.success.count,
        "episodes": e.success.total,
        "interval": [round(low, 4), round(high, 4)],
        "collisions": e.collisions,
        "steps_to_goal": None if math.isnan(e.steps_to_goal) else round(e.steps_to_goal, 1),
        "ms_per_sample": None if math.isnan(e.sample_ms) else round(e.sample_ms, 3),
    }


def _job(
    policy_folder: Path, world_name: str, job: tuple[Variant, list[int]]
) -> list[EpisodeResult]:
    return run_block(policy_folder, world_name, *job)


def policy_for(folder: Path, world: str) -> Policy:
    """The policy, if its contract is the world's. Raises PolicyRefused with what differs."""
    contract = Contract.load(world_folder(world) / "contract.yaml")
    policy = load_policy(folder, contract)
    ours, theirs = policy.contract.outcome, contract.outcome
    if (ours.objective, ours.goal) != (theirs.objective, theirs.goal):
        raise PolicyRefused(
            f"{folder} was trained for objective {ours.objective}, world {world} asks for {theirs.objective}"
        )
    return policy


def run_block(
    policy_folder: Path, world_name: str, variant: Variant, seeds: Iterable[int]
) -> list[EpisodeResult]:
    """Plays the episodes of these seeds, one after another, in this process.

    Raises PolicyRefused where the policy was made for another robot or task.
    """
    policy = policy_for(policy_folder, world_name)
    sampler = _sampler(policy, variant.reference)
    if not variant.floor:
        d = policy.description
        beta = replace(d.beta, min=min(d.beta.min, variant.beta))
        policy = replace(policy, description=replace(d, beta=beta))
    given = {"beta": variant.beta, "num_candidates": variant.num_candidates}
    settings = replace(resolve(given, policy), guards=variant.guards)
    world = make_world(world_name)
    results = []
    for seed in seeds:
        core = ControlCore(
            policy, InlineInference(sampler), replace(settings, seed=int(seed)), enabled=True
        )
        # A clock of its own: noise depends on stamps, and must not on who ran before.
        results.append(run_episode(core, Stream(world, START), int(seed)))
    return results


def _sampler(policy: Policy, reference: Reference | None) -> Sampler:
    if reference is None:
        return make_sampler(policy, device="cpu")
    from training.reference_sampler import ReferenceSampler

    guards, support = reference.guards, policy.description.support
    if reference.support:
        if support is None:
            raise UsageError(f"{policy.folder} stores no support; train it again")
        from training.guards import Box, Guards  # and torch, which no worker needs otherwise

        guards = replace(guards or Guards(), support=Box(support.low, support.high))
    size = reference.grad_size * policy.description.returns.scale
    return ReferenceSampler(policy, reference.estimator, guards, reference.grad_steps, size)
