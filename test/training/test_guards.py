"""Each guard: nothing when off or when it does not take hold, and what it does where it does.

On constructed gradients, on small nets through the sampler, and on the testbed, where the table's
numbers (method.md) are the unguarded ones. The box and the ratio cap on constructed gradients, and
the table: test_estimators.py, test_testbed.py.
"""

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from qgf_ros.errors import UsageError
from training import estimators
from training.guards import (
    Box,
    Guards,
    Neighbours,
    Place,
    agreed,
    masked,
    near_data,
    within_support,
)
from training.lab import testbed
from training.lab.testbed import WIDE, BumpCritic
from training.learn.models import Critic, VelocityField
from training.sampling import sample

TOLERANCE = 0.02  # 5000 particles: the standard error of a share is at most 0.007
FIELDS = ("action", "q", "gradient_norm", "guidance_ratio")


def nets(obs_dim=5, D=4, hidden=(16, 16), members=2, seed=0):
    torch.manual_seed(seed)
    velocity, critic = VelocityField(obs_dim, D, hidden), Critic(obs_dim, D, hidden, members)
    for p in (*velocity.parameters(), *critic.parameters()):
        p.data.add_(0.1 * torch.randn_like(p))
    return velocity, critic


def anchors(radius, k=3, M=50, obs_dim=5, D=4):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(M, obs_dim + D, generator=generator)
    return Neighbours(rows[:, :obs_dim], 0.1 * rows[:, obs_dim:], k, radius)


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


# On, and never taking hold: every guard by itself.
IDLE = {
    "none": Guards(),
    "first step in the window": Guards(skip_first=0, last=10),
    "window longer than the flow": Guards(last=99),
    "disagreement": Guards(disagreement=1e30),
    "mask, A": Guards(mask=(1, 1)),
    "mask, D": Guards(mask=(1, 1, 1, 1)),
    "support": Guards(support=Box((-1.1,), (1.1,))),
    "neighbours": Guards(neighbours=anchors(math.inf)),
    "ratio_cap": Guards(ratio_cap=1e30),
}
# On, and taking hold of the nets above.
BUSY = {
    "skip_first": Guards(skip_first=3),
    "last": Guards(last=3),
    "disagreement": Guards(disagreement=0.1),
    "mask": Guards(mask=(0, 1)),
    "support": Guards(support=Box((-0.1,), (0.1,))),
    "neighbours": Guards(neighbours=anchors(0.1)),
    "ratio_cap": Guards(ratio_cap=0.1),
}


@pytest.mark.parametrize("name", IDLE)
@pytest.mark.parametrize("estimator", estimators.ESTIMATORS)
def test_a_guard_that_does_not_take_hold_changes_no_bit(name, estimator):
    velocity, critic = nets()
    obs, noise, w = torch.randn(32, 5), torch.randn(32, 4), torch.linspace(0, 4, 32)
    call = partial(sample, velocity, critic, obs, noise, w, estimator=estimator)
    assert same(call(guards=IDLE[name]), call())


@pytest.mark.parametrize("name", BUSY)
def test_a_guard_takes_hold_of_guided_rows_and_leaves_the_unguided_alone(name):
    velocity, critic = nets()
    obs, noise, w = torch.randn(32, 5), torch.randn(32, 4), torch.tensor([0.0, 3.0] * 16)
    plain = sample(velocity, critic, obs, noise, w)
    guarded = sample(velocity, critic, obs, noise, w, guards=BUSY[name])
    assert torch.equal(guarded.action[::2], plain.action[::2])
    assert not torch.equal(guarded.action[1::2], plain.action[1::2])
    assert not torch.equal(guarded.gradient_norm[1::2], plain.gradient_norm[1::2])


