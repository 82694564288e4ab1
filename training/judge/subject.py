"""What is looked at: a policy as it samples, and recorded episodes in their groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from qgf_ros.errors import DataRefused
from qgf_ros.policy.folder import Policy
from training.export.parity import networks
from training.judge.analysis.base import Model, States
from training.learn.batches import tensors
from training.learn.config import provenance_of
from training.pipeline.chunks import ChunkTable
from training.pipeline.episodes import Episode, EpisodeArrays, data_hash, outcomes
from training.pipeline.split import RULE, Split, split

if TYPE_CHECKING:
    from training.judge.pictures import Pictures

OWN = "the policy's own data: select is what beta is chosen on, report was never looked at"
TRAINED = (
    "the policy's own data, of which too few episodes are held out: it is judged on what it was "
    "trained on, and figures are optimistic"
)
FOREIGN = (
    "not the data that the policy was made from: half of the episodes stand as select, half as "
    "report, and whether it was trained on any of them is not known"
)
ALONE = "there is a single episode, and nothing of another one to compare with"
POOL, RECORDED = 4096, 50_000  # chunks that are looked at, and that they are compared with


@dataclass(frozen=True)
class Held:
    """Which recorded chunks are looked at, and which they are compared with."""

    pool: States  # held out, in random order
    recorded: States
    group: str  # select | train | all
    why: str

    @property
    def comparable(self) -> bool:
        """Whether each held-out state has a recorded one of another episode to be compared with."""
        recorded = self.recorded.episode.unique()
        return len(recorded) > 1 or not bool((self.pool.episode == recorded).any())


@dataclass(frozen=True, eq=False)
class Group:
    """Some of the episodes."""

    name: str  # select | report
    rows: tuple[int, ...]  # of the subject's episodes, long enough for a chunk each
    held: Held  # their states, and recorded ones of other episodes to compare with


@dataclass(frozen=True, eq=False)
class Subject:
    """A policy and its data."""

    policy: Policy
    model: Model  # flow and target critic, float32
    episodes: Sequence[Episode]  # all of them, robot units
    train: tuple[int, ...]  # rows of the episodes that are compared with
    select: Group
    report: Group
    why: str  # what is known of the groups
    seed: int
    split: Split  # the groups whole, as in training
    pictures: Pictures | None = None  # of a policy with cameras, where its recordings can be read again

    @classmethod
    def of(cls, policy: Policy, episodes: Sequence[Episode], seed: int = 0) -> Subject:
        """Groups as in training, where it is the policy's own data. A group that would be empty is
        what was trained on.

        Raises DataRefused where no episode is long enough for a chunk.
        """
        made = provenance_of(policy.description)
        own = is_own(made.get("data", {}), episodes) and made.get("split", {}).get("rule") == RULE
        if own:
            groups = split(episodes, made["config"]["seed"])
            train, select, report = groups.train, groups.select, groups.report
        else:
            groups = split(episodes, seed, select=0.499, report=0.499)
            train = tuple(range(len(episodes)))
            # What is too rare to be split counts too.
            select, report = groups.select, (*groups.report, *groups.train)
        whole = Split(train, select, report)
        train, select, report = (
            tuple(i for i in rows if len(episodes[i]) >= policy.horizon)
            for rows in (train, select, report)
        )
        train = train or select or report
        if not train:
            raise DataRefused(
                f"no episode has {policy.horizon} control periods, the policy's chunk length; give longer ones"
            )
        recorded = states_of(policy, episodes, train, RECORDED, seed)

        def group(name: str, rows: tuple[int, ...]) -> Group:
            rows = rows or train
            return Group(
                name, rows, Held(states_of(policy, episodes, rows, POOL, seed), recorded, name, "")
            )

        why = (OWN if select and report else TRAINED) if own else FOREIGN
        return cls(
            policy,
            model_of(policy),
            episodes,
            train,
            group("select", select),
            group("report", report),
            why,
            seed,
            whole,
        )

    @property
    def groups(self) -> tuple[Group, Group]:
        return self.select, self.report


def model_of(policy: Policy, dtype: torch.dtype = torch.float32) -> Model:
    """The policy as the reference sampler runs it."""
    velocity, critic = networks(policy, dtype)
    times = torch.from_numpy(policy.velocity["time_embedding"])
    return Model(velocity, critic, times, policy.description.returns.aggregation)


def held_out(policy: Policy, episodes: Sequence[Episode], seed: int = 0) -> Held:
    """States that the policy was not trained on, and recorded ones to compare with, normalised.

    Of the policy's own data that is the select split, compared with the train split; the report
    split stays untouched. Of other data it is everything, compared with its other episodes: nobody
    can tell whether some of it was trained on.
    """
    made = provenance_of(policy.description)
    own = is_own(made.get("data", {}), episodes)
    group, compared = "all", tuple(range(len(episodes)))
    why = "all of the data; it is not the set that the policy was made from, so nothing tells what was held out"
    looked_at = compared
    if own and made.get("split", {}).get("rule") == RULE:
        groups = split(episodes, made["config"]["seed"])
        long_enough = [i for i in groups.select if len(episodes[i]) >= policy.horizon]
        compared = groups.train
        group, looked_at = ("select", tuple(long_enough)) if long_enough else ("train", compared)
        why = f"the {group} split of the policy's own data"
        if group == "train":
            why += "; there are too few episodes to hold some out, so figures are optimistic"
    return chosen(policy, episodes, looked_at, compared, group, why, seed)


def chosen(
    policy: Policy,
    episodes: Sequence[Episode],
    looked_at: Sequence[int],
    compared: Sequence[int],
    group: str,
    why: str,
    seed: int = 0,
) -> Held:
    """The chunks of the episodes `looked_at`, in random order, and of those `compared` with."""
    pool = states_of(policy, episodes, looked_at)
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    recorded = pool if looked_at == compared else states_of(policy, episodes, compared)
    return Held(pool[order], recorded, group, why)


def is_own(made: Mapping[str, Any], episodes: Sequence[Episode]) -> bool:
    """By content, or by all its counts: a simulation that is recorded again on another machine
    differs in the last digits, and the split, which goes by order and outcome, is still the same."""
    counts = {"episodes": len(episodes), "ticks": sum(map(len, episodes))} | outcomes(episodes)
    same = {name: made.get(name) for name in counts} == counts
    return same or made.get("sha256") == data_hash(list(episodes))


def states_of(
    policy: Policy,
    episodes: Sequence[Episode],
    rows: Sequence[int],
    count: int | None = None,
    seed: int = 0,
) -> States:
    """Chunks of the episodes `rows`: all of them, or at most `count`, in random order."""
    returns = policy.description.returns
    some = EpisodeArrays.of(episodes).pick(rows)  # what is on disk stays there
    table = ChunkTable(some, policy.horizon, returns.discount)
    picked = np.arange(len(table))
    if count is not None:
        rng = np.random.default_rng([20291, seed])
        picked = rng.choice(len(table), min(count, len(table)), replace=False)
    parts = table.cut(picked, to_go=False)
    batch = tensors(parts, policy.codec, returns.scale)
    return States(batch.obs, batch.action, torch.tensor(rows)[torch.from_numpy(parts.episode)])
