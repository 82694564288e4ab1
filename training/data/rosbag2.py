"""rosbag2, read and written with rosbags; no ROS needed. MCAP and sqlite3, split and compressed."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from qgf_ros.contract import ActionSpec, Contract, Source
from qgf_ros.errors import DataRefused, QgfError, UsageError
from qgf_ros.messages import SchemaError, message_type
from training.data.streams import Recording, Stream

STORE = Stores.ROS2_KILTED


class Rosbag2Reader:
    """A folder with metadata.yaml is a bag; a folder of such folders is a dataset."""

    def recognises(self, path: Path) -> bool:
        return bool(self._bags(path))

    def recordings(self, path: Path) -> list[str]:
        return [str(bag.relative_to(path)) for bag in self._bags(path)]

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        bag = path / name
        sources = contract_sources(contract)
        rows: dict[str, list[tuple[int, int, np.ndarray]]] = defaultdict(list)
        rejected: Counter[str] = Counter()
        try:
            with AnyReader([bag], default_typestore=get_typestore(STORE)) as reader:
                connections: dict[int, list[str]] = defaultdict(list)  # sources may share a topic
                for s in sources:
                    for c in self._connections(reader, bag, sources[s], s):
                        connections[c.id].append(s)
                wanted = [c for c in reader.connections if c.id in connections]
                for connection, receipt, raw in reader.messages(connections=wanted):
                    for s in connections[connection.id]:
                        try:
                            msg = reader.deserialize(raw, connection.msgtype)
                            rows[s].append(_decode(sources[s], msg, receipt))
                        except (
                            Exception
                        ) as error:  # noise in a message: whatever decoding runs into
                            rejected[
                                f"{sources[s].topic}: {type(error).__name__}: {error}"[:200]
                            ] += 1
        except QgfError:
            raise
        except Exception as error:  # a damaged file: rosbags raises what it runs into
            text = " ".join(str(error).split())[:300]
            raise DataRefused(
                f"{bag} cannot be read ({type(error).__name__}: {text}); is it whole?"
            ) from None
        streams = {s: _stream(rows[s], len(sources[s].labels)) for s in sources}
        silent = [sources[o.name].topic for o in contract.observations if not len(streams[o.name])]
        if silent:
            raise DataRefused(
                f"{bag} has no usable message on {', '.join(silent)}, which the contract observes"
            )
        return Recording(name, streams, dict(rejected))

    def files(self, path: Path, name: str) -> list[Path]:
        return sorted(p for p in (path / name).iterdir() if p.is_file())

    @staticmethod
    def _bags(path: Path) -> list[Path]:
        if (path / "metadata.yaml").is_file():
            return [path]
        return sorted(p.parent for p in path.glob("*/metadata.yaml")) if path.is_dir() else []

    @staticmethod
    def _connections(reader: AnyReader, bag: Path, source: Source, name: str) -> list[Connection]:
        """The bag's connections of a source. A topic with and without a leading slash is the same."""
        topics = {c.topic for c in reader.connections}
        found = [c for c in reader.connections if c.topic.strip("/") == source.topic.strip("/")]
        if not found:
            raise DataRefused(
                f"{bag} has no topic {source.topic!r}, which the contract needs for {name!r}; "
                f"it has {', '.join(sorted(topics))}"
            )
        wrong = {c.msgtype.replace("/msg/", "/") for c in found} - {source.type}
        if wrong:
            raise DataRefused(
                f"{bag}: {source.topic} carries {', '.join(wrong)}, the contract says {source.type}"
            )
        return found


def contract_sources(contract: Contract) -> dict[str, Source]:
    """Every source of a contract by its name."""
    return (
        {o.name: o for o in contract.observations}
        | {a.name: a for a in contract.actions}
        | contract.outcome.sources
    )


def _decode(source: Source, msg: Any, receipt: int) -> tuple[int, int, np.ndarray]:
    kind = message_type(source.type)
    values = kind.decode(msg, source.fields, source.names)
    frame = _frame(source)
    if frame and msg.header.frame_id.strip("/") not in ("", frame.strip("/")):
        raise SchemaError(f"frame_id is {msg.header.frame_id!r}, the contract says {frame!r}")
    stamp = receipt
    if source.stamp == "header":
        header = (msg if source.type == "std_msgs/Header" else msg.header).stamp
        stamp = header.sec * 1_000_000_000 + header.nanosec or receipt  # an unset stamp is no stamp
    return stamp, receipt, values


def _frame(source: Source) -> str:
    """The axes of a stamped command. The same numbers in other axes are another command."""
    stamped = isinstance(source, ActionSpec) and message_type(source.type).stamped
    return source.frame if isinstance(source, ActionSpec) and stamped else ""


def _stream(rows: list[tuple[int, int, np.ndarray]], width: int) -> Stream:
    if not rows:
        empty = np.empty(0, np.int64)
        return Stream(empty, empty, np.empty((0, width)))
    stamp, receipt, values = zip(*rows)
    return Stream(
        np.array(stamp, np.int64),
        np.array(receipt, np.int64),
        np.stack(values).reshape(len(rows), width),
    )


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
        topics = Counter(s.topic for s in sources.values())
        shared = [f"{n} ({s.topic})" for n, s in sources.items() if topics[s.topic] > 1]
        if shared:
            raise UsageError(
                f"{', '.join(shared)} share a topic; such messages can be read, not written"
            )
        self._sources = sources
        self._store = get_typestore(STORE)
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])

    def __enter__(self) -> BagWriter:
        self._writer.open()
        self._connections = {
            name: self._writer.add_connection(f"/{s.topic}", _long(s.type), typestore=self._store)
            for name, s in self._sources.items()
        }
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
            else _frame(source),
        )
        msg = message_type(source.type).encode(
            self.make, source.fields, source.names, values, header
        )
        self._writer.write(
            self._connections[name], receipt, self._store.serialize_cdr(msg, _long(source.type))
        )

    def make(self, type_name: str, **fields: Any) -> Any:
        return self._store.types[_long(type_name)](**fields)


def _long(type_name: str) -> str:
    package, name = type_name.split("/")
    return f"{package}/msg/{name}"
