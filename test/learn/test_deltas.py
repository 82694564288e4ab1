"""A policy of joint deltas from data to command: what it learns is small, and what it says are positions."""

import numpy as np
import pytest
from qgf_make import contract, position_dict

from qgf_ros.policy.folder import load_policy
from qgf_ros.spaces.actions.codec import Origin
from training.learn.config import FitConfig
from training.learn.fit import fit_episodes
from training.pipeline.chunks import chunks
from training.pipeline.episodes import Episode

CONFIG = FitConfig(steps=3, batch=16, hidden=(8, 8), flow_draws=1, workers=1)
RNG = np.random.default_rng(3)


def walk(k, lead):
    """From anywhere in the range in steps of 0.01 to 0.02, each to `lead` ahead of where it is measured."""
    at = RNG.uniform(-0.8, 0.8, 2) + np.cumsum(RNG.uniform(0.01, 0.02, (41, 2)), axis=0) * [1, -1]
    obs = np.concatenate([at, np.zeros((41, 2)), np.zeros((41, 1))], axis=1)
    return Episode(f"walk {k}", obs, at[:-1] + [lead, -lead], np.eye(40)[-1], True, True)


@pytest.mark.parametrize(
    "representation, lead, width", [("delta_observed", 0.1, 0.2), ("delta_last", 0.01, 0.02)]
)
def test_a_policy_of_deltas_learns_changes_and_commands_positions(
    tmp_path, representation, lead, width
):
    told = position_dict()
    told["actions"][0]["representation"] = representation
    own, episodes = contract(told), [walk(k, lead) for k in range(8)]
    fit_episodes(episodes, [], own, tmp_path, CONFIG, {})
    policy = load_policy(tmp_path / "policy")
    half = policy.normalizer.action_half_range
    assert (half < width).all() and (policy.normalizer.action_reference < 0).all()
    parts = chunks(episodes, own.time.horizon, 0.99)
    unit = policy.codec.encode(parts.action, parts.origin)
    assert np.abs(unit).max() <= 1 and unit.std() > 0.1
    again = policy.codec.decode(unit, parts.origin)
    assert np.abs(again - parts.action).max() < 0.02  # what lies beyond the quantiles is clipped
    here = Origin(np.array([0.5, -0.5, 0, 0, 0]), np.array([0.6, -0.6]))
    asked = policy.codec.decode(np.zeros((own.time.horizon, 2)), here)
    assert np.all(np.abs(asked[0] - [0.6, -0.6]) < 0.05), "wherever it is, a little further"
    low, high = policy.codec.bounds()
    assert (low <= parts.action.min(axis=(0, 1))).all() and (high >= parts.action.max(axis=(0, 1))).all()
