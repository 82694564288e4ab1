"""Chunks of H actions out of episodes: what is trained on, cut out when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qgf_ros.errors import DataRefused
from qgf_ros.spaces.actions.codec import Origin
from training.pipeline.episodes import Episode, EpisodeArrays


@dataclass(frozen=True)
class Chunks:
    """N chunks, robot units.

    After a terminal an episode is continued as absorbing: the last action is held, the reward is
    0, and nothing is bootstrapped; so chunks that run past the end are kept. A chunk that runs
    past a cut is left out: nobody knows what would have followed.
    """

    obs: np.ndarray  # (N, O)
    action: np.ndarray  # (N, H, A)
    last: np.ndarray  # (N, A) the command before the chunk; NaN where the episode begins
    reward: np.ndarray  # (N,) sum over the chunk of discount^i * reward
    mask: np.ndarray  # (N,) 1: bootstrap from next_obs, 0: the episode ended within the chunk
    next_obs: np.ndarray  # (N, O) H ticks later
    episode: np.ndarray  # (N,) index of the episode
    tick: np.ndarray  # (N,) tick within it
    to_go: np.ndarray  # (N,) discounted return of the whole rest; NaN: the episode was cut
    valid: np.ndarray  # (N,) 0: nothing is known of its value, only the flow learns from it

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def origin(self) -> Origin:
        """Where each begins."""
        return Origin(self.obs, self.last)


class ChunkTable:
    """Every chunk of some episodes, numbered: one per tick where a chunk can begin. Holds a few
    numbers per episode; the rest stays where the episodes are, in memory or on disk."""

    def __init__(self, episodes: Sequence[Episode], horizon: int, discount: float) -> None:
        """horizon: H, actions per chunk.

        Raises:
            DataRefused: no episode is long enough for a single chunk.
        """
        self.episodes = e = EpisodeArrays.of(episodes)
        self.horizon, self.discount = horizon, discount
        self._powers = discount ** np.arange(max(horizon, int(e.steps.max(initial=0))))
        count = np.where(e.terminal, e.steps, np.maximum(e.steps - horizon + 1, 0))
        self._ends = np.cumsum(count)
        self._starts = self._ends - count
        if not len(self):
            raise DataRefused(
                f"no episode has {horizon} control periods, the chunk length of the contract; record longer ones"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def where(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Chunks (N,) of 0..len-1 -> index of the episode (N,), tick within it (N,)."""
        episode = np.searchsorted(self._ends, rows, side="right")
        return episode, rows - self._starts[episode]

    def cut(self, rows: np.ndarray, to_go: bool = True) -> Chunks:
        """These chunks; to_go: also the return of the whole rest, NaN without."""
        e, horizon = self.episodes, self.horizon
        episode, tick = self.where(rows)
        begin, steps, terminal = e.begin[episode], e.steps[episode], e.terminal[episode]
        index = tick[:, None] + np.arange(horizon)
        inside = index < steps[:, None]
        at = begin[:, None] + np.minimum(index, steps[:, None] - 1)
        end = tick + horizon
        return Chunks(
            obs=e.obs[begin + tick],
            action=e.action[at],
            last=np.where(tick[:, None] > 0, e.action[begin + np.maximum(tick - 1, 0)], np.nan),
            reward=(e.reward[at] * inside) @ self._powers[:horizon],
            mask=((end < steps) | ~terminal).astype(np.float32),
            next_obs=e.obs[begin + np.minimum(end, steps)],
            episode=episode,
            tick=tick,
            to_go=self._rest(begin + tick, steps - tick, terminal & to_go),
            valid=np.ones(len(rows), np.float32),
        )

    def _rest(self, first: np.ndarray, count: np.ndarray, known: np.ndarray) -> np.ndarray:
        out = np.full(len(first), np.nan)
        for i in np.flatnonzero(known):
            rewards = self.episodes.reward[first[i] : first[i] + count[i]]
            out[i] = rewards @ self._powers[: count[i]]
        return out


def chunks(episodes: Sequence[Episode], horizon: int, discount: float) -> Chunks:
    """All overlapping chunks of `horizon` actions, one per usable tick, for data that fits in memory.

    Raises:
        DataRefused: no episode is long enough for a single chunk.
    """
    table = ChunkTable(episodes, horizon, discount)
    return table.cut(np.arange(len(table)))
