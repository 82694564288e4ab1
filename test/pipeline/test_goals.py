"""Hindsight relabelling against playing every chunk out, and where goals are drawn from."""

import numpy as np
import pytest
from qgf_make import SCALE, contract, velocity_dict

from qgf_ros.spaces.normalizer import Normalizer
from training.pipeline.chunks import ChunkTable, chunks
from training.pipeline.episodes import Episode
from training.pipeline.goals import Hindsight, Shares, goal_columns, shared_scale

RADIUS, GAMMA, H = 0.5, 0.9, 5


def goal_contract(radius=RADIUS, horizon=H):
    """Two goal numbers, told in another order than what they are compared with stands in."""
    own = velocity_dict(horizon=horizon)
    own["observations"][1]["fields"] = ["point.x", "point.y"]
    spec = {"observation": "goal", "achieved": ["joints.position.b", "joints.position.a"]}
    own["outcome"] = {"objective": "reach_goal", "goal": spec | {"radius": radius}}
    return contract(own)


def play(rng, count=8, longest=14):
    """Random walks; a third of them won, a third lost, a third cut."""
    out = []
    for k in range(count):
        steps = int(rng.integers(H, longest))
        obs = np.cumsum(rng.normal(scale=0.4, size=(steps + 1, 6)), axis=0)
        obs[:, 4:] = obs[0, 4:]  # the goal stays where it is
        end = (True, False, None)[k % 3]
        out.append(
            Episode(
                f"e{k}", obs, rng.normal(size=(steps, 2)), np.zeros(steps), end is not None, end
            )
        )
    return out


def whole(ours):
    return ours.table.cut(np.arange(len(ours)))


def hindsight(episodes, **options):
    own = goal_contract(**options)
    horizon = own.time.horizon
    return Hindsight(ChunkTable(episodes, horizon, GAMMA), own)


def played_out(e, tick, goal, recorded, horizon):
    """-> (reward, mask, valid, to go), one period after another."""

    def look(ahead):
        for i in range(ahead):
            at = tick + i + 1
            if at > len(e):
                return "unknown", 0.0
            if at == len(e) and e.terminal and not e.success:
                return "lost", 0.0
            achieved = e.obs[at, [1, 0]]
            if np.hypot(*(achieved - goal)) <= RADIUS:
                return "reached", GAMMA**i
            if at == len(e) and e.terminal and e.success and recorded:
                return "reached", GAMMA**i
        return "on", 0.0

    said, reward = look(horizon)
    whole, to_go = look(10_000)
    mask, valid = float(said == "on"), float(said != "unknown")
    return reward, mask, valid, to_go if whole in ("reached", "lost") else np.nan


@pytest.mark.parametrize("seed", range(12 * SCALE))
def test_rewards_masks_and_returns_are_what_playing_it_out_gives(seed):
    rng = np.random.default_rng(seed)
    episodes = play(rng)
    ours = hindsight(episodes)
    rows = rng.integers(len(ours), size=300)
    shares = Shares(0.4, 0.3, GAMMA)
    got = ours.for_critic(rows, shares, np.random.default_rng(seed), to_go=True)
    goal, recorded = ours._draw(rows, shares, np.random.default_rng(seed))
    parts = whole(ours)
    reached = 0
    for k, row in enumerate(rows):
        e, tick = episodes[parts.episode[row]], parts.tick[row]
        reward, mask, valid, to_go = played_out(e, tick, goal[k], recorded[k], H)
        assert got.valid[k] == valid
        if valid:
            assert got.reward[k] == pytest.approx(reward) and got.mask[k] == mask
        np.testing.assert_allclose(got.to_go[k], to_go)
        told = e.obs[tick].copy()
        told[4:] = goal[k]
        np.testing.assert_array_equal(got.obs[k], told)
        after = e.obs[min(tick + H, len(e))].copy()
        after[4:] = goal[k]
        np.testing.assert_array_equal(got.next_obs[k], after)
        np.testing.assert_array_equal(got.action[k], parts.action[row], "as it was done")
        reached += reward > 0
    assert 30 < reached < 270
    assert ((0 <= got.reward) & (got.reward <= 1)).all()
    ends = recorded & (parts.tick[rows] + H > ours.steps[parts.episode[rows]])
    assert got.valid[ends].all(), "for its own goal every recorded end is known"


