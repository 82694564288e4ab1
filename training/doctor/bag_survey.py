"""Everything numeric in a bag, without a contract."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from operator import attrgetter
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys.base import normalize_fieldname
from rosbags.typesys.store import Typestore

from qgf_ros.bags.clock import Control, RecordedClock, Times
from qgf_ros.bags.contract_reader import decoded, undecodable
from qgf_ros.bags.damage import Damage, Losses, one_line
from qgf_ros.bags.files import Bag, read_messages
from qgf_ros.bags.types import Channel, Take, take_with, typestore
from qgf_ros.spaces.messages.base import MAX_VALUES, SchemaError
from training.doctor import cameras
from training.pipeline.streams import Signal, Stream, Survey

MAX_NUMBERS = 32 * 2**20  # of one survey: 256 MiB
MAX_LABELS = 2**13  # numbers of all topics of one bag: each is looked at by itself
MAX_NAMES = 2**20
MAX_LAYOUTS = 256  # different sets of labels on one topic
MAX_FRAMES = 8  # frame_ids of one topic that are told apart
# Share of an array's messages that must be of one length for its numbers to mean something.
MOST = 0.9
OTHERS = ("sensor_msgs/PointCloud2",)
SKIPPED = ("std_msgs/msg/Header", "std_msgs/msg/MultiArrayLayout")  # when and how, not what
OURS = "qgf_ros/"  # what the node says of itself: no robot's state, and NaN where it knows nothing
JOINTS = ("position", "velocity", "effort")
SEVERAL_POINTS = "commands of several points are not read"


def survey_bag(bag: Bag, name: str) -> Survey:
    """Every topic with numbers. At most MAX_NUMBERS are kept; messages behind those are counted."""
    losses, room, topics = Losses(), _Room(MAX_NUMBERS), dict[str, _Topic | _Camera]()
    clock = RecordedClock()

    def choose(channel: Channel) -> Take | None:
        if uses := clock.uses(channel):
            return decoded(channel, uses, losses)
        kind = _Camera if channel.short_type in cameras.TYPES else _Topic
        topic = topics.setdefault(channel.topic, kind(channel.short_type, room))
        if topic.type != channel.short_type:
            why = f"{channel.topic} carries {channel.short_type}, and before {topic.type}"
            return lambda receipt, raw: losses.add(why)
        return topic.take(channel, losses)

    def file_ends() -> None:
        for topic in topics.values():
            topic.times.file_ends()

    for _ in read_messages(bag, choose, losses, file_ends):
        pass
    if room.refused:
        losses.add(f"only the first {MAX_NUMBERS} numbers of a bag are surveyed", room.refused)
    now = clock.control([topic.times.recorded()[1] for topic in topics.values()])
    if clock.said:
        losses.add(clock.said)
    signals: dict[str, Signal] = {}
    labels, found = 0, sorted(topics.items())
    for t, topic in found:
        if (signal := topic.signal(t, now)) is None:
            continue
        labels += len(signal.labels)
        if labels <= MAX_LABELS:
            signals[t] = signal
        else:
            losses.add(
                f"only the first {MAX_LABELS} different numbers are surveyed", len(topic.times)
            )
    others = {t: topic.type for t, topic in found if t not in signals}
    return Survey(
        name,
        signals,
        others,
        dict(losses),
        unread={t: dict(topic.unread) for t, topic in found if topic.unread},
        unusable={t: one_line(topic.unusable) for t, topic in found if topic.unusable},
        simulated=now is not None,
    )


@dataclass
class _Room:
    """For numbers, shared by all topics."""

    left: int
    refused: int = 0  # messages
    names: int = MAX_NAMES  # labels of all layouts, which are text


@dataclass
class _Layout:
    """Messages that have the same labels."""

    labels: list[str]
    rows: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))


class _Unread(Exception):
    """A message that is whole, and holds nothing that a contract could name; the text says why."""


class _TooMany(Exception):
    """The messages hold more numbers than the state of a robot."""


class _Camera:
    """Images of one topic: what is kept is a few numbers of each."""

    def __init__(self, kind: str, room: _Room) -> None:
        self.type, self.times = kind, Times()
        self.unusable = ""
        self.unread = Counter[str]()
        self._room, self._look, self._values = room, cameras.Look(kind), array("d")

    def take(self, channel: Channel, losses: Losses) -> Take:
        return decoded(channel, [self._add], losses)

    def _add(self, msg: Any, receipt: int) -> None:
        """Raises BadImage."""
        if self._room.left <= 0:
            self._room.refused += 1
            return
        values = self._look(msg)
        at = msg.header.stamp
        self.times.add(at.sec * 1_000_000_000 + at.nanosec or receipt, receipt)
        self._room.left -= len(values)
        self._values.extend(values)

    def signal(self, topic: str, now: Control | None = None) -> Signal | None:
        if not len(self.times):
            return None
        stamp, receipt, order = self.times.ordered(now)
        values = np.frombuffer(self._values).reshape(len(stamp), len(cameras.LABELS))
        stream = Stream(stamp[order], receipt[order], values[order])
        return Signal(
            topic, self.type, cameras.LABELS, stream,
            channels=self._look.channels or "", pictures=tuple(self._look.pictures),
        )  # fmt: skip


class _Topic:
    """Messages of one topic, as they come."""

    def __init__(self, kind: str, room: _Room) -> None:
        self.type, self.times = kind, Times()
        self.unusable = ""  # why its messages cannot be decoded
        self._room = room
        self._too_many = kind in OTHERS or kind.startswith(OURS)
        self._layouts: dict[Any, _Layout] = {}
        # Layout, by id -> its labels that are of arrays of another length than usual.
        self._strange: dict[int, frozenset[str]] = {}
        self.unread = Counter[str]()
        self.frames = Counter[str]()  # by frame_id

    def take(self, channel: Channel, losses: Losses) -> Take | None:
        """What becomes of a channel's messages; None where they hold no numbers. Those that cannot
        be decoded are counted: nobody knows what they hold."""
        if self._too_many:
            return None
        try:
            store = typestore(channel, losses)
        except Damage as damage:
            self.unusable, take = undecodable(channel, damage, losses)
            return take
        try:
            leaves = list(islice(_leaves(store, channel.type), MAX_VALUES + 1))
        except _TooMany:
            return None
        joints = self.type in READ_BY_JOINT
        if not (joints or 0 < len(leaves) <= MAX_VALUES):
            return None
        read = READ_BY_JOINT[self.type] if joints else _reader(leaves)
        stamped = any(f[0] == "header" for f in store.fielddefs[channel.type][1])

        def add(msg: Any, receipt: int) -> None:
            if self._too_many:
                return
            if self._room.left <= 0:
                self._room.refused += 1
                return
            try:
                key, numbers = read(msg)
                layout = self._layout(key, leaves, joints)
            except _Unread as why:
                self.unread[str(why)] += 1
                return
            except _TooMany:
                self._too_many = True
                self._layouts.clear()
                return
            stamp = receipt
            if stamped:
                at = msg.header.stamp
                stamp = at.sec * 1_000_000_000 + at.nanosec or receipt
                frame = str(msg.header.frame_id)[:80]
                if frame in self.frames or len(self.frames) < MAX_FRAMES:
                    self.frames[frame] += 1
            row = len(self.times)
            self.times.add(stamp, receipt)
            self._room.left -= len(numbers)
            layout.rows.append(row)
            layout.values.extend(numbers)

        return take_with(channel, store, [add], losses)

    def _layout(self, key: Any, leaves: list[tuple[str, bool]], joints: bool) -> _Layout:
        found = self._layouts.get(key)
        if found is None:
            labels = list(_joint_labels(*key) if joints else _labels(leaves, key))
            self._room.names -= len(labels)
            if len(labels) > MAX_VALUES or len(self._layouts) >= MAX_LAYOUTS or self._room.names < 0:  # fmt: skip
                raise _TooMany
            found = self._layouts[key] = _Layout(labels)
        return found

    def signal(self, topic: str, now: Control | None = None) -> Signal | None:
        """All of it, with NaN where a message has not a number; None where nothing is there.

        Joints go by name. Of other arrays only those count that are as long in nearly every message
        that has any: the elements of the rest have no fixed meaning.
        """
        labels = self._all_joints() if self.type in READ_BY_JOINT else self._common()
        count = len(self.times)
        if not labels or not count or len(labels) > MAX_VALUES or count * len(labels) > 4 * MAX_NUMBERS:  # fmt: skip
            return None
        where = {label: i for i, label in enumerate(labels)}
        values = np.full((count, len(labels)), np.nan)
        for layout in self._layouts.values():
            lost = self._strange.get(id(layout), frozenset())
            kept = [i for i, n in enumerate(layout.labels) if n in where and n not in lost]
            numbers = np.frombuffer(layout.values).reshape(len(layout.rows), len(layout.labels))
            columns = np.array([where[layout.labels[i]] for i in kept], np.int64)
            values[np.ix_(np.frombuffer(layout.rows, np.int64), columns)] = numbers[:, kept]
        stamp, receipt, order = self.times.ordered(now)
        if self._strange:
            odd = np.zeros(count, bool)
            for layout in self._layouts.values():
                lost = self._strange.get(id(layout), frozenset())
                odd[np.frombuffer(layout.rows, np.int64)] = (
                    not set(labels) & set(layout.labels) - lost
                )
            order = order[~odd[order]]
        stream = Stream(stamp[order], receipt[order], values[order])
        return Signal(topic, self.type, tuple(labels), stream, frames=dict(self.frames))

    def _common(self) -> list[str]:
        """Labels of what is as long in nearly all messages, in the order of the type. Messages of
        other lengths are counted; of arrays that are of any length, all are."""
        layouts = list(self._layouts.items())
        if not layouts:
            return []
        usual, layout = max(layouts, key=lambda item: len(item[1].rows))
        count = sum(len(x.rows) for _, x in layouts)
        starts = [0, *accumulate(usual)]
        labels: list[str] = []
        for i, (begin, end) in enumerate(zip(starts, starts[1:])):
            others = [(key, x) for key, x in layouts if key[i] != usual[i]]
            if count - sum(len(x.rows) for _, x in others) < MOST * count:
                if end > begin:
                    lengths = sorted({key[i] for key, _ in layouts})
                    why = f"{layout.labels[begin].rpartition('.')[0]} has {lengths[0]} to {lengths[-1]} numbers"
                    self.unread[f"{why}: they have no fixed meaning"] += count
                continue
            labels += layout.labels[begin:end]
            for key, x in others if end > begin else ():
                at = sum(key[:i])
                lost = frozenset(x.labels[at : at + key[i]])
                self._strange[id(x)] = self._strange.get(id(x), frozenset()) | lost
                name = layout.labels[begin].rpartition(".")[0]
                why = f"{name} has {key[i]} numbers, where most messages have {usual[i]}"
                self.unread[why] += len(x.rows)
        return labels

    def _all_joints(self) -> list[str]:
        """Labels of every joint that ever spoke: positions, velocities, efforts."""
        ever = dict.fromkeys(label for x in self._layouts.values() for label in x.labels)
        return sorted(ever, key=lambda label: JOINTS.index(label.partition(".")[0]))


def _leaves(store: Typestore, kind: str, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(attribute path, whether it is an array) of every number, in the order of the definition.
    Raises _TooMany."""
    if prefix.count(".") > 16:
        raise _TooMany
    for name, desc in store.fielddefs[kind][1]:
        if name.endswith("covariance"):
            continue  # how sure a sender is; of an Odometry's 85 numbers 72
        path = prefix + normalize_fieldname(name)
        if desc[0] == Nodetype.NAME and desc[1] not in SKIPPED:
            yield from _leaves(store, str(desc[1]), f"{path}.")
        inner = desc[1][0] if desc[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else desc
        if inner[0] == Nodetype.BASE and inner[1][0] not in ("string", "wstring"):
            yield path, inner is not desc


def _reader(leaves: list[tuple[str, bool]]) -> Any:
    """msg -> (how many numbers each leaf has, the numbers)."""
    get = attrgetter(*(path for path, _ in leaves))
    arrays = any(is_array for _, is_array in leaves)
    ones = (1,) * len(leaves)

    def read(msg: Any) -> tuple[tuple[int, ...], Any]:
        parts = get(msg) if len(leaves) > 1 else (get(msg),)
        if not arrays:
            return ones, array("d", parts)
        lengths = tuple(len(p) if is_array else 1 for p, (_, is_array) in zip(parts, leaves))
        if sum(lengths) > MAX_VALUES:
            raise _TooMany
        if not sum(lengths):
            raise _Unread("empty: no numbers")
        return lengths, array("d", np.hstack(parts).astype(np.float64).tobytes())

    return read


def _labels(leaves: list[tuple[str, bool]], lengths: tuple[int, ...]) -> Iterator[str]:
    for (path, is_array), length in zip(leaves, lengths):
        yield from (f"{path}.{i}" for i in range(length)) if is_array else (path,)


def _joint_state(msg: Any) -> tuple[Any, Any]:
    """((names, which of position, velocity, effort there are), the numbers)."""
    return _joints(msg.name, [getattr(msg, f) for f in JOINTS])


def _trajectory(msg: Any) -> tuple[Any, Any]:
    """The same of a trajectory of one point, which is a command; more of them are a plan."""
    if len(msg.points) > 1:
        raise _Unread(SEVERAL_POINTS)
    if not msg.points:
        raise _Unread("empty: no points")
    point = msg.points[0]
    return _joints(msg.joint_names, [point.positions, point.velocities, point.effort])


def _joints(names: Any, parts: list[Any]) -> tuple[Any, Any]:
    names = tuple(names)
    if len(names) > MAX_VALUES:
        raise _TooMany
    if not names or not any(map(len, parts)):
        raise _Unread("empty: no joints, or none with a number")
    if len(set(names)) != len(names):
        raise SchemaError("joint names appear twice")
    for f, part in zip(JOINTS, parts):
        if len(part) not in (0, len(names)):
            raise SchemaError(f"{f} has {len(part)} values for {len(names)} joint names")
    numbers = np.concatenate(parts).astype(np.float64)
    # Given and not a number: another thing than not given, as `Partial` has it.
    numbers[np.isnan(numbers)] = np.inf
    return (names, tuple(bool(len(p)) for p in parts)), array("d", numbers.tobytes())


READ_BY_JOINT = {
    "sensor_msgs/JointState": _joint_state,
    "trajectory_msgs/JointTrajectory": _trajectory,
}


def _joint_labels(names: tuple[str, ...], there: tuple[bool, ...]) -> Iterator[str]:
    for f, has in zip(JOINTS, there):
        yield from (f"{f}.{n}" for n in names if has)
