"""Calibration, separation and disagreement of critics whose answers are known."""

import numpy as np
import pytest
import torch

from training.judge.critic_metrics import calibration, disagreement, separation

EPISODES = 40


def returns(rows=25, seed=0):
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(EPISODES), rows)
    return rng.uniform(size=len(episode)) + 0.3 * rng.normal(size=EPISODES)[episode], episode


def covers(found, value):
    return found["low"] <= value <= found["high"]


def test_a_critic_that_equals_the_return_is_calibrated():
    to_go, episode = returns()
    found = calibration(to_go, to_go, episode)
    for name, value in (
        ("slope", 1),
        ("intercept", 0),
        ("bias", 0),
        ("pearson", 1),
        ("spearman", 1),
    ):
        for part in found[name].values():
            assert part == pytest.approx(value, abs=1e-9), name
    assert all(b["q"] == pytest.approx(b["to_go"]) for b in found["bins"])
    assert sum(b["chunks"] for b in found["bins"]) == len(to_go)


def test_a_critic_that_exaggerates_has_a_small_slope_and_its_bias_is_seen():
    to_go, episode = returns()
    found = calibration(4 * to_go + 1, to_go, episode)
    assert found["slope"]["mean"] == pytest.approx(0.25)
    assert found["intercept"]["mean"] == pytest.approx(-0.25)
    assert found["bias"]["mean"] == pytest.approx(3 * to_go.mean() + 1)


def test_a_critic_that_is_only_monotone_ranks_perfectly():
    to_go, episode = returns()
    found = calibration(np.exp(5 * to_go), to_go, episode)
    assert found["spearman"]["mean"] == pytest.approx(1)
    assert found["pearson"]["mean"] < 0.95


def test_a_critic_that_knows_nothing_has_a_slope_of_nothing():
    to_go, episode = returns()
    q = np.random.default_rng(1).normal(size=len(to_go))
    found = calibration(q, to_go, episode)
    assert (
        covers(found["slope"], 0) and covers(found["pearson"], 0) and covers(found["spearman"], 0)
    )
    assert not covers(found["slope"], 1)


def test_slope_is_that_of_least_squares():
    to_go, episode = returns()
    q = (
        to_go + np.random.default_rng(2).normal(size=len(to_go)) + 1e3
    )  # far from 0 beside its spread
    found = calibration(q, to_go, episode)
    slope, intercept = np.polyfit(q - 1e3, to_go, 1)
    assert found["slope"]["mean"] == pytest.approx(slope, rel=1e-6)
    assert found["intercept"]["mean"] == pytest.approx(intercept - slope * 1e3, rel=1e-6)


def test_what_never_varies_has_no_slope():
    to_go, episode = returns()
    found = calibration(np.full_like(to_go, 0.1), to_go, episode)
    assert np.isnan(found["slope"]["mean"]) and np.isnan(found["pearson"]["mean"])
    assert found["bias"]["mean"] == pytest.approx(0.1 - to_go.mean())


def test_intervals_of_calibration_widen_where_episodes_repeat_themselves():
    to_go, episode = returns()
    q = to_go + np.random.default_rng(3).normal(size=len(to_go))
    one = calibration(q[::25], to_go[::25], episode[::25])["bias"]
    copied = calibration(
        np.repeat(q[::25], 9), np.repeat(to_go[::25], 9), np.repeat(np.arange(40), 9)
    )
    assert copied["bias"] == pytest.approx(one)


def test_separation_of_a_perfect_critic_is_one_and_not_certain():
    found = separation(np.array([2.0, 3.0, 4.0]), np.array([0.0, 1.0, 1.5, -3.0]))
    assert found.mean == 1 and found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 3))
    backwards = separation(np.zeros(4), np.ones(3))
    assert (backwards.mean, backwards.low) == (0, 0) and backwards.high == pytest.approx(
        1 - found.low
    )


def test_separation_counts_pairs_and_ties_half():
    assert separation(np.array([1.0, 3.0]), np.array([2.0, 1.0])).mean == pytest.approx(0.625)
    assert separation(np.ones(5), np.ones(7)).mean == 0.5


def test_separation_of_a_coin_covers_a_half():
    """At 95 % it misses now and then, and no more."""
    missed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = separation(rng.normal(size=20), rng.normal(size=30))
        missed += not found.low <= 0.5 <= found.high
    assert missed <= 8


class Members(torch.nn.Module):
    """Members that agree where |a| is small: member i says i * |a|^2."""

    def forward(self, obs, a):
        return torch.stack([i * a.square().sum(-1) for i in range(2)])


def test_disagreement_off_the_data():
    random = torch.Generator().manual_seed(0)
    action = 0.1 * torch.randn(400, 5, generator=random)
    found = disagreement(Members(), torch.zeros(400, 2), action, np.arange(400) // 10, 0)
    on = 0.5 * float(action.square().sum(-1).mean())
    assert found["recorded"]["mean"] == pytest.approx(on, rel=1e-5)
    assert found["uniform"]["mean"] == pytest.approx(0.5 * 5 / 3, rel=0.05)
    assert found["elsewhere_ratio"]["mean"] == pytest.approx(1, rel=1e-5)
    assert found["uniform_ratio"]["low"] > 10


def test_members_that_agree_on_the_data_have_no_ratio():
    found = disagreement(Members(), torch.zeros(9, 2), torch.zeros(9, 5), np.arange(9), 0)
    assert found["recorded"]["mean"] == 0 and np.isnan(found["uniform_ratio"]["mean"])