def test_guards_travel_to_other_processes():
    """An evaluation pickles them to its workers."""
    guards = Guards(neighbours=anchors(0.1), mask=(0, 1), support=Box((-0.5,), (0.5,)))
    there = pickle.loads(pickle.dumps(guards))
    velocity, critic = nets()
    call = partial(sample, velocity, critic, torch.randn(8, 5), torch.randn(8, 4), 2.0)
    assert same(call(guards=there), call(guards=guards))


# Window.


@pytest.mark.parametrize(
    "skip, last, expected",
    [(0, None, range(10)), (3, None, range(3, 10)), (0, 2, range(8, 10)), (7, 5, range(7, 10))],
)
def test_the_window_is_these_steps_and_no_other_asks_the_critic(skip, last, expected):
    """Flow at rest and Q = sum a: each guided step moves by w / T, and asks for one gradient."""
    asked = []

    def critic(obs: Tensor, a: Tensor) -> Tensor:
        asked.append(torch.is_grad_enabled())
        return a.sum(-1)[None]

    start = torch.zeros(2, 3)
    guards = Guards(skip_first=skip, last=last)
    got = sample(lambda o, a, t: 0 * a, critic, start, start, 0.5, guards=guards)
    assert guards.window(10) == expected
    assert sum(asked) == len(expected)
    torch.testing.assert_close(got.action, torch.full((2, 3), 0.05 * len(expected)))
    mean = math.sqrt(3) * len(expected) / 10  # over all steps: what is skipped counts as 0
    torch.testing.assert_close(got.gradient_norm, torch.full((2,), mean))


def test_a_window_on_the_testbed_trades_the_gain_for_fewer_fooled():
    """Wide bump, T = 50, w = 2, unguarded 0.00 / 0.97. In the last half fewer are fooled; in the
    last tenth nobody is, and there is no gain left either: a third is there unguided."""
    half = testbed.run(WIDE, 50, 2, guard=Guards(last=25), particles=5000)
    assert half.near_optimum == pytest.approx(0.62, abs=TOLERANCE)
    assert half.fooled == pytest.approx(0.17, abs=TOLERANCE)
    tenth = testbed.run(WIDE, 50, 2, guard=Guards(last=5), particles=5000)
    assert tenth.near_optimum == pytest.approx(1 / 3, abs=TOLERANCE) and tenth.fooled < 0.005


# Disagreement.


def test_no_guidance_in_rows_where_the_members_disagree():
    members = torch.tensor([[0.0, 0.0, 0.0, math.nan, 5.0], [0.0, 0.2, 0.21, 0.0, math.inf]])
    g = torch.ones(5, 3)  # std of two is half their distance
    assert torch.equal(agreed(g, members, 0.1)[:, 0], torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]))
    assert torch.all(agreed(g * math.inf, members, 0.1)[2:] == 0)  # chosen, not multiplied


def test_disagreement_is_asked_at_a_hat():
    """Members differ beyond 0.5 only; a_t starts there, a_hat of this flow is 0."""

    def critic(obs: Tensor, a: Tensor) -> Tensor:
        q = a[:, 0]
        return torch.stack([q, q + 10.0 * (a[:, 0].abs() > 0.5)])

    def home(obs: Tensor, a: Tensor, t: Tensor) -> Tensor:
        return -a / (1 - t[:, None])

    start = torch.tensor([[0.9], [-0.9]])
    options = {"steps": 4, "times": torch.arange(4) / 4, "guards": Guards(disagreement=1.0)}
    got = sample(home, critic, start, start, 0.1, **options)
    assert torch.all(got.gradient_norm == 1)


