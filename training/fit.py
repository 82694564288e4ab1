"""Recorded data to a policy folder: one linear script.

Read, split, normalise, cut into chunks, train flow and critic side by side, look at the held-out
episodes, write the policy. Knows nothing about robots that move; `training.evaluate` does.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from qgf_ros.console import say, track
from qgf_ros.contract import Contract
from qgf_ros.errors import CriterionNotMet, UsageError
from qgf_ros.normalizer import Normalizer
from qgf_ros.policy import Beta, Flow, Network, PolicyDescription, Returns, Support, write_policy
from training.batches import Relabelled, seen_by_critic, tensors
from training.calibration import guidance_scale, held_out, some_rows
from training.config import FitConfig
from training.critics import ChunkBatch, iql, monte_carlo, sarsa
from training.critics.base import CriticConfig, Learner
from training.data.episodes import Episode, chunks, return_scale
from training.data.goals import Hindsight, shared_scale
from training.data.load import data_hash, load_episodes
from training.data.split import split
from training.guards import Box
from training.logs import Logs
from training.models import Critic, Value, VelocityField, time_table

LOG_EVERY = 100  # updates
SOME = 4096  # held-out chunks that goals are drawn for


@dataclass(frozen=True)
class Fitted:
    """What training gives: the policy's folder and the figures worth reading."""

    policy: Path
    sha256: str
    metrics: dict[str, float]
    messages_lost: int = 0  # rejected or not finite


def fit(data: Path, contract_path: Path, out: Path, config: FitConfig) -> Fitted:
    """Trains on `data` by the contract; writes `out`/policy, `out`/metrics.csv and TensorBoard logs.

    Raises:
        UsageError, DataRefused: the contract or the data cannot be used.
        CriterionNotMet: a loss became non-finite; nothing is written then.
    """
    contract = Contract.load(contract_path)
    episodes, report = load_episodes(data, contract, config.workers, track)
    groups = split(episodes, config.seed)
    out.mkdir(parents=True, exist_ok=True)
    names = {
        group: [episodes[i].name for i in getattr(groups, group)]
        for group in ("train", "select", "report")
    }
    (out / "split.json").write_text(json.dumps(names, indent=1))
    counts = outcomes(episodes)
    say(
        f"{len(episodes)} episodes, {report.ticks} ticks: "
        + ", ".join(f"{name} {count}" for name, count in counts.items())
    )
    for reason, count in report.dropped.items():
        if count:
            say(f"  dropped: {reason}: {count}")
    fitted = fit_episodes(
        [episodes[i] for i in groups.train],
        [episodes[i] for i in groups.select],
        contract,
        out,
        config,
        {
            "data": {
                "sha256": data_hash(episodes),
                "episodes": len(episodes),
                "ticks": report.ticks,
                **counts,
            },
            "split": {name: len(group) for name, group in names.items()},
        },
    )
    lost = sum(count for reason, count in report.dropped.items() if reason.startswith("message"))
    return replace(fitted, messages_lost=lost)


