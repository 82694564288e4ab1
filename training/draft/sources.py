"""Observations and actions of a drafted contract, as lines of YAML with their reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from qgf_ros.files.strict_yaml import FILL_IN
from qgf_ros.spaces.actions import KINDS, by_type, command_types
from qgf_ros.spaces.actions.base import ActionKind
from qgf_ros.spaces.messages import BY_JOINT, TYPES
from qgf_ros.spaces.messages.array import Array
from qgf_ros.spaces.messages.moment import Moment
from training.doctor.cameras import LABELS
from training.doctor.check_timing import DRIFT, FUTURE, LATE
from training.doctor.check_values import constants
from training.doctor.dataset import Dataset, rate
from training.doctor.others import why_not_numbers
from training.doctor.roles import Pair, has_name, joint, last_word, positions, role
from training.doctor.sample import column_quantile
from training.doctor.summary import SignalSummary
from training.draft.meaning import groups, meaning, name_of, part_of, share
from training.draft.poses import frame, pose
from training.draft.ranges import MARGIN, QUANTILES
from training.draft.text import MARK, comment, digits, flow_list, identifier, scalar

Lines = list[str]

TOPIC = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)
OFTEN = 0.99  # share of messages that must have a number
RARE = 0.05  # share of messages, below which joints that come together are an accident
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
CAMERA_WORDS = {
    *("image", "images", "image_raw", "image_rect", "image_rect_raw", "image_color", "compressed"),
    *("compresseddepth", "camera", "color", "rgb"),
}
VIEWS = {"camera", "color", "rgb"}  # of these, what names a camera that nothing else names
TAKEN = {"reward", "success", "episode_start"}
TABLES = {"lerobot", "npz", "hdf5", "ogbench"}  # formats whose sources have columns, and no topics
VIEW = 64  # pixels of a drafted camera's longer side
DEPTH = [0.2, 2.0]  # m
LATENCY = 0.06  # s
JOINTS, ARRAY = "sensor_msgs/JointState", "std_msgs/Float64MultiArray"
# What a joint may be told, by what a contract calls it.
JOINT_KINDS = {k.representation: k for k in KINDS if k.space == "joint"}


@dataclass
class Notes:
    """What a person must hear of beside the lines."""

    left: list[str] = field(default_factory=list)  # what is not in the contract, and why
    open: list[str] = field(default_factory=list)  # what nobody but a person can say
    names: dict[str, str] = field(default_factory=dict)  # topic or column -> name of its observation


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
        parts = _parts(s, notes)
        name = source_name(s, used)
        for i, labels in enumerate(parts):
            if not labels:
                continue
            part = name if len(parts) == 1 else source_name(s, used) if i else name
            found, followed = _action(s, labels, pairs, pace, part, notes, data)
            lines += found
            measured += followed
    return lines + _unreadable(data, "command", notes), measured


def _unreadable(data: Dataset, kind: str, notes: Notes) -> Lines:
    """A line that does not load for each column of a role that holds numbers and cannot be read."""
    found = {c: why for c, why in data.unreadable.items() if role(c, "") == kind}
    notes.open += [f"{c}, a {kind}, cannot be read: {why}" for c, why in found.items()]
    return [
        f"  - {FILL_IN}   # {comment(f'{c}: {why}')}; then draft again, or do without it and take this line out"
        for c, why in found.items()
    ]


def _parts(s: SignalSummary, notes: Notes) -> list[list[str]]:
    """The commanded numbers of a signal, apart where they do not come in the same messages."""
    labels = list(s.labels)
    if s.type in BY_JOINT:
        what = "position" if any(n.startswith("position.") for n in labels) else "velocity"
        labels = [n for n in labels if joint(n)[0] == what]
        notes.left += [
            f"{s.topic} {n}: this version commands one field" for n in s.labels if n not in labels
        ]
        return groups(s, labels)
    return [labels]


def _action(
    s: SignalSummary,
    labels: list[str],
    pairs: dict[str, Pair],
    pace: float,
    name: str,
    notes: Notes,
    data: Dataset,
) -> tuple[Lines, list[Pair]]:
    """One action, and the pairs whose states must be observed as joints."""
    head = [f"  - name: {scalar(name)}", *_place(s, "joint_commands", ARRAY)]
    own = by_type(s.type)
    if own is not None and own.converts:
        return head + pose(s, name, data, pace, notes.open), []
    if own is not None:
        return head + _of_type(s, own, pace, notes), []
    pairs = {n: pairs[n] for n in labels if n in pairs}
    said = ""
    if s.type in BY_JOINT:
        said = next(n for n, k in JOINT_KINDS.items() if k.field == joint(labels[0])[0])
    found = meaning(s, labels, pairs, data, said)
    kind = JOINT_KINDS.get(found.representation)  # None: only a person knows
    absolute = kind is not None and kind.measured
    named = s.type in BY_JOINT or any(map(has_name, s.labels))
    names = {n: name_of(name, n, named) for n in labels}
    note = ""
    if not named and found.representation and len(pairs) == len(labels):
        names = {n: pairs[n].name for n in labels}
        note = f"   {MARK} the message has no names; these joints move as its numbers do"
    elif not named:
        note = f"   {MARK} the recording has no name for each number: write those of the joints"
    if s.type in BY_JOINT or (not s.type and absolute):
        known = kind or JOINT_KINDS[said]
        head[2:] = [line.replace(ARRAY, JOINTS) for line in head[2:]]
        head.append(f"    fields: [{known.field}]")
    head.append(f"    names: {flow_list(names.values())}{note}")
    if found.representation:
        head.append(f"    representation: {found.representation}   {MARK} {comment(found.why)}")
    else:
        head.append(
            f"    representation: {FILL_IN}   # absolute (positions), velocity, or of a column delta_observed or "
            f"delta_last (changes of position); evidence: {comment(found.why)}"
        )
        notes.open.append(
            f"action {name}: representation (absolute: positions, which must be observed; velocity; delta_observed or "
            f"delta_last: changes of position): {found.why}"
        )
    if found.paired:
        told = {names[n]: _state_names(data.signals[pairs[n].state])[m] for n, m in found.paired}
        head.append(
            f"    # measured: {{{', '.join(f'{scalar(a)}: {scalar(b)}' for a, b in told.items())}}}   "
            "# with absolute: they move alike; without the first # if they are the same joints"
        )
    spaces = [k.space for k in KINDS if any(word in s.topic.lower() for word in k.words)]
    head += [f"    space: {space}" for space in spaces[:1]]
    through_zero = kind is not None and kind.stops_at_zero
    followed = [p for p in pairs.values() if absolute or (kind is None and p.state_label)]
    where = {n: (s, n) for n in names}
    if found.changes:  # the limits are those of where it goes
        where = {n: (data.signals[p.state], p.state_label) for n, p in pairs.items()}
        lost = [names[n] for n in names if n not in where]
        notes.open += [f"action {name}: limits of {n}: how far it may go; it was not measured" for n in lost]
    return head + _limits(names, where, through_zero, pace), followed


def _state_names(s: SignalSummary) -> dict[str, str]:
    """A contract's name of each label, each once."""
    named = any(map(has_name, s.labels))
    own = {n: name_of(identifier(last_word(s.topic)), n, named) for n in s.labels}
    return own if len(set(own.values())) == len(own) else {n: n for n in s.labels}


