"""MCAP files record by record, in the order in which they were written: whatever is whole is read.

Every chunk is checked against its checksum before one of its messages counts. A chunk that is
damaged is skipped; behind one that has lost its length, reading goes on at the next chunk that the
file's index names. Nothing is read out of an incomplete chunk: nobody could check it.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from qgf_ros.bags.damage import (
    MAX_NAME,
    MAX_RECORD,
    Damage,
    Losses,
    TooMuch,
    budget,
    check_channels,
    check_definitions,
    check_size,
    inflate,
)
from qgf_ros.bags.definitions import MAX_DEFINITION
from qgf_ros.bags.types import Channel, Choose, Definition, Message, Take
from qgf_ros.files.regular import open_regular

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
MESSAGE_INDEX, CHUNK_INDEX, STATISTICS, DATA_END = 0x07, 0x08, 0x0B, 0x0F
MAX_SUMMARY = 64 * 2**20

HEAD = struct.Struct("<BQ")  # opcode, length
MESSAGE_HEAD = struct.Struct("<BQHIQQ")  # opcode, length, channel, sequence, log and publish time
CHUNK_HEAD = struct.Struct("<QQQII")  # start, end, size, checksum, length of the compression's name
FOOTER_BODY = struct.Struct("<QQI")  # start of the summary, of its offsets, checksum of both


def read_mcap(
    path: Path,
    name: str,
    choose: Choose,
    losses: Losses,
    expected: int | None = None,
) -> Iterator[Message]:
    """Messages of the channels that `choose` takes, with what it takes them by, in file order.

    `name` is what the file is called in `losses`; `expected` is how many messages others say it has.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        yield from _File(file, size, name, choose, losses).messages(expected)


@dataclass
class _Summary:
    """What stands behind the data."""

    chunks: list[int] = field(default_factory=list)  # where they begin, sorted
    messages: int | None = None
    records: bytes = b""  # of schemas and channels


class _EndsEarly(Exception):
    """A record is shorter than what it says of itself."""


