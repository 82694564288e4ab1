"""The native sampler gives the reference's actions, with every instruction set that is here: on the
authors' golden nets (test/golden), on nets of all sizes, and on the shipped policies."""

from dataclasses import replace

import numpy as np
import pytest
from qgf_nets import policy_of

from qgf_ros.files.share import share_folder
from qgf_ros.guidance.backends.native import FIELDS, NativeSampler, isas
from qgf_ros.guidance.backends.onnx import OnnxSampler
from qgf_ros.guidance.protocols import UNGUARDED, Guards, Sample
from qgf_ros.policy.folder import load_policy
from training.export import parity as parity_module
from training.export.half import half_error
from training.export.parity import parity

ALL = Guards(1, 3, 2.0, ("arm.a0",), True, 0.5)


def draw(policy, count, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, policy.flat_dim), np.float32)
    return rng.standard_normal(policy.obs_dim, np.float32), noise


def shipped(name):
    return load_policy(share_folder() / "config" / "policies" / name)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(parity_module, "ROUNDS", 1)
    monkeypatch.setattr(parity_module, "BATCHES", (1, 5))


NETS = {
    "odd widths": dict(obs=3, action=3, velocity=(17, 9, 33), critic=(7, 31), steps=5),
    "one of everything": dict(obs=1, horizon=1, action=1, velocity=(1,), critic=(2,), steps=1),
    "one member": dict(members=1, aggregation="mean", horizon=1, steps=2),
    "one member, min": dict(members=1, output="sigmoid", steps=3),
    "three, mean": dict(members=3, aggregation="mean", velocity=(40,), critic=(24, 8, 24)),
    "four, bounded, lower bound": dict(members=4, aggregation="mean-1std", output="sigmoid"),
    "three, lower bound": dict(members=3, aggregation="mean-0.5std", obs=19, steps=7),
    "four, min, bounded, 12 steps": dict(members=4, output="sigmoid", steps=12, critic=(65, 15)),
    "wide chunk": dict(horizon=7, action=9, velocity=(20, 70), critic=(33, 20), steps=2),
}


@pytest.mark.parametrize("name", NETS)
def test_nets_of_all_sizes_with_and_without_guards(name, short):
    policy = policy_of(**NETS[name])
    for isa, found in zip(isas(), parity(policy, *(NativeSampler(policy, isa=i) for i in isas()))):
        assert found.largest_error <= 1, isa
        assert found.ties_left_out < 0.2 * found.samples


def test_members_that_agree_to_the_bit_have_no_slope_of_their_spread(short):
    """A mean that was rounded would give them one, as steep as what was lost is to nothing."""
    policy = policy_of(members=10, aggregation="mean-1std")
    alike = {name: np.repeat(t[:1], 10, axis=0) for name, t in policy.critic.items()}
    policy = replace(policy, critic=alike)
    for isa in isas():
        assert parity(policy, NativeSampler(policy, isa=isa))[0].largest_error <= 1, isa


@pytest.mark.parametrize("name", ["planar_arm", "ur5e_cube"])
def test_shipped_policies_with_and_without_guards(name, short):
    policy = shipped(name)
    samplers = [NativeSampler(policy, isa=isa) for isa in isas()]
    for isa, found in zip(isas(), parity(policy, *samplers)):
        assert found.largest_error <= 1, isa
        assert found.ties_left_out < 0.05 * found.samples


@pytest.mark.parametrize("isa", isas())
def test_diagnostics_are_those_of_the_exported_sampler(isa):
    policy = shipped("planar_arm")
    ours, theirs = NativeSampler(policy, isa=isa), OnnxSampler(policy, "cpu")
    guards = Guards(disagreement=0.05, support=True, ratio_cap=0.8)
    compared = acted = 0
    for seed in range(4):
        obs, noise = draw(policy, 8, seed)
        for weight, how in ((0.0, UNGUARDED), (9.0, UNGUARDED), (9.0, guards)):
            a, b = ours(obs, noise, weight, how), theirs(obs, noise, weight, how)
            same = np.abs(a.action - b.action).max(axis=1) < 1e-4  # but for ties and edges
            for field in FIELDS:
                x, y = getattr(a, field)[same], getattr(b, field)[same]
                assert x.dtype == np.float32 and x.shape == y.shape
                np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4, err_msg=field)
            compared, acted = compared + same.sum(), acted + (a.acted > 0).sum()
    assert compared > 0.9 * 96 and acted > 8


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_same_bits_again_whatever_is_asked_for_with_it(precision, isa):
    """Again, by another sampler, after other questions, alone or among others, of more than one call
    of the library, with fewer fields; and what was answered stays."""
    policy = policy_of(members=3, velocity=(19, 33), critic=(33, 18))
    sampler = NativeSampler(policy, precision, isa)
    obs, noise = draw(policy, 70)
    held = np.full((1, policy.action_dim), 0.4, np.float32)
    for weight, guards, committed in ((2.0, UNGUARDED, None), (4.0, ALL, held), (0.0, ALL, None)):
        first = sampler(obs, noise, weight, guards, committed)
        kept = {name: getattr(first, name).copy() for name in FIELDS}
        for rows in (slice(None), slice(3, 4), slice(60, 68)):
            one = sampler(obs, noise[rows], weight, guards, committed)
            sampler(obs + 1, noise[:2], 1.0)
            for name in FIELDS:
                assert np.array_equal(getattr(one, name), kept[name][rows]), name
        other = NativeSampler(policy, precision, isa).draw(
            obs, noise, weight, guards, committed, fields=("q", "action")
        )
        assert np.array_equal(other[0], kept["q"]) and np.array_equal(other[1], kept["action"])
        assert all(np.array_equal(getattr(first, name), kept[name]) for name in FIELDS)


