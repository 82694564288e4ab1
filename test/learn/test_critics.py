"""Each kind of critic learns the values that arithmetic gives, and refuses what it cannot learn.

The world of these tests, in chunks of two actions and with gamma^2 = 0.9; the data does either
chunk, + or -, equally often everywhere:

    s0 +-> s1, s0 --> s2     no reward
    s1 +-> 1, s1 --> 0       the end
    s2 +-> 0.4, s2 --> 0     the end
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from qgf_make import contract, velocity_dict

from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.policy.folder import load_policy
from qgf_ros.spaces.actions.codec import ActionCodec
from qgf_ros.spaces.normalizer import Normalizer
from training.learn.batches import tensors
from training.learn.config import FitConfig
from training.learn.critics import learner_of, monte_carlo
from training.learn.critics.base import CriticConfig, regression
from training.learn.critics.batch import ChunkBatch
from training.learn.fit import fit_episodes
from training.learn.models import Critic, Value, VelocityField
from training.pipeline.chunks import ChunkTable, chunks
from training.pipeline.episodes import Episode

DECAY = 0.9  # gamma^H
STATES = torch.eye(3)
PLUS, MINUS = torch.ones(2), -torch.ones(2)
COMMON = dict(discount=math.sqrt(DECAY), horizon=2, target_rate=0.2, learning_rate=1e-2)


def world(returns: bool) -> ChunkBatch:
    """The four episodes, two chunks each; with the whole return instead of the chunk's reward."""
    rows = []
    for first in (PLUS, MINUS):
        middle, prize = (1, 1.0) if first is PLUS else (2, 0.4)
        for second in (PLUS, MINUS):
            won = prize if second is PLUS else 0.0
            whole = (DECAY * won, 0.0) if returns else (0.0, 1.0)
            rows.append((STATES[0], first, *whole, STATES[middle]))
            rows.append((STATES[middle], second, won, 0.0, STATES[middle]))
    obs, action, reward, mask, after = zip(*rows)
    return ChunkBatch(
        torch.stack(obs),
        torch.stack(action),
        torch.tensor(reward),
        torch.tensor(mask),
        torch.stack(after),
        torch.ones(len(rows)),
    )


def learnt(kind: str, expectile=0.9, bounded=False, aggregation="min", steps=220):
    """-> Q(s, a) of the world's six pairs by the target critic, and V of its states or None."""
    torch.manual_seed(0)
    output = "sigmoid" if bounded else "linear"
    velocity, critic = VelocityField(3, 2, (8,)), Critic(3, 2, (32, 32), 3, output)
    value = Value(3, (32, 32), output)
    common = COMMON | {"aggregation": aggregation}
    kind_of = learner_of(kind)
    own = {"expectile": expectile} if kind == "iql" else {}
    settings = kind_of.Settings(**common, **own)
    learner = kind_of(velocity, critic, value if kind_of.has_value else None, settings)
    batch = world(returns=kind == "monte_carlo")
    for _ in range(steps):
        learner.update(batch, torch.randn(8, 2), torch.rand(8))
    pairs = [(s, a) for s in STATES for a in (PLUS, MINUS)]
    with torch.no_grad():
        q = learner.target_critic(*(torch.stack(column) for column in zip(*pairs)))
        v = None if learner.value is None else learner.value(STATES)
    return q.mean(dim=0).view(3, 2), v


def exact(tau: float) -> tuple[torch.Tensor, torch.Tensor]:
    """By hand: of 0 and x, equally often, the expectile tau is tau x."""
    v1, v2 = tau, 0.4 * tau
    plus, minus = DECAY * v1, DECAY * v2
    v0 = (tau * plus + (1 - tau) * minus) / 1.0
    return torch.tensor([[plus, minus], [1, 0], [0.4, 0]]), torch.tensor([v0, v1, v2])


@pytest.mark.parametrize(
    "kind, tau, bounded",
    [
        ("iql", 0.9, False),
        ("iql", 0.9, True),
        ("iql", 0.5, False),  # which is sarsa
        ("sarsa", 0.5, True),
        ("monte_carlo", 0.5, False),
        ("monte_carlo", 0.5, True),
    ],
)
def test_values_of_the_small_world(kind, tau, bounded):
    q, v = learnt(kind, tau, bounded, steps=120 if kind == "monte_carlo" else 220)
    want_q, want_v = exact(tau)
    torch.testing.assert_close(q, want_q, atol=0.03, rtol=0)
    if v is None:
        assert kind == "monte_carlo"
    else:
        torch.testing.assert_close(v, want_v, atol=0.03, rtol=0)
    if bounded:
        assert ((0 < q) & (q < 1)).all()


@pytest.mark.parametrize("aggregation", ["mean", "mean-1std"])
def test_other_aggregations_learn_the_same_where_members_agree(aggregation):
    q, _ = learnt("sarsa", aggregation=aggregation)
    torch.testing.assert_close(q, exact(0.5)[0], atol=0.04, rtol=0)


