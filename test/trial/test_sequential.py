"""The sequential test of a trial: what it may claim, and when.

Pinned: looking after every block must not make it claim more; a beta is stopped for what happened in
blocks that it shared, not for a drift of the robot.
"""

import itertools

import numpy as np
import pytest

from qgf_ros.trial.sequential import ERROR, capital, differences, interval, judge, level, refuted

BETAS = (float("inf"), 0.11, 0.05)


def blocks(rng, rates, count):
    return [{b: bool(rng.random() < rates[b]) for b in rates} for _ in range(count)]


def trials(rates, count, number, seed):
    rng = np.random.default_rng(seed)
    return [judge(blocks(rng, rates, count), tuple(rates)) for _ in range(number)]


def test_capital_is_the_product_of_the_bets():
    """Two wins and a draw against m = 0: the mean over shares c of (1 + c)^2."""
    d = np.array([1, 1, 0])
    shares = np.array([0.25, 0.5, 0.75, 0.9])
    assert capital(d, np.zeros(1))[-1, 0] == pytest.approx(np.log(((1 + shares) ** 2).mean()))


def test_the_largest_capital_so_far_counts():
    d = np.array([1, 1, 1, 1, -1, -1, -1])
    assert capital(d, np.zeros(1))[-1] == pytest.approx(capital(d[:4], np.zeros(1))[-1])


def test_no_bet_is_expected_to_win_where_the_mean_is_what_is_said():
    """Exactly, over all courses of four blocks: the expected capital is at most 1 for every law of d
    with that mean, which is what makes the test valid at any time."""
    for plus, minus in ((0.5, 0.5), (0.1, 0.1), (0.6, 0.2), (0.05, 0.45), (0.0, 0.7)):
        mean = plus - minus
        law = {1: plus, -1: minus, 0: 1 - plus - minus}
        expected = 0.0
        for course in itertools.product(law, repeat=4):
            chance = np.prod([law[d] for d in course])
            shares = np.array([0.25, 0.5, 0.75, 0.9])
            gains = [(1 + shares * (d - mean) / (1 + mean)) for d in course]
            expected += chance * np.prod(gains, axis=0).mean()
        assert expected == pytest.approx(1.0)


def test_equal_betas_are_rarely_told_apart_however_often_one_looks():
    """200 trials of two betas of success 0.5, 40 blocks each: at most 5 % stop anything. (10 000
    trials: docs/trial.md.)"""
    stopped = sum(bool(s) for s in trials({0.1: 0.5, 0.2: 0.5}, 40, 200, seed=1))
    assert stopped <= 0.05 * 200


def test_a_clearly_worse_beta_is_stopped_early():
    found = trials({0.1: 0.96, float("inf"): 0.57}, 40, 60, seed=2)
    right = [s for s in found if list(s) == [float("inf")]]
    assert len(right) >= 0.8 * 60
    assert np.median([s[float("inf")].block for s in right]) <= 25


def test_a_drift_that_hits_all_alike_stops_nobody():
    """Nothing succeeds in the first half, everything in the second: beta by beta that looks like a
    change, block by block it is none."""
    course = [dict.fromkeys(BETAS, number >= 20) for number in range(40)]
    assert judge(course, BETAS) == {}


def test_who_has_left_is_compared_no_more():
    course = [{BETAS[0]: False, 0.11: True, 0.05: True}] * 20
    stops = judge(course, BETAS)
    assert list(stops) == [BETAS[0]] and stops[BETAS[0]].worse_than in (0.11, 0.05)
    at = stops[BETAS[0]].block
    went_on = course[:at] + [{0.11: True, 0.05: False}] * 20
    assert judge(went_on, BETAS)[0.05].worse_than == 0.11


@pytest.mark.parametrize("absent", [0.1, 0.2])
def test_a_stop_is_counted_in_the_trials_blocks_not_in_shared_ones(absent):
    win = {0.1: True, 0.2: False}
    alone = {beta: won for beta, won in win.items() if beta != absent}
    at = judge([win] * 20, (0.1, 0.2))[0.2].block
    assert judge([alone] * 5 + [win] * 20, (0.1, 0.2))[0.2].block == at + 5


def test_the_first_stop_counts():
    """Another one is better beyond doubt some blocks later."""
    course = [{0.1: True, 0.2: k >= 5, 0.3: False} for k in range(40)]
    stops = judge(course, (0.2, 0.1, 0.3))
    assert stops[0.3].worse_than == 0.1
    assert stops[0.3].block == judge(course, (0.1, 0.3, 0.4))[0.3].block


def test_who_has_left_takes_nobody_out():
    """Blocks that hold a beta after it left (a trial that was resumed with it by hand) do not let it
    beat another one: what it did after its stop is not shared chance."""
    gone, winner, third = BETAS[0], 0.11, 0.05
    course = [{gone: False, winner: True, third: True}] * 10
    course += [{gone: True, winner: True, third: False}] * 80
    stops = judge(course, BETAS)
    assert stops[gone].block <= 10
    assert stops[third].worse_than == winner, "not the one that has left"
    alone = [{gone: False, third: True}] * 10 + [{gone: True, third: False}] * 80
    assert list(judge(alone, (gone, third))) == [gone]


def test_interval_holds_the_difference_and_shrinks():
    rng = np.random.default_rng(3)
    rates = {0.1: 0.9, 0.2: 0.5}
    course = blocks(rng, rates, 200)
    error = level(2)
    wide, narrow = (interval(differences(course[:n], 0.1, 0.2), error) for n in (10, 200))
    assert wide[0] <= 0.4 <= wide[1] and narrow[0] <= 0.4 <= narrow[1]
    assert narrow[1] - narrow[0] < 0.5 * (wide[1] - wide[0])
    assert interval(np.array([]), error) == (-1.0, 1.0), "nothing is known"
    low, high = interval(differences(course, 0.2, 0.1), error)
    assert (low, high) == (-narrow[1], -narrow[0])


def test_stop_and_interval_say_the_same():
    d = np.array([1] * 9)
    for count in range(1, 10):
        assert refuted(d[:count], np.zeros(1), 0.025)[-1, 0] == (interval(d[:count], 0.025)[0] >= 0)


def test_levels_of_all_ordered_pairs_add_up_to_the_error():
    assert [n * (n - 1) * level(n) for n in (2, 3, 5)] == pytest.approx([ERROR] * 3)
