"""Normalising and back; constants, outliers, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE

from qgf_ros.spaces.normalizer import Normalizer

RNG = np.random.default_rng(0)


def data(rows=2000, dims=4, scale=1.0):
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, dims)) * scale + np.arange(dims)


def test_observations_become_z_scores():
    obs = data()
    n = Normalizer.fit(obs, data(dims=2))
    z = n.normalize_obs(obs)
    assert z.dtype == np.float32
    assert np.allclose(z.mean(0), 0, atol=1e-2) and np.allclose(z.std(0), 1, atol=2e-2)


def test_actions_cover_minus_one_to_one_and_no_more():
    action = np.linspace(-3, 7, 1001)[:, None]
    n = Normalizer.fit(data(1001, 1), action)
    z = n.normalize_action(action)
    assert z.dtype == np.float32 and (z.min(), z.max()) == (-1, 1)
    # 0.1 % and 99.9 % quantiles of an even grid of 1001 points are its second points: -2.99 and 6.99
    assert n.action_center == pytest.approx([2.0]) and n.action_half_range == pytest.approx([4.99])
    assert n.normalize_action(np.array([1e9])) == 1 and n.normalize_action(np.array([-1e9])) == -1


@settings(max_examples=200 * SCALE, deadline=None)
@given(
    center=st.floats(-1e3, 1e3),
    half=st.floats(1e-3, 1e3),
    unit=st.lists(st.floats(-1, 1), min_size=1, max_size=5),
)
def test_unnormalise_inverts_normalise(center, half, unit):
    n = Normalizer(np.zeros(1), np.ones(1), np.array([center]), np.array([half]))
    robot = n.unnormalize_action(np.array(unit)[:, None])
    assert robot.dtype == np.float64
    back = n.normalize_action(robot)[:, 0]
    assert np.allclose(back, np.array(unit), atol=1e-6)
    assert np.allclose(n.unnormalize_action(back[:, None]), robot, atol=1e-6 * half)
    assert (
        np.abs(n.unnormalize_action(np.array([[1.0], [-1.0]])) - center)
        <= half * (1 + 1e-9) + abs(center) * 1e-9
    ).all()


def test_fault_094_constant_dimensions_stay_finite_and_come_back_constant():
    obs, action = data(), data(dims=3)
    obs[:, 1], action[:, 2] = 0.7, -0.25
    n = Normalizer.fit(obs, action)
    z = n.normalize_obs(obs)
    assert np.isfinite(z).all() and np.abs(z[:, 1]).max() < 1e-5
    assert np.isfinite(n.normalize_obs(obs + 1)).all()
    unit = n.normalize_action(action)
    assert (unit[:, 2] == 0).all()
    for wish in (-1.0, 0.0, 1.0):
        assert n.unnormalize_action(np.full(3, wish))[2] == -0.25


def test_fault_094_all_dimensions_constant():
    n = Normalizer.fit(np.full((10, 3), 5.0), np.full((10, 2), -1.0))
    assert (n.normalize_obs(np.full(3, 5.0)) == 0).all()
    assert n.unnormalize_action(np.ones(2)).tolist() == [-1, -1]


def test_fault_094_numerical_noise_is_not_blown_up():
    obs = data()
    obs[:, 0] = 3 + 1e-9 * RNG.normal(size=len(obs))
    assert np.abs(Normalizer.fit(obs, data(dims=1)).normalize_obs(obs)[:, 0]).max() < 1e-6


def test_fault_095_one_bad_row_leaves_the_other_dimensions():
    obs, action = data(10_000), data(10_000)
    clean = Normalizer.fit(obs, action)
    obs[17, 2] = action[17, 2] = 1e6
    dirty = Normalizer.fit(obs, action)
    others = [0, 1, 3]
    assert np.allclose(dirty.obs_std[others], clean.obs_std[others], rtol=0.05)
    assert np.allclose(dirty.action_half_range[others], clean.action_half_range[others], rtol=0.05)
    assert dirty.action_half_range[2] == pytest.approx(clean.action_half_range[2], rel=0.05)


def test_fault_095_one_bad_row_leaves_its_own_dimension():
    obs = data(10_000)
    clean = Normalizer.fit(obs, obs)
    obs[17, 2] = 1e6
    dirty = Normalizer.fit(obs, obs)
    assert dirty.obs_std[2] == pytest.approx(clean.obs_std[2], rel=0.05)


def test_fault_095_one_bad_number_of_two_leaves_the_other():
    """The floor of a scale is relative to the median scale, and of two the median is the mean."""
    obs = data(10_000, 2, 0.01)
    obs[17, 1] = 1e6
    assert Normalizer.fit(obs, data(10_000)).obs_std[0] == pytest.approx(0.01, rel=0.05)


@settings(max_examples=50 * SCALE, deadline=None)
@given(unit=st.sampled_from([0.01, 1.0, 100.0]), column=st.integers(0, 3))
def test_units_of_one_dimension_change_nothing_for_another(unit, column):
    """Metres or millimetres in one column: the z-scores of every column stay what they were."""
    obs = data()
    other = obs.copy()
    other[:, column] *= unit
    a, b = Normalizer.fit(obs, obs), Normalizer.fit(other, obs)
    assert np.allclose(a.normalize_obs(obs), b.normalize_obs(other), atol=1e-3)


def test_units_far_apart_keep_every_dimension_alive():
    """A joint in rad beside encoder counts in 10^5: each moved a lot, each must be seen."""
    obs = data(2000, 3) * np.array([0.5, 1e5, 1e5])
    z = Normalizer.fit(obs, obs).normalize_obs(obs)
    assert np.allclose(z.std(0), 1, atol=0.02)


def test_fault_042_non_finite_or_not_positive_scales_refused():
    good = {
        "obs_mean": [0.0, 0.0],
        "obs_std": [1.0, 1.0],
        "action_center": [0.0],
        "action_half_range": [1.0],
    }
    Normalizer.from_dict(good)
    for name, values in good.items():
        for bad in (np.nan, np.inf, -np.inf):
            with pytest.raises(ValueError, match="finite"):
                Normalizer.from_dict(good | {name: [bad, *values[1:]]})
    for name, bad in (("obs_std", 0.0), ("obs_std", -1.0), ("action_half_range", -1e-9)):
        with pytest.raises(ValueError, match="positive"):
            Normalizer.from_dict(good | {name: [bad, *good[name][1:]]})


def test_fault_041_sizes_that_do_not_belong_together_refused():
    good = {
        "obs_mean": [0.0, 0.0],
        "obs_std": [1.0, 1.0],
        "action_center": [0.0, 0.0],
        "action_half_range": [1.0, 1.0],
    }
    for name, size in (
        ("obs_std", 1),
        ("obs_std", 3),
        ("action_half_range", 1),
        ("action_half_range", 3),
    ):
        with pytest.raises(ValueError):
            Normalizer.from_dict(good | {name: [1.0] * size})


def test_to_dict_round_trips_exactly():
    n = Normalizer.fit(data(), data(dims=2))
    again = Normalizer.from_dict(n.to_dict())
    for name in n.to_dict():
        assert np.array_equal(getattr(n, name), getattr(again, name))


# Siblings: numbers of one unit.


def spread(*stds, rows=20_000):
    """Columns of these standard deviations; uniform, so that no quantile cuts them."""
    rng = np.random.default_rng(3)
    return rng.uniform(-np.sqrt(3), np.sqrt(3), size=(rows, len(stds))) * stds


def fit_siblings(obs, siblings):
    return Normalizer.fit(obs, obs[:, :1], np.array(siblings)).obs_std


def test_a_joint_that_hardly_moved_is_scaled_by_its_siblings():
    std = fit_siblings(spread(0.5, 2e-4, 0.5), [0, 0, 0])
    assert std == pytest.approx([0.5, 0.05, 0.5], rel=0.02)
    assert fit_siblings(spread(0.5, 2e-4, 0.5), [0, 1, 0])[1] == pytest.approx(2e-4, rel=0.02)


def test_what_moved_a_tenth_of_its_siblings_keeps_its_own_scale():
    std = fit_siblings(spread(0.5, 0.06, 0.3), [0, 0, 0])
    assert std == pytest.approx([0.5, 0.06, 0.3], rel=0.02)


def test_numbers_without_siblings_are_as_they_were():
    obs = spread(0.5, 2e-4, 1e5)
    alone = fit_siblings(obs, [2, 0, 1])
    assert np.array_equal(alone, Normalizer.fit(obs, obs[:, :1]).obs_std)


def test_groups_do_not_mix_even_where_they_alternate():
    std = fit_siblings(spread(100.0, 1e-3, 1e-3, 1e-5), [0, 1, 0, 1])
    assert std == pytest.approx([100, 1e-3, 10, 1e-4], rel=0.02)


def test_siblings_that_all_stood_still_are_constants():
    assert fit_siblings(np.full((10, 2), 0.7), [0, 0]).tolist() == [1, 1]


def test_a_joint_that_stood_still_beside_moving_ones_has_their_scale():
    """As one that moved by 1e-12: where it stands says the same in both."""
    obs = spread(0.5, 1.0)
    obs[:, 1] = 0.7
    assert fit_siblings(obs, [0, 0])[1] == pytest.approx(0.05, rel=0.02)


def relative(obs, chunks):
    """Of two actions the first is relative to observation 2."""
    return Normalizer.fit(obs, chunks, reference=np.array([2, -1]))


def around_the_state(count=50):
    obs, chunks = RNG.normal(size=(count, 3)), RNG.uniform(-1, 1, size=(count, 4, 2))
    chunks[:, :, 0] += 3 * obs[:, None, 2]
    return obs, chunks


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_joint_that_is_always_sent_to_one_place_stays_there_whatever_pushes_it(noise):
    """Relative to where it sags, its target would sag too, and further."""
    obs, chunks = around_the_state()
    obs[:, 2] = 0.7 + 0.01 * RNG.normal(size=len(obs))
    chunks[:, :, 0] = 0.7 + noise * RNG.normal(size=(len(obs), 4))
    n = relative(obs, chunks)
    assert n.action_reference.tolist() == [-1, -1]
    pushed = np.array([0.0, 0.0, 0.5])
    assert n.unnormalize_action(np.zeros((4, 2)), pushed)[:, 0] == pytest.approx(0.7, abs=5e-3)


def test_what_this_version_does_not_know_is_refused():
    n = relative(*around_the_state())
    with pytest.raises(ValueError, match="later are not known"):
        Normalizer.from_dict(n.to_dict() | {"later": [1.0]})


def test_an_action_relative_to_the_state_is_the_same_number_wherever_the_robot_is():
    rng = np.random.default_rng(3)
    obs = rng.normal(size=(500, 3))
    chunks = rng.uniform(-1, 1, size=(500, 4, 2))
    chunks[:, :, 0] += obs[:, None, 2]
    n = relative(obs, chunks)
    far = obs + 1000
    moved = chunks + np.array([1000.0, 0.0])
    assert np.allclose(n.normalize_action(chunks, obs), n.normalize_action(moved, far), atol=1e-6)
    assert np.abs(n.action_half_range - 1).max() < 0.02  # of the difference, over the whole chunk


def test_relative_actions_there_and_back():
    rng = np.random.default_rng(4)
    obs, chunks = around_the_state()
    n = relative(obs, chunks)
    inside = n.unnormalize_action(rng.uniform(-1, 1, size=chunks.shape), obs)
    back = n.unnormalize_action(n.normalize_action(inside, obs), obs)
    assert np.allclose(back, inside, atol=1e-6)
    one = n.unnormalize_action(np.zeros((4, 2)), obs[0])  # a single chunk, as the node has it
    assert np.allclose(one, n.action_center + [obs[0, 2], 0])
    assert np.allclose(n.unnormalize_obs(n.normalize_obs(obs)), obs, atol=1e-5)


def test_relative_actions_without_the_observation_are_refused():
    n = relative(*around_the_state())
    with pytest.raises(ValueError, match="need the observation"):
        n.normalize_action(np.zeros((4, 2)))


def test_the_reference_is_kept_and_one_from_before_there_was_any_is_as_commanded():
    n = relative(*around_the_state())
    assert Normalizer.from_dict(n.to_dict()).action_reference.tolist() == [2, -1]
    old = {k: v for k, v in n.to_dict().items() if k != "action_reference"}
    assert Normalizer.from_dict(old).action_reference.tolist() == [-1, -1]


@pytest.mark.parametrize("reference", ([3, -1], [-2, -1], [0], [0.5, -1]))
def test_a_reference_that_points_nowhere_is_refused(reference):
    n = relative(*around_the_state())
    with pytest.raises(ValueError, match="action_reference"):
        Normalizer.from_dict(n.to_dict() | {"action_reference": reference})
