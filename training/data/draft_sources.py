"""Observations and actions of a drafted contract, as lines of YAML with their reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from qgf_ros.messages import TYPES, Array, Moment
from training.data.doctor.check_values import constants
from training.data.doctor.dataset import Dataset, rate
from training.data.doctor.roles import Pair, has_name, joint, last_word
from training.data.doctor.sample import column_quantile
from training.data.doctor.summary import SignalSummary
from training.data.draft_text import digits, flow_list, identifier, scalar

Lines = list[str]

MARK = "# confirm:"
TOPIC = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)
OFTEN = 0.99  # share of messages that must have a number
QUANTILES = (0.001, 0.999)
MARGIN = 0.1  # of the range, on either side, and of the rate
JOINTS_WORDS = {"joint_states", "state", "states"}
PLAIN_WORDS = JOINTS_WORDS | {
    "observation",
    "observations",
    "commands",
    "command",
    "cmd",
    "data",
    "pose",
}
TAKEN = {"reward", "success", "episode_start"}
JOINTS, ARRAY = "sensor_msgs/JointState", "std_msgs/Float64MultiArray"
BY_JOINT = (JOINTS, "trajectory_msgs/JointTrajectory")
TWISTS = ("geometry_msgs/Twist", "geometry_msgs/TwistStamped")


@dataclass
class Notes:
    """What a person must hear of beside the lines."""

    left: list[str] = field(default_factory=list)  # what is not in the contract, and why
    open: list[str] = field(default_factory=list)  # what nobody but a person can say


def actions(data: Dataset, pace: float, notes: Notes) -> tuple[Lines, list[Pair]]:
    """The commands as YAML, and the pairs whose states they must find observed.

    pace: how long a second of the stamps is [s]; not 1 where a table has no clock.
    """
    lines: Lines = []
    measured: list[Pair] = []
    used: set[str] = set()
    for s in data.of("command"):
        reason = _unusable(s, command=True)
        if reason:
            notes.left.append(f"{s.topic} ({s.type or 'column'}), a command: {reason}")
            continue
        pairs = {p.label: p for p in data.leads if p.command == s.topic}
        found, absolute = _action(s, pairs, pace, source_name(s, used), notes)
        lines += found
        measured += [p for p in pairs.values() if absolute]
    return lines, measured


def _action(
    s: SignalSummary, pairs: dict[str, Pair], pace: float, name: str, notes: Notes
) -> tuple[Lines, bool]:
    """One action, and whether it commands positions."""
    head = [f"  - name: {scalar(name)}", *_place(s, "joint_commands", ARRAY)]
    if s.type in TWISTS:
        kept = [n for n in s.labels if n not in constants(s)] or list(s.labels)
        head += [
            f"    fields: {flow_list(kept)}   {MARK} those that vary; the others are sent as 0"
        ]
        head += ["    representation: velocity", "    space: twist"]
        if s.type == "geometry_msgs/TwistStamped":
            head.append(f"    frame: base_link   {MARK} the frame_id that the receiver expects")
        return head + _limits(s, {n: n for n in kept}, True, pace), False
    if s.type in BY_JOINT:
        what = "position" if any(n.startswith("position.") for n in s.labels) else "velocity"
        labels = [n for n in s.labels if joint(n)[0] == what]
        notes.left += [
            f"{s.topic} {n}: this version commands one field" for n in s.labels if n not in labels
        ]
        names = {n: joint(n)[1] for n in labels}
        why = "as the message says"
    else:
        fields = [joint(p.state_label)[0] or "position" for p in pairs.values()]
        matched = len(pairs) == len(s.labels) and len(set(fields)) == 1
        what = fields[0] if matched and fields[0] != "effort" else "velocity"
        names = {n: _number_name(name, n, pairs.get(n)) for n in s.labels}
        why = (
            f"the numbers follow measured numbers ({what}) of the same "
            + ("motion" if any(p.by == "correlation" for p in pairs.values()) else "names")
            if matched
            else "not known: no measured joint goes by these names, or moves alike"
        )
        if not matched:
            notes.open.append(
                f"action {name}: names and representation; positions (absolute) must be observed by the "
                "same names"
            )
    absolute = what == "position"
    if s.type in BY_JOINT or (not s.type and absolute):
        head[2:] = [line.replace(ARRAY, JOINTS) for line in head[2:]] + [f"    fields: [{what}]"]
    guessed = [p for p in pairs.values() if p.by == "correlation"]
    note = (
        f"   {MARK} the message has no names; these joints move as its numbers do"
        if guessed
        else ""
    )
    if s.type not in BY_JOINT and not all(n in pairs or has_name(n) for n in s.labels):
        note = f"   {MARK} the recording has no names: write those of the joints"
    head.append(f"    names: {flow_list(names.values())}{note}")
    head.append(f"    representation: {'absolute' if absolute else 'velocity'}   {MARK} {why}")
    if "gripper" in s.topic.lower():
        head.append("    space: gripper")
    return head + _limits(s, names, not absolute, pace), absolute


def _number_name(source: str, label: str, pair: Pair | None) -> str:
    if pair is not None:
        return pair.name
    if has_name(label):
        return joint(label)[1]
    return f"{source}_{label.removeprefix('data.')}" if label not in ("", "data") else source


def _limits(s: SignalSummary, names: dict[str, str], through_zero: bool, pace: float) -> Lines:
    """By quantiles, not by the extremes: a glitch is no limit."""
    low, high = column_quantile(s.values.rows, QUANTILES)
    smallest, largest = (f.reduce(s.extremes.values) for f in (np.fmin, np.fmax))
    fastest = column_quantile(s.speeds.rows, QUANTILES[1]) / pace
    lines = [
        f"    limits:   {MARK} 0.1 % to 99.9 % of the recorded commands, and a tenth of that range more; "
        "rate: 99.9 % of the changes per second, and a tenth more"
    ]
    for label, name in names.items():
        i = s.labels.index(label)
        a, b = (low[i], high[i]) if low[i] < high[i] else (smallest[i], largest[i])
        note = ""
        if not a < b:
            a = b = 0.0 if not np.isfinite(a) else float(a)
            note = f"   {MARK} it never changed in the recording"
        pad = MARGIN * (b - a) or max(MARGIN * abs(a), 0.01)
        a, b = (min(a - pad, 0.0), max(b + pad, 0.0)) if through_zero else (a - pad, b + pad)
        speed = (1 + MARGIN) * fastest[i] if np.isfinite(fastest[i]) and fastest[i] > 0 else b - a
        lines.append(
            f"      {scalar(name)}: {{min: {digits(a)}, max: {digits(b)}, rate: {digits(speed)}}}{note}"
        )
    return lines


def observations(
    data: Dataset, period: float, pace: float, measured: list[Pair], notes: Notes
) -> Lines:
    """The states as YAML; those that `measured` names as positions of joints, each once."""
    lines: Lines = []
    used = {line for line in TAKEN}
    seen: set[str] = set()
    needed = {p.state for p in measured}
    for s in sorted(data.of("state"), key=lambda s: (s.topic not in needed, s.type != JOINTS)):
        reason = _unusable(s, command=False)
        if reason:
            notes.left.append(f"{s.topic} ({s.type or 'column'}): {reason}")
            continue
        told = {p.state_label for p in measured if p.state == s.topic}
        lines += _observation(s, told, source_name(s, used), seen, notes, _max_age(s, period, pace))
    others = {t: kind for t, kind in data.others.items() if last_word(t) not in TAKEN}
    unread = data.unread | data.undecoded
    notes.left += [
        f"{topic} ({kind}): {unread.get(topic, 'holds no numbers')}"
        for topic, kind in others.items()
    ]
    return lines


def _observation(
    s: SignalSummary, told: set[str], name: str, seen: set[str], notes: Notes, max_age: str
) -> Lines:
    still = set(constants(s))
    rare = {n for n, m in zip(s.labels, s.missing) if m > (1 - OFTEN) * s.messages}
    for n in sorted(rare):
        count = s.missing[s.labels.index(n)]
        notes.left.append(f"{s.topic} {n}: {count} of {s.messages} messages lack it")
    lines = [f"  - name: {scalar(name)}", *_place(s, "joint_states", ARRAY)]
    kind = JOINTS if s.type == JOINTS or told else s.type
    if kind == JOINTS:
        fields, names = _joints(s, told, still, rare, seen, notes)
        if not names:
            return []
        lines = [line.replace(ARRAY, JOINTS) for line in lines]
        lines += [f"    fields: {flow_list(fields)}", f"    names: {flow_list(names)}"]
    elif not kind or isinstance(TYPES[kind], Array):
        names = [_number_name(identifier(last_word(s.topic)), n, None) for n in s.labels]
        if len(names) == 1 and not kind:
            lines = [line.replace(ARRAY, "std_msgs/Float64") for line in lines]
            lines.append("    fields: [data]")
        else:
            note = "" if all(map(has_name, s.labels)) else f"   {MARK} the recording has no names"
            lines.append(f"    names: {flow_list(names)}{note}")
    else:
        fields = _fields(kind, [n for n in s.labels if n not in rare], still)
        if not fields:
            notes.left.append(f"{s.topic} ({kind}): nothing in it varies")
            return []
        lines.append(f"    fields: {flow_list(fields)}")
        if any(TYPES[kind].is_orientation(f) for f in fields):
            lines.append(f"    encoding: rot6d   {MARK} or yaw_sin_cos for what stays upright")
    if s.units:
        lines.append(f"    units: {scalar(s.units)}")
    return [*lines, max_age]


def _joints(
    s: SignalSummary, told: set[str], still: set[str], rare: set[str], seen: set[str], notes: Notes
) -> tuple[list[str], list[str]]:
    """Fields and names: joints that move or are commanded, and whose position nobody else gives."""
    there = [n for n in s.labels if n not in rare]
    fields = [f for f in ("position", "velocity") if any(joint(n)[0] == f for n in there)]
    if not s.type:  # columns of a table have no fields: their numbers are positions
        fields = ["position"]
    names = []
    for name in dict.fromkeys(joint(n)[1] for n in s.labels):
        labels = [n for n in s.labels if joint(n)[1] == name and joint(n)[0] != "effort"]
        if not set(labels) <= set(there):
            continue
        if name in seen:
            notes.left.append(f"{s.topic} {name}: another source gives it already")
        elif set(labels) <= still and not told & set(labels):
            notes.left.append(f"{s.topic} {name}: it never changes")
        else:
            names.append(name)
            seen.add(name)
    return fields, names


def _fields(kind: str, labels: list[str], still: set[str]) -> list[str]:
    """Fields of a message that vary; an orientation whole, or not at all."""
    whole = [f for f in TYPES[kind].fields if TYPES[kind].is_orientation(f)]
    parts = {f"{f}.{c}" for f in whole for c in "xyzw"}
    moving = [n for n in labels if n not in still]
    plain = [n for n in moving if n in TYPES[kind].fields and n not in parts]
    return plain + [f for f in whole if any(f"{f}.{c}" in moving for c in "xyzw")]


def _max_age(s: SignalSummary, period: float, pace: float) -> str:
    if not rate(s):
        how_often = f"said {s.messages} times in {s.recordings} recordings"
        return f"    max_age: 3600.0   {MARK} s; {how_often}: as long as it takes"
    late, age = (
        pace * float(s.intervals.quantile(0.99)[0]),
        max(float(s.latency.quantile(0.99)[0]), 0.0),
    )
    value = max(0.05, 3 * max(period, late) + age)
    why = f"three {'intervals' if late > period else 'periods'}, and {age * 1e3:.3g} ms on the way"
    return f"    max_age: {min(3600.0, np.ceil(value * 100) / 100):.2f}   {MARK} s; {why}"


def _place(s: SignalSummary, invented: str, type_name: str) -> Lines:
    """Topic, type and column."""
    if s.type:
        return [f"    topic: {scalar(s.topic.strip('/'))}", f"    type: {s.type}"]
    topic = invented if last_word(s.topic) in ("state", "action") else identifier(s.topic)
    return [
        f"    topic: {scalar(topic)}   {MARK} tables have no topics: the robot's",
        f"    type: {type_name}   {MARK} the robot's",
        f"    column: {scalar(s.topic)}",
    ]


def _unusable(s: SignalSummary, command: bool) -> str:
    """Why a signal cannot be in a contract of this version; "" if it can."""
    if not s.labels or not s.messages:
        return "no numbers were recorded"
    if not s.type:
        return ""
    if not TOPIC.fullmatch(s.topic.strip("/")):
        return "its topic is no ROS name"
    if s.type not in TYPES:
        return f"not a type of ROS; name its fields by path, as {', '.join(s.labels[:2])}, and give stamp"
    if s.type in BY_JOINT and not any(joint(n)[0] in ("position", "velocity") for n in s.labels):
        return "it holds neither positions nor velocities of joints"
    if isinstance(TYPES[s.type], Moment):
        return "it only marks a moment"
    return "this version does not command its type" if command and not TYPES[s.type].command else ""


def source_name(s: SignalSummary, used: set[str]) -> str:
    """Short, without a dot, and not taken."""
    words = [w for w in re.split(r"[/.]", s.topic) if w]
    told = [w for w in words if w.lower() not in PLAIN_WORDS]
    base = (
        identifier(told[-1])
        if told
        else "joints"
        if words[-1] in JOINTS_WORDS
        else identifier(words[-1])
    )
    name, k = base, 2
    while name in used | TAKEN:
        name, k = f"{base}_{k}", k + 1
    used.add(name)
    return name
