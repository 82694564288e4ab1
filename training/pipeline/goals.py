"""Hindsight relabelling: what was reached later could have been the goal all along.

For contracts with objective `reach_goal`. A chunk is given another goal, and with it another
reward: 1 for the action that first brings what the contract calls `achieved` within `radius` of
the goal, which ends the episode. Where the goals come from (Andrychowicz et al., arXiv
1707.01495; the two laws are those of OGBench, Park et al., arXiv 2410.20092, whose shares have the
present state where the recorded goal stands here):

    flow     a state reached later in the episode, all of them alike: these actions lead there
    critic   a state reached later, sooner ones likelier: k ticks ahead with probability ~ gamma^k,
             cut off at the episode's end; or a state of another episode, so that it sees goals
             that are not reached; or the goal that was recorded

Goals are drawn afresh for every batch. Everything here is in robot units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer
from training.pipeline.chunks import Chunks, ChunkTable

SOME_TICKS = 100_000  # that are looked at for whether goals differ


@dataclass(frozen=True)
class Shares:
    """Where goals come from; the rest are the recorded ones."""

    future: float  # share of goals reached later in the same episode
    random: float  # share of goals that are a state of another episode
    discount: float  # gamma of how far ahead a future one is; 1: all later ticks alike


class Hindsight:
    """Recorded episodes and their chunks, with goals as asked for."""

    def __init__(self, table: ChunkTable, contract: Contract) -> None:
        """table: of all chunks."""
        assert contract.outcome.goal is not None
        self.table, self.discount, self.horizon = table, table.discount, table.horizon
        self.radius = contract.outcome.goal.radius
        self.goal, self.achieved = goal_columns(contract)
        episodes = table.episodes
        self.obs, self.begin, self.steps = episodes.obs, episodes.begin, episodes.steps
        self._ends = np.cumsum(self.steps + 1)  # of their states, counted through
        # A success ends the episode for the goal it was recorded with; for any other it was cut.
        # A failure ends it for all.
        succeeded = np.array([won is True for won in episodes.success], bool)
        self.won, self.lost = episodes.terminal & succeeded, episodes.terminal & ~succeeded

    def __len__(self) -> int:
        return len(self.table)

    @property
    def informative(self) -> bool:
        """Whether some goals are further apart than the radius; else all are reached at once."""
        seen = self.table.episodes.some_ticks(SOME_TICKS)[0][:, self.achieved]
        return bool((np.ptp(seen, axis=0) > self.radius).any())

    def for_flow(self, rows: np.ndarray, shares: Shares, rng: np.random.Generator) -> np.ndarray:
        """(B, O): the observations of these chunks, with goals."""
        episode, tick = self.table.where(rows)
        seen = self.obs[self.begin[episode] + tick]
        return self._told(seen, self._draw(rows, shares, rng)[0])

    def for_critic(
        self, rows: np.ndarray, shares: Shares, rng: np.random.Generator, to_go: bool = False
    ) -> Chunks:
        """These chunks with goals, and with the rewards that belong to them.

        to_go: also the return of the whole rest; NaN without.
        """
        goal, recorded = self._draw(rows, shares, rng)
        return self.relabelled(rows, goal, recorded, to_go)

    def relabelled(
        self, rows: np.ndarray, goal: np.ndarray, recorded: np.ndarray, to_go: bool = False
    ) -> Chunks:
        """The chunks `rows` (B,) for the goals (B, G); recorded (B,): it is the episode's own.

        With i the first action that reaches the goal: the reward is gamma^i, and nothing is
        bootstrapped. What was done after it is kept as it was: it no longer matters, and actions
        that were made up would tell the critic which goals are reached. A chunk that runs past the
        end of the data without reaching its goal is not valid: nobody knows what would have
        followed. What ends in failure reaches nothing.
        """
        part = self.table.cut(rows, to_go=False)
        steps, lost = self.steps[part.episode], self.lost[part.episode]
        end = part.tick + self.horizon
        first = self._first(part, goal, recorded, self.horizon)
        reached, over = first < self.horizon, lost & (end >= steps)
        known = reached | over | (end <= steps)
        whole = np.full(len(part), np.nan)
        if to_go:
            longest = int(self.steps.max())
            first_of_all = self._first(part, goal, recorded, longest)
            seen = first_of_all < longest
            whole = np.where(seen, self.discount**first_of_all, np.where(lost, 0.0, np.nan))
        return replace(
            part,
            obs=self._told(part.obs, goal),
            next_obs=self._told(part.next_obs, goal),
            reward=np.where(reached, self.discount**first, 0.0),
            mask=(~reached & ~over & known).astype(np.float32),
            to_go=whole,
            valid=known.astype(np.float32),
        )

    def _first(
        self, part: Chunks, goal: np.ndarray, recorded: np.ndarray, ahead: int
    ) -> np.ndarray:
        """(B,): the first of the next `ahead` actions that ends within reach; `ahead` if none."""
        steps = self.steps[part.episode, None]
        tick = part.tick[:, None] + np.arange(1, ahead + 1)  # (B, ahead), of what the action led to
        row = self.begin[part.episode, None] + np.minimum(tick, steps)
        achieved = self.obs[row[:, :, None], self.achieved]
        distance = np.linalg.norm(achieved - goal[:, None], axis=-1)
        last = tick == steps
        won = last & (recorded & self.won[part.episode])[:, None]
        failed = last & self.lost[part.episode, None]  # wherever that was, it is no success
        there = ((distance <= self.radius) | won) & (tick <= steps) & ~failed
        return np.where(there.any(axis=1), there.argmax(axis=1), ahead)

    def _draw(
        self, rows: np.ndarray, shares: Shares, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Goals (B, G), and which of them are the recorded ones (B,)."""
        episode, tick = self.table.where(rows)
        kind, u = rng.random(len(rows)), rng.random(len(rows))
        future = kind < shares.future
        recorded = kind >= shares.future + shares.random
        left = self.steps[episode] - tick  # at least 1
        later = tick + 1 + np.minimum(_geometric(u, shares.discount, left), left - 1)
        # Any state of the others: as if the episode's own were cut out of the line.
        own, total = self.steps[episode] + 1, int(self._ends[-1])
        others = total - own
        count = np.where(others > 0, others, total)
        pick = np.minimum((u * count).astype(int), count - 1)
        pick += np.where((others > 0) & (pick >= self._ends[episode] - own), own, 0)
        other = np.searchsorted(self._ends, pick, side="right")
        picked = self.begin[other] + pick - (self._ends - self.steps - 1)[other]
        row = np.where(future, self.begin[episode] + later, picked)
        goal = self.obs[row[:, None], self.achieved]
        goal[recorded] = self.obs[(self.begin[episode] + tick)[recorded, None], self.goal]
        return goal, recorded

    def _told(self, obs: np.ndarray, goal: np.ndarray) -> np.ndarray:
        out = obs.copy()
        out[:, self.goal] = goal
        return out


def goal_columns(contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """Which numbers of the observation are the goal, and which say where things are, in order."""
    spec = contract.outcome.goal
    assert spec is not None
    names = contract.observation_names
    goal = [i for i, n in enumerate(names) if n.startswith(f"{spec.observation}.")]
    return np.array(goal), np.array([names.index(n) for n in spec.achieved])


def shared_scale(normalizer: Normalizer, contract: Contract) -> Normalizer:
    """The same, with goals on the scale of what is achieved: that is what they will be."""
    goal, achieved = goal_columns(contract)
    mean, std = normalizer.obs_mean.copy(), normalizer.obs_std.copy()
    mean[goal], std[goal] = mean[achieved], std[achieved]
    return replace(normalizer, obs_mean=mean, obs_std=std)


def _geometric(u: np.ndarray, discount: float, count: np.ndarray) -> np.ndarray:
    """k of 0..count-1 with probability ~ discount^k, from u uniform in [0, 1)."""
    if discount == 1:
        return np.floor(u * count).astype(int)
    return np.floor(np.log1p(-u * (1 - discount**count)) / math.log(discount)).astype(int)
