"""Bags from numbers: messages as a contract has them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import get_typestore
from rosbags.typesys.store import Typestore

from qgf_ros.bags.sources import contract_sources, frame_of
from qgf_ros.bags.types import STORE, long_type
from qgf_ros.bags.writer import CheckedWriter
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages import TYPES, message_type
from qgf_ros.spaces.messages.joints import Joints
from qgf_ros.spaces.observations.image import COMPRESSED
from qgf_ros.spaces.observations.image import TYPES as IMAGES
from qgf_ros.spaces.source import Source
from training.pipeline.frames import Kept
from training.pipeline.labels import Label
from training.pipeline.streams import Recording, Stream

EPOCH = 1_760_000_000 * 10**9  # ns: what has no date begins at one, and not in 1970


@cache
def _store() -> Typestore:
    """One for all bags: it compiles what serializes a type when it meets the first message of it."""
    return get_typestore(STORE)


def _names_its_joints(source: Source) -> bool:
    return isinstance(source, ActionSpec) and isinstance(message_type(source.type), Joints)


class BagWriter:
    """Writes numbers as the messages that a contract names.

    Use as a context manager. Raises UsageError if the bag exists already, or if sources share a
    topic: each would write messages that lack the other's numbers.
    """

    def __init__(
        self, path: Path, sources: dict[str, Source], storage: Literal["mcap", "sqlite3"] = "mcap"
    ) -> None:
        if path.exists():
            raise UsageError(f"{path} exists already; choose another folder or remove it")
        # Those that name their joints write messages of their own: a contract gives each joint once.
        alone = {n: s for n, s in sources.items() if not _names_its_joints(s)}
        others = {s.topic for s in sources.values() if _names_its_joints(s)}
        topics = Counter([s.topic for s in alone.values()] + sorted(others))
        shared = [f"{n} ({s.topic})" for n, s in sources.items() if topics[s.topic] > 1]
        if shared:
            raise UsageError(
                f"{', '.join(shared)} share a topic; such messages can be read, not written"
            )
        foreign = sorted({s.type for s in sources.values() if s.type not in TYPES})
        if foreign:
            raise UsageError(f"{', '.join(foreign)}: such messages can be read, not written")
        self._sources = sources
        self._store = _store()
        self._writer = CheckedWriter(path, version=9, storage_plugin=StoragePlugin[storage.upper()])

    def __enter__(self) -> BagWriter:
        self._writer.open()
        by_topic = {
            topic: self._writer.add_connection(f"/{topic}", long_type(kind), typestore=self._store)
            for topic, kind in {s.topic: s.type for s in self._sources.values()}.items()
        }
        self._connections = {name: by_topic[s.topic] for name, s in self._sources.items()}
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, name: str, stamp: int, receipt: int, values: np.ndarray) -> None:
        """One message: header stamp and receipt in ns."""
        source = self._sources[name]
        numbered = source.type == "std_msgs/Header" and len(values)
        header = self._header(stamp, f"{int(values[0])}" if numbered else frame_of(source))
        msg = source.encode(self.make, values, header)
        self._put(name, receipt, msg)

    def write_image(self, name: str, stamp: int, receipt: int, image: np.ndarray) -> None:
        """One message of a camera, see `images.messages.message`."""
        from qgf_ros.images.messages import message  # of cameras alone

        self._put(name, receipt, message(self.make, self._sources[name].type, self._header(stamp, name), image))

    def write_packed(self, name: str, stamp: int, receipt: int, packed: tuple[str, bytes]) -> None:
        """One CompressedImage of a camera: its format and data, as they are."""
        said, data = packed
        array, header = np.frombuffer(data, np.uint8), self._header(stamp, name)
        kind = self._sources[name].type
        self._put(name, receipt, self.make(kind, header=header, format=said, data=array))

    def _header(self, stamp: int, frame: str) -> Any:
        time = self.make("builtin_interfaces/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
        return self.make("std_msgs/Header", stamp=time, frame_id=frame)

    def _put(self, name: str, receipt: int, msg: Any) -> None:
        raw = self._store.serialize_cdr(msg, long_type(self._sources[name].type))
        self._writer.write(self._connections[name], receipt, raw)

    def make(self, type_name: str, **fields: Any) -> Any:
        return self._store.types[long_type(type_name)](**fields)


class BagFormat:
    """A bag per recording; labels cannot be said in one. Images are compressed, those that already were
    stay as they are."""

    messages = True

    def __init__(self, name: Any) -> None:
        self._storage = name

    def check(self, contract: Contract) -> None:
        pass

    def write(
        self,
        recording: Recording,
        contract: Contract,
        labels: Mapping[str, Label] | None,
        path: Path,
    ) -> dict[str, int]:
        if recording.cut and contract.outcome.assume_success:
            raise UsageError(
                f"{recording.name} was cut, and the contract assumes success; a bag cannot say so: give "
                "the contract a success source, or leave this recording out"
            )
        sources = {name: _packed(source) for name, source in contract_sources(contract).items()}
        streams = _as_said(recording, contract)
        times = [int(s.receipt[0]) for s in streams.values() if len(s)]
        if not times:
            raise DataRefused(f"{recording.name} is empty")
        first = np.array([min(times)])
        if recording.one_episode and "episode_start" in sources:
            width = len(sources["episode_start"].labels)
            streams["episode_start"] = Stream(first, first, np.zeros((1, width)))
        shift = EPOCH if first[0] < EPOCH // 2 else 0
        rows = [
            (int(receipt) + shift, name, int(stamp) + shift, values)
            for name, stream in streams.items()
            for stamp, receipt, values in zip(stream.stamp, stream.receipt, stream.values)
        ]
        part = path.parent / f".{path.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with BagWriter(part / path.name, sources, self._storage) as bag:
            for receipt, name, stamp, values in sorted(rows, key=lambda row: row[:2]):
                frames = recording.frames.get(name)
                if frames is None:
                    bag.write(name, stamp, receipt, values)
                    continue
                assert isinstance(frames, Kept), "a conversion reads images as they were recorded"
                packed = frames.packed(int(values[0]))
                if packed is not None:
                    bag.write_packed(name, stamp, receipt, packed)
                else:
                    bag.write_image(name, stamp, receipt, frames.image(int(values[0])))
        (part / path.name).rename(path)
        part.rmdir()
        counts = {sources[name].topic: len(stream) for name, stream in streams.items()}
        return counts | {
            f"message rejected: {reason}": n for reason, n in recording.rejected.items()
        }

    def finish(self, out: Path, contract: Contract) -> None:
        pass


def _packed(source: Source) -> Source:
    """A camera's raw images are written compressed, where image_transport publishes them so."""
    raw, compressed = IMAGES
    if source.type != raw:
        return source
    return replace(source, topic=f"{source.topic}/{COMPRESSED[0]}", type=compressed)


def _as_said(recording: Recording, contract: Contract) -> dict[str, Stream]:
    """The streams as messages. Of many attempts a table says of each row whether it is a success; in
    a bag a message that says false would be a failure."""
    streams, success = dict(recording.streams), contract.outcome.success
    if contract.outcome.attempts is None or not recording.one_episode:
        return streams
    if success is not None and not success.test and "success" in streams:
        said = streams["success"]
        won = said.receipt[said.values[:, 0] != 0]
        at = np.union1d(won, recording.over)  # a terminal state that is no success is a failure
        streams["success"] = Stream(at, at, np.isin(at, won)[:, None].astype(np.float64))
    return streams
