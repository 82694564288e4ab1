"""Policies of any size, in memory, with weights as lively as trained ones."""

import dataclasses
from pathlib import Path

import numpy as np
from qgf_make import contract, description, policy_in_memory, velocity_dict

from qgf_ros.policy.description import Beta, Flow, Network, Returns, Support
from qgf_ros.policy.tensors import network_shapes


def policy_of(
    obs=5,
    horizon=3,
    action=2,
    velocity=(16, 16),
    critic=(16, 16),
    members=2,
    steps=4,
    aggregation="min",
    output="linear",
    gain=1.0,
    seed=0,
):
    """A policy for these sizes; its support box is one that guidance leaves."""
    value = velocity_dict(horizon=horizon, execute=1)
    value["observations"] = [
        {
            "name": "numbers",
            "topic": "numbers",
            "type": "std_msgs/Float64MultiArray",
            "names": [f"o{i}" for i in range(obs)],
            "max_age": 0.15,
        }
    ]
    names = [f"a{i}" for i in range(action)]
    value["actions"][0]["names"] = names
    value["actions"][0]["limits"] = {n: {"min": -2.0, "max": 2.0, "rate": 80.0} for n in names}
    own, flat = contract(value), horizon * action
    d = description(
        own,
        flow=Flow(steps),
        velocity=Network("velocity.safetensors", velocity),
        critic=Network("critic.safetensors", critic, members, output=output),
        returns=Returns("reward", 0.99, 1.0, aggregation),
        beta=Beta(0.5, 0.25, (0.5,)),
        support=Support((-0.3,) * flat, (0.3,) * flat),
    )
    rng = np.random.default_rng(seed)
    tensors = [
        {name: _near(name, shape, gain, rng) for name, shape in shapes.items()}
        for shapes in (
            network_shapes(d.velocity, obs + flat + 16, flat, norm_last=False),
            network_shapes(d.critic, obs + flat, 1, norm_last=True),
        )
    ]
    tensors[0]["time_embedding"] = rng.uniform(-1, 1, (steps, 16)).astype(np.float32)
    plain = policy_in_memory(own)
    return dataclasses.replace(
        plain, folder=Path("nets"), description=d, velocity=tensors[0], critic=tensors[1]
    )


def _near(name, shape, gain, rng):
    """Weights that keep what they are given at its size, scales near 1, the rest near 0."""
    values = rng.standard_normal(shape)
    if name.startswith("layers.") and name.endswith("weight"):
        return (gain * values / np.sqrt(shape[-2])).astype(np.float32)
    return (name.startswith("norms.") * name.endswith("weight") + 0.2 * values).astype(np.float32)
