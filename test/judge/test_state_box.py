"""The box of recorded states: what the trainer makes of observations, and what the node makes of it."""

import numpy as np
import pytest
import torch
from qgf_make import contract, policy_in_memory

from qgf_ros.control.checks.bounds import Bounds
from training.learn.batches import STATE_TAIL, state_box
from training.learn.critics.batch import ChunkBatch


def batch(obs, next_obs=None, flow_obs=None):
    obs = torch.as_tensor(obs, dtype=torch.float32)
    one = torch.ones(len(obs))
    other = obs if next_obs is None else torch.as_tensor(next_obs, dtype=torch.float32)
    flow = None if flow_obs is None else torch.as_tensor(flow_obs, dtype=torch.float32)
    return ChunkBatch(obs, torch.zeros(len(obs), 2), one, one, other, one, flow)


def test_fault_014_the_box_lets_100000_states_of_the_same_kind_pass():
    """Smooth, skewed, two-valued and nearly constant numbers; trained on 30,000, asked for 10^5."""
    rng = np.random.default_rng(14)

    def states(count):
        return np.stack([
            rng.standard_normal(count),
            rng.exponential(size=count) - 1,
            (rng.random(count) < 0.02) * 7.0,
            rng.standard_normal(count) * 0.01,
            np.full(count, 5.0),
        ], -1)  # fmt: skip

    bounds = Bounds(policy_in_memory(contract(), states=state_box(batch(states(30_000)))), 1.0)
    refused = sum(bounds.judge(s).problem is not None for s in states(100_000))
    assert refused < 100


def test_one_bad_row_does_not_widen_the_box():
    rng = np.random.default_rng(0)
    good = rng.uniform(-1, 1, (1000, 5))
    bad = good.copy()
    bad[17] = 1e6
    box = state_box(batch(bad))
    assert max(box.high) <= 1 and min(box.low) >= -1


def test_the_box_is_that_of_the_quantiles_and_knows_every_goal_that_was_told():
    x = np.linspace(0, 1, 30_001)
    obs = np.repeat(x[:, None], 5, 1)
    told = obs + np.array([0, 0, 0, 0, 1.0])
    box = state_box(batch(obs, obs, told))
    assert box.low[0] == pytest.approx(STATE_TAIL, rel=0.2) and box.high[0] < 1
    assert box.high[4] > 1.99 and box.low[4] < 0.01