@pytest.mark.parametrize("isa", isas())
def test_zero_weight_is_unguided_to_the_bit(isa):
    sampler = NativeSampler(policy := policy_of(), isa=isa)
    obs, noise = draw(policy, 9)
    plain, guided = sampler(obs, noise, 0.0, ALL), sampler(obs, noise, 3.0)
    assert np.array_equal(plain.action, plain.action_unguided)
    assert np.array_equal(plain.q, plain.q_unguided)
    assert (
        not plain.gradient_norm.any() and not plain.guidance_ratio.any() and not plain.acted.any()
    )
    assert np.array_equal(guided.action_unguided, plain.action)
    assert np.abs(guided.action - plain.action).max() > 0.01


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_come_out_as_none(isa, bad):
    """The core takes an action that is not finite for what it is, and holds."""
    sampler = NativeSampler(policy := policy_of(), isa=isa)
    obs, noise = draw(policy, 3)
    before = sampler(obs, noise, 2.0)
    for at in range(policy.obs_dim):
        wrong = obs.copy()
        wrong[at] = bad
        for weight in (0.0, 2.0):
            got = sampler(wrong, noise, weight)
            assert np.isnan(got.action).all() and np.isnan(got.action_unguided).all()
            assert np.isnan(got.q).all()
    after = sampler(obs, noise, 2.0)
    assert all(np.array_equal(getattr(before, f), getattr(after, f)) for f in FIELDS)


def test_any_kind_of_float_and_order_is_the_same_question():
    sampler = NativeSampler(policy := policy_of())
    obs, noise = draw(policy, 4)
    wide = sampler(obs.astype(float), np.asfortranarray(noise.astype(float)), np.float32(2.0))
    plain = sampler(obs, noise, 2.0)
    assert all(np.array_equal(getattr(wide, f), getattr(plain, f)) for f in FIELDS)


@pytest.mark.parametrize(
    "change",
    [
        dict(obs=np.zeros(4)),
        dict(obs=np.zeros(1)),
        dict(obs=np.zeros((1, 5))),
        dict(noise=np.zeros((2, 5))),
        dict(noise=np.zeros((2, 1))),
        dict(noise=np.zeros(6)),
        dict(noise=np.zeros((0, 6))),
        dict(noise=np.zeros((70, 5))),
        dict(weight=-1.0),
        dict(weight=np.nan),
        dict(weight=np.inf),
        dict(weight=1e300),
        dict(committed=np.zeros((3, 2))),
        dict(committed=np.zeros((0, 2))),
        dict(committed=np.zeros((1, 3))),
        dict(committed=np.zeros(2)),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change):
    sampler = NativeSampler(policy := policy_of())
    obs, noise = draw(policy, 2)
    good = dict(obs=obs, noise=noise, weight=1.0)
    with pytest.raises(ValueError):
        sampler(**good | change)
    assert isinstance(sampler(**good), Sample)


def halves(policy):
    """The same with weights that half precision has."""
    rounded = [
        {k: v.astype(np.float16).astype(np.float32) for k, v in part.items()}
        for part in (policy.velocity, policy.critic)
    ]
    return replace(policy, velocity=rounded[0], critic=rounded[1])


@pytest.mark.parametrize("isa", isas())
def test_half_precision_is_of_the_stored_weights_alone(isa, short):
    """Weights that fit are not changed, and all else is as in float32."""
    policy = halves(policy_of(velocity=(19, 33), critic=(18, 33), members=3))
    found = parity(policy, NativeSampler(policy, "float16", isa))[0]
    assert found.largest_error <= 1
    assert half_error(policy) < 1e-3


def test_half_precision_is_measured():
    policy = policy_of(velocity=(64, 64), critic=(64, 64))
    assert 1e-4 < half_error(policy) < 0.04
    assert half_error(policy) == half_error(policy)
    # The layer norm takes out what all columns share, and half precision the rest.
    steep = policy.velocity["layers.0.weight"] + np.float32(500)
    assert half_error(replace(policy, velocity=policy.velocity | {"layers.0.weight": steep})) > 0.04
    huge = policy.critic["layers.1.weight"] * np.float32(1e6)
    changed = replace(policy, critic=policy.critic | {"layers.1.weight": huge})
    assert half_error(changed) == np.inf, "no half is as large"
