"""Chunks against a slow second implementation; absorbing ends, cuts, returns and their scale."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE

from qgf_ros.errors import DataRefused
from training.pipeline.chunks import chunks
from training.pipeline.episodes import Episode, return_scale
from training.pipeline.split import split


def episode(steps, terminal, seed=0, reward=None, success=None):
    rng = np.random.default_rng([seed, steps])
    reward = rng.normal(size=steps) if reward is None else np.asarray(reward, float)
    return Episode(
        f"e{seed}",
        rng.normal(size=(steps + 1, 3)),
        rng.normal(size=(steps, 2)),
        reward,
        terminal,
        success,
    )


def naive(episodes, horizon, gamma):
    """Plays each chunk out step by step: after a terminal the world is absorbing."""
    out = []
    for number, e in enumerate(episodes):
        for start in range(len(e)):
            if not e.terminal and start + horizon > len(e):
                continue
            actions, total, alive = [], 0.0, 1.0
            for i in range(horizon):
                t = start + i
                if t < len(e):
                    actions.append(e.action[t])
                    total += gamma**i * e.reward[t]
                    if e.terminal and t == len(e) - 1:
                        alive = 0.0
                else:
                    actions.append(e.action[-1])
            out.append(
                (
                    e.obs[start],
                    np.array(actions),
                    total,
                    alive,
                    e.obs[min(start + horizon, len(e))],
                    number,
                    start,
                )
            )
    return out


@settings(max_examples=150 * SCALE, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=5),
    horizon=st.integers(1, 8),
    gamma=st.floats(0.5, 1.0),
)
def test_chunks_are_what_playing_them_out_gives(lengths, horizon, gamma):
    episodes = [episode(n, terminal, k) for k, (n, terminal) in enumerate(lengths)]
    expected = naive(episodes, horizon, gamma)
    if not expected:
        with pytest.raises(DataRefused, match=str(horizon)):
            chunks(episodes, horizon, gamma)
        return
    got = chunks(episodes, horizon, gamma)
    assert len(got) == len(expected)
    for name, column in zip(
        ("obs", "action", "reward", "mask", "next_obs", "episode", "tick"), zip(*expected)
    ):
        assert np.allclose(getattr(got, name), np.array(column), rtol=1e-12, atol=1e-12), name


def test_every_tick_of_a_terminal_episode_begins_a_chunk():
    got = chunks([episode(7, True)], 5, 0.99)
    assert got.tick.tolist() == list(range(7))
    assert got.mask.tolist() == [1, 1, 0, 0, 0, 0, 0], "ends within the chunk from tick 2 on"


def test_padding_holds_the_last_action_and_earns_nothing():
    e = episode(4, True, reward=[0, 0, 0, 8])
    got = chunks([e], 5, 0.5)
    assert np.array_equal(got.action[3], np.tile(e.action[3], (5, 1)))
    assert got.reward.tolist() == [1, 2, 4, 8]
    assert np.array_equal(got.next_obs, np.tile(e.obs[4], (4, 1)))


def test_cut_episode_bootstraps_at_its_very_end_and_is_never_padded():
    e = episode(6, False)
    got = chunks([e], 5, 0.99)
    assert got.tick.tolist() == [0, 1] and got.mask.tolist() == [1, 1]
    assert np.array_equal(got.next_obs[1], e.obs[6])


def test_fault_097_too_short_is_refused_and_says_how_long():
    with pytest.raises(DataRefused, match="5 control periods"):
        chunks([episode(4, False), episode(3, False, 1)], 5, 0.99)


def test_fault_097_short_terminal_episode_is_enough():
    assert len(chunks([episode(1, True)], 5, 0.99)) == 1


@settings(max_examples=100 * SCALE, deadline=None)
@given(reward=st.lists(st.floats(-10, 10), min_size=1, max_size=20), gamma=st.floats(0, 1))
def test_returns_are_the_discounted_sums(reward, gamma):
    e = episode(len(reward), True, reward=reward)
    expected = [
        sum(gamma ** (j - k) * reward[j] for j in range(k, len(reward))) for k in range(len(reward))
    ]
    assert np.allclose(e.returns(gamma), expected)


def test_return_scale_is_the_spread_of_episodes_that_ended():
    good, bad, cut = (
        episode(3, True, reward=[0, 0, 1]),
        episode(2, True, 1, reward=[0, -3]),
        episode(9, False, 2, reward=[50] * 9),
    )
    assert return_scale([good, bad, cut], 1.0) == 4.0
    assert return_scale([episode(5, True, reward=[0] * 5)], 0.9) == 0.0


def test_success_only_has_no_spread_at_gamma_one_and_one_below():
    episodes = [episode(n, True, n, reward=[0] * (n - 1) + [1]) for n in (3, 8)]
    assert return_scale(episodes, 1.0) == 0.0
    assert return_scale(episodes, 0.9) == pytest.approx(1 - 0.9**7)


def test_fault_093_constant_reward_of_cut_recordings_holds_no_information():
    """Without an end the return to go only says how much of the recording is left."""
    assert return_scale([episode(n, False, n, reward=[-0.1] * n) for n in (30, 50)], 0.99) == 0.0


@pytest.mark.parametrize("obs,action,reward", [(3, 3, 3), (5, 3, 3), (4, 3, 2), (1, 0, 0)])
def test_episode_of_sizes_that_do_not_fit_refused(obs, action, reward):
    with pytest.raises(ValueError, match="ep"):
        Episode("ep", np.zeros((obs, 1)), np.zeros((action, 1)), np.zeros(reward), True)


@settings(max_examples=60 * SCALE, deadline=None)
@given(
    outcomes=st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=80),
    seed=st.integers(0, 1000),
)
def test_split_uses_every_episode_once_and_keeps_the_shares(outcomes, seed):
    episodes = [episode(2, o is not None, k, success=o) for k, o in enumerate(outcomes)]
    s = split(episodes, seed)
    assert sorted(s.train + s.select + s.report) == list(range(len(episodes)))
    assert s == split(episodes, seed) and s.train
    for outcome in (True, False, None):
        members = [i for i, o in enumerate(outcomes) if o is outcome]
        share = sum(i in s.report for i in members)
        assert share == (0 if len(members) < 3 else max(1, round(0.1 * len(members))))


def test_parts_of_an_episode_that_was_cut_stay_together():
    """A tick before the gap and a tick behind it look alike: one of them held out would tell nothing."""
    parts = [
        replace(
            episode(8, k == 2, n),
            name=f"e{n}.{k}",
            origin=f"e{n}",
            success=True if k == 2 else None,
        )
        for n in range(30)
        for k in range(3)
    ]
    for seed in range(5):
        groups = split(parts, seed)
        of = {
            parts[i].origin: name
            for name in ("train", "select", "report")
            for i in getattr(groups, name)
        }
        for name in ("train", "select", "report"):
            assert all(of[parts[i].origin] == name for i in getattr(groups, name))
        assert sorted((*groups.train, *groups.select, *groups.report)) == list(range(90))
        assert len(groups.select) == len(groups.report) == 9