def _holds_joints(s: SignalSummary) -> bool:
    """Whether messages, or a column, have positions and velocities of joints by name."""
    fields = {joint(n)[0] for n in s.labels}
    return s.type == JOINTS or (not s.type and "" not in fields and fields != {"effort"})


def _of_type(s: SignalSummary, kind: ActionKind, pace: float, notes: Notes) -> Lines:
    """A command that its type says the kind of: a body's velocity. What is always 0 may be left out,
    and is said; a constant speed is not."""
    still = constants(s)
    usual = dict(zip(s.labels, np.fmax.reduce(s.extremes.values)))
    kept = [n for n in s.labels if n not in still or usual[n] != 0] or list(s.labels)
    always = [f"{n} was always {usual[n]:.4g}" for n in kept if n in still and usual[n] != 0]
    head = [
        f"    fields: {flow_list(kept)}   {MARK} "
        + "; ".join(["the others were always 0, and are sent as 0", *always])
    ]
    notes.left += [f"{s.topic} {n}: always 0, and sent as 0" for n in s.labels if n not in kept]
    head += [f"    representation: {kind.representation}", f"    space: {kind.space}"]
    if TYPES[s.type].stamped:
        head.append(frame(s, notes.open))
    where = {n: (s, n) for n in kept}
    return head + _limits({n: n for n in kept}, where, kind.stops_at_zero, pace)


