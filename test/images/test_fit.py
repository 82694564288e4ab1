"""What an encoder is shown of an image: cut, scaled by area, in bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgf_ros.images.fit import area_weights, fit
from qgf_ros.spaces.observations.image import ImageSpec

RNG = np.random.default_rng(1)


def test_whole_factors_are_means_of_squares():
    image = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    got = fit(ImageSpec((16, 12)), image)
    means = image.reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))
    assert got.shape == (12, 16, 3) and np.abs(got - means).max() <= 0.5 + 1e-3


def test_the_same_size_is_the_same_image_and_a_flat_one_stays_flat():
    image = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(fit(ImageSpec((5, 7)), image), image)
    assert (fit(ImageSpec((13, 3), "mono"), np.full((48, 64, 1), 200, np.uint8)) == 200).all()


@pytest.mark.parametrize("pixels, fitted", [(640, 64), (480, 37), (3, 8), (5, 1), (7, 7)])
def test_weights_cover_every_pixel_once(pixels, fitted):
    w = area_weights(pixels, fitted)
    assert w.shape == (fitted, pixels) and w.dtype == np.int64
    assert (w.sum(axis=1) == pixels).all() and (w.sum(axis=0) == fitted).all() and (w >= 0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from(["rgb", "mono"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_size_is_the_exact_mean_of_what_a_pixel_covers(h, w, rows, columns, channels, seed):
    spec = ImageSpec((columns, rows), channels)
    image = np.random.default_rng(seed).integers(0, 256, (h, w, spec.shape[2]), dtype=np.uint8)
    each = np.einsum("kp,pqc,lq->klc", area_weights(h, rows), image.astype(np.int64), area_weights(w, columns))
    assert np.array_equal(fit(spec, image), np.floor(each / (h * w) + 0.5)), "halves are rounded up"


def test_a_crop_shows_its_part_alone():
    image = np.zeros((40, 80, 3), np.uint8)
    image[10:30, 20:60] = (10, 20, 30)
    assert (fit(ImageSpec((8, 8), crop=(0.25, 0.25, 0.5, 0.5)), image) == (10, 20, 30)).all()


def test_depth_is_of_what_was_measured_and_0_is_nothing():
    depth = np.full((4, 4, 1), 1100, np.uint16)
    depth[:2, :2] = 0  # nothing measured in one of four
    depth[0, 2], depth[1, 2] = 0, 200
    got = fit(ImageSpec((2, 2), "depth", range=(0.2, 2.0)), depth)
    assert got[0, 0] == 0
    assert got[1, 1] == 1 + round(0.5 * 254)
    assert got[0, 1] == 1 + round((0.8 - 0.2) / 1.8 * 254), "the mean of three, not of four"
    beyond = ImageSpec((1, 1), "depth", range=(0.2, 2.0))
    assert fit(beyond, np.full((2, 2, 1), 9000, np.uint16)) == 255
    assert fit(beyond, np.full((2, 2, 1), 100, np.uint16)) == 1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"size": (0, 4)}, "size is"),
        ({"size": (4, 4096)}, "size is"),
        ({"crop": (0.5, 0, 0.6, 1)}, "crop is"),
        ({"crop": (0, 0, 0, 1)}, "crop is"),
        ({"channels": "depth"}, "in metres within 0 to 65"),
        ({"channels": "depth", "range": (2.0, 0.2)}, "range is"),
        ({"range": (0.2, 2.0)}, "of depth alone"),
    ],
)
def test_what_means_nothing_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        ImageSpec(**{"size": (4, 4)} | changes)
