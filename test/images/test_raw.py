"""Every encoding of a raw image, byte order, padding, and what is no image."""

from types import SimpleNamespace

import numpy as np
import pytest

from qgf_ros.images.raw import SPELLED, BadImage, grey, pixels

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def message(name, image, big=False, padding=0, **changes):
    """As a driver sends it: (H, W, planes) of numbers, rows padded."""
    dtype = image.dtype.newbyteorder(">" if big else "<")
    rows = image.astype(dtype).reshape(image.shape[0], -1)
    raw = np.frombuffer(rows.tobytes(), np.uint8).reshape(image.shape[0], -1)
    raw = np.pad(raw, ((0, 0), (0, padding)), constant_values=77)
    fields = dict(
        encoding=name, height=image.shape[0], width=image.shape[1], step=raw.shape[1],
        is_bigendian=int(big), data=raw.tobytes(),
    )  # fmt: skip
    return SimpleNamespace(**fields | changes)


def with_alpha(image):
    return np.concatenate([image, np.full((*image.shape[:2], 1), 9, np.uint8)], axis=2)


WIDE = COLOUR.astype(np.uint16) * 256 + 3
IN_COLOUR = {
    "rgb8": COLOUR, "bgr8": COLOUR[..., ::-1], "rgba8": with_alpha(COLOUR),
    "bgra8": with_alpha(COLOUR[..., ::-1]), "rgb16": WIDE, "bgr16": WIDE[..., ::-1],
}  # fmt: skip


@pytest.mark.parametrize("encoding", IN_COLOUR)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 5])
def test_colour_is_red_green_blue(encoding, big, padding):
    msg = message(encoding, IN_COLOUR[encoding], big, padding)
    got = pixels(msg, "rgb")
    assert got.dtype == np.uint8 and np.array_equal(got, COLOUR)
    assert np.array_equal(pixels(msg, "mono"), grey(COLOUR))


@pytest.mark.parametrize("big", [False, True])
def test_grey_and_depth(big):
    plane = COLOUR[..., :1]
    for name in ("mono8", "8UC1"):
        assert np.array_equal(pixels(message(name, plane, big), "mono"), plane)
    assert np.array_equal(
        pixels(message("mono16", plane.astype(np.uint16) * 257, big), "mono"), plane
    )
    metres = np.array([[[0.5], [1.234]], [[0.0], [8.0]]], np.float32)
    got = pixels(message("16UC1", np.rint(metres * 1000).astype(np.uint16), big, 3), "depth")
    assert got.dtype == np.uint16 and np.array_equal(got, np.rint(metres * 1000))
    holes = np.array([[[0.5], [np.nan]], [[np.inf], [-1.0]]], np.float32)
    got = pixels(message("32FC1", holes, big), "depth")
    assert got.ravel().tolist() == [500, 0, 0, 0], "what was not measured is 0"


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_bayer_pattern_keeps_what_was_measured(pattern):
    small = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    raw = np.zeros((7, 9, 1), np.uint8)  # an odd row and column have no square
    for i, colour in enumerate(pattern):
        y, x = divmod(i, 2)
        raw[y:6:2, x:8:2, 0] = small[..., "rgb".index(colour)]
    assert np.array_equal(pixels(message(f"bayer_{pattern}8", raw), "rgb"), small)


def test_yuv_422_is_what_bt_601_says():
    """White, black, and the three colours at full: Y U Y V, U Y V Y."""
    told = {(235, 128, 128): (255, 255, 255), (16, 128, 128): (0, 0, 0), (81, 90, 240): (254, 0, 0),
            (145, 54, 34): (0, 255, 1), (41, 240, 110): (0, 0, 255)}  # fmt: skip
    for (y, u, v), colour in told.items():
        for name, order in (("yuv422", (u, y, v, y)), ("yuv422_yuy2", (y, u, y, v))):
            raw = np.array(order, np.uint8).reshape(1, 2, 2)
            got = pixels(message(name, raw), "rgb")
            assert np.abs(got.astype(int) - colour).max() <= 2, (name, got)


BAD = [
    ({"encoding": "nv12"}, "'nv12'; readable: rgb8"),
    ({"encoding": "8UC3"}, "'8UC3'; readable"),
    ({"encoding": "x" * 10_000}, "xxxx'; readable"),
    ({"width": 0}, "0 x 6 pixels"),
    ({"height": 10**9}, "8 x 1000000000 pixels"),
    ({"step": 7}, "rows of 7"),
    ({"step": 2**31}, "rows of"),
    ({"data": b""}, "0 bytes"),
    ({"data": bytes(6 * 24 - 1)}, "143 bytes for 8 x 6"),
    ({"encoding": "16UC1", "width": 12}, "holds depth, and the contract asks for rgb"),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=lambda v: str(v)[:30])
def test_what_is_no_such_image_is_refused_in_a_sentence(changes, words):
    with pytest.raises(BadImage, match=words.replace("(", r"\(")) as caught:
        pixels(message("rgb8", COLOUR, **changes), "rgb")
    assert len(str(caught.value)) < 500


def test_a_step_that_is_not_set_and_a_last_row_without_padding_are_read():
    assert np.array_equal(pixels(message("rgb8", COLOUR, step=0), "rgb"), COLOUR)
    padded = message("rgb8", COLOUR, padding=8)
    padded.data = padded.data[:-8]
    assert np.array_equal(pixels(padded, "rgb"), COLOUR)


def test_every_encoding_is_tried_here():
    tried = {*IN_COLOUR, "mono8", "8UC1", "mono16", "16UC1", "32FC1", "yuv422", "yuv422_yuy2"}
    tried |= {f"bayer_{p}8" for p in ("rggb", "bggr", "gbrg", "grbg")}
    assert set(SPELLED) - tried == {"uyvy", "yuyv"}, "other names of the last two"


def test_the_step_of_a_single_row_says_nothing():
    """4 GiB would be made of 24 bytes."""
    (row,) = pixels(message("rgb8", COLOUR[:1], step=2**32 - 1), "rgb")
    assert np.array_equal(row, COLOUR[0])