def test_disagreement_on_the_testbed_stops_what_only_one_member_is_sure_of():
    """Two members with false peaks of 12 and 16: their min is the wide critic of the table, 0.00
    near the optimum and 0.97 fooled at T = 50, w = 2. They agree within the data."""

    def critic(obs: Tensor, a: Tensor) -> Tensor:
        return torch.cat([WIDE(obs, a), BumpCritic(16, 0.7)(obs, a)])

    unguarded = testbed.run(critic, 50, 2, particles=5000)
    assert unguarded == testbed.run(WIDE, 50, 2, particles=5000)
    assert unguarded.near_optimum < 0.02 and unguarded.fooled > 0.95
    for threshold, near in ((0.01, 1.00), (0.1, 0.48)):
        got = testbed.run(critic, 50, 2, guard=Guards(disagreement=threshold), particles=5000)
        assert got.near_optimum == pytest.approx(near, abs=TOLERANCE) and got.fooled == 0


# Mask.


def test_a_mask_of_a_numbers_is_tiled_over_the_chunk():
    g = torch.arange(1.0, 7.0).expand(2, 6)  # H = 3, A = 2: index h * A + a
    assert torch.equal(masked(g, (0, 1))[0], torch.tensor([0.0, 2, 0, 4, 0, 6]))
    assert torch.equal(masked(g, (1, 0, 0))[0], torch.tensor([1.0, 0, 0, 4, 0, 0]))
    assert torch.equal(masked(g, (0, 0, 0, 0, 0, 1))[0], torch.tensor([0.0, 0, 0, 0, 0, 6]))
    assert torch.equal(masked(g * math.inf, (0, 1))[0, ::2], torch.zeros(3))


def test_masked_dimensions_of_the_action_follow_the_flow():
    """A flow that does not mix dimensions: masked ones end where they end unguided."""
    _, critic = nets()
    obs, noise = torch.randn(16, 5), torch.randn(16, 4)
    call = partial(sample, lambda o, a, t: -a, critic, obs, noise)
    unguided, masked_one = call(0.0).action, call(3.0, guards=Guards(mask=(1, 0))).action
    assert torch.equal(masked_one[:, 1::2], unguided[:, 1::2])
    assert not torch.any(masked_one[:, ::2] == unguided[:, ::2])


# Support.


def test_a_box_of_recorded_chunks_is_their_quantiles():
    rng = np.random.default_rng(0)
    chunks = rng.uniform([-1, 0], [1, 0.5], size=(50_000, 2))
    box = Box.of(chunks)
    np.testing.assert_allclose(box.low, [-0.98, 0.005], atol=0.005)
    np.testing.assert_allclose(box.high, [0.98, 0.495], atol=0.005)
    assert Box.of(torch.from_numpy(chunks)) == box
    whole = Box.of(chunks.astype(np.float32), quantile=0)
    np.testing.assert_allclose(whole.low, chunks.min(axis=0), rtol=1e-6)
    # One bad tick in a thousand chunks does not move it.
    spoilt = np.concatenate([chunks[:1000], [[50.0, -50.0]]])
    np.testing.assert_allclose(Box.of(spoilt).high, Box.of(chunks[:1000]).high, atol=0.01)


def test_a_box_survives_yaml():
    box = Box.of(np.random.default_rng(1).standard_normal((100, 3)))
    assert Box.from_dict(yaml.safe_load(yaml.safe_dump(box.to_dict()))) == box
    with pytest.raises(UsageError, match="support box lacks the key 'high'"):
        Box.from_dict({"low": [0.0]})
    with pytest.raises(UsageError, match="unknown key 'hihg'; did you mean 'high'"):
        Box.from_dict({"low": [0.0], "hihg": [1.0]})
    with pytest.raises(UsageError, match="low <= high"):
        Box.from_dict({"low": [0.0], "high": [-1.0]})


def test_a_box_of_the_testbeds_data_stops_the_fooled():
    """The table's box, [-2, 1], ends at the outer peaks; one of the data itself leaves the tails
    in, and guidance reaches their ends: nobody is fooled, but fewer come near the optimum."""
    data = testbed.data(1000, torch.Generator().manual_seed(1))
    for quantile, near in ((0.0, 0.16), (0.01, 0.59), (0.05, 0.91)):
        guards = Guards(support=Box.of(data, quantile))
        got = testbed.run(WIDE, 50, 2, guard=guards, particles=5000)
        assert got.near_optimum == pytest.approx(near, abs=TOLERANCE) and got.fooled == 0