def fit_episodes(
    trained: Sequence[Episode],
    held: Sequence[Episode],
    contract: Contract,
    out: Path,
    config: FitConfig,
    provenance: Mapping[str, Any],
) -> Fitted:
    """As `fit`, from episodes: trains on `trained`, takes the scale of beta from `held`.

    provenance: where the episodes come from; it is kept in the policy.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)

    # 1. Data: normalised, cut into chunks.
    objective = contract.outcome.objective
    if config.bounded and objective == "reward":
        raise UsageError(
            "bounded is for returns in [0, 1], objective time_to_success or reach_goal; the contract's "
            "objective is reward: leave bounded out"
        )
    held = [e for e in held if e.terminal or len(e) >= contract.time.horizon]
    if not held:
        say("nothing is held out: the figures and the scale of beta are from the training data")
        held = trained
    parts, held_parts = (chunks(e, contract.time.horizon, config.discount) for e in (trained, held))
    normalizer = Normalizer.fit(
        parts.obs,
        parts.action.reshape(-1, parts.action.shape[-1]),
        contract.observation_siblings,
    )
    batches: ChunkBatch | Relabelled
    if objective == "reach_goal":
        normalizer = shared_scale(normalizer, contract)
        scale = config.return_scale or 1.0  # returns are in [0, 1] by themselves
        goals, held_goals = (
            Hindsight(e, p, contract, config.discount)
            for e, p in ((trained, parts), (held, held_parts))
        )
        batches = Relabelled(goals, normalizer, scale, config)
        held_back = Relabelled(held_goals, normalizer, scale, config, stream=1)
        select = held_back[some_rows(len(held_back), SOME, config.seed)]
        informative = goals.informative
    else:
        spread = return_scale(trained, config.discount)
        scale = 1.0 if config.bounded else config.return_scale or spread
        informative = (spread if config.bounded else scale) > 1e-9
        if not informative:
            scale = 1.0
        batches = tensors(seen_by_critic(parts, config), normalizer, scale)
        select = tensors(seen_by_critic(held_parts, config), normalizer, scale)
        if config.critic == "monte_carlo":
            monte_carlo.check(parts)
    if not informative:
        say(
            "the data shows no difference in return: the critic has nothing to learn, guidance will be off by default"
        )

    # 2. Networks and their training.
    obs_dim, flat = select.obs.shape[1], select.action.shape[1]
    output: Literal["linear", "sigmoid"] = "sigmoid" if config.bounded else "linear"
    velocity = VelocityField(obs_dim, flat, config.hidden)
    critic = Critic(obs_dim, flat, config.hidden, config.members, output)
    learner = make_learner(velocity, critic, config, obs_dim, contract.time.horizon)
    began = time.monotonic()
    with Logs(out) as logs:
        for step, metrics in track(updates(learner, batches, config), config.steps, "training"):
            if step % LOG_EVERY == 0 or step == config.steps:
                values = {name: float(value) for name, value in metrics.items()}
                bad = [name for name, value in values.items() if not math.isfinite(value)]
                if bad:
                    raise CriterionNotMet(
                        f"{', '.join(bad)} became non-finite at update {step}; lower learning_rate or look at the data"
                    )
                logs.write(step, values)
    seconds = time.monotonic() - began

    # 3. What held-out episodes say, and with it the scale of beta.
    target = learner.target_critic
    metrics = held_out(learner, select, config)
    betas, sanity = guidance_scale(velocity, target, select, config)
    if not informative:
        betas = Beta(default=math.inf, min=betas.min)

    # 4. The policy folder.
    box = Box.of(tensors(parts, normalizer, 1.0).action)
    description = PolicyDescription(
        schema=1,
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
        provenance=dict(provenance)
        | {
            "contract_sha256": contract.hash,
            "config": asdict(config) | {"hidden": list(config.hidden)},
            "select_metrics": metrics,
            "training_seconds": round(seconds, 1),
            "versions": {
                "qgf_ros": version("qgf_ros"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
    )
    policy = out / "policy"
    sha256 = write_policy(policy, description, {
        "velocity.safetensors": _arrays(velocity) | {"time_embedding": time_table(config.denoise_steps).numpy()},
        "critic.safetensors": _arrays(target),
    })  # fmt: skip
    return Fitted(policy, sha256, metrics | {"training_seconds": seconds})


def outcomes(episodes: Sequence[Episode]) -> dict[str, int]:
    """How episodes ended."""
    return {
        name: sum(e.success is v for e in episodes)
        for name, v in (("success", True), ("failure", False), ("unknown", None))
    }


def make_learner(
    velocity: VelocityField, critic: Critic, config: FitConfig, obs_dim: int, horizon: int
) -> Learner:
    """The learner of the configured kind of critic."""
    common: dict[str, Any] = {
        "discount": config.discount,
        "horizon": horizon,
        "learning_rate": config.learning_rate,
        "aggregation": config.aggregation,
    }
    if config.critic == "monte_carlo":
        return monte_carlo.Learner(velocity, critic, CriticConfig(**common))
    value = Value(obs_dim, config.hidden, critic.output)
    if config.critic == "sarsa":
        return sarsa.Learner(velocity, critic, value, CriticConfig(**common))
    own = iql.IQLConfig(**common, expectile=config.expectile)
    return iql.Learner(velocity, critic, value, own)


def updates(
    learner: Learner, batches: ChunkBatch | Relabelled, config: FitConfig
) -> Iterable[tuple[int, dict[str, Tensor]]]:
    """Yields (step, metrics) after each update. All randomness comes from one seeded generator."""
    random = torch.Generator().manual_seed(config.seed)
    size = len(batches)
    for step in range(1, config.steps + 1):
        rows = torch.randint(size, (config.batch,), generator=random)
        batch = batches[rows]
        noise = torch.randn(batch.action.shape, generator=random)
        if config.grid_time:
            t = (
                torch.randint(config.denoise_steps + 1, (config.batch,), generator=random)
                / config.denoise_steps
            )
        else:
            t = torch.rand(config.batch, generator=random)
        yield step, learner.update(batch, noise, t)


def _arrays(net: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name.removeprefix("mlp."): p.detach().numpy() for name, p in net.state_dict().items()}