def test_the_exponent_is_that_of_time_to_success():
    """The action of tick k that ends at the goal at tick k + 1 earns 1."""
    steps = 9
    obs = np.zeros((steps + 1, 6))
    obs[:, 0] = obs[:, 1] = np.arange(steps + 1)
    e = Episode("line", obs, np.zeros((steps, 2)), np.zeros(steps), False)
    ours = hindsight([e])
    goal, no = np.full((5, 2), 5.0), np.zeros(5, bool)
    got = ours.relabelled(np.arange(5), goal, no, to_go=True)  # at 5 after action 4
    assert got.reward.tolist() == pytest.approx([GAMMA**4, GAMMA**3, GAMMA**2, GAMMA, 1])
    assert got.mask.tolist() == [0] * 5 and got.valid.tolist() == [1] * 5
    far = ours.relabelled(np.arange(5), goal + 2, no, to_go=True)  # at 7 after action 6
    assert far.reward.tolist() == pytest.approx([0, 0, GAMMA**4, GAMMA**3, GAMMA**2])
    assert far.mask.tolist() == [1, 1, 0, 0, 0]
    assert far.to_go.tolist() == pytest.approx([GAMMA ** (6 - k) for k in range(5)])
    # Standing at the goal is not yet reaching it: leaving and staying differ.
    assert ours.relabelled(np.array([3]), np.full((1, 2), 3.0), no[:1]).reward == 0

    success = Episode("won", obs, np.zeros((steps, 2)), np.eye(steps)[-1], True, True)
    recorded = chunks([success], H, GAMMA)
    told = hindsight([success]).relabelled(
        np.arange(steps), np.full((steps, 2), 9.0), np.ones(steps, bool)
    )
    np.testing.assert_allclose(told.reward, recorded.reward)
    np.testing.assert_array_equal(told.mask, recorded.mask)


def test_a_success_ends_the_episode_for_its_own_goal_only():
    rng = np.random.default_rng(0)
    e = play(rng, 1)[0]
    ours, last = hindsight([e]), np.array([len(e) - 1])
    nowhere = np.full((1, 2), 1e6)
    own = ours.relabelled(last, nowhere, np.array([True]))
    other = ours.relabelled(last, nowhere, np.array([False]))
    assert (own.reward, own.mask, own.valid) == (1, 0, 1)
    assert (other.reward, other.valid) == (0, 0), "what would have come after it is not known"


def test_a_failure_reaches_nothing_wherever_it_was():
    e = play(np.random.default_rng(0), 2)[1]
    ours, last = hindsight([e]), np.array([len(e) - 1])
    there = e.obs[-1:, [1, 0]]
    got = ours.relabelled(last, there, np.array([False]), to_go=True)
    assert (got.reward, got.mask, got.valid, got.to_go) == (0, 0, 1, 0)


def test_recordings_without_any_outcome_are_cut_and_a_success_earns_one():
    from training.pipeline.align import align
    from training.pipeline.report import Report
    from training.pipeline.streams import Recording, Stream

    own = velocity_dict()
    spec = {"observation": "goal", "achieved": ["joints.position.a"], "radius": 0.1}
    own["outcome"] = {"objective": "reach_goal", "goal": spec}
    heard = {"topic": "success", "type": "std_msgs/Bool", "fields": ["data"]}
    labelled = own | {"outcome": own["outcome"] | {"success": heard}}
    at = 10**18 + np.arange(60, dtype=np.int64) * 50_000_000
    streams = {
        name: Stream(at, at, np.ones((60, width)))
        for name, width in (("joints", 4), ("goal", 1), ("arm", 2))
    }

    def read(value, **more):
        return align(Recording("bag", streams | more, one_episode=True), contract(value), Report())

    def said(what):
        return Stream(at[50:51], at[50:51], np.array([[what]]))

    (play_,) = read(own)
    assert not play_.terminal and play_.success is None and not play_.reward.any()
    (unsaid,) = read(labelled, success=Stream(at[:0], at[:0], np.zeros((0, 1))))
    assert not unsaid.terminal and not unsaid.reward.any()
    (won,) = read(labelled, success=said(1.0))
    assert won.terminal and won.success and won.reward.tolist() == [0] * (len(won) - 1) + [1]
    (lost,) = read(labelled, success=said(0.0))
    assert lost.terminal and lost.success is False and not lost.reward.any()


