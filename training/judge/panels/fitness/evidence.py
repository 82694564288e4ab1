"""Held-out chunks: what the critic says of them, and what followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from qgf_ros.errors import PolicyRefused, UsageError
from training.judge.seen import Seen
from training.judge.subject import Subject
from training.learn.batches import tensors
from training.learn.config import FitConfig, provenance_of
from training.learn.critics.batch import ChunkBatch
from training.pipeline.chunks import Chunks, ChunkTable
from training.pipeline.episodes import EpisodeArrays

CHUNKS = 1024  # that are looked at
KNOWN = 8192  # recorded ones that say what is usual in a state
SAMPLES = 8  # unguided ones per state, of which the mean Q is the state's value
NEIGHBOURS = 32
CUT = 0.05  # share of the return that may lie beyond the end of a recording


@dataclass(frozen=True, eq=False)
class Evidence:
    """N chunks of episodes that nothing was trained on, as far as that is known."""

    episodes: EpisodeArrays  # the held-out ones
    won: np.ndarray  # (E,) bool: ended in success
    failed: np.ndarray  # (E,) bool: ended in failure
    lost: np.ndarray  # (E,) bool: that, or went on without success for long
    batch: ChunkBatch  # (N, ...), normalised
    episode: np.ndarray  # (N,) index into `episodes`
    tick: np.ndarray  # (N,) within it
    q: np.ndarray  # (N,) of what was done, in scaled return
    value: np.ndarray  # (N,) mean Q of unguided samples
    sampled: Tensor  # (N, D), one of them
    to_go: np.ndarray  # (N,) what followed, in scaled return; NaN: not known
    usual: np.ndarray  # (N,) what followed in the recorded states nearest by; NaN: not known

    @classmethod
    @torch.no_grad()
    def of(cls, subject: Subject) -> Evidence:
        policy, model = subject.policy, subject.model
        d = policy.description
        rows = sorted({*subject.select.rows, *subject.report.rows})
        held, known = (_seen(subject, r) for r in (rows, subject.train))
        parts, batch = held.cut(held.some(CHUNKS))
        random = torch.Generator().manual_seed(subject.seed)
        drawn = [
            model.sample(batch.seen_by_flow, torch.randn(batch.action.shape, generator=random), 0.0)
            for _ in range(SAMPLES)
        ]
        # Q is asked about the critic's goal, where that is another one than the flow's.
        value = torch.stack([model.q(batch.obs, s.action) for s in drawn]).double().mean(0)
        to_go = _to_go(held, parts) / d.returns.scale
        e = held.episodes
        won = np.array([s is True for s in e.success]) & e.terminal
        # What a part of an episode came to, its last part says.
        whole = np.array([origin == "" for origin in e.origins])
        long = whole & ~e.terminal & (d.returns.discount ** e.steps.astype(float) <= CUT)
        failed = np.array([s is False for s in e.success]) & e.terminal
        return cls(
            episodes=e,
            won=won,
            failed=failed,
            lost=failed | long,
            batch=batch,
            episode=parts.episode,
            tick=parts.tick,
            q=model.q(batch.obs, batch.action).double().numpy(),
            value=value.numpy(),
            sampled=drawn[0].action,
            to_go=to_go,
            usual=_usual(known, np.array(subject.train), batch, np.array(rows)[parts.episode])
            / d.returns.scale,
        )

    @property
    def followed(self) -> np.ndarray:
        """(N,) bool: Q is a number, and what followed is known."""
        return np.isfinite(self.q) & np.isfinite(self.to_go)

    @property
    def compared(self) -> np.ndarray:
        """(N,) bool: that, and what is usual there."""
        return self.followed & np.isfinite(self.value) & np.isfinite(self.usual)

    def lacking(self) -> str:
        """Why there is nothing to go by, a sentence."""
        if not np.isfinite(self.to_go).any():
            return (
                f"What followed is not known of any of the {len(self.episodes)} held-out episodes."
            )
        if not (np.isfinite(self.q) & np.isfinite(self.value)).any():
            return "Q is not a finite number anywhere in the held-out episodes."
        return (
            f"Nothing says what is usual in a state: it takes {NEIGHBOURS} recorded ones of other "
            "episodes, with what followed."
        )

    def q_at(self, subject: Subject, which: np.ndarray, share: float) -> np.ndarray:
        """Q of what was done that share of the way through each of the episodes `which` (E,)."""
        d, group = subject.policy.description, self.episodes.pick(np.flatnonzero(which))
        table = ChunkTable(group, subject.policy.horizon, d.returns.discount)
        whole = np.where(group.terminal, group.steps, group.steps - table.horizon + 1)
        rows = np.cumsum(whole) - whole + np.minimum(share * whole, whole - 1).astype(int)
        batch = tensors(table.cut(rows), subject.policy.codec, d.returns.scale)
        with torch.no_grad():
            return subject.model.q(batch.obs, batch.action).double().numpy()


def config_of(subject: Subject) -> FitConfig:
    """How the policy was trained, as far as it says; defaults for the rest."""
    d = subject.policy.description
    names = {f.name for f in fields(FitConfig)}
    said = {k: v for k, v in provenance_of(d)["config"].items() if k in names}
    try:
        if "hidden" in said:
            said["hidden"] = tuple(said["hidden"])
        return replace(FitConfig(), **said | {"discount": d.returns.discount})
    except (TypeError, ValueError, UsageError) as error:
        raise PolicyRefused(
            f"provenance.config in policy.yaml is none of `qgf train`: {error}"
        ) from None


def _seen(subject: Subject, rows: Sequence[int]) -> Seen:
    policy = subject.policy
    return Seen(
        EpisodeArrays.of(subject.episodes).pick(rows),
        policy.codec,
        policy.description.returns.scale,
        policy.contract,
        config_of(subject),
        subject.seed,
    )


def _to_go(seen: Seen, parts: Chunks) -> np.ndarray:
    """(N,) the return that followed. A cut recording tells all but a share of CUT of it, where it
    goes on for long enough."""
    e, discount = seen.episodes, seen.table.discount
    left = e.steps[parts.episode] - parts.tick
    told = ~np.isfinite(parts.to_go) & (discount ** left.astype(float) <= CUT)
    found = parts.to_go.copy()
    if seen.contract.outcome.goal is not None:  # it was not reached
        return np.where(told, 0.0, found)
    returns = {i: e[i].returns(discount) for i in np.unique(parts.episode[told])}
    for row in np.flatnonzero(told):
        found[row] = returns[parts.episode[row]][parts.tick[row]]
    return found


def _usual(known: Seen, trained: np.ndarray, batch: ChunkBatch, episode: np.ndarray) -> np.ndarray:
    """(N,) mean return from the recorded states of other episodes that are nearest, robot units;
    NaN where there are too few. episode: (N,), numbered as `trained` numbers those of `known`."""
    parts, near = known.cut(known.some(KNOWN))
    to_go = _to_go(known, parts)
    some = np.isfinite(to_go)
    if some.sum() < NEIGHBOURS:
        return np.full(len(episode), np.nan)
    other = torch.from_numpy(trained[parts.episode[some]])
    gap = torch.cdist(batch.obs, near.obs[torch.from_numpy(some)])
    gap = gap.masked_fill(torch.from_numpy(episode)[:, None] == other, torch.inf)
    gap, index = gap.topk(NEIGHBOURS, largest=False)
    mean = to_go[some][index.numpy()].mean(1)
    return np.where(gap[:, -1].isfinite().numpy(), mean, np.nan)
