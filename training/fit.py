"""Recorded data to a policy folder: one linear script.

Read, split, normalise, cut into chunks, train flow and critic side by side, look at the held-out
episodes, write the policy. Knows nothing about robots that move; `training.evaluate` does.
"""

from __future__ import annotations

import csv
import json
import math
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgf_ros.console import say, track
from qgf_ros.contract import Contract
from qgf_ros.errors import CriterionNotMet
from qgf_ros.normalizer import Normalizer
from qgf_ros.policy import Beta, Flow, Network, PolicyDescription, Returns, Sanity, write_policy
from training.config import FitConfig
from training.critics import ChunkBatch
from training.critics.iql import IQLConfig, Learner
from training.data.episodes import Chunks, chunks, return_scale
from training.data.load import data_hash, load_episodes
from training.data.split import split
from training.flow import flow_loss
from training.models import Critic, Value, VelocityField, aggregate, time_table
from training.sampling import sample

LOG_EVERY = 100  # updates
# Guidance as strong as these shares of the flow (the ratio rho of method: w |g| / |v|).
SUGGESTED_RATIOS = (1.0, 0.5, 0.25)
DEFAULT_RATIO = 0.5
LARGEST_RATIO = 4.0  # the floor of beta: beyond it the critic, not the data, makes the action


@dataclass(frozen=True)
class Fitted:
    """What training gives: the policy's folder and the figures worth reading."""

    policy: Path
    sha256: str
    metrics: dict[str, float]
    messages_lost: int  # rejected or not finite