# Neighbours.


def test_what_points_away_from_the_nearest_chunk_is_removed_and_nothing_else():
    candidates = torch.tensor([[[0.0, 0.0], [9.0, 9.0]]])  # K = 2, the second never the nearest
    a_hat, radius = torch.tensor([[3.0, 4.0]]), 4.9  # 5 from the nearest, along (0.6, 0.8)
    cases = {  # g: expected
        (1.0, 1.0): (1 - 1.4 * 0.6, 1 - 1.4 * 0.8),  # g - (g.u) u
        (6.0, 8.0): (0.0, 0.0),  # straight away
        (-6.0, -8.0): (-6.0, -8.0),  # straight back
        (0.8, -0.6): (0.8, -0.6),  # along
        (-1.0, 0.5): (-1.0, 0.5),  # back and along
        (0.0, 2.0): (0.0, 0.0),  # 0 stays 0: the mask or the box took it; what is left is away
        (0.0, -2.0): (0.0, -2.0),
    }
    for g, expected in cases.items():
        got = near_data(torch.tensor([g]), a_hat, candidates, radius)
        torch.testing.assert_close(got, torch.tensor([expected]), atol=1e-6, rtol=0)
        inside = near_data(torch.tensor([g]), a_hat, candidates, 5.1)
        assert torch.equal(inside, torch.tensor([g]))


def test_after_the_neighbours_nothing_points_away_or_is_given_back():
    torch.manual_seed(0)
    g, a_hat, candidates = torch.randn(500, 6), torch.randn(500, 6), torch.randn(500, 7, 6)
    g[:, ::3] = 0
    got = near_data(g, a_hat, candidates, 1.5)
    away = a_hat[:, None] - candidates
    distance, nearest = away.norm(dim=-1).min(dim=1)
    u = away[torch.arange(500), nearest]
    beyond = distance > 1.5
    held = beyond & ((g * u).sum(-1) > 0)
    assert 50 < held.sum() < 450
    assert (got * u).sum(-1)[beyond].max() < 1e-5
    assert torch.equal(got[~held], g[~held])
    assert torch.all(got[:, ::3] == 0) and torch.all(got.norm(dim=1) <= g.norm(dim=1) * (1 + 1e-6))


def test_candidates_are_the_chunks_of_the_nearest_observations():
    generator = torch.Generator().manual_seed(0)
    obs, actions = (torch.randn(200, n, generator=generator) for n in (3, 4))
    near = Neighbours(obs, actions, k=5, radius=0.1)
    asked = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    got = near.candidates(asked)
    assert got.shape == (9, 5, 4) and got.dtype == torch.float64
    for row, chunks in zip(asked, got):
        order = (obs.double() - row).norm(dim=1).argsort()[:5]
        assert torch.equal(chunks, actions[order].double())


def test_the_radius_is_a_quantile_of_what_leaving_one_out_finds():
    rng = np.random.default_rng(0)
    obs, actions = rng.standard_normal((600, 3)), rng.standard_normal((600, 2))
    near = Neighbours.of(obs, actions, k=7, quantile=0.9)
    found = []
    for i in range(600):
        apart = np.linalg.norm(obs - obs[i], axis=1)
        apart[i] = np.inf
        nearest = np.argsort(apart)[:7]
        found.append(np.linalg.norm(actions[nearest] - actions[i], axis=1).min())
    assert near.radius == pytest.approx(np.quantile(found, 0.9), rel=1e-5)
    assert len(near.obs) == 600 and near.k == 7


