"""The sources of a contract in a bag: which there are, and the numbers of their messages."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.bags.types import Channel
from qgf_ros.control.merge import Merger
from qgf_ros.errors import DataRefused
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.base import MessageType, SchemaError
from qgf_ros.spaces.messages.joints import Joints, Others
from qgf_ros.spaces.observations.image import TYPES as CAMERAS
from qgf_ros.spaces.observations.image import topics_of
from qgf_ros.spaces.observations.source import ObservationSource
from qgf_ros.spaces.source import Source

# For sources that are decoded otherwise than their type is, cameras above all: what turns a message into
# numbers, as bytes of float64, and how many there are.
Decoders = Mapping[str, tuple[Callable[[Any], bytes], int]]


def contract_sources(contract: Contract) -> dict[str, Source]:
    """Every source of a contract by its name."""
    return (
        {o.name: o for o in contract.observations}
        | {a.name: a for a in contract.actions}
        | contract.outcome.sources
    )


class Decoder:
    """Stamp and numbers of the messages of one source."""

    def __init__(self, source: Source, decode: Callable[[Any], bytes] | None = None) -> None:
        """decode: takes the place of what is done for its type of message."""
        self._source = source
        self._decode = decode or _decoder(message_type(source.type), source)
        self._frame = frame_of(source).strip("/")
        self._header = (
            (lambda msg: msg) if source.type == "std_msgs/Header" else attrgetter("header")
        )

    def stamp(self, msg: Any, receipt: int) -> int:
        """When a message was true [ns]."""
        if self._source.stamp != "header":
            return receipt
        stamp = self._header(msg).stamp
        return stamp.sec * 1_000_000_000 + stamp.nanosec or receipt  # unset is no stamp

    def __call__(self, msg: Any, receipt: int) -> tuple[int, bytes]:
        """When it was true [ns], and its numbers as float64, in the order of the source's labels.

        Raises whatever a message that does not fit leads to.
        """
        values = self._decode(msg)
        if self._frame and msg.header.frame_id.strip("/") not in ("", self._frame):
            raise SchemaError(
                f"frame_id is {msg.header.frame_id!r}, the contract says {frame_of(self._source)!r}"
            )
        return self.stamp(msg, receipt), values


def frame_of(source: Source) -> str:
    """The axes of a stamped command. The same numbers in other axes are another command."""
    stamped = isinstance(source, ActionSpec) and message_type(source.type).stamped
    return source.frame if isinstance(source, ActionSpec) and stamped else ""


def merges(source: Source) -> bool:
    """Whether a source is merged by joint; then its numbers are NaN where a message lacks them."""
    return isinstance(source, ObservationSource) and bool(source.merge)


def about_others(source: Source, actions: int, error: Exception) -> bool:
    """Whether a message that cannot be used is one that need not be: of joints that are not this
    source's, where that is said. actions: how many command its topic."""
    said = merges(source) or (isinstance(source, ActionSpec) and actions > 1)
    return said and isinstance(error, Others)


class Partial:
    """Merges the messages of one source as `Decoder` gives them, in order of receipt."""

    def __init__(self, source: ObservationSource) -> None:
        self._merger = Merger(source)
        self._shape = (len(source.fields), len(source.names))

    def __call__(self, stamp: int, values: np.ndarray) -> tuple[int, np.ndarray] | None:
        """values: NaN of all fields where the message lacks a joint."""
        there = ~np.isnan(values.reshape(self._shape)).all(axis=0)
        return self._merger.add(stamp, values, there)


def _decoder(kind: MessageType, source: Source) -> Callable[[Any], bytes]:
    """`kind.decode` as bytes of float64, with what is the same for all messages done once.

    What does not fit is left to `kind.decode`: it says why.
    """
    fields, names = source.fields, source.names
    if isinstance(source, ActionSpec) and source.kind.converts:
        return lambda msg: source.decode(msg).tobytes()
    if merges(source):
        assert isinstance(kind, Joints)
        return lambda msg: _some(kind, msg, fields, names)
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


def _some(kind: Joints, msg: Any, fields: tuple[str, ...], names: tuple[str, ...]) -> bytes:
    values, there = kind.decode_some(msg, fields, names)
    parts = values.reshape(len(fields), -1)
    # Given and not a number: another thing than not given. Infinite is as unusable, and told apart.
    parts[:, there] = np.where(np.isnan(parts[:, there]), np.inf, parts[:, there])
    return parts.tobytes()


def _joint_decoder(
    kind: MessageType, fields: tuple[str, ...], names: tuple[str, ...]
) -> Callable[[Any], bytes]:
    """Drivers name their joints in the same order each time: it is looked up when it changes."""
    seen: list[str] = []  # a message may be empty, too
    order = np.empty(0, np.intp)

    def decode(msg: Any) -> bytes:
        nonlocal seen, order
        if seen and msg.name == seen and all(len(getattr(msg, f)) == len(seen) for f in fields):
            parts = [np.asarray(getattr(msg, f), np.float64) for f in fields]
            return b"".join([part.take(order).tobytes() for part in parts])
        values = kind.decode(msg, fields, names).tobytes()
        seen, order = list(msg.name), np.array([msg.name.index(n) for n in names], np.intp)
        return values

    return decode


def topics(source: Source) -> dict[str, str]:
    """Topic -> type, under which a source may be recorded: the contract's, and of cameras another."""
    if source.type in CAMERAS:
        return topics_of(source.topic, source.type)
    return {source.topic: source.type}


def check_type(bag: Path, source: Source, channel: Channel) -> None:
    """The contract's type is the only one that its topic may carry."""
    known = {bare(topic): type_name for topic, type_name in topics(source).items()}
    if channel.short_type != known[bare(channel.topic)]:
        raise DataRefused(
            f"{bag}: {channel.topic.strip('/')} carries {channel.short_type}, the contract says {source.type}"
        )


def bare(topic: str) -> str:
    """A topic with and without a leading slash is the same."""
    return topic.strip("/")