def _limits(
    names: dict[str, str],
    where: dict[str, tuple[SignalSummary, str]],
    through_zero: bool,
    pace: float,
) -> Lines:
    """By quantiles, not by the extremes: a glitch is no limit. where: the signal and the label that tell how
    far each goes."""
    of = "commands" if all(n == m for n, (_, m) in where.items()) else "positions"
    lines = [
        f"    limits:   {MARK} 0.1 % to 99.9 % of the recorded {of}, and a tenth of that range more; "
        "rate: 99.9 % of the changes per second, and a tenth more"
    ]
    for label, name in names.items():
        if label not in where:
            lines.append(f"      {scalar(name)}: {FILL_IN}   # {{min, max, rate}} of its position")
            continue
        s, told_by = where[label]
        low, high = column_quantile(s.values.rows, QUANTILES)
        smallest, largest = (f.reduce(s.extremes.values) for f in (np.fmin, np.fmax))
        fastest = column_quantile(s.speeds.rows, QUANTILES[1]) / pace
        i = s.labels.index(told_by)
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
        notes.names[s.topic] = source_name(s, used)
        lines += _observation(s, told, notes.names[s.topic], seen, notes, period, pace)
    for s in data.of("camera"):
        lines += _camera(s, source_name(s, used), data, period, pace)
    others = {t: kind for t, kind in data.others.items() if last_word(t) not in TAKEN}
    unusable = data.unusable | data.undecoded
    for topic, kind in others.items():
        said = [f"{why} ({n} of its messages)" for why, n in data.unread.get(topic, {}).items()]
        why = unusable.get(topic, "") or "; ".join(said) or why_not_numbers(kind)
        notes.left.append(f"{topic} ({kind}): {why}")
    return lines + _unreadable(data, "state", notes)


def _observation(
    s: SignalSummary,
    told: set[str],
    name: str,
    seen: set[str],
    notes: Notes,
    period: float,
    pace: float,
) -> Lines:
    partial = s.type == JOINTS and len(groups(s, positions(s.labels))) > 1
    if partial:
        seldom = [n for n in s.labels if share(s, [n]) <= RARE]
        notes.left += [f"{s.topic} {n}: nearly all of its messages lack it" for n in seldom]
        s = part_of(s, [n for n in s.labels if n not in seldom] or list(s.labels))
    still = set(constants(s))
    named = any(map(has_name, s.labels))
    rare = {n for n, m in zip(s.labels, s.missing) if m > (1 - OFTEN) * s.messages}
    for n in sorted(rare):
        count = s.missing[s.labels.index(n)]
        notes.left.append(f"{s.topic} {n}: {count} of {s.messages} messages lack it")
    lines = [f"  - name: {scalar(name)}", *_place(s, "joint_states", ARRAY)]
    kind = JOINTS if _holds_joints(s) or told else s.type
    if kind == JOINTS:
        fields, names = _joints(s, told, still, rare, seen, notes)
        if not names:
            return []
        lines = [line.replace(ARRAY, JOINTS) for line in lines]
        lines += [f"    fields: {flow_list(fields)}", f"    names: {flow_list(names)}"]
        if partial:
            lines.append(
                f"    merge: joints   {MARK} a message has some of the joints; the newest count"
            )
    elif not kind or isinstance(TYPES[kind], Array):
        names = list(_state_names(s).values())
        if len(names) == 1 and not kind:
            lines = [line.replace(ARRAY, "std_msgs/Float64") for line in lines]
            lines.append(f"    names: {flow_list(names)}" if named else "    fields: [data]")
        else:
            note = "" if named else f"   {MARK} the recording has no name for each number"
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
    return [*lines, _max_age(s, period, pace)]


def _camera(s: SignalSummary, name: str, data: Dataset, period: float, pace: float) -> Lines:
    """A camera as it was recorded, and a small view of it with its proportions."""
    width, height = (
        int(np.nanmax(s.extremes.values[:, LABELS.index(side)])) for side in ("width", "height")
    )
    long = max(width, height)
    size = [max(1, round(VIEW * side / long)) for side in (width, height)]
    depth = s.channels == "depth"
    more = {"rgb": "", "mono": ", channels: mono"}.get(s.channels, f", channels: depth, range: {DEPTH}")
    column = data.format in TABLES
    place = (
        [
            f"    topic: {name}/image_raw   {MARK} tables have no topics: the robot's",
            f"    type: {s.type}   {MARK} or sensor_msgs/CompressedImage",
            f"    column: {scalar(s.topic)}",
        ]
        if column
        else _place(s, "", "")
    )
    why = f"of {width} x {height}" + ("; range: near and far of the work, in m" if depth else "")
    return [
        f"  - name: {scalar(name)}",
        *place,
        f"    image: {{size: [{size[0]}, {size[1]}]{more}}}   {MARK} {why}",
        "    encoder: {kind: small, features: 64}",
        f"    latency: {LATENCY}   {MARK} s, from an image's capture to its features on the robot",
        _max_age(s, period, pace, LATENCY),
    ]