def test_anchors_are_drawn_by_the_seed_up_to_the_limit():
    rng = np.random.default_rng(0)
    obs, actions = rng.standard_normal((500, 3)), rng.standard_normal((500, 2))
    one, again, other = (Neighbours.of(obs, actions, 4, limit=100, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.obs, again.obs) and one.radius == again.radius
    assert len(one.obs) == 100 and not torch.equal(one.obs, other.obs)
    pairs = {(*o, *a) for o, a in zip(obs.astype(np.float32), actions.astype(np.float32))}
    assert all((*o, *a) in pairs for o, a in zip(one.obs.numpy(), one.actions.numpy()))


def test_leaving_the_episode_out_gives_the_radius_between_episodes():
    """30 episodes of 20 equal ticks: left out alone, a tick finds its twin at distance 0."""
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(30), 20)
    obs, actions = rng.standard_normal((30, 2))[episode], rng.standard_normal((30, 2))[episode]
    assert Neighbours.of(obs, actions, k=8).radius == 0
    between = Neighbours.of(obs, actions, k=8, quantile=0.5, episode=episode)
    assert 0.1 < between.radius < 3


def test_neighbours_know_the_data_of_a_state_where_the_box_does_not():
    """obs -1 or 1, actions N(obs / 2, 0.15^2), flow in closed form, Q = a. Guidance draws the rows
    at obs = -1 to the right, where only the other state has data: the box has nothing to say."""
    sigma, generator = 0.15, torch.Generator().manual_seed(0)
    obs = torch.tensor([-1.0, 1.0]).repeat(1000)[:, None]
    actions = obs / 2 + sigma * torch.randn(2000, 1, generator=generator)

    def flow(o: Tensor, a: Tensor, time: Tensor) -> Tensor:
        t, mean = time[:, None], o / 2
        variance = (1 - t) ** 2 + t**2 * sigma**2
        return (mean + t * sigma**2 * (a - t * mean) / variance - a) / (1 - t)

    rows, noise = torch.full((500, 1), -1.0), torch.randn(500, 1, generator=generator)
    options = {"steps": 50, "times": torch.arange(50) / 50}
    call = partial(sample, flow, lambda o, a: a.T, rows, noise, 2.0, **options)
    plain = call().action
    assert float(plain.mean()) == pytest.approx(0.29, abs=0.02)
    assert torch.equal(call(guards=Guards(support=Box.of(actions))).action, plain)
    held = call(guards=Guards(neighbours=Neighbours.of(obs, actions))).action
    assert float(held.mean()) == pytest.approx(0.03, abs=0.02)


def test_neighbours_on_the_testbed_stop_the_fooled():
    """No state, so every anchor counts. Like the box of the whole data, it reaches to the end of
    the tails: 0.97 fooled becomes none, and some come near the optimum, not most."""
    data = testbed.data(1000, torch.Generator().manual_seed(1))
    near = Neighbours.of(data[:, :0], data, k=999)
    assert near.radius == pytest.approx(0.0137, abs=0.001)
    got = testbed.run(WIDE, 50, 2, guard=Guards(neighbours=near), particles=2000)
    assert got.fooled == 0 and got.near_optimum == pytest.approx(0.19, abs=0.03)
    sound = testbed.run(testbed.NARROW, 50, 2, guard=Guards(neighbours=near), particles=2000)
    assert sound.near_optimum > 0.99 and sound.fooled == 0


# keep_best, and all of them together.


def test_keep_best_is_row_by_row_the_better_of_guided_and_unguided():
    """Q = -|a - m|^2: above w = 10 the steps diverge, and ever more rows overshoot."""
    velocity, _ = nets()
    obs, noise, w = torch.randn(200, 5), torch.randn(200, 4), torch.linspace(0, 30, 200)

    def critic(obs: Tensor, a: Tensor) -> Tensor:
        return -(a - obs[:, :4] / 4).square().sum(-1).expand(2, -1)

    call = partial(sample, velocity, critic, obs, noise)
    guided, unguided, kept = call(w), call(0.0), call(w, guards=Guards(keep_best=True))
    better = guided.q > unguided.q
    assert 80 < better.sum() < 160
    assert torch.equal(kept.q, torch.maximum(guided.q, unguided.q))
    for rows, source in ((better, guided), (~better, unguided)):
        assert same(kept[rows], source[rows])
    assert torch.all(kept.guidance_ratio[~better] == 0)