def fit(data: Path, contract_path: Path, out: Path, config: FitConfig) -> Fitted:
    """Trains on `data` by the contract; writes `out`/policy, `out`/metrics.csv and TensorBoard logs.

    Raises:
        UsageError, DataRefused: the contract or the data cannot be used.
        CriterionNotMet: a loss became non-finite; nothing is written then.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    contract = Contract.load(contract_path)

    # 1. Data: episodes on one grid, split by episode, normalised, cut into chunks.
    episodes, report = load_episodes(data, contract, config.workers, track)
    groups = split(episodes, config.seed)
    trained = [episodes[i] for i in groups.train]
    held = [episodes[i] for i in groups.select if len(episodes[i]) >= contract.time.horizon]
    held = held or trained
    out.mkdir(parents=True, exist_ok=True)
    names = {
        group: [episodes[i].name for i in getattr(groups, group)]
        for group in ("train", "select", "report")
    }
    (out / "split.json").write_text(json.dumps(names, indent=1))
    outcomes = {
        name: sum(e.success is v for e in episodes)
        for name, v in (("success", True), ("failure", False), ("unknown", None))
    }
    say(
        f"{len(episodes)} episodes, {report.ticks} ticks: "
        + ", ".join(f"{n} {c}" for n, c in outcomes.items())
    )
    for reason, count in report.dropped.items():
        if count:
            say(f"  dropped: {reason}: {count}")
    scale = config.return_scale or return_scale(trained, config.discount)
    informative = scale > 1e-9
    if not informative:
        say(
            "the data shows no difference in return: the critic has nothing to learn, guidance will be off by default"
        )
        scale = 1.0
    parts = chunks(trained, contract.time.horizon, config.discount)
    normalizer = Normalizer.fit(parts.obs, parts.action.reshape(-1, parts.action.shape[-1]))
    batches = tensors(parts, normalizer, scale)
    select = tensors(chunks(held, contract.time.horizon, config.discount), normalizer, scale)

    # 2. Networks and their training.
    obs_dim, flat = batches.obs.shape[1], batches.action.shape[1]
    velocity = VelocityField(obs_dim, flat, config.hidden)
    critic = Critic(obs_dim, flat, config.hidden, config.members)
    iql = IQLConfig(
        config.discount, contract.time.horizon, config.expectile, learning_rate=config.learning_rate
    )
    learner = Learner(velocity, critic, Value(obs_dim, config.hidden), iql)
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
    metrics = held_out(velocity, target, learner.value, select, iql, config)
    betas, sanity = guidance_scale(velocity, target, select, config)
    if not informative:
        betas = Beta(default=math.inf, min=betas.min)

    # 4. The policy folder.
    description = PolicyDescription(
        schema=1,
        name=contract.robot,
        description=f"{contract.description} Objective: {contract.outcome.objective}.".strip(),
        contract=contract.to_dict(),
        flow=Flow(config.denoise_steps),
        velocity=Network("velocity.safetensors", tuple(config.hidden)),
        critic=Network("critic.safetensors", tuple(config.hidden), config.members),
        normalizer={k: tuple(v) for k, v in normalizer.to_dict().items()},
        returns=Returns(
            contract.outcome.objective, config.discount, scale, informative=informative
        ),
        beta=betas,
        sanity=sanity,
        provenance={
            "data": {
                "sha256": data_hash(episodes),
                "episodes": len(episodes),
                "ticks": report.ticks,
                **outcomes,
            },
            "contract_sha256": contract.hash,
            "config": asdict(config) | {"hidden": list(config.hidden)},
            "split": {name: len(getattr(groups, name)) for name in ("train", "select", "report")},
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
    lost = sum(count for reason, count in report.dropped.items() if reason.startswith("message"))
    return Fitted(policy, sha256, metrics | {"training_seconds": seconds}, lost)


def tensors(parts: Chunks, normalizer: Normalizer, scale: float) -> ChunkBatch:
    """All chunks as normalised float32 tensors; rewards in units of the return scale."""
    return ChunkBatch(
        obs=torch.from_numpy(normalizer.normalize_obs(parts.obs)),
        action=torch.from_numpy(normalizer.normalize_action(parts.action).reshape(len(parts), -1)),
        reward=torch.from_numpy((parts.reward / scale).astype(np.float32)),
        mask=torch.from_numpy(parts.mask.astype(np.float32)),
        next_obs=torch.from_numpy(normalizer.normalize_obs(parts.next_obs)),
        valid=torch.ones(len(parts)),
    )


def updates(
    learner: Learner, batches: ChunkBatch, config: FitConfig
) -> Iterable[tuple[int, dict[str, Tensor]]]:
    """Yields (step, metrics) after each update. All randomness comes from one seeded generator."""
    random = torch.Generator().manual_seed(config.seed)
    size, flat = len(batches.obs), batches.action.shape[1]
    for step in range(1, config.steps + 1):
        rows = torch.randint(size, (config.batch,), generator=random)
        batch = ChunkBatch(
            *(getattr(batches, name)[rows] for name in ChunkBatch.__dataclass_fields__)
        )
        noise = torch.randn(config.batch, flat, generator=random)
        if config.grid_time:
            t = (
                torch.randint(config.denoise_steps + 1, (config.batch,), generator=random)
                / config.denoise_steps
            )
        else:
            t = torch.rand(config.batch, generator=random)
        yield step, learner.update(batch, noise, t)


@torch.no_grad()
def held_out(
    velocity: VelocityField,
    critic: Critic,
    value: Value,
    select: ChunkBatch,
    iql: IQLConfig,
    config: FitConfig,
) -> dict[str, float]:
    """Figures on episodes that were not trained on. Small is better."""
    rows = _some(select, 4096, config.seed)
    random = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(rows.action.shape, generator=random)
    loss, _ = flow_loss(
        velocity, rows.obs, rows.action, noise, torch.rand(len(noise), generator=random)
    )
    q = aggregate(critic(rows.obs, rows.action), iql.aggregation)
    target = rows.reward + iql.discount**iql.horizon * rows.mask * value(rows.next_obs)
    drawn = sample(velocity, critic, rows.obs, noise, 0.0, steps=config.denoise_steps)
    return {
        "flow_loss": float(loss),
        "td_error": float((q - target).square().mean().sqrt()),
        "sampled_action_error": float((drawn.action - rows.action).abs().mean()),
    }


@torch.no_grad()
def guidance_scale(
    velocity: VelocityField, critic: Critic, select: ChunkBatch, config: FitConfig
) -> tuple[Beta, Sanity]:
    """Betas at which guidance is a given share of the flow, and the bounds of a sane Q and gradient.

    The ratio rho = w |g| / |v| has no units, so the suggestions mean the same on every robot. The
    gradient is taken along gently guided paths (w = 0 would never ask for it).
    """
    rows = _some(select, 1024, config.seed)
    random = torch.Generator().manual_seed(config.seed + 1)
    noise = torch.randn(rows.action.shape, generator=random)
    gentle = 1e-6
    drawn = sample(velocity, critic, rows.obs, noise, gentle, steps=config.denoise_steps)
    ratio = float((drawn.guidance_ratio / gentle).mean())  # rho per unit of w
    norms = drawn.gradient_norm
    if not ratio > 0:
        return Beta(math.inf, 1.0), Sanity(-math.inf, math.inf, math.inf)
    betas = {
        rho: _two_digits(ratio / rho) for rho in (*SUGGESTED_RATIOS, DEFAULT_RATIO, LARGEST_RATIO)
    }
    q = aggregate(critic(rows.obs, rows.action), "min")
    spread = max(1.0, float(q.max() - q.min()))
    sanity = Sanity(
        float(q.min()) - 2 * spread, float(q.max()) + 2 * spread, 100 * float(norms.quantile(0.99))
    )
    suggested = tuple(betas[rho] for rho in SUGGESTED_RATIOS)
    return Beta(betas[DEFAULT_RATIO], betas[LARGEST_RATIO], suggested), sanity


class Logs:
    """metrics.csv and TensorBoard events of a run; no account, no network."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def __enter__(self) -> Logs:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._file = (self._out / "metrics.csv").open("w", newline="")
        self._csv: csv.DictWriter[str] | None = None
        self._board = SummaryWriter(str(self._out / "tensorboard"))
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._csv is None:
            self._csv = csv.DictWriter(self._file, ["step", *values])
            self._csv.writeheader()
        self._csv.writerow({"step": step} | values)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def _some(batch: ChunkBatch, count: int, seed: int) -> ChunkBatch:
    rows = torch.randperm(len(batch.obs), generator=torch.Generator().manual_seed(seed))[:count]
    return ChunkBatch(*(getattr(batch, name)[rows] for name in ChunkBatch.__dataclass_fields__))


def _arrays(net: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name.removeprefix("mlp."): p.detach().numpy() for name, p in net.state_dict().items()}


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
