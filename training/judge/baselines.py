"""What a policy has to beat: everything staying as it is, and a straight line from what is seen to
what is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qgf_ros.spaces.contract import Contract

# Of the mean square of the inputs, which are z-scores; the one that predicts best is taken.
PENALTIES = tuple(10.0**k for k in range(-6, 2))
CHOSEN_ON = 5  # every fifth episode tells which penalty predicts best


def repeat(obs: np.ndarray, previous: np.ndarray, contract: Contract) -> np.ndarray:
    """(N, H, A), robot units: positions stay where they are measured, velocities as last commanded.

    obs: (N, O); previous: (N, A), the command before the chunk, 0 where there was none.
    """
    measured = contract.measured(obs)
    now = np.where(np.isnan(measured), previous, measured)
    return np.repeat(now[:, None], contract.time.horizon, axis=1)


@dataclass(frozen=True)
class Linear:
    """chunk = z @ weight + bias, with z the z-scores of the observation."""

    weight: np.ndarray  # (O, H * A)
    bias: np.ndarray  # (H * A,)
    penalty: float

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """(N, O) -> (N, H * A), in the units it was fitted to."""
        return z.astype(np.float64) @ self.weight + self.bias


def ridge(blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Linear:
    """Linear regression with a penalty on the squares of the weights, in closed form.

    Args:
        blocks: z-scores (N, O), targets (N, D) and episode (N,) of the training data, in as many
            parts as memory asks for. Targets share a unit, so that one penalty suits all.
    """
    learnt, chosen_on = _Moments(), _Moments()
    for z, target, episode in blocks:
        aside = episode % CHOSEN_ON == CHOSEN_ON - 1
        learnt.add(z[~aside], target[~aside])
        chosen_on.add(z[aside], target[aside])
    penalty = PENALTIES[0]
    if learnt.count and chosen_on.count:
        penalty = min(PENALTIES, key=lambda p: chosen_on.error(learnt.solve(p)))
    learnt.merge(chosen_on)
    return learnt.solve(penalty)


class _Moments:
    """Sums of products of [z, 1] and the targets: all that least squares needs of the data."""

    def __init__(self) -> None:
        self.count = 0
        self.xx: np.ndarray | float = 0.0
        self.xy: np.ndarray | float = 0.0
        self.yy = 0.0

    def add(self, z: np.ndarray, target: np.ndarray) -> None:
        x = np.column_stack([z, np.ones(len(z))]).astype(np.float64)
        self.count += len(x)
        self.xx, self.xy = self.xx + x.T @ x, self.xy + x.T @ target
        self.yy += float(np.square(target).sum())

    def merge(self, other: _Moments) -> None:
        self.count += other.count
        self.xx, self.xy, self.yy = self.xx + other.xx, self.xy + other.xy, self.yy + other.yy

    def solve(self, penalty: float) -> Linear:
        xx, xy = np.asarray(self.xx), np.asarray(self.xy)
        ridge = np.full(len(xx), penalty * self.count)
        ridge[-1] = 1e-12 * self.count  # the mean is free
        found = np.linalg.solve(xx + np.diag(ridge), xy)
        return Linear(found[:-1], found[-1], penalty)

    def error(self, model: Linear) -> float:
        """Sum of the squared errors of that model on these data."""
        w = np.vstack([model.weight, model.bias])
        return float(self.yy - 2 * np.sum(w * self.xy) + np.sum(w * (np.asarray(self.xx) @ w)))
