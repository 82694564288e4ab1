"""Intervals where the textbook or the data alone says what they are."""

import math

import numpy as np
import pytest
import torch

from qgf_ros.statistics import (
    EPISODES,
    SEGMENTS,
    Interval,
    between,
    drawn,
    draws,
    few,
    interval,
    share,
    wilson,
)


def test_wilson_interval_of_a_known_case():
    """8 of 10: 0.490 to 0.943 (Wilson 1927; any statistics table)."""
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=5e-4)
    assert wilson(0, 0) == (0.0, 1.0) and wilson(10, 10)[1] == pytest.approx(1.0)


def test_the_interval_of_independent_values_is_the_textbook_one():
    x = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, half = interval(x, torch.arange(400)), 1.96 * float(x.std()) / 20
    assert found.mean == pytest.approx(float(x.mean()))
    assert found.low == pytest.approx(found.mean - half, abs=0.15 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.15 * half)


def test_states_that_repeat_their_episode_add_no_certainty():
    x = torch.randn(20, generator=torch.Generator().manual_seed(1))
    once, often = (
        interval(x.repeat_interleave(n), torch.arange(20).repeat_interleave(n)) for n in (1, 50)
    )
    assert (once.low, once.high) == pytest.approx((often.low, often.high))


def test_values_that_are_not_there_are_left_out():
    gaps = torch.tensor([[1.0, math.nan], [3.0, 5.0], [math.nan, math.nan]])
    assert interval(gaps, torch.arange(3)).mean == 3
    assert math.isnan(interval(gaps[2:], torch.arange(1)).mean)
    assert math.isnan(interval(gaps[:1], torch.arange(1)).low)  # one episode: no interval


def test_a_share_of_zero_is_not_certain():
    """Clopper-Pearson, 0 of 10: up to 0.308 (any statistics table)."""
    found = share(torch.zeros(30), torch.arange(30) % 10)
    assert (found.low, found.high) == (0, pytest.approx(0.3085, abs=1e-4))


def test_episodes_of_any_numbers_are_drawn():
    group, draws = drawn(np.array([7, 3, 7, 9]))
    assert group.tolist() == [1, 0, 1, 2] and draws.shape[1] == 3
    assert (draws[0] == 1).all() and (draws.sum(axis=1) == 3).all()


@pytest.mark.parametrize(
    "low,high,said",
    [(-2, -1, "better"), (1, 2, "worse"), (-1, 1, "undecided"), (0, 1, "undecided")],
)
def test_a_difference_has_a_side_only_beyond_doubt(low, high, said):
    assert Interval((low + high) / 2, low, high).side("better", "worse") == said


def test_what_is_not_finite_is_in_no_interval():
    assert between(np.array([2.0, np.nan, np.inf, 1.0, 1.0])) == Interval(2.0, 1.0, 1.0)
    assert np.isnan(between(np.array([2.0])).low)  # a single episode


def test_a_replay_and_an_analysis_draw_each_in_its_own_way_and_the_same_every_time():
    assert (draws(9) == draws(9, EPISODES)).all() and not (draws(9) == draws(9, SEGMENTS)).all()
    assert draws(9)[1:].mean() == 1.0 and draws(1).tolist() == [[1.0]]


def test_where_nothing_is_known_no_number_is_made_up():
    nan = math.nan
    assert str(Interval(0.5, nan, nan)) == "0.500 (no interval)"
    assert str(Interval(nan, nan, nan)) == "not known"
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_one_episode_has_no_intervals_and_few_have_rough_ones():
    assert "rough" not in few(1, "episode") and few(1, "episode").startswith("only 1 episode:")
    assert few(19, "episode").startswith("only 19 episodes: the intervals are rough")
    assert few(20, "episode") == ""