class _File:
    def __init__(
        self,
        file: BinaryIO,
        size: int,
        name: str,
        choose: Choose,
        losses: Losses,
    ) -> None:
        self._file, self._size, self._name = file, size, name
        self._choose, self._losses = choose, losses
        self._schemas: dict[int, tuple[str, Definition]] = {}
        self._defined = 0  # characters of their definitions
        self._channels: dict[int, Take | None] = {}  # by id; None: not wanted
        self._read = 0  # messages, wanted or not
        self._indexed = 0  # messages that the indices behind the chunks name
        self._counted = 0  # messages that are lost, and said so
        self._unchecked = False  # messages were read that no checksum covers
        self._budget = budget(size)

    def messages(self, expected: int | None) -> Iterator[Message]:
        if self._bytes(0, len(MAGIC)) != MAGIC:
            raise Damage(f"{self._name} is no MCAP file: it does not begin like one")
        summary = self._summary()
        if summary is not None:
            yield from self._records(summary.records)
        yield from self._data(summary.chunks if summary else [])
        known = summary.messages if summary is not None else None
        missing = (known or expected or self._indexed) - self._read - self._counted
        if self._counted and missing > 0:
            self._lose("messages behind the damage are missing", missing)
        elif (known or self._indexed) > self._read + self._counted:
            self._lose("there are fewer messages than the index names", missing)
        if summary is None and not self._counted:
            self._lose("file cut short: the index is damaged or missing, no message is")

    def _data(self, chunks: list[int]) -> Iterator[Message]:
        """All that stands between the two ends of the file."""
        at = len(MAGIC)
        while True:
            later = bisect_right(chunks, at)
            border = chunks[later] if later < len(chunks) else self._size
            head = self._bytes(at, HEAD.size)
            opcode, length = HEAD.unpack(head) if len(head) == HEAD.size else (0, self._size)
            if (opcode, length) in ((DATA_END, 4), (FOOTER, 20)):
                self._check_data(at)
                return
            end = at + HEAD.size + length
            try:
                if end > border or opcode in (0, FOOTER, DATA_END):
                    raise Damage("")
                if opcode == CHUNK:
                    try:
                        records = self._chunk(length)
                    except Damage as damage:
                        self._skip_chunk(str(damage), end)
                    else:
                        yield from self._records(records)
                elif opcode in (SCHEMA, CHANNEL, MESSAGE) and length <= MAX_RECORD:
                    self._unchecked |= opcode == MESSAGE
                    yield from self._records(head + self._file.read(length))
                elif opcode == MESSAGE_INDEX:
                    self._indexed += max(0, length - 6) // 16
            except TooMuch:
                raise
            except (Damage, struct.error):  # the latter where the file has become shorter meanwhile
                if later < len(chunks):
                    self._lose(f"file damaged: a record of {length} bytes that cannot be")
                    at = border
                    continue
                what = "between records" if len(head) < HEAD.size else "inside of a record"
                self._lose(f"file cut short: it ends {what}; is it still being recorded?")
                return
            at = end

    def _skip_chunk(self, why: str, end: int) -> None:
        """Counts the messages of a chunk that cannot be read: its index stands behind it."""
        count = 0
        while len(head := self._bytes(end, HEAD.size)) == HEAD.size:
            opcode, length = HEAD.unpack(head)
            if opcode != MESSAGE_INDEX or length > self._size - end:
                break
            count += max(0, length - 6) // 16
            end += HEAD.size + length
        self._lose(f"chunk skipped: {why}", count)

    def _lose(self, why: str, count: int = 1) -> None:
        kind, _, detail = why.partition(": ")
        self._losses.add(
            f"{kind}: {self._name}: {detail}" if detail else f"{self._name}: {why}", count
        )
        self._counted += max(1, count)

    def _chunk(self, length: int) -> bytes | memoryview:
        """The records of the chunk whose body is next in the file, checked."""
        if length < CHUNK_HEAD.size + 8:
            raise Damage("it has no beginning")
        _, _, size, checksum, name = CHUNK_HEAD.unpack(self._file.read(CHUNK_HEAD.size))
        if name > 16:
            raise Damage("its compression has no name")
        kind = self._file.read(name).decode(errors="replace")
        (stored,) = struct.unpack("<Q", self._file.read(8))
        if stored != length - CHUNK_HEAD.size - name - 8:
            raise Damage("its lengths contradict each other")
        if stored > MAX_RECORD:
            raise Damage(f"{stored} bytes; at most {MAX_RECORD} are read")
        if kind not in ("", "zstd", "lz4"):
            raise Damage(f"compression {kind!r} is not known")
        if kind:
            check_size(stored, size)  # before it counts: one wrong number must not stop the others
        self._budget -= stored if not kind else size
        if self._budget < 0:
            raise Damage("the file becomes too much when it is decompressed")
        data = self._file.read(stored)
        records = inflate(kind, data, size) if kind else data
        if len(records) != size:
            raise Damage("its lengths contradict each other")
        if checksum and zlib.crc32(records) != checksum:
            raise Damage("wrong checksum")
        self._unchecked |= not checksum
        return records

    def _records(self, raw: bytes | memoryview) -> Iterator[Message]:
        at, size, channels = 0, len(raw), self._channels
        while at < size:
            if raw[at] == MESSAGE and at + MESSAGE_HEAD.size <= size:
                _, length, number, _, receipt, _ = MESSAGE_HEAD.unpack_from(raw, at)
                end = at + HEAD.size + length
                if length < 22 or end > size:
                    return self._lose("file damaged: a message longer than its chunk")
                self._read += 1
                try:
                    take = channels[number]
                except KeyError:
                    self._losses.add(f"{self._name}: message of a channel that is lost")
                    take = None
                if take is not None:
                    yield take, receipt, raw[at + MESSAGE_HEAD.size : end]
            else:
                if at + HEAD.size > size:
                    return self._lose("file damaged: a record longer than its chunk")
                opcode, length = HEAD.unpack_from(raw, at)
                at, end = at + HEAD.size, at + HEAD.size + length
                if end > size or not opcode:
                    return self._lose("file damaged: a record longer than its chunk")
                if opcode in (SCHEMA, CHANNEL):
                    try:
                        self._declare(opcode, raw[at:end])
                    except (struct.error, _EndsEarly):
                        self._lose("file damaged: a schema or channel that ends early")
            at = end

    def _declare(self, opcode: int, raw: bytes | memoryview) -> None:
        if opcode == SCHEMA:
            (number,) = struct.unpack_from("<H", raw)
            name, encoding, text = _strings(raw, 2, (MAX_NAME, MAX_NAME, MAX_DEFINITION))
            before = self._schemas.get(number, ("", Definition()))[1]
            self._defined += len(text) - len(before.text)
            check_definitions(self._defined)
            self._schemas[number] = (name, Definition(encoding, text))
            return
        number, schema = struct.unpack_from("<HH", raw)
        topic, encoding = _strings(raw, 4, (MAX_NAME, MAX_NAME))
        if number not in self._channels:  # the summary says them a second time
            check_channels(len(self._channels) + 1)
            if max(len(topic), len(encoding), len(self._schemas.get(schema, ("",))[0])) > MAX_NAME:
                self._losses.add(f"{self._name}: a topic, type or encoding with too long a name")
                return  # its messages are those of a channel that is lost
            name, definition = self._schemas.get(schema, ("", Definition()))
            self._channels[number] = self._choose(Channel(topic, name, encoding, definition))

    def _summary(self) -> _Summary | None:
        """What stands behind the data, where the file is whole there."""
        start = self._size - HEAD.size - FOOTER_BODY.size - len(MAGIC)
        end = self._bytes(start, self._size) if start >= len(MAGIC) else b""
        if not end.endswith(MAGIC) or HEAD.unpack_from(end) != (FOOTER, FOOTER_BODY.size):
            return None
        begin, _, checksum = FOOTER_BODY.unpack_from(end, HEAD.size)
        if not begin:
            return _Summary()  # whole, without an index
        if not len(MAGIC) <= begin <= start or start - begin > MAX_SUMMARY:
            return None
        raw = self._bytes(begin, start - begin)
        if checksum and zlib.crc32(end[: HEAD.size + 16], zlib.crc32(raw)) != checksum:
            return None
        summary, declared, at = _Summary(), bytearray(), 0
        while at + HEAD.size <= len(raw):
            opcode, length = HEAD.unpack_from(raw, at)
            body, stop = at + HEAD.size, at + HEAD.size + length
            if stop > len(raw):
                return None
            if opcode in (SCHEMA, CHANNEL):
                declared += raw[at:stop]
            elif opcode == CHUNK_INDEX and length >= 24:
                summary.chunks.append(struct.unpack_from("<Q", raw, body + 16)[0])
            elif opcode == STATISTICS and length >= 8:
                (summary.messages,) = struct.unpack_from("<Q", raw, body)
            at = stop
        # What is said to begin behind the data is none, and nothing could be looked for there.
        summary.chunks = sorted(at for at in summary.chunks if at < begin)
        summary.records = bytes(declared)
        return summary

    def _check_data(self, end: int) -> None:
        """Messages outside of checked chunks against the checksum of everything, where there is one."""
        body = self._bytes(end, HEAD.size + 4)
        if not self._unchecked or body[:1] != bytes([DATA_END]) or len(body) < HEAD.size + 4:
            return
        (checksum,), found, at = struct.unpack_from("<I", body, HEAD.size), 0, 0
        while checksum and at < end:
            block = self._bytes(at, min(2**20, end - at))
            if not block:  # the file has become shorter meanwhile
                break
            found, at = zlib.crc32(block, found), at + len(block)
        if checksum and found != checksum:
            self._lose(
                "file damaged: wrong checksum; some of its messages are not what was recorded"
            )

    def _bytes(self, at: int, count: int) -> bytes:
        self._file.seek(at)
        return self._file.read(count)


def _strings(raw: bytes | memoryview, at: int, most: tuple[int, ...]) -> list[str]:
    """As many strings as `most` has numbers, each behind its length. Of one that is longer than its
    number, as much is kept as shows it. Raises _EndsEarly or struct.error."""
    found = []
    for limit in most:
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4 + length
        if at > len(raw):
            raise _EndsEarly
        begin = at - length
        text = bytes(raw[begin : min(at, begin + 4 * (limit + 1))]).decode(errors="replace")
        found.append(text[: limit + 1])
    return found
