"""Errors of predictions and the baselines, where the answer is known."""

import numpy as np
import pytest
from qgf_make import contract, position_dict, twist_dict

from training.judge.baselines import PENALTIES, repeat, ridge
from training.judge.prediction import Errors, Scale, compare

H, A = 3, 2
ONE = Scale(np.ones(A))


def errors(values, episode):
    """Chunks whose every number is off by `values` (N,)."""
    off = np.broadcast_to(np.asarray(values, float)[:, None, None], (len(values), H, A))
    return Errors.of(off, np.zeros_like(off), np.asarray(episode))


def test_positions_stay_where_the_joint_of_that_name_is_and_velocities_as_last_commanded():
    own = contract(twist_dict())
    names = own.observation_names
    obs = np.arange(2.0 * len(names)).reshape(2, -1)
    previous = np.array([[0.1, 0.2, 0.3, 9.0], [0.0, 0.0, 0.0, 9.0]])
    kept = repeat(obs, previous, own)
    assert kept.shape == (2, own.time.horizon, 4)
    finger = names.index("gripper.position.finger.left")
    for row in range(2):
        assert kept[row].tolist() == [[*previous[row, :3], obs[row, finger]]] * own.time.horizon


def test_joints_that_are_observed_in_another_order_are_found_by_name():
    value = position_dict()
    value["observations"][0]["names"] = ["b", "a"]
    own = contract(value)
    obs = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert own.observation_names[:2] == ("joints.position.b", "joints.position.a")
    assert repeat(obs, np.zeros((1, 2)), own)[0, 0].tolist() == [2.0, 1.0]


def world(rows=600, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 4))
    weight, bias = rng.normal(size=(4, 6)), rng.normal(size=6)
    target = z @ weight + bias + noise * rng.normal(size=(rows, 6))
    return z, target, np.arange(rows) // 20, weight, bias


def test_ridge_is_exact_in_a_linear_world_and_takes_the_least_penalty():
    z, target, episode, weight, bias = world()
    found = ridge([(z, target, episode)])
    assert found.penalty == PENALTIES[0]
    assert found.weight == pytest.approx(weight, abs=1e-4)
    assert found(z) == pytest.approx(target, abs=1e-3)


def test_ridge_in_parts_is_ridge_of_the_whole():
    z, target, episode, *_ = world(noise=0.3)
    whole = ridge([(z, target, episode)])
    parts = [(z[i::3], target[i::3], episode[i::3]) for i in range(3)]
    assert ridge(parts).weight == pytest.approx(whole.weight, abs=1e-10)


def test_ridge_agrees_with_its_closed_form():
    z, target, episode, *_ = world(rows=60, noise=2.0)
    found = ridge([(z, target, episode)])
    centred, wanted = z - z.mean(0), target - target.mean(0)
    gram = centred.T @ centred + found.penalty * len(z) * np.eye(4)
    assert found.weight == pytest.approx(np.linalg.solve(gram, centred.T @ wanted), abs=1e-8)


def test_ridge_penalises_where_there_is_nothing_but_noise():
    rng = np.random.default_rng(1)
    z, target = rng.normal(size=(200, 30)), rng.normal(size=(200, 6))
    assert ridge([(z, target, np.arange(200) // 10)]).penalty >= 0.1


def test_ridge_of_a_single_episode():
    z, target, _, weight, _ = world(rows=40)
    assert ridge([(z, target, np.zeros(40, int))]).weight == pytest.approx(weight, abs=1e-3)


def test_errors_are_root_mean_squares_by_joint_and_step():
    rng = np.random.default_rng(2)
    predicted, recorded = rng.normal(size=(2, 40, H, A))
    e = Errors.of(predicted, recorded, np.arange(40) // 10)
    expected = np.sqrt(((predicted - recorded) ** 2).mean(axis=0))
    found = compare({"policy": e}, Scale(np.array([1.0, 2.0])), ["a", "b"])
    for j, name in enumerate("ab"):
        steps = [s["mean"] for s in found["joints"][name]["steps"]["policy"]]
        assert steps == pytest.approx(expected[:, j])
    unit = np.sqrt((expected**2 / [1, 4]).mean(axis=1))
    assert [s["policy"]["mean"] for s in found["steps"]] == pytest.approx(unit)


def test_a_number_that_never_varied_does_not_count():
    action = np.column_stack([np.linspace(-1, 1, 50), np.full(50, 7.0)])
    scale = Scale.of(action)
    assert scale.std[1] == 0 and scale.std[0] == pytest.approx(action[:, 0].std())
    assert scale.unit(np.array([scale.std[0] ** 2, 1e9])) == pytest.approx(1.0)
    assert Scale(np.zeros(2)).unit(np.ones((5, 2))).tolist() == [0] * 5


def test_always_the_mean_has_an_error_of_one():
    rng = np.random.default_rng(3)
    recorded = rng.normal(size=(4000, 1, A)) * [0.1, 5]
    e = Errors.of(np.zeros_like(recorded), recorded, np.arange(4000) // 100)
    found = compare({"policy": e}, Scale.of(recorded[:, 0]), ["a", "b"])
    assert found["overall"]["policy"]["mean"] == pytest.approx(1.0, abs=0.02)


def test_paired_differences_see_what_single_intervals_cannot():
    """One episode is hard for both; beside it the policy is always a little better."""
    episode = np.arange(80) // 10
    hard = 1 + 3.0 * (episode == 0)
    found = compare(
        {"policy": errors(hard, episode), "repeat": errors(hard + 0.05, episode)}, ONE, "ab"
    )
    overall = found["overall"]
    assert overall["policy"]["high"] > overall["repeat"]["low"]  # the intervals overlap
    assert overall["policy_less_repeat"]["policy_is"] == "better"
    assert overall["policy_less_repeat"]["mean"] == pytest.approx(-0.05, abs=0.01)


def test_the_same_prediction_is_neither_better_nor_worse():
    e = errors(np.arange(40.0), np.arange(40) // 10)
    difference = compare({"policy": e, "linear": e}, ONE, "ab")["steps"][0]["policy_less_linear"]
    assert difference == {"mean": 0, "low": 0, "high": 0, "policy_is": "undecided"}


def test_one_episode_decides_nothing():
    e, other = errors(np.ones(9), np.zeros(9)), errors(np.full(9, 2.0), np.zeros(9))
    found = compare({"policy": e, "repeat": other}, ONE, "ab")["overall"]
    assert found["policy"]["mean"] == 1 and np.isnan(found["policy"]["low"])
    assert found["policy_less_repeat"]["policy_is"] == "undecided"


def test_intervals_are_over_episodes_not_rows():
    """Rows that repeat within an episode say nothing new."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=12)
    few = compare({"policy": errors(values, np.arange(12))}, ONE, "ab")["overall"]["policy"]
    many = errors(np.repeat(values, 50), np.repeat(np.arange(12), 50))
    assert compare({"policy": many}, ONE, "ab")["overall"]["policy"] == pytest.approx(few)
