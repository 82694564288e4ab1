"""JPEG, PNG and compressedDepth to pixels, and what is none of them."""

import resource
import struct
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import png_bombs as bombs
import pytest

from qgf_ros.images.compressed import pixels
from qgf_ros.images.raw import BadImage

av = pytest.importorskip("av")
simplejpeg = pytest.importorskip("simplejpeg")

RNG = np.random.default_rng(7)
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:192:4, 0:256:4], 100), axis=-1).astype(np.uint8)


def message(data, said):
    return SimpleNamespace(format=said, data=data)


def png(image, pixel_format):
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = image.shape[:2]
    encoder.pix_fmt, encoder.time_base = pixel_format, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(image, format=pixel_format)
    return b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)])


@pytest.mark.parametrize("said", ["jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"])
def test_a_jpeg_is_what_the_camera_saw_but_for_its_compression(said):
    data = simplejpeg.encode_jpeg(SMOOTH, quality=95, colorsubsampling="444")
    got = pixels(message(data, said), "rgb")
    assert got.shape == SMOOTH.shape and np.abs(got.astype(int) - SMOOTH).mean() < 1.5
    grey = pixels(message(data, said), "mono")
    luma = SMOOTH @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (48, 64, 1) and np.abs(grey[..., 0] - luma).mean() < 1.5


def test_red_and_blue_that_a_plugin_has_swapped_are_swapped_back():
    turned = np.ascontiguousarray(SMOOTH[..., ::-1])
    data = simplejpeg.encode_jpeg(turned, quality=95, colorsubsampling="444")
    got = pixels(message(data, "rgb8; jpeg compressed rgb8"), "rgb")
    assert np.abs(got.astype(int) - SMOOTH).mean() < 1.5
    assert np.array_equal(pixels(message(png(turned, "rgb24"), "rgb8; png compressed rgb8"), "rgb"), SMOOTH)


def test_a_png_is_to_the_bit():
    colour = RNG.integers(0, 256, (13, 9, 3), dtype=np.uint8)
    assert np.array_equal(pixels(message(png(colour, "rgb24"), "png"), "rgb"), colour)
    seen = np.dstack([colour, np.full((13, 9), 255, np.uint8)])
    assert np.array_equal(pixels(message(png(seen, "rgba"), "png"), "rgb"), colour)
    grey = RNG.integers(0, 256, (13, 9), dtype=np.uint8)
    assert np.array_equal(pixels(message(png(grey, "gray"), "mono8; png compressed "), "mono")[..., 0], grey)
    deep = RNG.integers(0, 65536, (13, 9), dtype=np.uint16)
    data = png(deep, "gray16be")
    assert np.array_equal(pixels(message(data, "16UC1; png compressed 16UC1"), "depth")[..., 0], deep)
    assert np.array_equal(pixels(message(data, "mono16; png compressed mono16"), "mono")[..., 0], deep >> 8)


def test_compressed_depth_in_millimetres_and_as_its_inverse():
    depth = RNG.integers(0, 5000, (13, 9), dtype=np.uint16)
    head = struct.pack("<iff", 0, 0.0, 0.0)
    got = pixels(message(head + png(depth, "gray16be"), "16UC1; compressedDepth png"), "depth")
    assert got.dtype == np.uint16 and np.array_equal(got[..., 0], depth)
    # compressed_depth_image_transport: quality 100, at most 10 m
    a = 100.0 * (100.0 + 1)
    b = 1 - a / 10.0
    metres = RNG.uniform(0.3, 8, (13, 9))
    inverse = (a / metres + b).astype(np.uint16)
    inverse[0, 0] = 0  # nothing measured
    head = struct.pack("<iff", 0, a, b)
    got = pixels(message(head + png(inverse, "gray16be"), "32FC1; compressedDepth png"), "depth")[..., 0]
    assert got[0, 0] == 0
    assert np.abs(got.ravel()[1:] / 1000 - metres.ravel()[1:]).max() < 0.02


JPG = simplejpeg.encode_jpeg(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8))
PNG = png(SMOOTH, "rgb24")
HUGE = PNG[:16] + struct.pack(">II", 60_000, 60_000) + PNG[24:]


