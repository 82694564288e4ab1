"""Episodes on one control grid: one by one, and many behind each other in arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import overload

import numpy as np

from training.pipeline.frames import ByColumn, digested


@dataclass(frozen=True)
class Episode:
    """One episode on the control grid, in robot units.

    Row k of `action` is what was commanded from tick k to tick k + 1, and `reward[k]` what that
    period earned; `obs` has one row more, the state after the last action.
    """

    name: str
    obs: np.ndarray  # (T + 1, O)
    action: np.ndarray  # (T, A)
    reward: np.ndarray  # (T,)
    terminal: bool  # ended by success or failure; False: cut (time-out, end of recording)
    success: bool | None = None  # None: nobody said
    origin: str = ""  # name of the episode that this is a part of, where that was cut at gaps
    frames: ByColumn = field(default_factory=dict)  # whose numbers stand in these columns of `obs`

    def __post_init__(self) -> None:
        steps = len(self.action)
        if len(self.obs) != steps + 1 or len(self.reward) != steps or steps < 1:
            raise ValueError(
                f"{self.name}: obs {self.obs.shape}, action {self.action.shape}, reward {self.reward.shape}"
            )

    def __len__(self) -> int:
        """Control periods T."""
        return len(self.action)

    def returns(self, discount: float) -> np.ndarray:
        """Discounted return to go (T,), from the recorded rewards alone."""
        # Not by scipy.signal, whose import takes seconds in every process that reads episodes.
        backwards = self.reward[::-1].astype(np.float64).tolist()
        to_go = accumulate(backwards, lambda later, reward: reward + discount * later)
        return np.array(list(to_go))[::-1].copy()

    @property
    def digest(self) -> str:
        """SHA-256 of the content as float32, which is what training reads; the name does not count."""
        hashed, obs = hashlib.sha256(), self.obs
        if self.frames:
            hashed.update(digested(self.frames, obs))
            obs = obs.copy()
            obs[:, list(self.frames)] = 0  # numbers are told by what they show
        for array in (obs, self.action, self.reward):
            hashed.update(np.ascontiguousarray(array, np.float32).tobytes())
        return hashed.hexdigest()


def data_hash(episodes: Sequence[Episode]) -> str:
    """SHA-256 over the content of all episodes and how they ended, in order; names do not matter."""
    known = episodes.digests if isinstance(episodes, EpisodeArrays) else ()
    digests = known or [e.digest for e in episodes]
    ends = [f"{e.terminal} {e.success}" for e in episodes]
    return hashlib.sha256(json.dumps([digests, ends]).encode()).hexdigest()


@dataclass(frozen=True)
class EpisodeArrays(Sequence[Episode]):
    """Episodes behind each other in shared arrays, in memory or mapped from files; robot units.

    Tick k of episode e is row begin[e] + k. An episode of T periods has T + 1 rows; of its last one
    only the observation means something. R rows, E episodes; rows may belong to no episode here.
    """

    obs: np.ndarray  # (R, O)
    action: np.ndarray  # (R, A)
    reward: np.ndarray  # (R,)
    begin: np.ndarray  # (E,) int64
    steps: np.ndarray  # (E,) int64, T of each
    terminal: np.ndarray  # (E,) bool
    success: tuple[bool | None, ...]
    names: tuple[str, ...]
    origins: tuple[str, ...]
    digests: tuple[str, ...] = ()  # where they are known, for they are long to compute
    frames: ByColumn = field(default_factory=dict)  # whose numbers stand in these columns of `obs`

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> EpisodeArrays:
        """In memory; those that are arrays already are not copied. Raises ValueError where they do not
        share their frames."""
        if isinstance(episodes, EpisodeArrays):
            return episodes
        frames = episodes[0].frames if episodes else {}
        if any(not _same(e.frames, frames) for e in episodes):
            raise ValueError("episodes with frames of their own are put together by the store")
        steps = np.array([len(e) for e in episodes], np.int64)
        return cls(
            np.concatenate([e.obs for e in episodes]),
            np.concatenate([part for e in episodes for part in (e.action, e.action[-1:])]),
            np.concatenate([part for e in episodes for part in (e.reward, np.zeros(1))]),
            np.concatenate([[0], np.cumsum(steps + 1)[:-1]]).astype(np.int64),
            steps,
            np.array([e.terminal for e in episodes], bool),
            tuple(e.success for e in episodes),
            tuple(e.name for e in episodes),
            tuple(e.origin for e in episodes),
            frames=frames,
        )

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> EpisodeArrays: ...
    def __getitem__(self, index: int | slice) -> Episode | EpisodeArrays:
        if isinstance(index, slice):
            return self.pick(range(*index.indices(len(self))))
        index = range(len(self))[index]
        first, steps = int(self.begin[index]), int(self.steps[index])
        return Episode(
            self.names[index],
            self.obs[first : first + steps + 1],
            self.action[first : first + steps],
            self.reward[first : first + steps],
            bool(self.terminal[index]),
            self.success[index],
            self.origins[index],
            self.frames,
        )

    def pick(self, indices: Iterable[int]) -> EpisodeArrays:
        """Some of the episodes, over the same arrays."""
        chosen = np.array(list(indices), np.int64)
        return EpisodeArrays(
            self.obs,
            self.action,
            self.reward,
            self.begin[chosen],
            self.steps[chosen],
            self.terminal[chosen],
            tuple(self.success[i] for i in chosen),
            tuple(self.names[i] for i in chosen),
            tuple(self.origins[i] for i in chosen),
            tuple(self.digests[i] for i in chosen) if self.digests else (),
            self.frames,
        )

    @property
    def ticks(self) -> int:
        """Of all episodes together."""
        return int(self.steps.sum())

    def some_ticks(self, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(N, O) observations and (N, A) actions of at most `count` ticks, in their order: all of
        them, or random ones."""
        ends = np.cumsum(self.steps)
        picked = np.arange(self.ticks)
        if self.ticks > count:
            rng = np.random.default_rng([20269, seed])
            picked = np.sort(rng.choice(self.ticks, count, replace=False))
        episode = np.searchsorted(ends, picked, side="right")
        rows = self.begin[episode] + picked - (ends - self.steps)[episode]
        return self.obs[rows], self.action[rows]


def _same(one: ByColumn, other: ByColumn) -> bool:
    return one.keys() == other.keys() and all(one[column] is other[column] for column in one)


def outcomes(episodes: Sequence[Episode]) -> dict[str, int]:
    """How episodes ended."""
    return {
        name: sum(e.success is v for e in episodes)
        for name, v in (("success", True), ("failure", False), ("unknown", None))
    }


def return_scale(episodes: Sequence[Episode], discount: float) -> float:
    """Spread between the best and the worst discounted return to go of episodes that ended.

    Rewards are divided by it, so that Q is about one wide and one beta means about the same on
    every robot. 0.0 where the data shows no difference at all. Of recordings that were all cut,
    the return to go only says how much is left of them; there the spread of the rewards counts,
    kept up for 1 / (1 - discount) periods, at most as long as the recordings are.
    """
    ended = [(r.min(), r.max()) for e in episodes if e.terminal for r in [e.returns(discount)]]
    if ended:
        return float(max(high for _, high in ended) - min(low for low, _ in ended))
    rewards = [(e.reward.min(), e.reward.max()) for e in episodes]
    longest = max(len(e) for e in episodes)
    periods = longest if discount == 1 else min(longest, 1 / (1 - discount))
    return float(max(high for _, high in rewards) - min(low for low, _ in rewards)) * periods
