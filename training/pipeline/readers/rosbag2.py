"""rosbag2: MCAP and sqlite3, split and compressed, whole and damaged; no ROS needed."""

from __future__ import annotations

import contextlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.bags import files
from qgf_ros.bags.clock import CLOCK_TYPE, Control, RecordedClock
from qgf_ros.bags.damage import Damage, Losses
from qgf_ros.bags.sources import Decoder, Partial, about_others, bare, check_type, merges
from qgf_ros.bags.sources import contract_sources as contract_sources
from qgf_ros.bags.types import Channel, Take, take_with, typestore
from qgf_ros.errors import DataRefused
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages.base import SchemaError
from qgf_ros.spaces.messages.joints import Others
from qgf_ros.spaces.observations.source import ObservationSource
from qgf_ros.spaces.source import Source
from training.doctor.bag_survey import survey_bag
from training.pipeline.streams import Recording, Stream, Survey
from training.pipeline.writers.bag import BagWriter as BagWriter

MAX_NAMED = 50  # topics in an error


class Rosbag2Reader:
    """A folder with metadata.yaml or with bag files is a bag, and so is a bag file; a folder of
    such folders or files is a dataset. See qgf_ros/bags/files.py."""

    version = 5  # raised when the same files give something else, see `stages`

    def recognises(self, path: Path) -> bool:
        try:
            return bool(files.names(path))
        except DataRefused:  # `recordings` says why
            return True

    def recordings(self, path: Path) -> list[str]:
        return files.names(path)

    def files(self, path: Path, name: str) -> list[Path]:
        return files.open_bag(path, name).all_files()

    def survey(self, path: Path, name: str) -> Survey:
        return survey_bag(files.open_bag(path, name), name)

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        bag = files.open_bag(path, name)
        losses = Losses()
        rows = {s: _Rows(source) for s, source in contract_sources(contract).items()}
        clock = RecordedClock()
        by_topic: dict[str, list[_Rows]] = defaultdict(list)  # sources may share a topic
        for own in rows.values():
            by_topic[bare(own.source.topic)].append(own)
        topics: set[str] = set()

        def choose(channel: Channel) -> Take | None:
            topics.add(channel.topic)
            if channel.short_type == CLOCK_TYPE:
                return clock.take(channel, losses)
            sources = by_topic.get(bare(channel.topic), [])
            for own in sources:
                check_type(bag.path, own.source, channel)
            if not sources:
                return None
            try:
                store = typestore(channel, losses)
            except Damage as damage:
                why = f"{bare(channel.topic)}: {damage}"
                take: Take = lambda receipt, raw: losses.add(why)  # noqa: E731
            else:
                take = take_with(channel, store, together(sources), losses)
            commands = [own for own in sources if own.command]
            return _watched(take, commands) if commands else take

        for _ in files.read_messages(bag, choose, losses):
            for own in rows.values():
                own.ends.append(len(own))
        damage_note = f"; damage: {'; '.join(losses)}" if losses else ""
        for s, own in rows.items():
            if bare(own.source.topic) not in map(bare, topics):
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
        times = {s: own.times() for s, own in rows.items()}
        now = clock.control([receipt for _, receipt in times.values()])
        streams, refused = {}, {}
        for s, own in rows.items():
            streams[s] = own.stream(*times[s], now)
            if own.refused:
                refused[s] = own.refused_at(now)
        if now is not None:
            early = sum(len(own) - len(streams[s]) for s, own in rows.items() if not own.merges)
            if early:
                losses.add("received before the first /clock", early)
        elif clock.said:
            losses.add(clock.said)
        return Recording(name, streams, dict(losses), refused=refused)


