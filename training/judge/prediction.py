"""How far predicted chunks are from recorded ones: by joint and horizon step, with intervals.

The error is a root mean square. The mean of many samples, like a least-squares fit, aims at the
mean of what is done in a state, and the mean is what makes the square smallest; an absolute error
would favour the median. A single sample of a policy that is right has a larger error than the mean
of many: it also carries the spread of the data, which is no fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from qgf_ros.spaces.actions.codec import ActionCodec
from qgf_ros.statistics import between, drawn, interval
from training.judge import baselines
from training.judge.analysis.base import Model
from training.judge.seen import Seen
from training.learn.critics.batch import ChunkBatch
from training.pipeline.chunks import Chunks

SAMPLES = 16  # per chunk, of which the mean is compared
LEARNT_FROM = 65_536  # training chunks that the linear model is fitted to
BLOCK = 2048  # chunks at a time


@dataclass(frozen=True)
class Scale:
    """Spread of each commanded number over the training data: (A,), 0 where it never varied."""

    std: np.ndarray

    @classmethod
    def of(cls, action: np.ndarray) -> Scale:
        """action: (N, A)."""
        std = action.std(axis=0, dtype=np.float64)
        return cls(np.where(std > 1e-6 * np.maximum(1, np.abs(action).max(axis=0)), std, 0.0))

    def unit(self, error: np.ndarray) -> np.ndarray:
        """(..., A) squared errors -> mean over those numbers that vary, in squares of their spread."""
        varies = self.std > 0
        if not varies.any():
            return np.zeros(error.shape[:-1])
        return (error[..., varies] / self.std[varies] ** 2).mean(axis=-1)


@dataclass(frozen=True)
class Errors:
    """Sums over the chunks of each of E episodes, from which every resample is made."""

    squared: np.ndarray  # (E, H, A), robot units squared
    count: np.ndarray  # (E,) chunks
    draws: np.ndarray  # (1 + R, E) how often each episode is in each resample

    @classmethod
    def of(cls, predicted: np.ndarray, recorded: np.ndarray, episode: np.ndarray) -> Errors:
        """predicted, recorded: (N, H, A) in robot units; episode: (N,)."""
        group, draws = drawn(episode)
        squared = np.zeros((draws.shape[1], *recorded.shape[1:]))
        np.add.at(squared, group, (predicted - recorded) ** 2)
        return cls(squared, np.bincount(group), draws)

    def mean(self) -> np.ndarray:
        """(1 + R, H, A) mean squared errors: of all episodes, then of R resamples of them."""
        return (
            np.tensordot(self.draws, self.squared, axes=1)
            / (self.draws @ self.count)[:, None, None]
        )


def compare(errors: Mapping[str, Errors], scale: Scale, names: Sequence[str]) -> dict[str, Any]:
    """All predictors on the same chunks, each against the first, which is the policy.

    names: (A,) of the commanded numbers. -> plain values. Of each predictor the RMSE over all
    numbers in units of their spread, by horizon step and over the chunk, and of each number in its
    own unit; of each but the first the difference policy less predictor, resample by resample.
    """
    means = {name: e.mean() for name, e in errors.items()}
    units = {name: scale.unit(m) for name, m in means.items()}  # (1 + R, H)
    policy, *others = errors
    steps = next(iter(units.values())).shape[1]
    return {
        "overall": _compared(
            {k: np.sqrt(u.mean(axis=1)) for k, u in units.items()}, policy, others
        ),
        "steps": [
            _compared({k: np.sqrt(u[:, h]) for k, u in units.items()}, policy, others)
            for h in range(steps)
        ],
        "joints": {
            name: {
                "chunk": _compared(
                    {k: np.sqrt(m[:, :, j].mean(axis=1)) for k, m in means.items()}, policy, others
                ),
                "steps": {
                    k: [asdict(between(np.sqrt(m[:, h, j]))) for h in range(steps)]
                    for k, m in means.items()
                },
            }
            for j, name in enumerate(names)
        },
    }


def _compared(rmse: Mapping[str, np.ndarray], policy: str, others: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {name: asdict(between(values)) for name, values in rmse.items()}
    for name in others:
        difference = between(rmse[policy] - rmse[name])
        out[f"{policy}_less_{name}"] = asdict(difference) | {
            "policy_is": difference.side("better", "worse")
        }
    return out


def predict(
    model: Model, seen: Seen, known: Seen, parts: Chunks, batch: ChunkBatch, seed: int
) -> dict[str, Any]:
    count, horizon, _ = parts.action.shape
    scale = Scale.of(known.episodes.some_ticks(LEARNT_FROM)[1])
    unit = np.where(scale.std > 0, scale.std, 1.0)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        rows = known.some(LEARNT_FROM)
        for some in np.array_split(rows, math.ceil(len(rows) / BLOCK)):
            part, tensor = known.cut(some)
            target = (part.action / unit).reshape(len(some), -1)
            yield tensor.seen_by_flow.numpy(), target, part.episode

    linear = baselines.ridge(blocks())
    line = linear(batch.seen_by_flow.numpy()).reshape(parts.action.shape) * unit
    random = torch.Generator().manual_seed(seed)
    total: np.ndarray | float = 0.0
    for _ in range(SAMPLES):
        noise = torch.randn(batch.action.shape, generator=random)
        drawn = model.sample(batch.seen_by_flow, noise, 0.0).action.numpy()
        single = seen.codec.decode(drawn.reshape(count, horizon, -1), parts.origin)
        total = total + single
    still = baselines.repeat(parts.obs, np.nan_to_num(parts.last), seen.contract)
    predictors = {"policy": total / SAMPLES, "single": single, "repeat": still, "linear": line}
    errors = {
        name: Errors.of(np.asarray(predicted), parts.action, parts.episode)
        for name, predicted in predictors.items()
    }
    found = compare(errors, scale, seen.contract.action_names)
    return {
        "chunks": count,
        "episodes": len(errors["policy"].count),
        "samples": SAMPLES,
        "linear_penalty": linear.penalty,
        "never_varied": [n for n, s in zip(seen.contract.action_names, scale.std) if s == 0],
        "worst_episodes": _worst(errors["policy"], errors["repeat"], scale, parts, seen),
        **found,
    }


def _worst(
    policy: Errors, still: Errors, scale: Scale, parts: Chunks, seen: Seen
) -> list[dict[str, Any]]:
    """The three episodes that the policy predicts worst: a mean may be that of a few."""
    each, same = (np.sqrt(scale.unit(e.squared).mean(axis=1) / e.count) for e in (policy, still))
    names = [seen.episodes.names[i] for i in np.unique(parts.episode)]
    return [
        {"name": names[i], "policy": float(each[i]), "repeat": float(same[i])}
        for i in np.argsort(-each)[:3]
    ]


def beyond_range(codec: ActionCodec, parts: Chunks) -> dict[str, Any]:
    unit = codec.encode(parts.action, parts.origin)
    reached = codec.decode(unit, parts.origin)
    tolerance = 1e-6 * (codec.normalizer.action_half_range + np.abs(parts.action))
    beyond = np.abs(reached - parts.action) > tolerance
    return asdict(interval(beyond.mean(axis=(1, 2)), parts.episode))
