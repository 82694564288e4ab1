"""Bags of our own from numbers: messages as a contract has them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import get_typestore

from qgf_ros.bags.sources import frame_of
from qgf_ros.bags.types import STORE, long_type
from qgf_ros.bags.writer import CheckedWriter
from qgf_ros.errors import UsageError
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.messages import TYPES, message_type
from qgf_ros.spaces.messages.joints import Joints
from qgf_ros.spaces.source import Source


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
        self._store = get_typestore(STORE)
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
        header = self.make(
            "std_msgs/Header",
            stamp=self.make("builtin_interfaces/Time", sec=stamp // 10**9, nanosec=stamp % 10**9),
            frame_id=f"{int(values[0])}"
            if source.type == "std_msgs/Header" and len(values)
            else frame_of(source),
        )
        msg = message_type(source.type).encode(
            self.make, source.fields, source.names, values, header
        )
        self._writer.write(
            self._connections[name], receipt, self._store.serialize_cdr(msg, long_type(source.type))
        )

    def make(self, type_name: str, **fields: Any) -> Any:
        return self._store.types[long_type(type_name)](**fields)
