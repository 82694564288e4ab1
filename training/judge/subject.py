"""What a report looks at: a policy as it samples, and recorded episodes in their groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qgf_ros.errors import DataRefused
from qgf_ros.policy.folder import Policy
from training.judge.analysis.base import Model, States
from training.judge.analysis.run import Held, is_own, model_of
from training.learn.batches import tensors
from training.learn.config import provenance_of
from training.pipeline.chunks import ChunkTable
from training.pipeline.episodes import Episode, EpisodeArrays
from training.pipeline.split import RULE, Split, split

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
        recorded = _states(policy, episodes, train, RECORDED, seed)

        def group(name: str, rows: tuple[int, ...]) -> Group:
            rows = rows or train
            return Group(
                name, rows, Held(_states(policy, episodes, rows, POOL, seed), recorded, name, "")
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


def _states(
    policy: Policy, episodes: Sequence[Episode], rows: Sequence[int], count: int, seed: int
) -> States:
    """At most `count` chunks of the episodes `rows`, in random order."""
    returns = policy.description.returns
    some = EpisodeArrays.of(episodes).pick(rows)  # what is on disk stays there
    table = ChunkTable(some, policy.horizon, returns.discount)
    rng = np.random.default_rng([20291, seed])
    picked = rng.choice(len(table), min(count, len(table)), replace=False)
    parts = table.cut(picked, to_go=False)
    batch = tensors(parts, policy.normalizer, returns.scale)
    return States(batch.obs, batch.action, torch.tensor(rows)[torch.from_numpy(parts.episode)])