@pytest.mark.parametrize(
    "data, said, wanted, words",
    [
        (b"", "jpeg", "rgb", "0 bytes of format 'jpeg' are neither JPEG nor PNG"),
        (b"\0" * 99, "h264", "rgb", "neither JPEG nor PNG"),
        (JPG[: len(JPG) // 2], "jpeg", "rgb", "damaged JPEG: Premature end"),
        (JPG[:20], "jpeg", "rgb", "damaged JPEG"),
        (PNG[: len(PNG) // 2], "png", "rgb", "damaged PNG"),
        (PNG[:20], "png", "rgb", "damaged PNG"),
        (PNG[:-12], "png", "rgb", "damaged PNG"),
        (HUGE, "png", "rgb", "60000 x 60000 pixels; allowed"),
        (JPG, "jpeg", "depth", "the contract asks for depth"),
        (JPG, "16UC1; jpeg compressed", "rgb", "16UC1 holds depth, and the contract asks for rgb"),
        (PNG, "png", "depth", "holds rgb, and the contract asks for depth"),
        (png(SMOOTH[..., 0], "gray"), "png", "rgb", "holds mono, and the contract asks for rgb"),
        (simplejpeg.encode_jpeg(SMOOTH[..., :1].copy(), colorspace="GRAY"), "jpeg", "rgb", "channels: mono"),
        (b"\0" * 12 + JPG, "16UC1; compressedDepth rvl", "depth", "set the plugin's format to png"),
        (b"\0" * 5, "16UC1; compressedDepth png", "depth", "compressedDepth of 5 bytes"),
        (b"\0" * 12 + PNG, "16UC1; compressedDepth png", "depth", "16 bits of grey"),
        (b"\0" * 12 + PNG, "16UC1; compressedDepth png", "rgb", "16UC1 holds depth"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)  # fmt: skip
def test_what_is_no_such_image_is_refused_by_its_name(data, said, wanted, words):
    with pytest.raises(BadImage, match=words):
        pixels(message(data, said), wanted)


@pytest.mark.parametrize("whole", [JPG, PNG], ids=["jpeg", "png"])
def test_flipped_bytes_are_an_image_or_refused(whole):
    for _ in range(200):
        data = bytearray(whole)
        for at in RNG.integers(0, len(data), RNG.integers(1, 9)):
            data[at] ^= int(RNG.integers(1, 256))
        try:
            got = pixels(message(bytes(data), ""), "rgb")
        except BadImage:
            continue
        assert got.dtype == np.uint8 and got.ndim == 3 and got.shape[2] == 3


def make(type_name, **fields):
    return SimpleNamespace(**fields)


@pytest.mark.parametrize("type_", ["sensor_msgs/Image", "sensor_msgs/CompressedImage"])
@pytest.mark.parametrize("kind", ["rgb", "mono", "depth"])
def test_what_is_written_is_read_again(type_, kind):
    from qgf_ros.images import raw
    from qgf_ros.images.messages import message as written

    image = SMOOTH if kind == "rgb" else SMOOTH[..., :1]
    image = image.astype(np.uint16) * 37 if kind == "depth" else image
    msg = written(make, type_, None, image, quality=95)
    got = (pixels if type_.endswith("CompressedImage") else raw.pixels)(msg, kind)
    lossless = type_ == "sensor_msgs/Image" or kind == "depth"
    assert got.dtype == image.dtype and np.abs(got.astype(int) - image).max() <= (0 if lossless else 40)


def test_what_a_png_says_beside_its_pixels_is_not_unpacked():
    """A library that unpacks it takes two gigabytes for this one."""
    image = np.ascontiguousarray(SMOOTH)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    evil = bombs.of_words(image, bombs.packed_zeros(2**30))
    assert np.array_equal(pixels(message(evil, "png"), "rgb"), image)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "kB"


@pytest.mark.parametrize(("data", "size", "code", "words"), [
    (lambda: bombs.of_pixels(SMOOTH, bombs.packed_zeros(2**28)), None, "IMAGE_DAMAGED", "bytes and more for 3072 pixels"),
    (lambda: bombs.png(SMOOTH)[:-12], None, "IMAGE_DAMAGED", "cut short"),
    (lambda: bombs.png(SMOOTH), (64, 64), "IMAGE_SIZE", "64 x 48 pixels, and the policy was trained on 64 x 64"),
    (lambda: simplejpeg.encode_jpeg(SMOOTH), (64, 64), "IMAGE_SIZE", "64 x 48 pixels, and the policy"),
], ids=["zeros", "cut", "another size", "another size of JPEG"])  # fmt: skip
def test_what_is_not_the_image_that_is_wanted_is_not_unpacked(data, size, code, words):
    with pytest.raises(BadImage, match=words) as raised:
        pixels(message(data(), ""), "rgb", size)
    assert raised.value.code == code
