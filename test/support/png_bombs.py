"""PNG files that unpack to more than they are."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from functools import cache

import numpy as np

SIDES = struct.Struct(">II").pack
HEADER = 33  # bytes, to the end of the first chunk


def png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8."""
    import av

    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = image.shape[:2]
    encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    return b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def packed_zeros(count: int) -> bytes:
    """A thousandth of `count` bytes, a whole number of MB."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(count // 2**20)) + packer.flush()


def of_words(image: np.ndarray, zeros: bytes) -> bytes:
    """A sound image with a word about it."""
    sound = png(image)
    return sound[:HEADER] + chunk(b"zTXt", b"word\0\0" + zeros) + sound[HEADER:]


def of_pixels(image: np.ndarray, zeros: bytes) -> bytes:
    """Of the image's size, with more pixels than that."""
    return png(image)[:HEADER] + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