def _joints(
    s: SignalSummary, told: set[str], still: set[str], rare: set[str], seen: set[str], notes: Notes
) -> tuple[list[str], list[str]]:
    """Fields and names: joints that move or are commanded, and whose position nobody else gives."""
    there = [n for n in s.labels if n not in rare]
    fields = [f for f in ("position", "velocity") if any(joint(n)[0] == f for n in there)]
    if "position" in fields:  # a velocity that some joints have is no reason to lose the others
        with_position, with_velocity = (
            {joint(n)[1] for n in there if joint(n)[0] == f} for f in ("position", "velocity")
        )
        fields = ["position"] + ["velocity"] * (with_position <= with_velocity)
    if not _holds_joints(s):  # most columns of tables have no fields: their numbers are positions
        fields = ["position"]
    names = []
    own = {n: joint(n)[1] for n in s.labels} if _holds_joints(s) else _state_names(s)
    for name in dict.fromkeys(own.values()):
        labels = [n for n in there if own[n] == name and joint(n)[0] != "effort"]
        if _holds_joints(s) and {joint(n)[0] for n in labels} != set(fields):
            notes.left.append(
                f"{s.topic} {name}: it has not {' and '.join(fields)} in every message"
            )
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


def _max_age(s: SignalSummary, period: float, pace: float, latency: float = 0.0) -> str:
    if not rate(s):
        how_often = f"said {s.messages} times in {s.recordings} recordings"
        return f"    max_age: 3600.0   {MARK} s; {how_often}: as long as it takes"
    late, age = (
        pace * float(np.nanmax(s.paces()[1])),
        0.0 if other_clock(s) else max(float(s.latency.quantile(0.99)[0]), 0.0),
    )
    longest, what = max((period, "periods"), (late, "intervals"), (latency, "times the latency"), key=lambda t: t[0])
    value = max(0.05, 3 * longest + age)
    why = f"three {what}, and {age * 1e3:.3g} ms on the way"
    return f"    max_age: {min(3600.0, np.ceil(value * 100) / 100):.2f}   {MARK} s; {why}"


def other_clock(s: SignalSummary) -> bool:
    """Whether the stamps are of a clock that receipt says nothing about."""
    if not s.type or not s.messages or s.type not in TYPES or not TYPES[s.type].stamped:
        return False
    low, middle = s.latency.quantile((0.01, 0.5))[:, 0]
    return bool(low < -FUTURE or middle > LATE or abs(s.drift) > DRIFT)


def _place(s: SignalSummary, invented: str, type_name: str) -> Lines:
    """Topic, type and column."""
    if s.type:
        lines = [f"    topic: {scalar(s.topic.strip('/'))}", f"    type: {s.type}"]
        if other_clock(s):
            apart = float(s.latency.quantile(0.5)[0])
            why = f"its stamps are {apart:.3g} s from their receipt: another clock's"
            lines.append(f"    stamp: receipt   {MARK} {why}")
        return lines
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
    if s.type not in TYPES and command:
        return "looks like a command; this version cannot command its type"
    if s.type not in TYPES:
        return (
            "no row in the table of contract.md; name its fields by path, as "
            f"{', '.join(s.labels[:2])}, and give stamp"
        )
    if s.type in BY_JOINT and not any(joint(n)[0] in ("position", "velocity") for n in s.labels):
        return "it holds neither positions nor velocities of joints"
    if isinstance(TYPES[s.type], Moment):
        return "it only marks a moment"
    if command and s.type not in command_types():
        return "looks like a command; this version cannot command Bool or integers"
    return ""


def _view(words: list[str]) -> str:
    """Of a camera whose topic has plain words alone: "color" of /camera/color/image_raw."""
    return next((identifier(w) for w in reversed(words) if w.lower() in VIEWS), "camera")


def source_name(s: SignalSummary, used: set[str]) -> str:
    """Short, without a dot, and not taken."""
    words = [w for w in re.split(r"[/.]", s.topic) if w]
    plain = PLAIN_WORDS | (CAMERA_WORDS if s.role == "camera" else set())
    told = [w for w in words if w.lower() not in plain]
    base = (
        identifier(told[-1])
        if told
        else "joints"
        if words[-1] in JOINTS_WORDS
        else _view(words)
        if s.role == "camera"
        else identifier(words[-1])
    )
    name, k = base, 2
    while name in used | TAKEN:
        name, k = f"{base}_{k}", k + 1
    used.add(name)
    return name
