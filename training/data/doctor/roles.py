"""What signals are for, told from their names and types; and which number is which joint's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qgf_ros.messages import TYPES
from training.data.delay import measured_lead
from training.data.endings import kind_of
from training.data.streams import Signal, Stream, Survey

Role = Literal["command", "state", "outcome", "index"]

COMMAND_WORDS = {
    *("action", "actions", "command", "commands", "cmd", "cmds", "target", "targets"),
    *("desired", "reference", "setpoint", "trajectory"),
}
GOALS = {"goal", "goals"}  # a command where joints are sent there, an observation elsewhere
COMMAND_TYPES = {t.name for t in TYPES.values() if t.command}
STATE_WORDS = {"observation", "observations", "obs", "state", "states"}
OUTCOME_WORDS = {
    *(
        "success",
        "reward",
        "rewards",
        "done",
        "terminal",
        "terminals",
        "truncated",
        "mask",
        "masks",
    ),
}
INDEX_COLUMNS = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
FIELDS = ("position", "velocity", "effort")

ALIKE = 0.8  # correlation from which a number without a name counts as a joint's,
ALIKE_KIN = 0.5  # or as one's whose topic shares a word with its own ("gripper"),
AHEAD = 0.05  # by so much more than any other joint's
COMMON = COMMAND_WORDS | STATE_WORDS | {"joint", "joints", "controller", "position", "velocity"}
TRIED = (32, 96)  # numbers without a name, and candidates, that are compared
LOOKED_AT = 60.0  # s of a recording


def role(topic: str, type_name: str) -> Role:
    """By the words of a topic or column, and by the type of its messages."""
    words = words_of(topic)
    if not type_name and topic in INDEX_COLUMNS:
        return "index"
    if (
        words & OUTCOME_WORDS
        or (not type_name and kind_of(topic))
        or last_word(topic) == "episode_start"
    ):
        return "outcome"
    if type_name and type_name not in COMMAND_TYPES:
        return "state"
    if words & COMMAND_WORDS or (type_name and words & GOALS):
        return "command" if type_name or not words & STATE_WORDS else "state"
    return "command" if type_name == "trajectory_msgs/JointTrajectory" else "state"


def words_of(topic: str) -> set[str]:
    """ "/gripper_controller/commands" -> gripper, controller, commands."""
    return set(re.findall(r"[a-z0-9]+", topic.lower()))


def last_word(topic: str) -> str:
    """ "next.success" -> "success", "/arm/state" -> "state"."""
    return topic.replace(".", "/").rpartition("/")[2].lower()


def joint(label: str) -> tuple[str, str]:
    """ "position.elbow" -> ("position", "elbow"); what has no field of a joint is all name."""
    field, _, name = label.partition(".")
    return (field, name) if field in FIELDS and name else ("", label)


def has_name(label: str) -> bool:
    """Whether a number has a name of its own; a place in an array is none."""
    return not re.fullmatch(r"(.*[^A-Za-z0-9])?\d+\]?", joint(label)[1]) and label not in (
        "",
        "data",
    )


@dataclass(frozen=True)
class Pair:
    """A commanded number and the measured one that should follow it."""

    command: str  # topic or column
    label: str
    state: str
    state_label: str
    by: Literal["name", "correlation"]

    @property
    def name(self) -> str:
        """Of the joint, where either side has one."""
        return joint(self.label if has_name(self.label) else self.state_label)[1]


def pairs(survey: Survey, period: float) -> list[Pair]:
    """Commanded numbers with the measured numbers of the same name; those that have no name with
    what moves as they do, where that is one joint and no other."""
    commands = [s for s in survey.signals.values() if role(s.topic, s.type) == "command"]
    states = [s for s in survey.signals.values() if role(s.topic, s.type) == "state"]
    found = []
    for command in commands:
        named = [n for n in command.labels if has_name(n)]
        for label in named:
            match = _same_name(label, states)
            found += [Pair(command.topic, label, *match, "name")] if match else []
        if not named:
            found += _same_motion(command, states, period)
    return found


def _same_name(label: str, states: Iterable[Signal]) -> tuple[str, str] | None:
    """The measured number of a name: of the same field if there is one, else of the first field.
    A twist's numbers are matched by the end of their path, which is where they differ not."""
    field, name = joint(label)
    path = label.removeprefix("twist.")
    candidates = []
    for signal in states:
        for other in signal.labels:
            other_field, other_name = joint(other)
            if other == label or (other_name == name and has_name(other)):
                rank = (other != label, other_field != field, _order(other_field))
                candidates.append((rank, (signal.topic, other)))
            elif path.startswith(("linear.", "angular.")) and other.endswith(f".{path}"):
                candidates.append(((True, True, 0), (signal.topic, other)))
    return min(candidates, key=lambda c: c[0])[1] if candidates else None


def _order(field: str) -> int:
    return (*FIELDS, "").index(field) if field else 0


def _same_motion(command: Signal, states: Iterable[Signal], period: float) -> list[Pair]:
    """Each number with the measured one whose changes are most like its own."""
    candidates = [
        (s, i) for s in states for i, n in enumerate(s.labels) if has_name(n) and joint(n)[0]
    ]
    own = words_of(command.topic) - COMMON
    kin = [(s, i) for s, i in candidates if words_of(s.topic) & own]
    found = []
    told = beginning(command.stream, LOOKED_AT)
    for j, label in enumerate(command.labels[: TRIED[0]]):
        match = _alike(told, j, kin, ALIKE_KIN, period) or _alike(
            told, j, candidates, ALIKE, period
        )
        found += [Pair(command.topic, label, *match, "correlation")] if match else []
    names = [p.name for p in found]
    return [p for p in found if names.count(p.name) == 1]


def _alike(
    told: Stream, j: int, candidates: list[tuple[Signal, int]], enough: float, period: float
) -> tuple[str, str] | None:
    """The one candidate (topic, label) that moves as the commanded number does."""
    candidates = candidates[: TRIED[1]]
    alike = [_likeness(told, j, s.stream, i, period) for s, i in candidates]
    if max(alike, default=-1.0) < enough:
        return None
    best = int(np.argmax(alike))
    signal, column = candidates[best]
    name = joint(signal.labels[column])[1]
    others = [a for a, (s, i) in zip(alike, candidates) if joint(s.labels[i])[1] != name]
    if max(others, default=-1.0) >= alike[best] - AHEAD:
        return None
    return signal.topic, signal.labels[column]


def _likeness(told: Stream, j: int, state: Stream, i: int, period: float) -> float:
    did = column(beginning(state, LOOKED_AT), [i])
    return float(np.nan_to_num(measured_lead(column(told, [j]), did, period)[1][0], nan=-1.0))


def beginning(stream: Stream, seconds: float) -> Stream:
    keep = stream.receipt <= stream.receipt[:1].sum() + seconds * 1e9
    return Stream(stream.stamp[keep], stream.receipt[keep], stream.values[keep])


def column(stream: Stream, columns: list[int]) -> Stream:
    return Stream(stream.stamp, stream.receipt, stream.values[:, columns])