def test_keep_best_falls_back_where_q_is_not_a_number():
    def critic(obs: Tensor, a: Tensor) -> Tensor:
        return torch.where(a[:, 0] > 0.2, math.nan, a[:, 0])[None]

    start = torch.zeros(2, 1)
    w = torch.tensor([0.1, 5.0])
    got = sample(lambda o, a, t: 0 * a, critic, start, start, w, guards=Guards(keep_best=True))
    torch.testing.assert_close(got.action, torch.tensor([[0.1], [0.0]]))


def test_keep_best_helps_against_divergence_and_not_against_a_false_peak():
    """Wide bump. At T = 10, w = 8 the steps diverge, and who overshoots returns to the unguided
    peaks. At T = 50, w = 2 nothing does, and the fooled have the larger Q: they stay."""
    noise = torch.randn(5000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"steps": 10, "bound": math.inf, "times": torch.arange(10).double() / 10}
    call = partial(sample, testbed.velocity, WIDE, noise[:, :0], noise, 8.0, **options)
    plain, kept = call(), call(guards=Guards(keep_best=True))
    assert plain.action.min() < -8 and plain.action.max() > 8
    assert kept.action.min() > -2.6 and kept.action.max() < 5
    assert plain.q.mean() < -10 < -0.5 < kept.q.mean()
    fallen_back = (kept.gradient_norm == 0).double().mean()
    assert float(fallen_back) == pytest.approx(0.42, abs=TOLERANCE)
    got = testbed.run(WIDE, 50, 2, guard=Guards(keep_best=True), particles=5000)
    assert got.fooled == pytest.approx(0.97, abs=TOLERANCE)


def test_what_one_guard_took_no_later_one_gives_back():
    """All at once, step by step through a critic that watches: masked dimensions see no push, the
    cap holds, and nothing outside the box or beyond the radius is pushed on."""
    velocity, critic = nets()
    obs, noise = torch.randn(64, 5), torch.randn(64, 4)
    near, box = anchors(0.05), Box((-0.3,), (0.3,))
    # With every anchor within the box, both supports can be had at once.
    near = Neighbours(near.obs, near.actions.clamp(-0.3, 0.3), near.k, near.radius)
    guards = Guards(mask=(1, 0), support=box, neighbours=near, ratio_cap=0.5, disagreement=1.0)
    seen = []

    class Watched(Guards):
        def __call__(self, gradient, place):
            g = Guards.__call__(self, gradient, place)
            seen.append((gradient, g, place))
            return g

    sample(velocity, critic, obs, noise, 3.0, guards=Watched(**vars(guards)))
    assert len(seen) == 10
    taken = 0
    for before, g, place in seen:
        assert torch.all(g[:, 1::2] == 0)
        ratio = 3 * g.norm(dim=1) / place.velocity.norm(dim=1)
        assert ratio.max() <= 0.5 * (1 + 1e-5)
        outside = place.a_hat.abs() > 0.3
        assert (g * place.a_hat)[outside].amax() < 1e-6
        away = place.a_hat[:, None] - place.candidates
        distance, nearest = away.norm(dim=-1).min(dim=1)
        along = (g * away[torch.arange(64), nearest]).sum(-1)
        assert along[distance > 0.05].max() < 1e-5
        taken += int((before != g).any())
    assert taken == 10


def test_the_cap_measures_what_the_others_left():
    """Capped first, (3, 4) would become (0.6, 0.8) and the mask leave 0.8 of the 1 allowed."""
    at, one = torch.zeros(1, 2), torch.ones(1, 1)
    place = Place(at, torch.tensor([[1.0, 0.0]]), one, lambda: torch.zeros(2, 1))
    got = Guards(mask=(0, 1), ratio_cap=1.0)(torch.tensor([[3.0, 4.0]]), place)
    assert torch.equal(got, torch.tensor([[0.0, 1.0]]))


