"""A velocity field, an encoder and a backend that another package adds, in a policy that names them."""

from dataclasses import replace

import numpy as np
import pytest
from qgf_make import contract, description, write_tiny

from qgf_ros.errors import UsageError
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.description import Network, Plugin
from qgf_ros.policy.folder import load_policy, write_policy
from qgf_ros.policy.tensors import network_shapes

pytestmark = pytest.mark.xdist_group("plugins")


@pytest.fixture
def policy(installed, tmp_path):
    """Of schema 3: the field's goal is 0.5 everywhere, and the networks see two squares more."""
    own = contract()
    flat = own.time.horizon * len(own.action_names)
    d = replace(
        description(own, schema=3, velocity=Network("velocity.safetensors", (8,))),
        velocity=Plugin("straight", ("field.safetensors",), ("qgf_examples",)),
        encoders=(Plugin("normalizer"), Plugin("squares", size=2)),
    )
    shapes = network_shapes(d.critic, len(own.observation_names) + 2 + flat, 1, norm_last=True)
    rng = np.random.default_rng(0)
    critic = {k: (0.1 * rng.standard_normal(s)).astype(np.float32) for k, s in shapes.items()}
    goal = {"goal": np.full(flat, 0.5, np.float32)}
    write_policy(tmp_path / "p", d, {d.critic.file: critic, "field.safetensors": goal})
    return load_policy(tmp_path / "p")


def test_a_policy_samples_with_the_field_and_the_encoder_of_a_package(policy):
    sampler = make_sampler(policy)
    seen = policy.observed(np.arange(1.0, policy.normalizer.obs_mean.size + 1))
    noise = np.random.default_rng(0).standard_normal((2, policy.flat_dim)).astype(np.float32)
    unguided, guided = (sampler(seen.encoded, noise, w) for w in (0.0, 5.0))
    assert seen.encoded[-2:].tolist() == [1.0, 4.0]
    np.testing.assert_allclose(unguided.action, 0.5, atol=1e-6)
    assert (guided.q >= guided.q_unguided).all() and (guided.q > guided.q_unguided).any()


def test_a_backend_of_a_package_is_used_by_its_name(installed, tmp_path):
    write_tiny(tmp_path / "tiny")
    own = load_policy(tmp_path / "tiny")
    ours, theirs = make_sampler(own, "native"), make_sampler(own, "averaged")
    assert theirs.backend == "averaged"
    noise = np.random.default_rng(0).standard_normal((2, own.flat_dim)).astype(np.float32)
    one, two = (s(np.zeros(own.obs_dim, np.float32), noise, 1.0).action for s in (ours, theirs))
    np.testing.assert_allclose(one, two, atol=1e-4)
    with pytest.raises(UsageError, match="averaged runs on the CPU"):
        make_sampler(own, "averaged", "cuda")
