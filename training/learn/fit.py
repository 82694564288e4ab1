"""Recorded data to a policy folder: one linear script.

Read, split, normalise, train flow and critic side by side, look at the held-out episodes, write
the policy. Knows nothing about robots that move; `training.judge.evaluate` does.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from qgf_ros.console import say, track
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.policy.description import (
    SCHEMA,
    Beta,
    Flow,
    Network,
    PolicyDescription,
    Returns,
    Support,
)
from qgf_ros.policy.folder import write_policy
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer
from training.guards import Box
from training.judge.calibration import guidance_scale, held_out
from training.judge.metrics import Nets, judge
from training.learn import checkpoint
from training.learn.batches import made, some, state_box, tensors
from training.learn.config import FitConfig
from training.learn.critics import iql, monte_carlo, sarsa
from training.learn.critics.base import CriticConfig, Learner
from training.learn.distributed import World
from training.learn.loop import train
from training.learn.models import Critic, Value, VelocityField, time_table
from training.pipeline.align import Report
from training.pipeline.chunks import ChunkTable
from training.pipeline.episodes import Episode, EpisodeArrays, data_hash, outcomes, return_scale
from training.pipeline.goals import Hindsight, shared_scale
from training.pipeline.readers.rewards import diagnose_outcomes
from training.pipeline.split import RULE, split
from training.pipeline.store import prepare

# Looked at where all of a large dataset would not fit in memory.
MEASURED = 32_768  # chunks that the normaliser and the support are from
SELECTED = 4096  # held-out chunks that the critic and the scale of beta are chosen on


@dataclass(frozen=True)
class Fitted:
    """What training gives: the policy's folder and the figures worth reading."""

    policy: Path
    sha256: str  # of the policy; "" in a process that did not write it
    metrics: dict[str, float]
    lost: int = 0  # messages and episodes that could not be used


def fit(
    data: Path,
    contract_path: Path,
    out: Path,
    config: FitConfig,
    resume: bool = False,
    strict: bool = False,
    world: World | None = None,
) -> Fitted:
    """Trains on `data` by the contract; writes `out`/policy, `out`/metrics.csv and TensorBoard logs,
    and `out`/report.json: what the episodes say that nothing was trained or chosen on.

    resume: go on where a run in `out` was interrupted. strict: refuse data of which something was
    lost. world: of several processes that train together (torchrun); the first one writes.

    Raises:
        UsageError, DataRefused: the contract or the data cannot be used.
        CriterionNotMet: the gradient stayed non-finite; no policy is written then.
    """
    contract, world = Contract.load(contract_path), world or World()
    with _alone(out, world):
        begun = (out / checkpoint.FILE).exists()
        if begun and not resume:
            raise UsageError(
                f"{out} holds a run that was interrupted; go on with --resume, or choose another --out"
            )
        if resume and not begun and (out / "policy").exists():
            raise UsageError(f"{out} holds a run that is finished; there is nothing to resume")
        if not world.first:
            world.wait()
        arrays, report = prepare(data, contract, config.workers, track if world.first else None)
        if world.first:
            world.wait()
        groups = split(arrays, config.seed)
        if world.first:
            _describe(arrays, report)
            for line in diagnose_outcomes(arrays, contract):
                say(line)
        if strict and report.lost:
            raise DataRefused(
                f"{report.lost} recorded messages or episodes cannot be used, and --strict was given"
            )
        names = {
            group: [arrays.names[i] for i in getattr(groups, group)]
            for group in ("train", "select", "report")
        }
        if world.first:
            (out / "split.json").write_text(json.dumps(names, indent=1))
        about = {
            "data": {
                "sha256": data_hash(arrays),
                "episodes": len(arrays),
                "ticks": report.ticks,
                **outcomes(arrays),
            },
            "split": {name: len(group) for name, group in names.items()} | {"rule": RULE},
        }
        fitted = _fit(
            arrays.pick(groups.train),
            arrays.pick(groups.select),
            arrays.pick(groups.report),
            contract,
            out,
            config,
            about,
            world,
        )
        return replace(fitted, lost=report.lost)


