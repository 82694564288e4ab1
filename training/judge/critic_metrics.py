"""What recorded outcomes say of a critic: calibration, separation, spread off the data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgf_ros.statistics import Interval, agreed, between, drawn, draws, ratio
from training.learn.models import spread
from training.sampling import CriticFn

BINS = 10  # of the reliability table, with as many chunks each


def calibration(q: np.ndarray, to_go: np.ndarray, episode: np.ndarray) -> dict[str, Any]:
    """Q of recorded chunks (N,) against the discounted return that followed (N,), scaled alike.

    slope and intercept are of the line return = intercept + slope * Q: 1 and 0 where Q says what
    comes. bias is mean Q less mean return. Where either never varies, slope and correlations are NaN.
    """
    line = _regression(q, to_go, episode)
    ranks = _regression(_ranks(q), _ranks(to_go), episode)
    return {
        **{name: asdict(line[name]) for name in ("slope", "intercept", "bias", "pearson")},
        "spearman": asdict(ranks["pearson"]),
        "bins": _bins(q, to_go),
    }


def _ranks(x: np.ndarray) -> np.ndarray:
    """(N,) -> (N,), 1 for the smallest; those that are the same share the mean of theirs. All are NaN
    where one number is."""
    if np.isnan(x).any():
        return np.full(len(x), np.nan)
    _, which, count = np.unique(x, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[which]


def preference(
    advantage: np.ndarray,
    to_go: np.ndarray,
    state: np.ndarray,
    episode: np.ndarray,
    tick: np.ndarray,
) -> dict[str, Any]:
    """Whether, of actions in one state, those that Q prefers are followed by more.

    advantage: (N,), Q of the recorded chunk less the mean Q of what the flow would do there; to_go:
    (N,), the return that followed; state: (N, K), what is expected of each state whatever is done,
    such as that mean Q; tick: (N,), when in its episode. What a line in `state` explains is taken
    out of both; correlation and slope are of the rests. Guidance needs this one: a critic may know
    every state's value and not one action's. correlation 0: its preferences are noise. slope: how
    much of the difference that Q claims came. within: the same from what changes within episodes; a
    habit that lasts for whole ones may make the other one larger than what each action brings. NaN
    where either never varies.
    """
    known = np.column_stack([np.ones(len(advantage)), state])
    claimed, came = (
        y - known @ np.linalg.lstsq(known, y, rcond=None)[0] for y in (advantage, to_go)
    )
    line = _regression(claimed, came, episode)
    return {
        "correlation": asdict(line["pearson"]),
        "slope": asdict(line["slope"]),
        "within": asdict(_within(claimed, came, episode, tick)),
        "bins": _bins(claimed, came),
    }


def _within(
    claimed: np.ndarray, came: np.ndarray, episode: np.ndarray, tick: np.ndarray
) -> Interval:
    """Slope of came on claimed, by what of a claim is new beside the earlier ones of its episode.

    That is an instrument: a habit is in the earlier claims too, and what comes after a tick has no
    part in what was claimed before. To take each episode's mean out of both would take half of the
    effect with it, for an action also counts in the returns of all ticks before it.
    """
    order = np.lexsort((tick, episode))
    claimed, came, episode = claimed[order], came[order], episode[order]
    group, draws = drawn(episode)
    row = np.arange(len(group))
    first = np.searchsorted(group, group)  # of the same episode
    before = np.cumsum(claimed) - claimed
    new = np.where(
        row > first, claimed - (before - before[first]) / np.maximum(row - first, 1), 0.0
    )
    cov, size = (draws @ np.bincount(group, new * y) for y in (came, claimed))
    return between(cov / np.where(size > 1e-12 * (claimed @ claimed), size, np.nan))


def _bins(q: np.ndarray, to_go: np.ndarray) -> list[dict[str, Any]]:
    """Means over as many chunks each, by rising Q."""
    order = np.argsort(q, kind="stable")
    return [
        {"q": float(q[rows].mean()), "to_go": float(to_go[rows].mean()), "chunks": len(rows)}
        for rows in np.array_split(order, BINS)
        if len(rows)
    ]


def _regression(x: np.ndarray, y: np.ndarray, episode: np.ndarray) -> dict[str, Interval]:
    """Of y on x, with intervals over episodes."""
    middle_x, middle_y = x.mean(), y.mean()  # so that the sums of squares keep their digits
    u, v = x - middle_x, y - middle_y
    group, draws = drawn(episode)
    columns = (np.ones_like(u), u, v, u * u, u * v, v * v)
    sums = draws @ np.stack([np.bincount(group, c) for c in columns], axis=1)
    count, su, sv, suu, suv, svv = sums.T
    var_x, cov, var_y = (
        suu / count - (su / count) ** 2,
        suv / count - su * sv / count**2,
        svv / count - (sv / count) ** 2,
    )
    # Below rounding of the sums it did not vary.
    var_x = np.where(var_x > 1e-12 * max(1.0, middle_x**2), var_x, np.nan)
    var_y = np.where(var_y > 1e-12 * max(1.0, middle_y**2), var_y, np.nan)
    slope = cov / var_x
    mean_x, mean_y = su / count + middle_x, sv / count + middle_y
    return {
        "slope": between(slope),
        "intercept": between(mean_y - slope * mean_x),
        "bias": between(mean_x - mean_y),
        "pearson": between(cov / np.sqrt(var_x * var_y)),
    }


def separation(succeeded: np.ndarray, failed: np.ndarray) -> Interval:
    """Q of episodes that succeeded (P,) and of ones that failed (F,): the share of pairs in which
    the success has the larger one (AUC), ties counted half.

    Where all pairs agree, `agreed` for as many trials as the rarer outcome has episodes.
    """
    wins = (succeeded[:, None] > failed) + 0.5 * (succeeded[:, None] == failed)
    mean = float(wins.mean())
    if mean in (0.0, 1.0):
        return agreed(mean, min(wins.shape))
    counted = draws(sum(wins.shape))[1:]
    first, second = counted[:, : len(succeeded)], counted[:, len(succeeded) :]
    pairs = first.sum(axis=1) * second.sum(axis=1)
    return between(np.append(mean, ratio(((first @ wins) * second).sum(axis=1), pairs)))


@torch.no_grad()
def disagreement(
    critic: CriticFn, obs: Tensor, action: Tensor, episode: np.ndarray, seed: int
) -> dict[str, Any]:
    """Standard deviation of the members at recorded states (B, O): for the chunk that was recorded
    there (B, D), for one recorded elsewhere, and for uniform noise; and as multiples of the first."""
    random = torch.Generator().manual_seed(seed)
    elsewhere = action[torch.randperm(len(action), generator=random)]
    noise = 2 * torch.rand(action.shape, generator=random, dtype=action.dtype) - 1
    group, draws = drawn(episode)
    sums = {}
    for name, chunk in (("recorded", action), ("elsewhere", elsewhere), ("uniform", noise)):
        std = spread(critic(obs, chunk)).double().numpy()
        sums[name] = draws @ np.bincount(group, std)
    count = draws @ np.bincount(group)
    recorded = np.where(sums["recorded"] > 0, sums["recorded"], np.nan)
    return {
        **{name: asdict(between(total / count)) for name, total in sums.items()},
        "elsewhere_ratio": asdict(between(sums["elsewhere"] / recorded)),
        "uniform_ratio": asdict(between(sums["uniform"] / recorded)),
    }
