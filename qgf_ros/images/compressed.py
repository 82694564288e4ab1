"""sensor_msgs/CompressedImage to an array: JPEG and PNG, and the PNG of compressed_depth_image_transport.

The arrays are those of `raw.pixels`. What `format` says is told by image_transport's plugins: the encoding
of the camera, then how it was compressed ("rgb8; jpeg compressed bgr8"); many drivers only say "jpeg".
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import numpy as np

from qgf_ros.images.raw import (
    ENCODINGS,
    FARTHEST,
    BadImage,
    check_kind,
    check_size,
    grey,
    high_byte,
)
from qgf_ros.spaces.observations.image import Channels

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
SHOWN = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # of a PNG's chunks those that say its pixels
WIDEST = 8  # bytes of a PNG's pixel: four numbers of 16 bits
SLACK = 65_536  # bytes that a PNG's pixels may be longer packed than bare
DEPTH_HEADER = struct.Struct("<iff")  # of compressedDepth: a number, then a and b of 1/z = (p - b) / a
INVERSE = "32fc1"  # the encoding whose depth is compressed as its inverse


def pixels(msg: Any, wanted: Channels, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of a sensor_msgs/CompressedImage, rclpy's or a bag reader's; as `raw.pixels`.

    Args:
        size: (width, height) of the only one that is wanted: another is not decoded.

    Raises:
        BadImage: neither JPEG nor PNG, damaged or cut short, too large, or of another kind than `wanted`.
    """
    data = bytes(msg.data)
    name, _, how = str(msg.format).partition(";")
    camera = name.strip().lower()
    if "compresseddepth" in how.lower().replace(" ", ""):
        check_kind(name.strip(), "depth", wanted)
        return _depth(data, camera, size)
    if camera in ENCODINGS:
        check_kind(name.strip(), ENCODINGS[camera].kind, wanted)
    if data.startswith(JPEG):
        return _jpeg(data, wanted, size, swapped="compressed rgb" in how)
    if data.startswith(PNG):
        return _kind_of_png(_png(data, size), wanted, swapped="compressed rgb" in how)
    raise BadImage(
        f"{len(data)} bytes of format {str(msg.format)[:60]!r} are neither JPEG nor PNG; both can be read, "
        "and the PNG of compressedDepth",
        "IMAGE_ENCODING",
    )


def _jpeg(data: bytes, wanted: Channels, size: tuple[int, int] | None, swapped: bool) -> np.ndarray:
    """swapped: red and blue are in each other's place, as an old plugin has written them."""
    import simplejpeg

    if wanted == "depth":
        raise BadImage(
            "a JPEG holds colour or grey, and the contract asks for depth", "IMAGE_ENCODING"
        )
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        check_size(width, height, size)
        read = "GRAY" if wanted == "mono" else "BGR" if swapped else "RGB"
        if wanted == "rgb" and space == "Gray":
            raise BadImage(
                "the JPEG is grey, and the contract asks for rgb: channels: mono", "IMAGE_ENCODING"
            )
        try:
            return simplejpeg.decode_jpeg(data, read)
        except ValueError as error:
            if "extraneous" not in str(error):  # some cameras write bytes that mean nothing
                raise
            return simplejpeg.decode_jpeg(data, read, strict=False)
    except BadImage:
        raise
    except ValueError as error:
        raise BadImage(f"damaged JPEG: {error}") from None


def _png(data: bytes, size: tuple[int, int] | None) -> np.ndarray:
    """(H, W, C) uint8 of colour or grey, (H, W, 1) uint16 of 16 bits of grey."""
    import av

    if len(data) < 33 or data[12:16] != b"IHDR":
        raise BadImage(f"damaged PNG: {len(data)} bytes without its header")
    width, height = struct.unpack(">II", data[16:24])
    check_size(width, height, size)
    data = _shown(data, width * height)
    try:
        decoder = av.CodecContext.create("png", "r")
        decoder.thread_count = 1
        frames = [*decoder.decode(av.Packet(data))]
    except (av.FFmpegError, ValueError) as error:
        raise BadImage(f"damaged PNG: {error}") from None
    if len(frames) != 1:
        raise BadImage("damaged PNG: it is cut short")
    frame = frames[0]
    if frame.format.name in ("gray", "gray16be"):
        return frame.to_ndarray()[..., None]
    return frame.to_ndarray(format="rgb24")


def _shown(data: bytes, count: int) -> bytes:
    """A PNG of `count` pixels, but for chunks of words and colour profiles: the decoder unpacks these too, and
    a thousandth of a gigabyte unpacks to one."""
    kept, at, packed = [PNG], len(PNG), 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            break
        if kind in SHOWN:
            kept.append(data[at:end])
            packed += length
        if packed > WIDEST * count + count // 8 + SLACK:
            raise BadImage(f"damaged PNG: {packed} bytes and more for {count} pixels")
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    raise BadImage("damaged PNG: it is cut short")


def depth_png(image: np.ndarray) -> bytes:
    """(H, W, 1) uint16 to a PNG."""
    import av

    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = image.shape[:2]
    encoder.pix_fmt, encoder.time_base = "gray16be", Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[..., 0]), format="gray16be")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def _kind_of_png(image: np.ndarray, wanted: Channels, swapped: bool) -> np.ndarray:
    if image.shape[2] == 3:
        check_kind("of a PNG in colour", "rgb", wanted)
        colour = np.ascontiguousarray(image[..., ::-1]) if swapped else image
        return grey(colour) if wanted == "mono" else colour
    if wanted == "depth" and image.dtype == np.uint16:
        return image
    check_kind("of a PNG in grey", "mono", wanted)
    return high_byte(image) if image.dtype == np.uint16 else image


def _depth(data: bytes, camera: str, size: tuple[int, int] | None) -> np.ndarray:
    """(H, W, 1) uint16 in millimetres."""
    if len(data) < DEPTH_HEADER.size:
        raise BadImage(f"compressedDepth of {len(data)} bytes")
    _, a, b = DEPTH_HEADER.unpack_from(data)
    packed = data[DEPTH_HEADER.size :]
    if not packed.startswith(PNG):
        raise BadImage(
            "compressedDepth in another form than PNG (RVL?); set the plugin's format to png",
            "IMAGE_ENCODING",
        )
    image = _png(packed, size)
    if image.dtype != np.uint16:
        raise BadImage("compressedDepth whose PNG does not have 16 bits of grey")
    if camera != INVERSE:
        return image
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        metres = np.float64(a) / (image.astype(np.float64) - np.float64(b))
    some = (image > 0) & np.isfinite(metres) & (metres > 0)
    near = np.minimum(np.where(some, metres, 0), FARTHEST / 1000)
    return np.asarray(np.rint(near * 1000), np.uint16)
