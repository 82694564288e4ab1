"""What a trial knows, on disk: `trial.yaml`, whole after every episode.

It is the only memory. Which beta comes next, who was stopped and what the labels say all follow from
it, so that a trial that was killed goes on as if it had not been.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from qgf_ros.errors import StorageError, UsageError
from qgf_ros.files.atomic import replaced_file
from qgf_ros.files.strict_yaml import build, load_yaml
from qgf_ros.trial.sequential import Block, Stop, judge

VERSION = 1
FILE = "trial.yaml"
Outcome = Literal["success", "failure", "aborted"]


@dataclass(frozen=True)
class Design:
    """What was asked for. It does not change while the trial lasts."""

    node: str
    policy_sha256: str
    betas: tuple[float, ...]
    episodes: int  # of each beta, at most
    seed: int
    limit: float = 60.0  # s on the node's clock
    at_limit: Literal["failure", "success", "ask"] = "failure"
    verdict: Literal["key", "topic"] = "key"

    def order(self, block: int, betas: tuple[float, ...]) -> tuple[float, ...]:
        """The sequence in which a block, counted from 1, runs those beta."""
        rng = np.random.default_rng([self.seed, block])
        return tuple(betas[i] for i in rng.permutation(len(betas)))


@dataclass(frozen=True)
class Episode:
    """One episode as it went."""

    number: int  # from 1, aborted ones too
    block: int  # from 1
    beta: float
    outcome: Outcome  # what counts; see `judged`
    verdict: Outcome  # what was said
    by: str  # who said it: operator, topic, limit
    interventions: int
    seconds: float  # from ~/enable to the verdict, on the node's clock
    holds: int  # times the node held meanwhile
    to: float | None = None  # s from the bag's begin to the first intervention
    bag: str = ""  # "": none was recorded

    @classmethod
    def judged(cls, verdict: Outcome, interventions: int, **fields: Any) -> Episode:
        """A success that needed a hand is none of this beta's."""
        failed = verdict == "success" and interventions > 0
        outcome: Outcome = "failure" if failed else verdict
        return cls(outcome=outcome, verdict=verdict, interventions=interventions, **fields)

    @property
    def label(self) -> Any:
        """What training is told. What follows on an intervention is nobody's policy, and who ran out
        of time was cut: whether it would have come to something nobody knows."""
        if self.to is not None:
            return {"outcome": "failure", "to": self.to}
        return "unknown" if (self.outcome, self.by) == ("failure", "limit") else self.outcome


@dataclass(frozen=True)
class Record:
    """A trial so far."""

    design: Design
    episodes: tuple[Episode, ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version is {self.version}; this qgf_ros reads {VERSION}")
        if strange := sorted({e.beta for e in self.episodes} - set(self.design.betas)):
            raise ValueError(f"episodes have beta {strange}, which are not of the trial")

    @property
    def counted(self) -> tuple[Episode, ...]:
        return tuple(e for e in self.episodes if e.outcome != "aborted")

    @cached_property
    def blocks(self) -> list[Block]:
        """Finished blocks in their order: success by beta."""
        found: list[Block] = []
        for number in range(1, self.design.episodes + 1):
            mine = self._of(number)
            stops = judge(found, self.design.betas)
            if set(mine) != {b for b in self.design.betas if b not in stops} or len(mine) < 2:
                break
            found.append(mine)
        return found

    @cached_property
    def stops(self) -> dict[float, Stop]:
        """Who left, after which block."""
        return judge(self.blocks, self.design.betas)

    @cached_property
    def left(self) -> tuple[float, ...]:
        """Who is still in it."""
        return tuple(b for b in self.design.betas if b not in self.stops)

    @cached_property
    def next(self) -> tuple[int, float] | None:
        """Block and beta of the next episode; None: the trial is over."""
        block = len(self.blocks) + 1
        if block > self.design.episodes or len(self.left) < 2:
            return None
        done = self._of(block)
        return block, next(b for b in self.design.order(block, self.left) if b not in done)

    @property
    def still_to_come(self) -> int:
        """Episodes, at most."""
        if self.next is None:
            return 0
        block, _ = self.next
        return (self.design.episodes - block + 1) * len(self.left) - len(self._of(block))

    def with_episode(self, episode: Episode) -> Record:
        return replace(self, episodes=(*self.episodes, episode))

    def with_last(self, verdict: Outcome) -> Record:
        """The operator said something else of the last episode."""
        last = self.episodes[-1]
        fields = {k: v for k, v in asdict(last).items() if k not in ("outcome", "verdict", "by")}
        again = Episode.judged(verdict, fields.pop("interventions"), by="operator", **fields)
        return replace(self, episodes=(*self.episodes[:-1], again))

    def _of(self, block: int) -> Block:
        return {e.beta: e.outcome == "success" for e in self.counted if e.block == block}

    def save(self, folder: Path) -> None:
        """Replaces the file at once. Raises StorageError."""
        text = yaml.safe_dump(asdict(self), sort_keys=False)
        replace_file(folder / FILE, text.encode())


def load(folder: Path) -> Record | None:
    """The trial in a folder, None where there is none yet. Raises UsageError where it is not one."""
    path = folder / FILE
    return build(Record, load_yaml(path), str(path)) if path.exists() else None


def resumed(folder: Path, asked: Design) -> Record:
    """The trial in the folder if it is the one that is asked for, a new one where there is none. Its
    own seed counts.

    Raises UsageError: another one is there, or something else.
    """
    found = load(folder)
    if found is None:
        if others := [n for n in ("bags", "unfinished", "contract.yaml") if (folder / n).exists()]:
            raise UsageError(
                f"{folder} has {', '.join(others)} and no {FILE}: it is of something else; choose "
                "another --out"
            )
        return Record(asked)
    mine = replace(found.design, seed=asked.seed)
    if mine != asked:
        differing = [k for k, v in asdict(mine).items() if v != asdict(asked)[k]]
        told = "; ".join(
            f"{k}: {_shown(getattr(mine, k))} there, {_shown(getattr(asked, k))} asked"
            for k in differing
        )
        raise UsageError(
            f"{folder / FILE} is of another trial ({told}); repeat its command to go on with it, or "
            "choose another --out"
        )
    return found


def _shown(value: Any) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def check_betas(betas: tuple[float, ...], floor: float, suggested: tuple[float, ...]) -> None:
    """Raises UsageError where they are no trial under this policy."""
    known = ", ".join(f"{b:g}" for b in suggested)
    if len(betas) < 2 or len(set(betas)) < len(betas):
        raise UsageError(
            f"--beta {' '.join(f'{b:g}' for b in betas)}: a trial compares at least two, each named "
            f"once; the policy suggests {known}; inf is unguided"
        )
    wrong = [b for b in betas if math.isnan(b) or b < floor]
    if wrong:
        raise UsageError(
            f"beta {', '.join(f'{b:g}' for b in wrong)} is below the policy's floor of {floor:g}, which "
            f"the node holds; allowed: {floor:g} to inf; the policy suggests {known}"
        )


def replace_file(path: Path, content: bytes) -> None:
    """Puts a file in its place whole, or leaves what was there. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as file:
            file.write(content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
