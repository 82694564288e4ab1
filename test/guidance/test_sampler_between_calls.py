"""Samplers keep buffers from call to call; what one call was told or answered, no other may see."""

import dataclasses
import itertools

import numpy as np
import pytest

from qgf_ros.files.share import find_policy
from qgf_ros.guidance.protocols import Guards
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import load_policy

BACKENDS = {"onnx": "onnxruntime", "torch": "torch"}
GUARDS = (Guards(), Guards(ratio_cap=0.05), Guards(skip_first=3, support=True), Guards(last=1))


@pytest.fixture(scope="module")
def policy():
    return load_policy(find_policy("planar_arm"))


@pytest.fixture(scope="module", params=BACKENDS)
def make(request, policy):
    pytest.importorskip(BACKENDS[request.param], reason=f"{request.param} is not installed")
    return lambda: make_sampler(policy, request.param, "cpu")


@pytest.fixture(scope="module")
def sampler(make):
    return make()


def asked(policy, count, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, policy.flat_dim)).astype(np.float32)
    return rng.standard_normal(policy.obs_dim).astype(np.float32), noise


def fields(sample):
    return {f.name: getattr(sample, f.name) for f in dataclasses.fields(sample)}


def assert_equal(one, other):
    for name, value in fields(one).items():
        assert np.array_equal(value, fields(other)[name]), name


def test_a_sample_does_not_change_with_the_next_call(sampler, policy):
    first = sampler(*asked(policy, 2), 3.0)
    kept = {name: value.copy() for name, value in fields(first).items()}
    sampler(*asked(policy, 2, seed=1), 30.0, GUARDS[1])
    for name, value in kept.items():
        assert np.array_equal(value, fields(first)[name]), name


def test_what_is_asked_may_change_afterwards(sampler, policy):
    obs, noise = asked(policy, 1)
    first = sampler(obs, noise, 3.0)
    again = obs.copy(), noise.copy()
    obs[:] = noise[:] = np.nan
    assert_equal(sampler(*again, 3.0), first)


def test_the_calls_before_make_no_difference(make, sampler, policy):
    """Number of candidates, w, guards and committed actions, each after each other one."""
    committed = np.full((2, policy.action_dim), 0.25, np.float32)
    cases = [(1, 3.0, GUARDS[0], None), (2, 0.0, GUARDS[1], None), (1, 30.0, GUARDS[1], committed),
             (2, 3.0, GUARDS[2], committed[:1]), (1, 0.0, GUARDS[0], committed),
             (2, 3.0, GUARDS[3], None)]  # fmt: skip
    fresh, alone = make(), {}
    for case in cases:
        alone[id(case)] = fresh(*asked(policy, case[0]), *case[1:])
    for before, case in itertools.permutations(cases, 2):
        sampler(*asked(policy, before[0], seed=1), *before[1:])
        assert_equal(sampler(*asked(policy, case[0]), *case[1:]), alone[id(case)])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_at_w_0_the_guided_sample_is_the_unguided_one_to_the_bit(sampler, policy, count):
    for guards in GUARDS:
        drawn = sampler(*asked(policy, count), 0.0, guards)
        assert np.array_equal(drawn.action, drawn.action_unguided)
        assert np.array_equal(drawn.q, drawn.q_unguided)
        assert not drawn.gradient_norm.any() and not drawn.acted.any()


def test_committed_actions_are_kept_to_the_bit(sampler, policy):
    committed = np.linspace(-1.5, 1.5, 2 * policy.action_dim, dtype=np.float32)
    committed = committed.reshape(2, policy.action_dim)
    drawn = sampler(*asked(policy, 2), 3.0, GUARDS[0], committed)
    for rows in (drawn.action, drawn.action_unguided):
        assert np.array_equal(rows[:, : committed.size], np.tile(committed.ravel(), (2, 1)))


def test_it_repeats_to_the_bit(sampler, policy):
    assert_equal(sampler(*asked(policy, 1), 3.0), sampler(*asked(policy, 1), 3.0))


@pytest.mark.parametrize("wrong", ["obs", "noise"])
def test_a_wrong_shape_is_refused_and_not_broadcast(sampler, policy, wrong):
    obs, noise = asked(policy, 1)
    with pytest.raises(ValueError, match="needed"):
        sampler(obs[:1] if wrong == "obs" else obs, noise[:, :1] if wrong == "noise" else noise, 1.0)  # fmt: skip
