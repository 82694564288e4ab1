"""What signals are for, told from their names and types; and which number is which joint's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qgf_ros.spaces.actions import command_types
from qgf_ros.spaces.observations.image import TYPES as IMAGES
from training.pipeline.delay import measured_leads
from training.pipeline.readers.endings import kind_of
from training.pipeline.streams import Signal, Stream, Survey

Role = Literal["command", "state", "outcome", "index", "camera"]

COMMAND_WORDS = {
    *("action", "actions", "command", "commands", "cmd", "cmds", "target", "targets"),
    *("desired", "reference", "references", "setpoint", "setpoints", "trajectory", "commanded"),
}
GOALS = {"goal", "goals"}  # a command where joints are sent there, an observation elsewhere
ORDERS = {"close", "open", "set", "grip", "release"}  # as the last word: what a gripper is told
SENSED = {"is", "sensor", "measured", "actual", "feedback", "state", "states", "status"}
COMMAND_TYPES = set(command_types())
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
QUANTITIES = {
    "position": {"position", "positions", "pos", "qpos", "angle", "angles"},
    "velocity": {"velocity", "velocities", "vel", "qvel", "speed", "speeds", "twist", "dq", "dot"},
    "effort": {"effort", "efforts", "torque", "torques", "current", "currents", "force", "tau"},
}

ALIKE = 0.8  # correlation from which a number without a name counts as a joint's,
ALIKE_KIN = 0.5  # or as one's whose topic shares a word with its own ("gripper"),
AHEAD = 0.05  # by so much more than any other joint's
COMMON = COMMAND_WORDS | STATE_WORDS | {"joint", "joints", "controller", "position", "velocity"}
TRIED = (32, 96)  # numbers without a name, and candidates, that are compared
LOOKED_AT = 60.0  # s of a recording


def role(topic: str, type_name: str) -> Role:
    """By the words of a topic or column, and by the type of its messages."""
    words = words_of(topic)
    if type_name in IMAGES:
        return "camera"
    if not type_name and topic in INDEX_COLUMNS:
        return "index"
    if (
        words & OUTCOME_WORDS
        or (not type_name and kind_of(topic))
        or last_word(topic) == "episode_start"
    ):
        return "outcome"
    if type_name and type_name not in COMMAND_TYPES:
        # This version cannot send it, but whoever observes it sees the answer.
        told = words & COMMAND_WORDS or last_word(topic).rpartition("_")[2] in ORDERS
        return "command" if told and not words & SENSED else "state"
    if words & COMMAND_WORDS or (type_name and words & GOALS):
        return "command" if type_name or not words & STATE_WORDS else "state"
    return "command" if type_name == "trajectory_msgs/JointTrajectory" else "state"


def words_of(topic: str) -> set[str]:
    """ "/gripper_controller/commands" -> gripper, controller, commands; "targetPose" -> target, pose."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", topic)
    return set(re.findall(r"[a-z0-9]+", apart.lower()))


def last_word(topic: str) -> str:
    """ "next.success" -> "success", "/arm/state" -> "state"."""
    return topic.replace(".", "/").rpartition("/")[2].lower()


def joint(label: str) -> tuple[str, str]:
    """ "position.elbow" -> ("position", "elbow"); what has no field of a joint is all name."""
    field, _, name = label.partition(".")
    return (field, name) if field in FIELDS and name else ("", label)


def positions(labels: Iterable[str]) -> list[str]:
    """Labels of what each joint always has: its position, or else its velocity. All of what has no joints."""
    labels = list(labels)
    for field in ("position", "velocity"):
        found = [n for n in labels if joint(n)[0] == field]
        if found:
            return found
    return labels


def has_name(label: str) -> bool:
    """Whether a number has a name of its own ("joint_0"); a place in an array ("0", "data.0") is
    none, but a joint may be called by a number ("position.0")."""
    return not re.fullmatch(r"\d*|data(\.\d+)?", label)


