"""Recorded data to a policy folder: prepare, learn, judge, package.

Knows nothing about robots that move; `training.judge.evaluate` does.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qgf_ros.console import say, track
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.policy.description import Beta, Sanity
from qgf_ros.spaces.contract import Contract
from training.judge import metrics
from training.judge.calibration import guidance_scale, held_out
from training.learn import cameras, checkpoint, package
from training.learn.config import FitConfig
from training.learn.critics import learner_of
from training.learn.critics.base import Learner
from training.learn.distributed import World
from training.learn.loop import train
from training.learn.models import Critic, VelocityField
from training.learn.prepare import Groups, Prepared, prepare, warn
from training.pipeline import store
from training.pipeline.episodes import Episode, EpisodeArrays, data_hash, outcomes
from training.pipeline.features import frozen_encoders, with_features
from training.pipeline.readers.rewards import diagnose_outcomes
from training.pipeline.report import Report
from training.pipeline.split import RULE, split


@dataclass(frozen=True)
class Fitted:
    """What training gives: the policy's folder and the figures worth reading."""

    policy: Path
    sha256: str  # of the policy; "" in a process that did not write it
    metrics: dict[str, float]
    lost: int = 0  # messages and episodes that could not be used


@dataclass(frozen=True, eq=False)
class Judged:
    """What held-out episodes say of what was learnt."""

    metrics: dict[str, float]  # of the select split
    beta: Beta
    sanity: Sanity
    report: Mapping[str, Any]  # of the report split, `report.json`; {} where there is none


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
    cameras.check(contract)
    fixed = frozen_encoders(contract, contract_path.parent, config.workers)
    with _alone(out, world):
        _check_run(out, resume)
        arrays, report = _read(data, contract, config, world)
        if strict and report.lost:
            raise DataRefused(
                f"{report.lost} recorded messages or episodes cannot be used, and --strict was given"
            )
        rows = vars(split(arrays, config.seed))
        names = {group: [arrays.names[i] for i in its] for group, its in rows.items()}
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
        if fixed:
            about["encoders"] = {name: e.file.sha256 for name, e in fixed.items()}
        shown = {name: arrays.frames[contract.observation_slices[name].start] for name in fixed}
        arrays = with_features(arrays, contract, fixed)
        groups = Groups(**{name: arrays.pick(its) for name, its in rows.items()})
        seen = {name: (e, shown[name]) for name, e in fixed.items()}
        return replace(_fit(groups, contract, out, config, about, world, seen), lost=report.lost)


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
        return _fit(Groups(trained, held), contract, out, config, provenance, World())


def _fit(
    groups: Groups,
    contract: Contract,
    out: Path,
    config: FitConfig,
    provenance: Mapping[str, Any],
    world: World,
    frozen: cameras.Seen | None = None,
) -> Fitted:
    """frozen: encoders whose features the episodes hold already."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    data = prepare(groups, contract, config)
    if world.first:
        warn(data)
    began = time.monotonic()
    learner, run = learn(data, config, out, world)
    if learner.sight is not None:  # from here on there are numbers alone
        features = cameras.tables(learner.sight)
        of_numbers = {name: cameras.encoded(its, features) for name, its in vars(groups).items()}
        data = prepare(Groups(**of_numbers), contract, config, again=True)
    seen = {**(frozen or {}), **(learner.sight.seen if learner.sight is not None else {})}
    seconds = time.monotonic() - began
    judged = judge(learner, data, config, world)
    figures = judged.metrics | run
    fitted = Fitted(out / "policy", "", figures | {"training_seconds": seconds})
    if not world.first:
        return fitted
    if judged.report:
        (out / "report.json").write_text(json.dumps(judged.report, indent=1))
    sha256 = package.write(
        fitted.policy,
        data,
        learner.flow,
        learner.target_critic,
        judged.beta,
        judged.sanity,
        config,
        provenance,
        {
            "select_metrics": figures,
            "guidance": judged.report.get("guidance", {}),
            "training_seconds": round(seconds, 1),
        },
        package.encoders_of(seen, contract) if seen else None,
    )
    (out / checkpoint.FILE).unlink(missing_ok=True)
    return replace(fitted, sha256=sha256)


def learn(
    data: Prepared, config: FitConfig, out: Path, world: World
) -> tuple[Learner, dict[str, float]]:
    """Flow and critic side by side; -> them, and figures about the run."""
    obs_dim, flat = data.select.obs.shape[1], data.select.action.shape[1]
    output = "sigmoid" if config.bounded else "linear"
    velocity = VelocityField(obs_dim, flat, config.hidden)
    critic = Critic(obs_dim, flat, config.hidden, config.members, output)
    horizon = data.contract.time.horizon
    frames = data.train.frames
    encoders = cameras.CameraEncoders(data.contract, frames) if frames else None
    learner = learner_of(config.critic).of(velocity, critic, config, obs_dim, horizon, encoders)
    identity = {"data": data_hash(data.train), "contract": data.contract.hash}
    return learner, train(learner, data.batches, data.select, config, out, identity, world)


def judge(learner: Learner, data: Prepared, config: FitConfig, world: World) -> Judged:
    """What held-out episodes say, and with it the scale of beta."""
    flow, critic = learner.flow, learner.target_critic
    figures = held_out(learner, data.select, config)
    beta, sanity = guidance_scale(flow, critic, data.select, config)
    if not data.informative:
        beta = Beta(default=math.inf, min=beta.min)
    if not (data.report and world.first):
        return Judged(figures, beta, sanity, {})
    nets = metrics.Nets(flow, critic, learner.target)
    judgement = metrics.judge(
        nets,
        data.codec,
        data.scale,
        data.contract,
        data.train,
        data.report,
        config,
        config.seed,
        beta.default,
    )
    judgement.show()
    return Judged(figures, beta, sanity, judgement.document)


def _alone(out: Path, world: World) -> contextlib.AbstractContextManager[None]:
    return checkpoint.only_trainer(out) if world.first else contextlib.nullcontext()


def _check_run(out: Path, resume: bool) -> None:
    begun = (out / checkpoint.FILE).exists()
    if begun and not resume:
        raise UsageError(
            f"{out} holds a run that was interrupted; go on with --resume, or choose another --out"
        )
    if resume and not begun and (out / "policy").exists():
        raise UsageError(f"{out} holds a run that is finished; there is nothing to resume")


def _read(
    data: Path, contract: Contract, config: FitConfig, world: World
) -> tuple[EpisodeArrays, Report]:
    """Of several processes the first one prepares what all of them read."""
    if not world.first:
        world.wait()
    arrays, report = store.prepare(data, contract, config.workers, track if world.first else None)
    if world.first:
        world.wait()
        _describe(arrays, report)
        for line in diagnose_outcomes(arrays, contract):
            say(line)
    return arrays, report


def _describe(episodes: Sequence[Episode], report: Report) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in outcomes(episodes).items())
    say(f"{len(episodes)} episodes, {report.ticks} ticks: {counts}")
    for what, counted in (("dropped", report.dropped), ("noticed", report.noticed)):
        for reason, count in counted.items():
            if count:
                say(f"  {what}: {reason}: {count}")
