"""What a report looks at: a policy as it samples, and recorded episodes in their groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qgf_ros.policy import Policy
from training.analysis.base import Model
from training.analysis.run import Held, chosen, is_own, model_of
from training.data.episodes import Episode
from training.data.split import RULE, split

OWN = "the policy's own data: select is what beta is chosen on, report was never looked at"
FOREIGN = (
    "not the data that the policy was made from: half of the episodes stand as select, half as "
    "report, and whether it was trained on any of them is not known"
)


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

    @classmethod
    def of(cls, policy: Policy, episodes: Sequence[Episode], seed: int = 0) -> Subject:
        """Groups as in training, where it is the policy's own data.

        Raises DataRefused where there are too few episodes to compare one with another.
        """
        made = policy.description.provenance
        own = is_own(made.get("data", {}), episodes) and made.get("split", {}).get("rule") == RULE
        if own:
            groups = split(episodes, made["config"]["seed"])
            train, select, report = groups.train, groups.select, groups.report
        else:
            groups = split(episodes, seed, select=0.499, report=0.499)
            train = tuple(range(len(episodes)))
            select, report = groups.select, groups.report
        return cls(
            policy,
            model_of(policy),
            episodes,
            train,
            cls._group("select", policy, episodes, select or train, train, seed),
            cls._group("report", policy, episodes, report or train, train, seed),
            OWN if own else FOREIGN,
            seed,
        )

    @staticmethod
    def _group(
        name: str,
        policy: Policy,
        episodes: Sequence[Episode],
        rows: Sequence[int],
        train: tuple[int, ...],
        seed: int,
    ) -> Group:
        long_enough = tuple(i for i in rows if len(episodes[i]) >= policy.horizon)
        held = chosen(policy, episodes, long_enough, train, name, "", seed)
        return Group(name, long_enough, held)

    @property
    def groups(self) -> tuple[Group, Group]:
        return self.select, self.report
