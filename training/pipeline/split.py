"""Three groups of episodes: to train on, to choose on (beta, checkpoint), and to report from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.pipeline.episodes import Episode

RULE = 2  # counts up when the same episodes and seed give other groups


@dataclass(frozen=True)
class Split:
    """Indices of episodes. `select` and `report` are empty only where there are too few episodes."""

    train: tuple[int, ...]
    select: tuple[int, ...]
    report: tuple[int, ...]


def split(
    episodes: Sequence[Episode], seed: int, select: float = 0.1, report: float = 0.1
) -> Split:
    """Stratified by outcome, so that every group has its share of successes and failures. The parts
    of an episode that was cut at gaps stay together: one tells of the other.

    Args:
        select, report: shares in [0, 0.5). A stratum of fewer than 3 episodes is trained on.
    """
    rng = np.random.default_rng([20264, seed])
    parts: dict[str, list[int]] = {}
    for i, episode in enumerate(episodes):
        parts.setdefault(episode.origin or episode.name, []).append(i)
    whole = list(parts.values())
    ended = [next((s for i in p if (s := episodes[i].success) is not None), None) for p in whole]
    groups: dict[str, list[int]] = {"train": [], "select": [], "report": []}
    for outcome in (True, False, None):
        members = rng.permutation([i for i, end in enumerate(ended) if end is outcome])
        few = len(members) < 3
        counts = [0 if few else max(1, round(share * len(members))) for share in (select, report)]
        cut = np.cumsum(counts)
        for name, part in zip(("select", "report", "train"), np.split(members, cut)):
            groups[name] += [i for number in part for i in whole[int(number)]]
    return Split(**{name: tuple(sorted(group)) for name, group in groups.items()})
