"""Writing bags: rosbags' writer, with MCAP in small chunks that each carry a checksum."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from qgf_ros.bags.definitions import referred
from qgf_ros.bags.mcap import CHUNK_HEAD, FOOTER_BODY, HEAD, MAGIC
from qgf_ros.bags.types import long_type

CHUNK = 16 * 2**10  # bytes: what is lost at most when a chunk is damaged or was not finished


class _CheckedMcapWriter(McapWriter):
    """rosbags writes 0 for every checksum, which stands for none."""

    def write(self, connection: Any, timestamp: int, data: bytes | memoryview) -> None:
        super().write(connection, timestamp, data)
        if self.chunk.bio.tell() >= CHUNK:
            self.close_chunk()

    def close_chunk(self) -> None:
        begin, checksum = self.bio.tell(), zlib.crc32(self.chunk.bio.getvalue())
        super().close_chunk()
        self._put(begin + HEAD.size + CHUNK_HEAD.size - 8, checksum)

    def close(self, version: int, metadata: str) -> None:
        super().close(version, metadata)
        with self.path.open("r+b") as file:
            self.bio = file  # type: ignore[assignment]
            end = file.seek(0, 2) - len(MAGIC)
            footer = end - FOOTER_BODY.size
            file.seek(footer)
            (summary, _, _) = FOOTER_BODY.unpack(file.read(FOOTER_BODY.size))
            self._put(summary - 4, self._checksum(0, summary - 4 - HEAD.size))
            self._put(end - 4, self._checksum(summary, end - 4))

    def _put(self, at: int, checksum: int) -> None:
        self.bio.seek(at)
        self.bio.write(checksum.to_bytes(4, "little"))
        self.bio.seek(0, 2)

    def _checksum(self, begin: int, end: int) -> int:
        """Of what stands in the file between two places."""
        found = 0
        self.bio.seek(begin)
        while begin < end:
            block = self.bio.read(min(2**20, end - begin))
            found, begin = zlib.crc32(block, found), begin + len(block)
        return found


class CheckedWriter(Writer):
    """rosbags' writer, with checksums in MCAP."""

    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.MCAP: _CheckedMcapWriter}


class RawBag:
    """Messages as they stood on the wire, as MCAP."""

    def __init__(self, path: Path, types: Mapping[str, str], store: Typestore) -> None:
        """types: topic -> "package/Type", each in `store`. The folder `path` must not be there."""
        self._writer = CheckedWriter(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections = {
            topic: self._writer.add_connection(topic, long_type(name), typestore=store)
            for topic, name in types.items()
        }

    def write(self, topic: str, receipt: int, raw: bytes) -> None:
        """One message; receipt in ns."""
        self._writer.write(self._connections[topic], receipt, raw)

    def close(self) -> None:
        self._writer.close()


def store_of(types: Iterable[str], definition: Callable[[str], str]) -> Typestore:
    """Types ("package/Type") and all that they consist of, by the text that `definition` gives for
    each, as an .msg file has it."""
    known: dict[str, Any] = {}
    missing = {long_type(name) for name in types}
    while missing:
        name = missing.pop()
        known |= get_types_from_msg(definition(name.replace("/msg/", "/")), name)
        missing |= {inner for _, fields in known.values() for inner in referred(fields)} - set(
            known
        )
    store = get_typestore(Stores.EMPTY)
    store.register(known)
    return store
