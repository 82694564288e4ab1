"""The reference sampler as a backend, on the shipped policy: it agrees with the exported sampler,
runs every estimator and guard, and is refused early where these do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qgf_ros.errors import UsageError
from qgf_ros.files.share import share_folder
from qgf_ros.guidance import protocols as base
from qgf_ros.guidance.backends.onnx import OnnxSampler
from qgf_ros.guidance.protocols import Sample, Sampler
from qgf_ros.policy.folder import load_policy
from training import estimators
from training.export.parity import TieWatch, networks
from training.guards import Box, Guards, Neighbours
from training.reference_sampler import ReferenceSampler
from training.sampling import best_of_n, sample

N, OBS, D = 5, 8, 10  # H = 5, A = 2
FIELDS = tuple(f for f in Sample.__dataclass_fields__ if f != "acted")


@pytest.fixture(scope="module")
def policy():
    return load_policy(share_folder() / "config" / "policies" / "planar_arm")


def inputs(seed=0, count=N):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(OBS).astype(np.float32), rng.standard_normal((count, D), np.float32)


def ties(policy, obs, noise, weight):
    """(N,): rows in which the two members came so near each other that min may take either."""
    velocity, critic = networks(policy, torch.float64)
    watch = TieWatch(critic)
    rows = torch.from_numpy(obs).double().expand(len(noise), -1)
    times = torch.from_numpy(policy.velocity["time_embedding"])
    sample(velocity, watch, rows, torch.from_numpy(noise).double(), weight, times=times)
    return watch.tied.numpy()


@pytest.mark.parametrize("weight", [0.0, 1.0, 9.0, 30.0])
@pytest.mark.parametrize("count", [1, 5, 16])
def test_it_agrees_with_the_exported_sampler(policy, weight, count):
    ours, exported = ReferenceSampler(policy), OnnxSampler(policy, "cpu")
    compared = 0
    for seed in range(5):
        obs, noise = inputs(seed, count)
        keep = ~ties(policy, obs, noise, weight)
        a, b = ours(obs, noise, weight), exported(obs, noise, weight)
        for name in FIELDS:
            x, y = getattr(a, name), getattr(b, name)
            assert x.shape == y.shape and x.dtype == y.dtype == np.float32
            scale = np.maximum(1, np.abs(y))  # a gradient of 40 has fewer digits after the point
            assert (np.abs(x - y) / scale)[keep].max(initial=0) < 1e-4 * (1 + weight), name
        compared += keep.sum()
    assert compared > 0.9 * 5 * count
    if weight:
        assert np.abs(a.action - a.action_unguided).max() > 0.01


ROBOT = {
    "support": base.Guards(support=True),
    "disagreement": base.Guards(disagreement=0.02),
    "only": base.Guards(only=("arm.elbow",)),
    "window": base.Guards(skip_first=2, last=7),
    "ratio_cap": base.Guards(ratio_cap=0.1),
    "all": base.Guards(2, 7, 0.02, ("arm.elbow",), True, 0.1),
}


@pytest.mark.parametrize("held", [False, True], ids=["free", "committed"])
@pytest.mark.parametrize("name", ROBOT)
def test_a_robots_guards_are_the_references(policy, name, held):
    weight, guards = 30.0, ROBOT[name]
    ours, exported = ReferenceSampler(policy), OnnxSampler(policy, "cpu")
    committed = np.array([[0.4, -0.7]], np.float32) if held else None
    compared = changed = 0
    for seed in range(5):
        obs, noise = inputs(seed, 16)
        keep = ~ties(policy, obs, noise, weight)
        plain = exported(obs, noise, weight, committed=committed)
        a, b = (s(obs, noise, weight, guards, committed) for s in (ours, exported))
        near = np.abs(a.action - b.action).max(axis=1) < 1e-4 * (1 + weight)
        compared += int((near & keep).sum())
        changed += int((b.action != plain.action).any(axis=1).sum())
        assert np.array_equal(b.action_unguided, plain.action_unguided)
        if held:
            for half in (b.action, b.action_unguided, a.action):
                assert np.array_equal(half[:, :2], np.tile(committed, (16, 1)))
    assert changed > 20, "the guard takes hold"
    assert compared > 0.9 * 80, "but for ties, and rows at a guard's edge"


def test_guards_off_again_are_the_sampler_without_to_the_bit(policy):
    sampler = OnnxSampler(policy, "cpu")
    obs, noise = inputs()
    before = sampler(obs, noise, 9.0)
    for guards in ROBOT.values():
        sampler(obs, noise, 9.0, guards)
    after = sampler(obs, noise, 9.0, base.Guards())
    assert all(np.array_equal(getattr(before, f), getattr(after, f)) for f in FIELDS)


def test_it_keeps_the_protocol(policy):
    sampler: Sampler = ReferenceSampler(policy, "ood", Guards(keep_best=True))
    assert (sampler.backend, sampler.device) == ("reference", "cpu")
    got = sampler(*inputs(), 9.0)
    assert [getattr(got, name).shape for name in FIELDS] == [(N, D), (N,)] * 2 + [(N,)] * 3
    assert all(getattr(got, name).dtype == np.float32 for name in FIELDS)


@pytest.mark.parametrize("estimator", estimators.ESTIMATORS)
def test_every_estimator_is_the_one_of_the_reference(policy, estimator):
    obs, noise = inputs()
    got = ReferenceSampler(policy, estimator)(obs, noise, 9.0)
    velocity, critic = networks(policy)
    times = torch.from_numpy(policy.velocity["time_embedding"])
    rows, start = torch.from_numpy(obs).expand(N, -1), torch.from_numpy(noise)
    want = sample(velocity, critic, rows, start, 9.0, estimator=estimator, times=times)
    np.testing.assert_allclose(got.action, want.action, atol=1e-5)
    np.testing.assert_allclose(got.q_std, critic(rows, want.action).std(0, False), atol=1e-5)
    unguided = sample(velocity, critic, rows, start, 0.0, times=times)
    np.testing.assert_allclose(got.action_unguided, unguided.action, atol=1e-6)
    np.testing.assert_allclose(got.q_unguided, unguided.q, atol=1e-5)


def test_times_and_aggregation_are_the_policys_own(policy):
    times = policy.velocity["time_embedding"][::-1].copy()
    returns = replace(policy.description.returns, aggregation="mean")
    other = replace(
        policy,
        velocity=policy.velocity | {"time_embedding": times},
        description=replace(policy.description, returns=returns),
    )
    obs, noise = inputs()
    got = ReferenceSampler(other)(obs, noise, 9.0)
    velocity, critic = networks(policy)
    rows, start = torch.from_numpy(obs).expand(N, -1), torch.from_numpy(noise)
    options = {"times": torch.from_numpy(times), "aggregation": "mean"}
    want = sample(velocity, critic, rows, start, 9.0, **options)
    np.testing.assert_allclose(got.action, want.action, atol=1e-5)
    np.testing.assert_allclose(got.q, want.q, atol=1e-5)
    assert np.abs(got.action - ReferenceSampler(policy)(obs, noise, 9.0).action).max() > 0.01


def neighbours():
    rng = np.random.default_rng(0)
    return Neighbours.of(rng.standard_normal((200, OBS)), rng.uniform(-0.1, 0.1, (200, D)))


GUARDS = {
    "window": Guards(skip_first=2, last=5),
    "disagreement": Guards(disagreement=0.02),
    "mask": Guards(mask=(0, 1)),
    "support": Guards(support=Box((-0.3,), (0.3,))),
    "neighbours": Guards(neighbours=neighbours()),
    "ratio_cap": Guards(ratio_cap=0.1),
    "keep_best": Guards(keep_best=True),
}


@pytest.mark.parametrize("name", GUARDS)
def test_every_guard_takes_hold_and_leaves_the_unguided_half_alone(policy, name):
    # It takes an absurd weight for this critic to see a guided sample as no better.
    weight = 1e4 if name == "keep_best" else 9.0
    obs, noise = inputs(2, 64)
    plain = ReferenceSampler(policy)(obs, noise, weight)
    got = ReferenceSampler(policy, guards=GUARDS[name])(obs, noise, weight)
    assert np.array_equal(got.action_unguided, plain.action_unguided)
    assert not np.array_equal(got.action, plain.action)
    off = ReferenceSampler(policy, guards=Guards())(obs, noise, weight)
    assert all(np.array_equal(getattr(off, f), getattr(plain, f)) for f in FIELDS)


def test_zero_weight_is_unguided_to_the_bit(policy):
    for options in ({}, {"grad_steps": 3}, {"guards": GUARDS["keep_best"]}):
        got = ReferenceSampler(policy, **options)(*inputs(), 0.0)
        assert np.array_equal(got.action, got.action_unguided)
        assert not got.gradient_norm.any() and not got.guidance_ratio.any()


def test_grad_step_climbs_from_the_unguided_sample(policy):
    obs, noise = inputs()
    small = ReferenceSampler(policy, grad_steps=3)(obs, noise, 9.0)
    again = ReferenceSampler(policy, grad_steps=3)(obs, noise, 1.0)  # the weight has no size here
    assert np.array_equal(small.action, again.action)
    assert np.all(small.q > small.q_unguided)
    larger = ReferenceSampler(policy, grad_steps=3, grad_size=0.1)(obs, noise, 9.0)
    assert np.all(larger.q > small.q) and np.all(larger.guidance_ratio > small.guidance_ratio)


def test_the_best_of_its_candidates_is_best_of_n(policy):
    obs, noise = inputs(count=16)
    got = ReferenceSampler(policy, guards=GUARDS["support"])(obs, noise, 9.0)
    velocity, critic = networks(policy)
    times = torch.from_numpy(policy.velocity["time_embedding"])
    one, start = torch.from_numpy(obs)[None], torch.from_numpy(noise)
    guards = GUARDS["support"]
    best = best_of_n(velocity, critic, one, start, 16, 9.0, times=times, guards=guards)
    np.testing.assert_allclose(got.action[got.q.argmax()], best.action[0], atol=1e-5)


def test_the_threads_of_others_are_left_as_they_were(policy):
    before = torch.get_num_threads()
    seen = []
    sampler = ReferenceSampler(policy, threads=3)
    critic = sampler._critic
    sampler._critic = lambda *a: (seen.append(torch.get_num_threads()), critic(*a))[1]
    sampler(*inputs(), 1.0)
    assert seen == [3] and torch.get_num_threads() == before
    with pytest.raises(ValueError):
        sampler(*inputs(), float("nan"))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"estimator": "magic"}, "unknown estimator 'magic'; known: qgf"),
        ({"guards": Guards(support=Box((0.0,) * 3, (1.0,) * 3))}, "3 dimensions for actions of 10"),
        ({"guards": Guards(skip_first=10)}, "none is left to guide in"),
        ({"guards": Guards(mask=(1, 0, 1))}, "mask of 3 numbers"),
        ({"grad_steps": -1}, "grad_steps"),
        ({"grad_steps": 3, "grad_size": -1.0}, "size -1.0"),
        ({"grad_steps": 3, "estimator": "ood"}, "GradStep guides no flow"),
        ({"grad_steps": 3, "guards": Guards(last=2)}, "GradStep guides no flow"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_tick(policy, options, message):
    with pytest.raises(UsageError, match=message):
        ReferenceSampler(policy, **options)