def two_critics(obs, a):
    return torch.zeros(2, len(a)) + a.sum(-1)


def one_critic(obs, a):
    return a.sum(-1)[None]


@pytest.mark.parametrize(
    "guards, critic, message",
    [
        (Guards(skip_first=10), two_critics, "skip_first is 10 of 10 steps.*up to 9"),
        (Guards(mask=(1, 0, 1)), two_critics, "mask of 3 numbers for actions of 4"),
        (Guards(mask=(1, 0) * 4), two_critics, "mask of 8 numbers for actions of 4"),
        (Guards(disagreement=0.1), one_critic, "1 member, which never disagrees"),
        (Guards(neighbours=anchors(0.1, obs_dim=6)), two_critics, "of 6 observations, given 5"),
        (Guards(support=Box((0.0,) * 3, (1.0,) * 3)), two_critics, "3 dimensions for actions of 4"),
    ],
)
def test_guards_that_do_not_fit_are_refused_by_the_sampler(guards, critic, message):
    start = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=message):
        sample(lambda o, a, t: 0 * a, critic, torch.zeros(2, 5), start, 1.0, guards=guards)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Guards(skip_first=-1), "skip_first is -1"),
        (lambda: Guards(last=0), "last is 0"),
        (lambda: Guards(disagreement=-0.1), "disagreement is -0.1"),
        (lambda: Guards(disagreement=math.nan), "disagreement is nan"),
        (lambda: Guards(mask=(0, 2)), r"mask is \(0, 2\); needed: 0 or 1"),
        (lambda: Guards(mask=(0, 0)), "at least one 1"),
        (lambda: Box.of(np.zeros((0, 3))), r"actions has shape \(0, 3\)"),
        (lambda: Box.of(np.zeros(3)), r"actions has shape \(3,\)"),
        (lambda: Box.of(np.full((3, 1), np.nan)), "finite numbers"),
        (lambda: Box.of(np.zeros((3, 1)), 0.5), "quantile is 0.5; allowed: 0 up to below 0.5"),
        (lambda: anchors(-1.0), "radius is -1.0"),
        (lambda: anchors(math.nan), "radius is nan"),
        (lambda: anchors(0.1, k=51), "k is 51; allowed: 1 to 50 anchors"),
        (
            lambda: Neighbours(torch.zeros(3, 1), torch.zeros(4, 1), 1, 0.1),
            r"\(M, O\) and \(M, D\)",
        ),
        (lambda: Neighbours.of(np.zeros((9, 1)), np.zeros((8, 1))), "9 obs, 8 actions"),
        (lambda: Neighbours.of(np.zeros((9, 1)), np.zeros((9, 1))), "k is 32; allowed: 1 to 8"),
        (lambda: Neighbours.of(np.zeros((9, 1)), np.zeros((9, 1)), 2, 1.5), "quantile 1.5"),
        (
            lambda: Neighbours.of(np.zeros((9, 1)), np.zeros((9, 1)), 2, episode=np.zeros(9)),
            "all anchors are of one episode",
        ),
    ],
)
def test_guards_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_box_that_ends_where_actions_are_clipped_still_takes_hold():
    """Data that fills its range has its quantiles at -1 and 1, and a_hat never lies beyond."""
    box = Box.of(torch.sign(torch.randn(500, 2, generator=torch.Generator().manual_seed(0))))
    assert box == Box((-1.0, -1.0), (1.0, 1.0))
    a_hat = torch.tensor([[1.0, -1.0], [0.999, 0.0]])
    gradient = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    guarded = within_support(gradient, a_hat, box)
    assert guarded.tolist() == [[0.0, 1.0], [1.0, -1.0]]