def together(sources: Sequence[_Rows]) -> list[Callable[[Any, int], None]]:
    """What takes a message of a topic that several sources may read: counted once, and not where it
    need not be theirs."""
    actions = sum(own.command for own in sources)

    def use(msg: Any, receipt: int) -> None:
        said, taken, others = None, False, None
        for own in sources:
            try:
                own.add(msg, receipt)
                taken = True
            except Exception as error:
                if about_others(own.source, actions, error):
                    own.pending = False
                    others = None if merges(own.source) else error
                else:
                    said = said or error
        if said is None and not taken:
            said = others
        if said is not None:
            raise said

    return [use] if len(sources) > 1 or merges(sources[0].source) else [sources[0].add]


def _watched(take: Take, commands: Sequence[_Rows]) -> Take:
    """Keeps when a command came that cannot be used, also where not even its stamp can be read."""

    def watched(receipt: int, raw: bytes | memoryview) -> None:
        for own in commands:
            own.pending = True
        take(receipt, raw)
        for own in commands:
            if own.pending:
                own.refused.extend((receipt, receipt))

    return watched


class _Rows:
    """Messages of one source, as they come."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._decode = Decoder(source)
        self._times = array("q")  # stamp and receipt in turn
        self._values = array("d")
        self.ends: list[int] = []  # of the files
        self.command = isinstance(source, ActionSpec)
        self.merges = merges(source)
        self.pending = False  # a message has come and is not dealt with
        self.refused = array("q")  # stamp and receipt in turn, of commands that cannot be used

    def __len__(self) -> int:
        return len(self._times) // 2

    def add(self, msg: Any, receipt: int) -> None:
        """Raises whatever a message that does not fit leads to, and is then as before."""
        try:
            stamp, values = self._decode(msg, receipt)
            times = array("q", (stamp, receipt))
            if len(values) != 8 * len(self.source.labels):
                raise SchemaError(f"{len(values) // 8} numbers of {len(self.source.labels)}")
        except Others:
            self.pending = False  # no command of this one's
            raise
        except Exception:
            if self.command:
                with contextlib.suppress(Exception):
                    self.refused.extend(array("q", (self._decode.stamp(msg, receipt), receipt)))
                    self.pending = False
            raise
        self.pending = False
        self._times.extend(times)
        self._values.frombytes(values)

    def times(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamp and receipt as they were recorded [ns], (N,) each."""
        stamp, receipt = np.array(self._times, np.int64).reshape(-1, 2).T
        return stamp, receipt

    def refused_at(self, now: Control | None) -> np.ndarray:
        """(K,) ns."""
        stamp, receipt = np.array(self.refused, np.int64).reshape(-1, 2).T
        if now is not None:
            stamp, _, keep = now(stamp, receipt)
            stamp = stamp[keep]
        return np.sort(stamp)

    def stream(self, stamp: np.ndarray, receipt: np.ndarray, now: Control | None) -> Stream:
        """In order of receipt within each file; files follow one another. now: the control clock
        where that is not the recorder's; what came before it is left out."""
        order = files.receipt_order(receipt, self.ends)
        values = np.array(self._values, np.float64).reshape(len(self), len(self.source.labels))
        if now is not None:
            stamp, receipt, keep = now(stamp, receipt)
            order = order[keep[order]]
        stream = Stream(stamp[order], receipt[order], values[order])
        return merged(self.source, stream) if isinstance(self.source, ObservationSource) else stream


def merged(source: ObservationSource, stream: Stream) -> Stream:
    """With `merge: joints`, what was known of all joints after each message; else the stream."""
    if not source.merge:
        return stream
    add, rows = Partial(source), []
    for stamp, receipt, values in zip(
        stream.stamp.tolist(), stream.receipt.tolist(), stream.values
    ):
        known = add(stamp, values)
        if known is not None:
            rows.append((known[0], receipt, known[1]))
    width = len(source.labels)
    return Stream(
        np.array([r[0] for r in rows], np.int64),
        np.array([r[1] for r in rows], np.int64),
        np.array([r[2] for r in rows], np.float64).reshape(len(rows), width),
    )
