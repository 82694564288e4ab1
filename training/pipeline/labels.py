"""Outcomes that people gave: `labels.yaml` beside a dataset, which `qgf data label` writes.

    version: 1
    episodes:
      demonstrations_000#3: failure                       # the fourth episode of that recording
      demonstrations_001: exclude                         # all of its episodes
      episode_000007: {outcome: success, from: 1.5, to: 8.0}  # s from its begin; what to keep

A label counts before any topic. `unknown` says that the episode was cut: neither success nor failure.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from qgf_ros.errors import StorageError, UsageError
from qgf_ros.files.atomic import replaced_file
from qgf_ros.files.strict_yaml import load_yaml
from qgf_ros.spaces.contract import Contract

VERSION = 1
FILE = "labels.yaml"
OUTCOMES = ("success", "failure", "unknown", "exclude")
HEADER = "# Outcomes of episodes, by `qgf data label`; comments are not kept.\n"
_NUMBERED = re.compile(r"(.*?)(#\d+)?", re.DOTALL)


@dataclass(frozen=True)
class Label:
    """What somebody said of an episode, or of all of one recording."""

    outcome: str = ""  # of OUTCOMES; "": as the topics say
    begin: float = 0.0  # s from the episode's begin; what is before is left out
    end: float = math.inf  # s

    def __post_init__(self) -> None:
        if self.outcome and self.outcome not in OUTCOMES:
            raise ValueError(f"outcome is {self.outcome!r}; allowed: {', '.join(OUTCOMES)}")
        if not 0 <= self.begin < self.end:
            raise ValueError(
                f"from is {self.begin} s and to is {self.end} s; from 0 on, and from before to"
            )

    def __str__(self) -> str:
        part = [f"from {self.begin:g} s"] if self.begin else []
        part += [f"to {self.end:g} s"] if self.end < math.inf else []
        return " ".join([self.outcome, *part]).strip()

    def to_value(self) -> Any:
        """As the file has it."""
        if (self.begin, self.end) == (0.0, math.inf):
            return self.outcome
        value: dict[str, Any] = {"outcome": self.outcome} if self.outcome else {}
        value |= {"from": self.begin} if self.begin else {}
        return value | ({"to": self.end} if self.end < math.inf else {})


@dataclass(frozen=True)
class Labels:
    """The content of a label file: label by name of a recording, or of one of its episodes."""

    path: Path
    entries: Mapping[str, Label] = field(default_factory=dict)

    def by_recording(self, dataset: Path, recordings: Sequence[str]) -> dict[str, dict[str, Label]]:
        """For each recording that has labels: "" or the episode's "#number" -> label.

        Args:
            recordings: all of them, as the reader names them.

        Raises:
            UsageError: a name is none of theirs. That the number of an episode exists is for
                `align` to say, which knows how many there are.
        """
        known = {short: name for name, short in short_names(dataset, recordings).items()}
        known |= {name: name for name in recordings}
        found: dict[str, dict[str, Label]] = {}
        strangers = []
        for entry, label in self.entries.items():
            base, number = split_name(entry, known)
            if base not in known:
                strangers.append(entry)
                continue
            mine = found.setdefault(known[base], {})
            if number in mine:
                raise UsageError(f"{self.path}: {known[base]}{number} is labelled twice")
            mine[number] = label
        if strangers:
            more = f" and {len(strangers) - 8} more" if len(strangers) > 8 else ""
            raise UsageError(
                f"{self.path} names {', '.join(map(repr, strangers[:8]))}{more}, which {dataset} does not have; "
                f"it has {', '.join(list(known)[:8])}{', ...' if len(known) > 8 else ''}"
            )
        return found

    def write(self) -> None:
        """Replaces the file at once: a reader finds the old one or the new one, whole.

        Raises StorageError where that cannot be done.
        """
        content = {
            "version": VERSION,
            "episodes": {name: label.to_value() for name, label in self.entries.items()},
        }
        text = HEADER + yaml.safe_dump(
            content, sort_keys=False
        )  # ASCII: others do not all come back
        try:
            with replaced_file(self.path) as file:
                file.write(text.encode())
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}") from None


def labels_path(dataset: Path, contract: Contract | None = None) -> Path:
    """Where the labels of a dataset are, or would be: in its folder, or beside its one file."""
    if contract is not None and contract.outcome.labels:
        folder = dataset if dataset.is_dir() else dataset.parent
        return folder / contract.outcome.labels
    return dataset / FILE if dataset.is_dir() else dataset.with_name(f"{dataset.name}.{FILE}")


def load_labels(dataset: Path, contract: Contract | None = None) -> Labels | None:
    """The labels of a dataset; None where there are none.

    Raises:
        UsageError: the file is broken, or the contract names one that is not there.
    """
    path = labels_path(dataset, contract)
    if contract is not None and contract.outcome.labels:
        return read_labels(path)
    if not os.path.lexists(path):
        return None  # a link that leads nowhere is labels that are missing
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise UsageError(
            f"{path} is a link out of the dataset; name the file in the contract's outcome.labels"
        )
    return read_labels(path)


def read_labels(path: Path) -> Labels:
    """A label file. Raises UsageError naming the place and what is allowed."""
    content = load_yaml(path)
    if not isinstance(content, Mapping) or set(content) != {"version", "episodes"}:
        raise UsageError(f"{path} must have the keys version and episodes, and no others")
    if content["version"] != VERSION or isinstance(content["version"], bool):
        raise UsageError(
            f"{path}: version is {content['version']!r}; this qgf_ros reads version {VERSION}"
        )
    episodes = content["episodes"] if content["episodes"] is not None else {}
    if not isinstance(episodes, Mapping) or not all(isinstance(n, str) for n in episodes):
        raise UsageError(f"{path}: episodes must be names with a label each; quote what is no text")
    return Labels(path, {n: parse_label(v, f"{path}: {n}") for n, v in episodes.items()})


def parse_label(value: Any, where: str) -> Label:
    """ "success", or {outcome: success, from: 1.5, to: 8.0}. Raises UsageError naming `where`."""
    if not isinstance(value, Mapping):
        value = {"outcome": value}
    unknown = [key for key in value if key not in ("outcome", "from", "to")]
    if unknown or not value:
        raise UsageError(
            f"{where} has the keys {list(value)[:8]}; allowed: outcome, from, to, at least one"
        )
    outcome = value.get("outcome", "")
    if "outcome" in value and outcome not in OUTCOMES:
        raise UsageError(f"{where} is {str(outcome)[:40]!r}; allowed: {', '.join(OUTCOMES)}")
    times = {}
    for key, default in (("from", 0.0), ("to", math.inf)):
        number = value.get(key, default)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise UsageError(f"{where}: {key} must be seconds, not {str(number)[:40]!r}")
        times[key] = float(number)
    try:
        return Label(outcome, times["from"], times["to"])
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def split_name(entry: str, known: Mapping[str, str]) -> tuple[str, str]:
    """(recording, "" or "#number"). A recording may itself be called so."""
    if entry in known:
        return entry, ""
    match = _NUMBERED.fullmatch(entry)
    assert match is not None  # it matches all there is
    return match[1], f"#{int(match[2][1:])}" if match[2] else ""


def short_names(dataset: Path, recordings: Sequence[str]) -> dict[str, str]:
    """A name for people for each recording: its file without folders and ending where that tells
    them apart, the dataset's own where it is the only one."""
    stems = {name: _stem(name) if name != "." else dataset.resolve().name for name in recordings}
    count = Counter(stems.values())
    return {
        name: stem if count[stem] == 1 and (stem == name or stem not in recordings) else name
        for name, stem in stems.items()
    }


def _stem(name: str) -> str:
    return PurePosixPath(name).name.removesuffix(".parquet").replace(".npz#", "#")
