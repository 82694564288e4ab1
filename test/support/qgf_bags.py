"""Bags for tests: whole ones in every storage, and MCAP files of any content, record by record."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from qgf_make import ARM_FILE, SECOND, START
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from qgf_ros.bags.sources import contract_sources
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.orientation import quaternions
from training.pipeline.writers.bag import BagWriter

T = SECOND // 20
ARM = Contract.load(ARM_FILE)
MAGIC = b"\x89MCAP0\r\n"


def numbers(source, rng, scale=1.0):
    """Random numbers of a message (labels,); its orientations are rotations."""
    values = rng.normal(size=len(source.labels)) * scale
    for part in quaternions(source.type, source.fields):
        values[part] /= np.linalg.norm(values[part])
    return values


def write(path, own, ticks=30, seed=0, skip=(), sources=None):
    """A bag of one episode; returns what was written, by source: (stamp, receipt, values)."""
    rng = np.random.default_rng(seed)
    sources = sources or contract_sources(own)
    written = {name: [] for name in sources}
    with BagWriter(path, sources) as bag:

        def say(name, stamp, receipt, values):
            bag.write(name, stamp, receipt, values)
            written[name].append((stamp, receipt, values))

        for name in sources:
            if name == "episode_start":
                say(name, START - 5, START - 5, np.array([3.0]))
        for k in range(ticks):
            at = START + k * T
            for name, source in sources.items():
                if name in skip or name in ("episode_start", "success"):
                    continue
                stamped = source.stamp == "header"
                receipt = at + int(rng.integers(1, T // 200))
                values = numbers(source, rng, 10 ** rng.uniform(-8, 8))
                say(name, at if stamped else receipt, receipt, values)
        if "success" in sources:
            end = START + ticks * T - T // 10
            say("success", end, end, np.array([1.0]))
    return written


def copy_bag(source, target, storage="sqlite3", compression="none", messages=slice(None)):
    """The messages of a bag as rosbags writes them in another storage or compression."""
    with AnyReader([source]) as reader:
        writer = Writer(target, version=9, storage_plugin=StoragePlugin[storage.upper()])
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
        with writer:
            targets = {
                c.id: writer.add_connection(c.topic, c.msgtype, typestore=reader.typestore)
                for c in reader.connections
            }
            for connection, at, raw in list(reader.messages())[messages]:
                writer.write(targets[connection.id], at, raw)


def same(one, other) -> bool:
    """Whether two recordings say the same, to the last bit."""
    return one.streams.keys() == other.streams.keys() and all(
        np.array_equal(getattr(s, part), getattr(other.streams[name], part))
        for name, s in one.streams.items()
        for part in ("stamp", "receipt", "values")
    )


def count(recording) -> int:
    return sum(map(len, recording.streams.values()))


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of what is in it."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "/"
        for p in sorted(folder.rglob("*"))
    }  # fmt: skip


def records(data: bytes, begin: int = 8, end: int | None = None) -> list[tuple[int, int, int]]:
    """(opcode, first byte, last byte) of the whole records of an MCAP file, in order."""
    found, at, end = [], begin, len(data) if end is None else end
    while at + 9 <= end:
        opcode, length = struct.unpack_from("<BQ", data, at)
        if at + 9 + length > end:
            break
        found.append((opcode, at, at + 9 + length))
        if opcode == 0x02:
            break
        at += 9 + length
    return found


def whole_messages(data: bytes) -> int:
    """Messages in the whole chunks of an uncompressed MCAP file, or what there is of one."""
    return sum(
        sum(op == 0x05 for op, _, _ in records(data, begin + 49, end))
        for opcode, begin, end in records(data)
        if opcode == 0x06
    )


def record(opcode: int, body: bytes, length: int | None = None) -> bytes:
    """`length`: what it says it has, if that is not true."""
    return struct.pack("<BQ", opcode, len(body) if length is None else length) + body


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(raw)) + raw


def channel(
    number: int,
    topic: str,
    kind: str,
    definition: str,
    encoding: str = "cdr",
    schema: str = "ros2msg",
) -> bytes:
    """A schema and a channel."""
    body = text(kind) + text(schema if definition else "") + text(definition)
    return record(0x03, struct.pack("<H", number) + body) + record(
        0x04, struct.pack("<HH", number, number) + text(topic) + text(encoding) + text(b"")
    )


def message(number: int, at: int, raw: bytes) -> bytes:
    return record(0x05, struct.pack("<HIQQ", number, 0, at, at) + bytes(raw))


def chunk(
    inside: bytes, kind: str = "", stored: bytes | None = None, size: int | None = None
) -> bytes:
    """`stored`: `inside`, compressed; `size`: what it says it becomes, if that is not true."""
    stored = inside if stored is None else stored
    head = struct.pack("<QQQI", 0, 2**62, len(inside) if size is None else size, zlib.crc32(inside))
    return record(0x06, head + text(kind) + struct.pack("<Q", len(stored)) + stored)


def mcap(*parts: bytes, end: bool = True) -> bytes:
    """A file without an index; `end`: whether its recorder has closed it."""
    tail = record(0x0F, bytes(4)) + record(0x02, bytes(20)) + MAGIC if end else b""
    return MAGIC + record(0x01, text("ros2") + text("test")) + b"".join(parts) + tail


def custom(name: str, definition: str) -> Any:
    """A type store that knows a type of one's own."""
    store = get_typestore(Stores.ROS2_KILTED)
    store.register(get_types_from_msg(definition, name))
    return store


def is_part_of(part, whole) -> bool:
    """Whether every row of a recording is one of another, in its order."""
    for name, stream in part.streams.items():
        full = whole.streams[name]
        rows = np.searchsorted(full.receipt, stream.receipt)
        if not (
            np.array_equal(full.receipt[rows], stream.receipt)
            and np.array_equal(full.stamp[rows], stream.stamp)
            and np.array_equal(full.values[rows], stream.values)
        ):
            return False
    return True
