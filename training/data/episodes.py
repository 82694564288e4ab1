"""Episodes on one control grid, and the chunks of actions that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qgf_ros.errors import DataRefused


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
        out = np.empty(len(self))
        total = 0.0
        for k in range(len(self) - 1, -1, -1):
            total = self.reward[k] + discount * total
            out[k] = total
        return out


@dataclass(frozen=True)
class Chunks:
    """Every chunk of some episodes, as training takes them: N rows, robot units.

    After a terminal an episode is continued as absorbing: the last action is held, the reward is
    0, and nothing is bootstrapped; so chunks that run past the end are kept. A chunk that runs
    past a cut is left out: nobody knows what would have followed.
    """

    obs: np.ndarray  # (N, O)
    action: np.ndarray  # (N, H, A)
    reward: np.ndarray  # (N,) sum over the chunk of discount^i * reward
    mask: np.ndarray  # (N,) 1: bootstrap from next_obs, 0: the episode ended within the chunk
    next_obs: np.ndarray  # (N, O) H ticks later
    episode: np.ndarray  # (N,) index of the episode
    tick: np.ndarray  # (N,) tick within it
    to_go: np.ndarray  # (N,) discounted return of the whole rest; NaN where the episode was cut
    valid: np.ndarray  # (N,) 0: nothing is known of its value, only the flow learns from it

    def __len__(self) -> int:
        return len(self.obs)


def chunks(episodes: Sequence[Episode], horizon: int, discount: float) -> Chunks:
    """Cuts episodes into overlapping chunks of `horizon` actions, one per usable tick.

    Raises:
        DataRefused: no episode is long enough for a single chunk.
    """
    powers = discount ** np.arange(horizon)
    rows = []
    for number, episode in enumerate(episodes):
        steps = len(episode)
        starts = np.arange(steps if episode.terminal else steps - horizon + 1)
        if len(starts) == 0:
            continue
        index = starts[:, None] + np.arange(horizon)
        inside = index < steps
        index = np.minimum(index, steps - 1)
        end = starts + horizon
        rows.append(
            Chunks(
                obs=episode.obs[starts],
                action=episode.action[index],
                reward=(episode.reward[index] * inside) @ powers,
                mask=((end < steps) | (not episode.terminal)).astype(np.float32),
                next_obs=episode.obs[np.minimum(end, steps)],
                episode=np.full(len(starts), number),
                tick=starts,
                to_go=episode.returns(discount)[starts]
                if episode.terminal
                else np.full(len(starts), np.nan),
                valid=np.ones(len(starts), np.float32),
            )
        )
    if not rows:
        raise DataRefused(
            f"no episode has {horizon} control periods, the chunk length of the contract; record longer ones"
        )
    return Chunks(
        *(np.concatenate([getattr(r, f) for r in rows]) for f in Chunks.__dataclass_fields__)
    )


def return_scale(episodes: Sequence[Episode], discount: float) -> float:
    """Spread between the best and the worst discounted return to go of episodes that ended.

    Rewards are divided by it, so that Q is about one wide and one beta means about the same on
    every robot. 0.0 where the data shows no difference at all. Of recordings that were all cut,
    the return to go only says how much is left of them; there the spread of the rewards counts,
    kept up for 1 / (1 - discount) periods, at most as long as the recordings are.
    """
    ended = [e.returns(discount) for e in episodes if e.terminal]
    if ended:
        values = np.concatenate(ended)
        return float(values.max() - values.min())
    rewards = np.concatenate([e.reward for e in episodes])
    longest = max(len(e) for e in episodes)
    periods = longest if discount == 1 else min(longest, 1 / (1 - discount))
    return float(rewards.max() - rewards.min()) * periods
