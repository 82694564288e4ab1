"""rosbag2: MCAP and sqlite3, split and compressed, whole and damaged; no ROS needed."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.contract import Contract, Source
from qgf_ros.errors import DataRefused
from qgf_ros.messages import MessageType, SchemaError, message_type
from training.data import bag_files
from training.data.bag_damage import Damage, Losses
from training.data.bag_survey import survey_bag
from training.data.bag_types import Channel, Take, take_with, typestore
from training.data.bag_writer import BagWriter as BagWriter
from training.data.bag_writer import frame_of
from training.data.streams import Recording, Stream, Survey

MAX_NAMED = 50  # topics in an error


class Rosbag2Reader:
    """A folder with metadata.yaml or with bag files is a bag, and so is a bag file; a folder of
    such folders or files is a dataset. See bag_files.py."""

    def recognises(self, path: Path) -> bool:
        try:
            return bool(bag_files.names(path))
        except DataRefused:  # `recordings` says why
            return True

    def recordings(self, path: Path) -> list[str]:
        return bag_files.names(path)

    def files(self, path: Path, name: str) -> list[Path]:
        return bag_files.open_bag(path, name).all_files()

    def survey(self, path: Path, name: str) -> Survey:
        return survey_bag(bag_files.open_bag(path, name), name)

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        bag = bag_files.open_bag(path, name)
        losses = Losses()
        rows = {s: _Rows(source) for s, source in contract_sources(contract).items()}
        by_topic: dict[str, list[_Rows]] = defaultdict(list)  # sources may share a topic
        for own in rows.values():
            by_topic[_bare(own.source.topic)].append(own)
        topics: set[str] = set()

        def choose(channel: Channel) -> Take | None:
            topics.add(channel.topic)
            sources = by_topic.get(_bare(channel.topic), [])
            for own in sources:
                _check_type(bag.path, own.source, channel)
            if not sources:
                return None
            try:
                store = typestore(channel)
            except Damage as damage:
                why = f"{_bare(channel.topic)}: {damage}"
                return lambda receipt, raw: losses.add(why)
            return take_with(channel, store, [own.add for own in sources], losses)

        for _ in bag_files.read_messages(bag, choose, losses):
            for own in rows.values():
                own.ends.append(len(own))
        damage_note = f"; damage: {'; '.join(losses)}" if losses else ""
        for s, own in rows.items():
            if _bare(own.source.topic) not in map(_bare, topics):
                there = ", ".join(sorted(topics)[:MAX_NAMED]) or "no topic that can be read"
                raise DataRefused(
                    f"{bag.path} has no topic {own.source.topic!r}, which the contract needs for "
                    f"{s!r}; it has {there}{damage_note}"
                )
        silent = [rows[o.name].source.topic for o in contract.observations if not rows[o.name]]
        if silent:
            raise DataRefused(
                f"{bag.path} has no usable message on {', '.join(silent)}, which the contract "
                f"observes{damage_note}"
            )
        return Recording(name, {s: own.stream() for s, own in rows.items()}, dict(losses))


def contract_sources(contract: Contract) -> dict[str, Source]:
    """Every source of a contract by its name."""
    return (
        {o.name: o for o in contract.observations}
        | {a.name: a for a in contract.actions}
        | contract.outcome.sources
    )


class _Rows:
    """Messages of one source, as they come."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._decode = _decoder(message_type(source.type), source)
        self._frame = frame_of(source).strip("/")
        self._header = (
            (lambda msg: msg) if source.type == "std_msgs/Header" else attrgetter("header")
        )
        self._times = array("q")  # stamp and receipt in turn
        self._values = array("d")
        self.ends: list[int] = []  # of the files

    def __len__(self) -> int:
        return len(self._times) // 2

    def add(self, msg: Any, receipt: int) -> None:
        """Raises whatever a message that does not fit leads to, and is then as before."""
        values = self._decode(msg)
        if self._frame and msg.header.frame_id.strip("/") not in ("", self._frame):
            raise SchemaError(
                f"frame_id is {msg.header.frame_id!r}, the contract says {frame_of(self.source)!r}"
            )
        stamp = receipt
        if self.source.stamp == "header":
            header = self._header(msg).stamp
            stamp = header.sec * 1_000_000_000 + header.nanosec or receipt  # unset is no stamp
        self._times.extend(array("q", (stamp, receipt)))
        self._values.frombytes(values)

    def stream(self) -> Stream:
        """In order of receipt within each file; files follow one another."""
        stamp, receipt = np.array(self._times, np.int64).reshape(-1, 2).T
        order = bag_files.receipt_order(receipt, self.ends)
        values = np.array(self._values, np.float64).reshape(len(self), len(self.source.labels))
        return Stream(stamp[order], receipt[order], values[order])


def _decoder(kind: MessageType, source: Source) -> Callable[[Any], bytes]:
    """`kind.decode` as bytes of float64, with what is the same for all messages done once.

    What does not fit is left to `kind.decode`: it says why.
    """
    fields, names = source.fields, source.names
    if kind.name == "sensor_msgs/JointState":
        return _joint_decoder(kind, fields, names)
    paths = [label for f in fields for label in kind.labels(f)]
    if not paths:
        return lambda msg: kind.decode(msg, fields, names).tobytes()
    get = attrgetter(*paths)
    one = len(paths) == 1

    def decode(msg: Any) -> bytes:
        try:
            return array("d", (get(msg),) if one else get(msg)).tobytes()
        except (AttributeError, TypeError):
            return kind.decode(msg, fields, names).tobytes()

    return decode


def _joint_decoder(
    kind: MessageType, fields: tuple[str, ...], names: tuple[str, ...]
) -> Callable[[Any], bytes]:
    """Drivers name their joints in the same order each time: it is looked up when it changes."""
    seen: list[str] = []  # `names` is never empty: nothing fits before the first message
    order = np.empty(0, np.intp)

    def decode(msg: Any) -> bytes:
        nonlocal seen, order
        if msg.name == seen and all(len(getattr(msg, f)) == len(seen) for f in fields):
            parts = [np.asarray(getattr(msg, f), np.float64) for f in fields]
            return b"".join([part.take(order).tobytes() for part in parts])
        values = kind.decode(msg, fields, names).tobytes()
        seen, order = list(msg.name), np.array([msg.name.index(n) for n in names], np.intp)
        return values

    return decode


def _check_type(bag: Path, source: Source, channel: Channel) -> None:
    """The contract's type is the only one that its topic may carry."""
    if channel.short_type != source.type:
        raise DataRefused(
            f"{bag}: {source.topic} carries {channel.short_type}, the contract says {source.type}"
        )


def _bare(topic: str) -> str:
    """A topic with and without a leading slash is the same."""
    return topic.strip("/")