@pytest.mark.parametrize("chance", [0.1, 0.75])
def test_a_bounded_critic_recovers_the_chance_of_success(chance):
    """A bandit: 40 tries of one action, a share of which succeed."""
    torch.manual_seed(1)
    rows = 40
    won = (torch.arange(rows) < round(chance * rows)).float()
    zeros, ones = torch.zeros(rows), torch.ones(rows)
    batch = ChunkBatch(
        torch.ones(rows, 1), torch.zeros(rows, 2), won, zeros, torch.ones(rows, 1), ones
    )
    critic = Critic(1, 2, (16,), 5, "sigmoid")
    config = CriticConfig(**COMMON)
    learner = monte_carlo.Learner(VelocityField(1, 2, (8,)), critic, None, config)
    for _ in range(200):
        learner.update(batch, torch.randn(rows, 2), torch.rand(rows))
    q = learner.target_critic(batch.obs[:1], batch.action[:1])
    assert ((0 < q) & (q < 1)).all()
    torch.testing.assert_close(q, torch.full_like(q, chance), atol=0.02, rtol=0)


def test_the_regression_of_a_sigmoid_critic_is_the_cross_entropy():
    torch.manual_seed(2)
    critic = Critic(2, 2, (8,), 3, "sigmoid")
    y, valid = torch.tensor([0.0, 0.3, 1.0, 0.6]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    batch = ChunkBatch(torch.randn(4, 2), torch.randn(4, 2), y, y, torch.randn(4, 2), valid)
    loss, metrics = regression(critic, batch, y)
    q = critic(batch.obs, batch.action).double().detach()
    entropy = -(y * q.log() + (1 - y) * (1 - q).log())
    assert loss.item() == pytest.approx(float((entropy * valid).mean()), rel=1e-6)
    assert float(metrics["q"]) == pytest.approx(float(q.mean()), rel=1e-6)


def test_flow_learns_from_its_own_goals_and_the_critic_from_its_own():
    """`flow_obs` reaches the flow, and the flow alone."""
    torch.manual_seed(3)
    batch = world(returns=True)
    seen = []
    velocity, critic = VelocityField(3, 2, (8,)), Critic(3, 2, (8,))
    velocity.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    learner = monte_carlo.Learner(velocity, critic, None, CriticConfig(**COMMON))
    told = replace(batch, flow_obs=batch.obs + 1)
    a = learner.update(told, torch.zeros(8, 2), torch.rand(8))
    assert torch.equal(seen[0], batch.obs + 1)
    b = monte_carlo.Learner(velocity, critic, None, CriticConfig(**COMMON))
    with torch.no_grad():
        for p, q in zip(critic.parameters(), learner.target_critic.parameters()):
            p.copy_(q)  # the target has not moved: it went towards the critic from before the step
    assert float(b.update(batch, torch.zeros(8, 2), torch.rand(8))["critic_loss"]) == pytest.approx(
        float(a["critic_loss"])
    )
    assert torch.equal(told[torch.tensor([3, 1])].flow_obs, batch.obs[[3, 1]] + 1)


# From episodes.


def episode(number, steps, terminal, success=None, reward=None):
    rng = np.random.default_rng([7, number])
    rewards = np.zeros(steps) if reward is None else np.asarray(reward, float)
    if success:
        rewards[-1] = 1.0
    obs = np.cumsum(rng.normal(scale=0.2, size=(steps + 1, 5)), axis=0)
    return Episode(f"e{number}", obs, rng.normal(size=(steps, 2)), rewards, terminal, success)


def test_monte_carlo_reads_returns_and_leaves_out_episodes_that_were_cut():
    won, cut = episode(0, 7, True, True), episode(1, 8, False, None, np.ones(8))
    lost = episode(2, 3, True, False, [-1.0, -2.0, -3.0])
    parts = monte_carlo.whole_returns(chunks([won, cut, lost], 5, 0.9))
    assert parts.valid.tolist() == [1] * 7 + [0] * 4 + [1] * 3
    want = [*won.returns(0.9), *np.zeros(4), *lost.returns(0.9)]
    np.testing.assert_allclose(parts.reward, want)
    assert not parts.mask.any()
    assert parts.reward[0] == pytest.approx(0.9**6), "1 on the last of 7 actions"
    with pytest.raises(DataRefused, match="all of these were cut.*iql or sarsa"):
        monte_carlo.Learner.check(ChunkTable([cut], 5, 0.9))


SMALL = FitConfig(hidden=(16,), steps=30, batch=32, denoise_steps=2, workers=1)
MIXED = [episode(k, 12 + k, k % 4 != 3, None if k % 4 == 3 else k % 2 == 0) for k in range(12)]


def objective(name, **outcome):
    return contract(velocity_dict() | {"outcome": {"objective": name, **outcome}})


TO_SUCCESS = objective(
    "time_to_success", success={"topic": "success", "type": "std_msgs/Bool", "fields": ["data"]}
)
REWARD = objective(
    "reward", reward={"topic": "reward", "type": "std_msgs/Float64", "fields": ["data"]}
)
GOAL = objective(
    "reach_goal",
    goal={"observation": "goal", "achieved": ["joints.position.a"], "radius": 0.3},
)


@pytest.mark.parametrize("critic", ["iql", "sarsa", "monte_carlo"])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("own", [TO_SUCCESS, GOAL], ids=lambda c: c.outcome.objective)
def test_every_kind_trains_from_episodes_and_says_so_in_the_policy(critic, bounded, own, tmp_path):
    config = replace(SMALL, critic=critic, bounded=bounded, members=3, aggregation="mean-0.5std")
    fitted = fit_episodes(MIXED[:9], MIXED[9:], own, tmp_path, config, {})
    d = load_policy(fitted.policy).description
    assert d.critic.output == ("sigmoid" if bounded else "linear")
    assert d.returns.aggregation == "mean-0.5std" and d.returns.informative
    assert 0 < d.beta.min <= d.beta.default < math.inf
    assert all(map(math.isfinite, fitted.metrics.values())) and "td_error" in fitted.metrics
    assert d.provenance["config"]["critic"] == critic
    if bounded:
        assert d.returns.scale == 1.0
        assert d.sanity.q_low < 0 and 1 < d.sanity.q_high
    again = fit_episodes(MIXED[:9], MIXED[9:], own, tmp_path / "again", config, {})
    assert again.metrics | {"training_seconds": 0} == fitted.metrics | {"training_seconds": 0}


@pytest.mark.parametrize("critic", ["iql", "monte_carlo"])
def test_play_without_any_outcome_is_enough_for_goals(critic, tmp_path):
    play = [replace(e, terminal=False, success=None, reward=np.zeros(len(e))) for e in MIXED]
    fitted = fit_episodes(play[:9], play[9:], GOAL, tmp_path, replace(SMALL, critic=critic), {})
    assert load_policy(fitted.policy).description.returns.informative


def test_goals_that_are_all_the_same_place_hold_no_information(tmp_path):
    still = [replace(e, obs=0.01 * e.obs) for e in MIXED]
    fitted = fit_episodes(still[:9], still[9:], GOAL, tmp_path, SMALL, {})
    d = load_policy(fitted.policy).description
    assert not d.returns.informative and d.beta.default == math.inf


def test_goals_are_on_the_scale_of_what_is_achieved(tmp_path):
    fitted = fit_episodes(MIXED[:9], MIXED[9:], GOAL, tmp_path, SMALL, {})
    n = load_policy(fitted.policy).normalizer
    assert n.obs_mean[4] == n.obs_mean[0] and n.obs_std[4] == n.obs_std[0]


def test_bounded_is_refused_for_rewards(tmp_path):
    with pytest.raises(UsageError, match="bounded .* time_to_success or reach_goal.*reward"):
        fit_episodes(MIXED[:9], MIXED[9:], REWARD, tmp_path, replace(SMALL, bounded=True), {})


def test_monte_carlo_is_refused_where_nothing_ended(tmp_path):
    cut = [replace(e, terminal=False, success=None) for e in MIXED]
    config = replace(SMALL, critic="monte_carlo")
    with pytest.raises(DataRefused, match="monte_carlo needs episodes that ended"):
        fit_episodes(cut[:9], cut[9:], TO_SUCCESS, tmp_path, config, {})


def test_monte_carlo_with_held_out_episodes_that_were_all_cut_leaves_the_figure_out(tmp_path):
    cut = [replace(e, terminal=False, success=None) for e in MIXED[9:]]
    config = replace(SMALL, critic="monte_carlo")
    fitted = fit_episodes(MIXED[:9], cut, TO_SUCCESS, tmp_path, config, {})
    assert "td_error" not in fitted.metrics and "flow_loss" in fitted.metrics


def test_tensors_carry_the_weight_of_each_row():
    parts = monte_carlo.whole_returns(chunks([MIXED[0], MIXED[3]], 5, 0.9))
    normalizer = Normalizer.fit(parts.obs, parts.action.reshape(-1, 2))
    batch = tensors(parts, ActionCodec(TO_SUCCESS, normalizer), 1.0)
    assert batch.valid.tolist() == parts.valid.tolist() and 0 < batch.valid.mean() < 1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"critic": "sarsa", "expectile": 0.7}, "one with critic iql only: leave it out"),
        ({"critic": "monte_carlo", "expectile": 0.5}, "one with critic iql only"),
        ({"expectile": 1.0}, "expectile is 1.0; allowed: between 0 and 1"),
        ({"critic": "ddpg"}, "iql, sarsa, monte_carlo"),
        ({"aggregation": "median"}, "mean-<k>std"),
        ({"bounded": True, "return_scale": 2.0}, "return_scale is 2.0; allowed: 0 or 1 with bounded"),
        ({"flow_future_goals": 1.5}, "flow_future_goals is 1.5"),
        ({"critic_future_goals": 0.9, "critic_random_goals": 0.3}, "up to 1 - critic_future_goals"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UsageError) as caught:
        FitConfig(**changes)
    assert words in str(caught.value)
