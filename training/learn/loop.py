"""The updates of a training run: drawn, applied, watched, and written down so that they can go on.

Every random number of update k is a function of (seed, k) alone. So a run that was killed goes on
bit for bit from its checkpoint, and several processes together draw what one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgf_ros.console import say, track
from qgf_ros.errors import CriterionNotMet
from qgf_ros.files.strict_yaml import shown
from training.learn import checkpoint
from training.learn.batches import Batches
from training.learn.config import FitConfig
from training.learn.critics.base import Learner
from training.learn.critics.batch import ChunkBatch
from training.learn.distributed import World
from training.learn.logs import Logs

LOG_EVERY = 100  # updates
CHOICES = 20  # times in the second half of a run that the critic is looked at
MOST_SKIPPED = 10  # updates without a finite gradient, one after the other
CHOSEN = ("target_critic.", "value.")  # of a learner's tensors, those of the best critic
UNTAUGHT = (
    "the critic's gradient never reached the cameras' encoders: what the demonstrator ignores is forgotten, "
    "and guidance will hardly help; look for outcomes (critic monte_carlo learns from episodes that ended), "
    "and leave encoder_gradient at both"
)
# Of the settings, those that change nothing about a run but its pace.
FREE = ("workers", "checkpoint_every")


@dataclass
class Best:
    """The critic (and the value it was trained with) with the smallest error so far."""

    step: int = 0
    error: float = math.inf
    tensors: dict[str, Tensor] = field(default_factory=dict)


def train(
    learner: Learner,
    batches: Batches,
    select: ChunkBatch,
    config: FitConfig,
    out: Path,
    identity: Mapping[str, Any],
    world: World | None = None,
) -> dict[str, float]:
    """Runs the updates and leaves the chosen critic in `learner.target_critic`.

    select: held-out chunks that the critic is chosen on. Goes on from a checkpoint in `out` where
    there is one; identity: what must be the same then. -> figures about the run.

    Raises:
        UsageError: the checkpoint is of another run.
        CriterionNotMet: the gradient stayed non-finite; the last checkpoint is whole.
    """
    world = world or World()
    identity = dict(identity) | {
        "settings": {k: v for k, v in asdict(config).items() if k not in FREE},
        "processes": world.size,
    }
    identity = checkpoint.plain(identity)
    best, done = Best(), 0
    if (out / checkpoint.FILE).exists():
        best, done = _resume(out, learner, identity, config.steps)
    if world.size > 1:
        learner.distribute()
    skipped = 0
    taught = learner.encoders is None or world.size > 1  # by the critic, too
    with Logs(out if world.first else None, done) as logs:
        steps = range(done + 1, config.steps + 1)
        for step in track(steps, len(steps), "training") if world.first else steps:
            learner.set_rate(learning_rate(step, config))
            rows, batch, noise, time = draw(batches, config, step, world)
            metrics = learner.update(batch, noise, time)
            skipped = 0 if metrics["gradient_norm"].isfinite() else skipped + 1
            taught = taught or bool(metrics.get("encoder_gradient_critic", 1.0))
            if skipped:
                _left_out(skipped, step, rows, batches)
            if step % LOG_EVERY == 0 or step == config.steps:
                logs.write(step, {name: world.mean(value) for name, value in metrics.items()})
            if learner.encoders is None and _looked_at(step, config):
                _keep_better(best, learner, select, step)
            if step % config.checkpoint_every == 0 or step == config.steps:
                if world.first and not skipped:
                    logs.flush()
                    _save(out, learner, best, step, identity)
    if not taught and done < config.steps and world.first:
        say(UNTAUGHT)
    if best.tensors:
        learner.load_state(learner.state() | best.tensors)
    return {"critic_step": best.step or config.steps}


def draw(
    batches: Batches, config: FitConfig, step: int, world: World
) -> tuple[np.ndarray, ChunkBatch, Tensor, Tensor]:
    """This process's part of update `step`: its rows, their batch, noise (K * B, D), flow time (K * B,),
    K draws for each row."""
    rng = np.random.default_rng([20268, config.seed, step])
    whole, part = config.batch * world.size, world.shard(config.batch)
    rows = rng.integers(len(batches), size=whole)
    draws = config.flow_draws, whole
    if config.grid_time:
        time = rng.integers(config.denoise_steps + 1, size=draws) / config.denoise_steps
    else:
        time = rng.random(draws)
    batch = batches.cut(rows, rng, to_go=False)[1][torch.arange(whole)[part]]
    noise = rng.standard_normal((*draws, batch.action.shape[1]), np.float32)[:, part]
    if config.observation_noise:
        shaken = rng.standard_normal((whole, batch.obs.shape[1]), np.float32)[part]
        shaken[:, list(batches.numbered)] = 0
        seen = batch.seen_by_flow + config.observation_noise * torch.from_numpy(shaken)
        batch = replace(batch, flow_obs=seen)
    noise, time = noise.reshape(-1, noise.shape[-1]), time[:, part].reshape(-1)
    return rows[part], batch, torch.from_numpy(noise), torch.from_numpy(time).float()


def learning_rate(step: int, config: FitConfig) -> float:
    """Of update `step` = 1..steps: a straight rise, then half a cosine down, or level."""
    rise = min(config.warmup, config.steps // 10)
    if step <= rise:
        return config.learning_rate * step / rise
    if config.schedule == "constant":
        return config.learning_rate
    turn = (step - rise) / (config.steps - rise + 1)
    return config.learning_rate * (1 + math.cos(math.pi * turn)) / 2


def _looked_at(step: int, config: FitConfig) -> bool:
    """A critic that knows nothing yet predicts nothing wrong: the first half does not count."""
    every = max(1, config.steps // (2 * CHOICES))
    return config.choose_critic and 2 * step > config.steps and (config.steps - step) % every == 0


def _keep_better(best: Best, learner: Learner, select: ChunkBatch, step: int) -> None:
    error = learner.td_error(select)
    if error < best.error:  # False for NaN: nothing is known of these chunks' values
        best.step, best.error = step, error
        best.tensors = {k: t.clone() for k, t in learner.state().items() if k.startswith(CHOSEN)}


def _left_out(skipped: int, step: int, rows: np.ndarray, batches: Batches) -> None:
    """Says that an update was left out; raises CriterionNotMet where that goes on."""
    which = f"update {step}: the gradient of chunks {', '.join(map(str, rows[:8]))}, ..."
    if skipped >= MOST_SKIPPED:
        raise CriterionNotMet(
            f"{which} was not finite, {skipped} times in a row; what was learnt before it is in the "
            "checkpoint; lower learning_rate or look at the data (qgf data inspect)"
        )
    say(f"{which} was not finite, and was left out")


def _save(out: Path, learner: Learner, best: Best, step: int, identity: Mapping[str, Any]) -> None:
    tensors = {f"learner.{k}": t for k, t in learner.state().items()}
    tensors |= {f"best.{k}": t for k, t in best.tensors.items()}
    facts = {"step": step, "best_step": best.step, "best_error": best.error, "run": identity}
    checkpoint.save(out, tensors, facts)


def _resume(
    out: Path, learner: Learner, identity: Mapping[str, Any], steps: int
) -> tuple[Best, int]:
    """What was saved, once all of it fits: what is not of this run would be trained on unnoticed."""
    tensors, facts = checkpoint.load(out)
    run, step = facts.get("run"), facts.get("step")
    best_step, error = facts.get("best_step"), facts.get("best_error")
    if not isinstance(run, dict):
        raise checkpoint.unreadable(out, "it does not say what run it is of")
    checkpoint.check_same(out / checkpoint.FILE, run, identity)
    if type(step) is not int or not 1 <= step <= steps:
        raise checkpoint.unreadable(out, f"update {shown(step)} of {steps}")
    if type(best_step) is not int or not 0 <= best_step <= step or type(error) is not float:
        raise checkpoint.unreadable(out, f"best update {shown(best_step)} of error {shown(error)}")

    def part(name: str) -> dict[str, Tensor]:
        return {
            k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")
        }

    own, best = learner.state(), Best(best_step, error, part("best"))
    checkpoint.check_tensors(out, part("learner"), own | _moments(learner, part("learner")))
    chosen = {k: t for k, t in own.items() if k.startswith(CHOSEN)} if best_step else {}
    checkpoint.check_tensors(out, best.tensors, chosen)
    if math.isnan(error) or error < 0:
        raise checkpoint.unreadable(out, f"best error {error}")
    if not 0 <= (counted := int(part("learner")["steps"])) <= step:
        raise checkpoint.unreadable(out, f"{counted} of {step} updates are counted")
    learner.load_state(part("learner"))
    say(f"going on after update {step}")
    return best, step


def _moments(learner: Learner, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the forms that Adam has for those parameters that it has updated."""
    weights = [p for group in learner.optimizer.param_groups for p in group["params"]]
    return {
        f"adam.{i}.{key}": torch.tensor(0.0) if key == "step" else p
        for i, p in enumerate(weights)
        if f"adam.{i}.step" in found
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
