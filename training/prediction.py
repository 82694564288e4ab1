"""How far predicted chunks are from recorded ones: by joint and horizon step, with intervals.

The error is a root mean square. The mean of many samples, like a least-squares fit, aims at the
mean of what is done in a state, and the mean is what makes the square smallest; an absolute error
would favour the median. A single sample of a policy that is right has a larger error than the mean
of many: it also carries the spread of the data, which is no fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.analysis.base import Interval, resamples


@dataclass(frozen=True)
class Scale:
    """Spread of each commanded number over the training data: (A,), 0 where it never varied."""

    std: np.ndarray

    @classmethod
    def of(cls, action: np.ndarray) -> Scale:
        """action: (N, A)."""
        std = action.std(axis=0)
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


def drawn(episode: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (N,) episode numbers: 0..E-1 for each (N,), and how often each of the E episodes counts:
    (1 + R, E), once each, then in R resamples; none where there is a single episode."""
    _, group = np.unique(episode, return_inverse=True)
    episodes = int(group.max()) + 1
    once = np.ones((1, episodes))
    return group, np.concatenate([once, resamples(episodes)]) if episodes > 1 else once


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


def between(values: np.ndarray) -> Interval:
    """(1 + R,): a value and its resamples -> with its 95 % interval, NaN left out; an interval of
    NaN where there are none."""
    some = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(some, (0.025, 0.975)) if len(some) else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))


def verdict(difference: Interval) -> str:
    """Of policy less predictor: better and worse only where the interval leaves 0 out."""
    if difference.high < 0:
        return "better"
    return "worse" if difference.low > 0 else "undecided"


def _compared(rmse: Mapping[str, np.ndarray], policy: str, others: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {name: asdict(between(values)) for name, values in rmse.items()}
    for name in others:
        difference = between(rmse[policy] - rmse[name])
        out[f"{policy}_less_{name}"] = asdict(difference) | {"policy_is": verdict(difference)}
    return out