def quantity(topic: str, label: str) -> str:
    """Of what a measured number is: position, velocity or effort; "" where nothing says it.

    "position.elbow" by its field; of tables by the last word of the number that says so ("x.vel"),
    or else of the column ("observation.velocity").
    """
    if joint(label)[0]:
        return joint(label)[0]
    for words in (re.findall(r"[a-z]+", label.lower())[::-1], words_of(topic)):
        said = [f for w in words for f, known in QUANTITIES.items() if w in known]
        if said:
            return said[0]
    return ""


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
    """Commanded numbers with the measured numbers of the same name; those that have no such name
    with what moves as they do, where that is one joint and no other."""
    commands = [s for s in survey.signals.values() if role(s.topic, s.type) == "command"]
    states = [s for s in survey.signals.values() if role(s.topic, s.type) == "state"]
    found = []
    for command in commands:
        rest = []
        for label in command.labels:
            match = _same_name(command, label, states) if has_name(label) else None
            found += [Pair(command.topic, label, *match, "name")] if match else []
            rest += [label] * (match is None)
        if not command.type or not any(map(has_name, command.labels)):
            taken = {(p.state, p.state_label) for p in found}
            found += _same_motion(command, rest, states, taken, period)
    return found


def _same_name(command: Signal, label: str, states: Iterable[Signal]) -> tuple[str, str] | None:
    """The measured number of a name: of the same field if there is one, else of the first field.
    A twist's numbers are matched by the end of their path, which is where they differ not.

    Joints have one name in one robot; columns of a table may use a name twice, and then the one
    counts that shares a word with the command's ("action.left", "observation.left"), or nobody.
    """
    field, name = joint(label)
    path = label.removeprefix("twist.")
    candidates = []
    for signal in states:
        for other in signal.labels:
            other_field, other_name = joint(other)
            if other == label or (other_name == name and has_name(other)):
                told = quantity("", label) or "position"
                away = not signal.type and (quantity(signal.topic, other) or "position") != told
                rank = (away, other != label, other_field != field, _order(other_field))
                candidates.append((rank, (signal, other)))
            elif path.startswith(("linear.", "angular.")) and other.endswith(f".{path}"):
                candidates.append(((True, True, True, 0), (signal, other)))
    if not candidates:
        return None
    first = min(rank for rank, _ in candidates)
    best = [found for rank, found in candidates if rank == first]
    if len(best) > 1 and not best[0][0].type:
        own = words_of(command.topic) - COMMON
        best = [found for found in best if words_of(found[0].topic) & own]
        if len(best) != 1:
            return None
    return best[0][0].topic, best[0][1]


def _order(field: str) -> int:
    return (*FIELDS, "").index(field) if field else 0


def _same_motion(
    command: Signal,
    labels: list[str],
    states: Iterable[Signal],
    taken: set[tuple[str, str]],
    period: float,
) -> list[Pair]:
    """Each number with the measured one whose changes are most like its own, or their opposite."""
    candidates = [
        (s, i)
        for s in states
        if s.type in ("", "sensor_msgs/JointState")
        for i, n in enumerate(s.labels)
        if (s.topic, n) not in taken and (not s.type or joint(n)[0])
    ]
    own = words_of(command.topic) - COMMON
    kin = [(s, i) for s, i in candidates if words_of(s.topic) & own]
    found = []
    told = beginning(command.stream, LOOKED_AT)
    for label in labels[: TRIED[0]]:
        j = command.labels.index(label)
        match = _alike(told, j, kin, ALIKE_KIN, period) or _alike(
            told, j, candidates, ALIKE, period
        )
        found += [Pair(command.topic, label, *match, "correlation")] if match else []
    names = [joint(p.state_label)[1] for p in found]
    return [p for p, n in zip(found, names) if names.count(n) == 1]


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
    others = [
        a
        for a, (s, i) in zip(alike, candidates)
        if joint(s.labels[i])[1] != name or (s is signal and i != column and not s.type)
    ]
    if max(others, default=-1.0) >= alike[best] - AHEAD:
        return None
    return signal.topic, signal.labels[column]


def _likeness(told: Stream, j: int, state: Stream, i: int, period: float) -> float:
    did = column(beginning(state, LOOKED_AT), [i])
    return float(np.fmax.reduce(measured_leads(column(told, [j]), did, period)[1], initial=-1.0)[0])


def beginning(stream: Stream, seconds: float) -> Stream:
    keep = stream.receipt <= stream.receipt[:1].sum() + seconds * 1e9
    return Stream(stream.stamp[keep], stream.receipt[keep], stream.values[keep])


def column(stream: Stream, columns: list[int]) -> Stream:
    return Stream(stream.stamp, stream.receipt, stream.values[:, columns])