def identified(rng, count=6):
    """Episodes in which the achieved numbers say where they come from: (episode, tick)."""
    episodes = play(rng, count)
    for k, e in enumerate(episodes):
        e.obs[:, 1], e.obs[:, 0] = k, np.arange(len(e) + 1)
        e.obs[:, 4:] = -1
    return episodes


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.5])
def test_future_goals_are_later_states_by_their_law(discount):
    rng = np.random.default_rng(1)
    episodes = identified(rng)
    ours = hindsight(episodes)
    rows = rng.integers(len(ours), size=60_000)
    goal, recorded = ours._draw(rows, Shares(1.0, 0.0, discount), rng)
    episode, tick = whole(ours).episode[rows], whole(ours).tick[rows]
    assert not recorded.any() and (goal[:, 0] == episode).all()
    ahead = goal[:, 1] - tick
    assert (ahead >= 1).all() and (tick + ahead <= ours.steps[episode]).all()
    for left in (2, 5, 9):
        mine = ahead[ours.steps[episode] - tick == left].astype(int)
        want = discount ** np.arange(left)
        share = np.bincount(mine - 1, minlength=left) / len(mine)
        error = 4.5 * np.sqrt(0.25 / len(mine))
        np.testing.assert_allclose(share, want / want.sum(), atol=error)


def test_random_goals_are_states_of_other_episodes_all_alike():
    rng = np.random.default_rng(2)
    episodes = identified(rng)
    ours = hindsight(episodes)
    rows = rng.integers(len(ours), size=60_000)
    goal, recorded = ours._draw(rows, Shares(0.0, 1.0, GAMMA), rng)
    episode = whole(ours).episode[rows]
    assert not recorded.any() and (goal[:, 0] != episode).all()
    mine = goal[episode == 2].astype(int)
    cells = {tuple(c): n for c, n in zip(*np.unique(mine, axis=0, return_counts=True))}
    others = [(k, t) for k, e in enumerate(episodes) if k != 2 for t in range(len(e) + 1)]
    assert set(cells) == set(others)
    want = len(mine) / len(others)
    assert max(abs(n - want) for n in cells.values()) < 5 * np.sqrt(want)


def test_a_single_episode_lends_its_own_states():
    rng = np.random.default_rng(3)
    ours = hindsight(identified(rng, 1))
    goal, _ = ours._draw(np.arange(len(ours)), Shares(0.0, 1.0, GAMMA), rng)
    assert (goal[:, 0] == 0).all()


def test_shares_are_kept_and_the_rest_is_as_recorded():
    rng = np.random.default_rng(4)
    ours = hindsight(identified(rng))
    rows = rng.integers(len(ours), size=40_000)
    goal, recorded = ours._draw(rows, Shares(0.5, 0.3, GAMMA), rng)
    own = goal[:, 0] == whole(ours).episode[rows]
    assert recorded.mean() == pytest.approx(0.2, abs=0.01)
    assert (goal[recorded] == -1).all()
    assert own.mean() == pytest.approx(0.5, abs=0.01)
    told = ours.for_flow(rows[:500], Shares(1.0, 0.0, 1.0), rng)
    assert (told[:, 4] == whole(ours).episode[rows[:500]]).all()
    assert (told[:, :4] == whole(ours).obs[rows[:500], :4]).all()
    assert (whole(ours).obs[:, 4:] == -1).all(), "the recorded data is left alone"


def test_goal_columns_are_in_the_order_of_the_goal():
    goal, achieved = goal_columns(goal_contract())
    assert goal.tolist() == [4, 5] and achieved.tolist() == [1, 0]
    n = Normalizer(np.arange(6.0), np.arange(1.0, 7.0), np.zeros(2), np.ones(2))
    shared = shared_scale(n, goal_contract())
    assert shared.obs_mean.tolist() == [0, 1, 2, 3, 1, 0]
    assert shared.obs_std.tolist() == [1, 2, 3, 4, 2, 1]


def test_whether_goals_differ_is_seen():
    rng = np.random.default_rng(5)
    assert hindsight(play(rng)).informative
    assert not hindsight(play(rng), radius=1e3).informative
