"""What cannot be read of a bag, by reason; and bounds on what a file may ask for."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from lz4.frame import LZ4FrameDecompressor

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

MAX_RECORD = 256 * 2**20  # bytes that one record may hold, compressed and decompressed together
MAX_MESSAGE = 64 * 2**20  # bytes of one decompressed message
MAX_RATIO = 1000  # of decompressed to compressed bytes, where it is more than MIN_RATIO_BYTES
MIN_RATIO_BYTES = 2**20
MAX_CHANNELS = 4096  # of one file; a robot has hundreds
MAX_NAME = 1000  # characters of a topic, a type, an encoding; ROS has 255 at most
MAX_DEFINITIONS = 64 * 2**20  # characters of all definitions of one file
MAX_REASONS = 64  # more different ones are added up: noise gives every message a reason of its own
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Damage(Exception):
    """A part of a file cannot be read; the text says which, and why."""


class TooMuch(Damage):
    """A file is whole, and asks for more than is given: nothing more of it is read."""


class Losses(Counter[str]):
    """Messages that could not be read, by reason. A damage counts at least once, even where nobody
    can know how many messages it took: none is silent.

    It also is the account of what reading one bag has cost, which is bounded for all of it.
    """

    def __init__(self, *args: Any, **counts: int) -> None:
        super().__init__(*args, **counts)
        self.parsed: dict[Any, int] = {}  # definition -> how much of it there is to parse
        self.compressed = self.inflated = 0  # bytes of messages that are compressed one by one

    def add(self, reason: str, count: int = 1) -> None:
        clean = one_line(reason)
        if clean not in self and len(self) >= MAX_REASONS:
            clean = "further reasons"
        self[clean] += max(1, count)


def one_line(reason: str) -> str:
    """A reason as it is counted: printable, and not longer than a person reads."""
    clean = "".join(c if c.isprintable() else " " for c in reason[:2000])
    return " ".join(clean.split())[:200]


def check_channels(count: int) -> None:
    """Raises TooMuch where a file declares too many topics."""
    if count > MAX_CHANNELS:
        raise TooMuch(
            f"more than {MAX_CHANNELS} topics, which no robot has; record the topics you need into a "
            "new bag (`ros2 bag convert`)"
        )


def check_definitions(characters: int) -> None:
    """Raises TooMuch where the definitions of a file are too much to be kept."""
    if characters > MAX_DEFINITIONS:
        raise TooMuch(
            f"more than {MAX_DEFINITIONS} characters of message definitions, which no robot has"
        )


def budget(size: int) -> int:
    """Bytes that a file of `size` bytes may become in all when it is decompressed."""
    return 2**30 + 100 * size


def check_size(compressed: int, size: int) -> None:
    """Raises Damage where a compressed record says that it becomes too much."""
    if compressed + size > MAX_RECORD:
        raise Damage(f"{size} bytes decompressed; at most {MAX_RECORD} are read")
    if size > max(MIN_RATIO_BYTES, MAX_RATIO * compressed):
        raise Damage(f"{compressed} bytes that become {size}; at most {MAX_RATIO} times are read")


def inflate(kind: str, data: bytes, size: int) -> memoryview:
    """Exactly `size` bytes out of one frame of zstd or lz4. Raises Damage for any other number,
    without ever holding more."""
    frame = {"zstd": ZstdDecompressor, "lz4": LZ4FrameDecompressor}[kind]()
    out, at = bytearray(size), 0
    while not frame.eof:
        try:
            piece = frame.decompress(data, max_length=min(2**20, size - at + 1))
        except Exception as error:  # zstd and lz4 have their own
            raise Damage(f"{kind}: {error}") from None
        data = b""
        if at + len(piece) > size or not (piece or frame.eof):
            raise Damage(f"{kind}: {'more' if piece else 'less'} than the {size} bytes it says")
        out[at : at + len(piece)] = piece
        at += len(piece)
    if at != size:
        raise Damage(f"{kind}: less than the {size} bytes it says")
    return memoryview(out)


def inflate_message(data: bytes | memoryview, losses: Losses) -> bytes:
    """A message that was compressed on its own. Raises Damage; also where all of a bag's messages
    together become too much."""
    losses.compressed += len(data)
    room = budget(losses.compressed) - losses.inflated
    limit = min(MAX_MESSAGE, max(MIN_RATIO_BYTES, MAX_RATIO * len(data)), room)
    if limit <= 0:
        raise Damage("the compressed messages become too much")
    frame = ZstdDecompressor()
    try:
        out = frame.decompress(data, max_length=limit + 1)
    except Exception as error:
        raise Damage(f"zstd: {error}") from None
    losses.inflated += len(out)
    if len(out) > limit or not frame.eof:
        raise Damage("a compressed message is cut short, or becomes too much")
    return out