def fit_episodes(
    trained: Sequence[Episode],
    held: Sequence[Episode],
    contract: Contract,
    out: Path,
    config: FitConfig,
    provenance: Mapping[str, Any],
) -> Fitted:
    """As `fit`, from episodes: trains on `trained`, takes the scale of beta from `held`. Goes on
    where a run in `out` was interrupted.

    provenance: where the episodes come from; it is kept in the policy.
    """
    with checkpoint.only_trainer(out):
        return _fit(trained, held, (), contract, out, config, provenance, World())


def _fit(
    trained: Sequence[Episode],
    held: Sequence[Episode],
    reported: Sequence[Episode],
    contract: Contract,
    out: Path,
    config: FitConfig,
    provenance: Mapping[str, Any],
    world: World,
) -> Fitted:
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)

    # 1. Data: normalised, and chunks that are cut out of it as they are asked for.
    objective, horizon = contract.outcome.objective, contract.time.horizon
    if config.bounded and objective == "reward":
        raise UsageError(
            "bounded is for returns in [0, 1], objective time_to_success or reach_goal; the contract's "
            "objective is reward: leave bounded out"
        )
    trained = EpisodeArrays.of(trained)
    held, reported = (_with_a_chunk(group, horizon) for group in (held, reported))
    if not held:
        say("nothing is held out: the figures and the scale of beta are from the training data")
    table = ChunkTable(trained, horizon, config.discount)
    held_table = ChunkTable(held, horizon, config.discount) if held else table
    if len(table) < config.batch:
        raise DataRefused(
            f"{len(table)} chunks to train on, and a batch has {config.batch}; record more, or give a smaller --batch"
        )
    rng = np.random.default_rng([20270, config.seed])
    measured = table.cut(rng.choice(len(table), min(MEASURED, len(table)), replace=False), False)
    reference = contract.relative_positions if config.relative_actions else None
    normalizer = Normalizer.fit(
        measured.obs, measured.action, contract.observation_siblings, reference
    )
    if objective == "reach_goal":
        normalizer = shared_scale(normalizer, contract)
        scale = config.return_scale or 1.0  # returns are in [0, 1] by themselves
        informative = Hindsight(table, contract).informative
    else:
        spread = return_scale(trained, config.discount)
        scale = 1.0 if config.bounded else config.return_scale or spread
        informative = (spread if config.bounded else scale) > 1e-9
        if not informative:
            scale = 1.0
        if config.critic == "monte_carlo":
            monte_carlo.check(table)
    batches, held_batches = (
        made(t, contract, normalizer, scale, config) for t in (table, held_table)
    )
    if world.first:
        _warn(normalizer, contract, informative)

    # 2. Networks and their training.
    select = some(held_batches, SELECTED, config.seed)
    obs_dim, flat = select.obs.shape[1], select.action.shape[1]
    output: Literal["linear", "sigmoid"] = "sigmoid" if config.bounded else "linear"
    velocity = VelocityField(obs_dim, flat, config.hidden)
    critic = Critic(obs_dim, flat, config.hidden, config.members, output)
    learner = make_learner(velocity, critic, config, obs_dim, horizon)
    began = time.monotonic()
    identity = {"data": data_hash(trained), "contract": contract.hash}
    run = train(learner, batches, select, config, out, identity, world)
    seconds = time.monotonic() - began

    # 3. What held-out episodes say, and with it the scale of beta.
    flow, target = learner.flow, learner.target_critic
    metrics = held_out(learner, select, config) | run
    betas, sanity = guidance_scale(flow, target, select, config)
    if not informative:
        betas = Beta(default=math.inf, min=betas.min)
    judged: dict[str, Any] = {}
    if reported and world.first:
        nets = Nets(flow, target, learner.target)
        judgement = judge(nets, normalizer, scale, contract, trained, reported, config, config.seed)
        judged = judgement.document
        judgement.show()
        (out / "report.json").write_text(json.dumps(judged, indent=1))

    # 4. The policy folder.
    box = Box.of(tensors(measured, normalizer, 1.0).action)
    description = PolicyDescription(
        schema=SCHEMA if (normalizer.action_reference >= 0).any() else 1,
        name=contract.robot,
        description=f"{contract.description} Objective: {contract.outcome.objective}.".strip(),
        contract=contract.to_dict(),
        flow=Flow(config.denoise_steps),
        velocity=Network("velocity.safetensors", tuple(config.hidden)),
        critic=Network("critic.safetensors", tuple(config.hidden), config.members, output=output),
        normalizer={k: tuple(v) for k, v in normalizer.to_dict().items()},
        returns=Returns(objective, config.discount, scale, config.aggregation, informative),
        beta=betas,
        sanity=sanity,
        support=Support(box.low, box.high),
        states=state_box(some(batches, MEASURED, config.seed)),
        provenance=dict(provenance)
        | {
            "contract_sha256": contract.hash,
            "config": asdict(config) | {"hidden": list(config.hidden)},
            "select_metrics": metrics,
            "guidance": judged.get("guidance", {}),
            "training_seconds": round(seconds, 1),
            "versions": {
                "qgf_ros": version("qgf_ros"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
    )
    policy, figures = out / "policy", metrics | {"training_seconds": seconds}
    if not world.first:
        return Fitted(policy, "", figures)
    sha256 = write_policy(policy, description, {
        "velocity.safetensors": _arrays(flow) | {"time_embedding": time_table(config.denoise_steps).numpy()},
        "critic.safetensors": _arrays(target),
    })  # fmt: skip
    (out / checkpoint.FILE).unlink(missing_ok=True)
    return Fitted(policy, sha256, figures)


def _with_a_chunk(episodes: Sequence[Episode], horizon: int) -> Sequence[Episode]:
    """Those that are long enough for a chunk."""
    if not episodes:
        return ()
    arrays = EpisodeArrays.of(episodes)
    return arrays.pick(np.flatnonzero(arrays.terminal | (arrays.steps >= horizon)))


def _alone(out: Path, world: World) -> contextlib.AbstractContextManager[None]:
    return checkpoint.only_trainer(out) if world.first else contextlib.nullcontext()


def _describe(episodes: Sequence[Episode], report: Report) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in outcomes(episodes).items())
    say(f"{len(episodes)} episodes, {report.ticks} ticks: {counts}")
    for what, counted in (("dropped", report.dropped), ("noticed", report.noticed)):
        for reason, count in counted.items():
            if count:
                say(f"  {what}: {reason}: {count}")


def _warn(normalizer: Normalizer, contract: Contract, informative: bool) -> None:
    """What will not do what its owner may expect."""
    still = [n for n, r in zip(contract.action_names, normalizer.action_half_range) if r == 0]
    if still:
        say(f"never varied, and will be commanded as a constant: {', '.join(still)}")
    if not informative:
        say(
            "the data shows no difference in return: the critic has nothing to learn, guidance will be off by default"
        )


def make_learner(
    velocity: VelocityField, critic: Critic, config: FitConfig, obs_dim: int, horizon: int
) -> Learner:
    """The learner of the configured kind of critic."""
    common: dict[str, Any] = {
        "discount": config.discount,
        "horizon": horizon,
        "learning_rate": config.learning_rate,
        "aggregation": config.aggregation,
        "clip": config.clip,
        "average": config.average,
    }
    if config.critic == "monte_carlo":
        return monte_carlo.Learner(velocity, critic, CriticConfig(**common))
    value = Value(obs_dim, config.hidden, critic.output)
    if config.critic == "sarsa":
        return sarsa.Learner(velocity, critic, value, CriticConfig(**common))
    own = iql.IQLConfig(**common, expectile=config.expectile)
    return iql.Learner(velocity, critic, value, own)


def _arrays(net: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name.removeprefix("mlp."): p.detach().numpy() for name, p in net.state_dict().items()}
