"""Orientations as numbers: scipy's matrices, one answer per rotation, and none where there is none."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE

from qgf_ros.spaces.rotation import (
    ENCODINGS,
    UPRIGHT,
    matrix,
    matrix_columns,
    rot6d,
    slerp,
    yaw_sin_cos,
)

Rotation = pytest.importorskip("scipy.spatial.transform").Rotation

QUATERNIONS = np.random.default_rng(0).normal(size=(500, 4))
IDENTITY = np.array([0.0, 0, 0, 1])
ENCODERS = pytest.mark.parametrize("encode", [e.encode for e in ENCODINGS.values()], ids=ENCODINGS)


@pytest.fixture(autouse=True)
def no_warnings():
    """In the node a warning is a line on the terminal for every message."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # numpy's
        yield


def about(axis, angle):
    return Rotation.from_rotvec(angle * np.asarray(axis, float)).as_quat()  # x, y, z, w


def test_rot6d_is_the_first_two_columns_of_the_matrix():
    truth = Rotation.from_quat(QUATERNIONS).as_matrix()
    got = rot6d(QUATERNIONS)
    assert got.shape == (500, 6)
    assert np.allclose(got[:, :3], truth[:, :, 0], atol=1e-14)
    assert np.allclose(got[:, 3:], truth[:, :, 1], atol=1e-14)
    assert rot6d(about([0, 0, 1], np.pi / 2)) == pytest.approx([0, 1, 0, -1, 0, 0])


def test_labels_say_row_and_column():
    """The label "xy" is row x of column y, in the world's axes: what turns x to y shows at "yx"."""
    labels = ENCODINGS["matrix_columns"].labels
    m, values = matrix(QUATERNIONS[0]), matrix_columns(QUATERNIONS[0])
    for label, value in zip(labels, values, strict=True):
        assert value == m["xyz".index(label[0]), "xyz".index(label[1])], label
    assert ENCODINGS["rot6d"].labels == labels[:6]
    for encoding in ENCODINGS.values():
        assert encoding.encode(IDENTITY).shape == (len(encoding.labels),)


def test_columns_are_a_right_handed_orthonormal_frame():
    a, b, c = np.split(matrix_columns(QUATERNIONS), 3, axis=-1)
    for u, v in itertools.combinations((a, b, c), 2):
        assert np.abs((u * v).sum(-1)).max() < 1e-14
    assert np.allclose(np.linalg.norm([a, b, c], axis=-1), 1, atol=1e-14)
    assert np.allclose(np.cross(a, b), c, atol=1e-14)


@ENCODERS
def test_a_quaternion_and_its_opposite_are_the_same_to_the_last_bit(encode):
    assert np.array_equal(encode(QUATERNIONS), encode(-QUATERNIONS))


@ENCODERS
@pytest.mark.parametrize("length", [1e-300, 1e-12, 0.5, 2.0, 1e12, 1e300])
def test_length_of_a_quaternion_does_not_matter(encode, length):
    unit = QUATERNIONS / np.abs(QUATERNIONS).max()
    assert np.allclose(encode(unit * length), encode(unit), atol=1e-14)


def test_the_smallest_and_the_largest_quaternions_are_the_identity_still():
    for w in (5e-324, -5e-324, 1.7e308):
        assert rot6d(np.array([0, 0, 0, w])).tolist() == [1, 0, 0, 0, 1, 0]


@ENCODERS
@pytest.mark.parametrize("bad", [
    [0, 0, 0, 0], [-0.0, 0, 0, 0], [np.nan, 0, 0, 1], [0, 0, 0, np.nan], [np.inf, 0, 0, 1], [0, -np.inf, 0, np.inf],
])  # fmt: skip
def test_what_is_no_rotation_is_nan_in_every_number_and_alone(encode, bad):
    rows = np.array([IDENTITY, bad, IDENTITY], dtype=float)
    got = encode(rows)
    assert np.isnan(got[1]).all() and np.isfinite(got[[0, 2]]).all()


@ENCODERS
def test_any_leading_shape_even_empty(encode):
    width = len(encode(IDENTITY))
    assert encode(QUATERNIONS.reshape(5, 100, 4)).shape == (5, 100, width)
    assert encode(np.empty((0, 4))).shape == (0, width)
    assert np.array_equal(
        encode(QUATERNIONS.reshape(5, 100, 4)).reshape(500, width), encode(QUATERNIONS)
    )
    assert np.isfinite(encode(np.array([0, 0, 0, 2]))).all(), "integers"


UNIT = st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(lambda v: np.linalg.norm(v) > 0.1)


@settings(max_examples=200 * SCALE, deadline=None)
@given(axis=UNIT, angle=st.floats(-10, 10), start=UNIT, step=st.floats(1e-9, 1e-2))
def test_a_small_turn_is_a_small_change_everywhere(axis, angle, start, step):
    """Also where w changes its sign and where angles jump: |R(a + s) - R(a)| <= s."""
    axis = np.asarray(axis) / np.linalg.norm(axis)
    base = Rotation.from_rotvec(start)
    a, b = (Rotation.from_rotvec(t * axis) * base for t in (angle, angle + step))
    for encode in (rot6d, matrix_columns):
        change = encode(a.as_quat()) - encode(-b.as_quat())
        assert np.abs(change).max() <= step + 1e-12


@settings(max_examples=200 * SCALE, deadline=None)
@given(yaw=st.floats(-10, 10), over=st.booleans())
def test_yaw_of_what_is_upright_or_hangs_upside_down(yaw, over):
    down = Rotation.from_euler("x", np.pi if over else 0)
    got = yaw_sin_cos((Rotation.from_euler("z", yaw) * down).as_quat())
    assert got == pytest.approx([np.sin(yaw), np.cos(yaw)], abs=1e-12)


def test_yaw_is_that_of_the_zyx_angles_and_on_the_unit_circle():
    yaw = Rotation.from_quat(QUATERNIONS).as_euler("ZYX")[:, 0]
    got = yaw_sin_cos(QUATERNIONS)
    assert np.allclose(got, np.stack([np.sin(yaw), np.cos(yaw)], -1), atol=1e-10)
    assert np.allclose(np.linalg.norm(got, axis=-1), 1)


def test_there_is_no_yaw_where_the_x_axis_stands_upright():
    """There noise of 1e-17 would turn the feature by 180 degrees: no number is better than that."""
    for tilt, there in ((0, False), (UPRIGHT / 2, False), (UPRIGHT * 2, True), (0.1, True)):
        for yaw in (0.0, 1.0, 3.0):
            q = Rotation.from_euler("ZYX", [yaw, np.pi / 2 - tilt, 0]).as_quat()
            assert np.isfinite(yaw_sin_cos(q)).all() == there, (tilt, yaw)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(-12, 12))
def test_the_shortest_turn_is_scipys(seed, share, size):
    rng = np.random.default_rng(seed)
    begin = rng.normal(size=(5, 4))
    end = np.concatenate([rng.normal(size=(3, 4)), begin[3:] + 1e-7 * rng.normal(size=(2, 4))])
    end[4] *= -1
    got = slerp(begin * 10.0**size, end, np.full((5, 1), share))
    first, last = Rotation.from_quat(begin), Rotation.from_quat(end)
    want = first * Rotation.from_rotvec(share * (first.inv() * last).as_rotvec())
    assert np.linalg.norm(got, axis=1) == pytest.approx(1)
    assert np.abs((got * want.as_quat()).sum(axis=1)) == pytest.approx(1, abs=1e-14)
    assert (Rotation.from_quat(got).inv() * want).magnitude() == pytest.approx(0, abs=1e-7)
