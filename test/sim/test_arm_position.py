"""The arm that is driven by positions, and policies of every representation that drive it."""

import numpy as np
import pytest
import yaml
from qgf_make import description, policy_in_memory, settings

from qgf_ros.control.core import ControlCore
from qgf_ros.control.inference import InlineInference
from qgf_ros.errors import PolicyRefused
from qgf_ros.policy.folder import load_policy
from qgf_ros.sim.world import Outcome, make_world, world_folder
from qgf_ros.spaces.contract import Contract

pytest.importorskip("mujoco")

from qgf_make import FakeSampler, constant, write_tiny

from qgf_ros.sim.episode import run_episode
from qgf_ros.sim.stream import Stream

WAYS = ("absolute", "delta_observed", "delta_last")


def told(representation):
    value = yaml.safe_load((world_folder("planar_arm_position") / "contract.yaml").read_text())
    value["actions"][0]["representation"] = representation
    return Contract.from_dict(value)


def test_its_joints_follow_what_they_are_told_and_stand_until_somebody_speaks():
    world = make_world("planar_arm_position")
    world.reset(1)
    start = world.signal("joints")[:2]
    for _ in range(50):
        world.step()
    assert np.allclose(world.signal("joints")[:2], start, atol=1e-3)
    world.command(start + [0.3, 0.2])
    for _ in range(100):
        world.step()
    assert np.allclose(world.signal("joints")[:2], start + [0.3, 0.2], atol=0.01)


def test_its_demonstrator_arrives_where_no_post_is_in_the_way():
    world, outcomes = make_world("planar_arm_position"), []
    for seed in range(20):
        world.reset(seed)
        teacher = world.demonstrator(seed)
        while world.outcome is Outcome.RUNNING:
            world.command(teacher.act())
            for _ in range(5):
                world.step()
        outcomes.append(world.outcome)
    assert 5 <= outcomes.count(Outcome.SUCCESS) <= 15 and Outcome.TIME_OUT not in outcomes


@pytest.mark.parametrize("representation", WAYS)
def test_a_policy_of_any_representation_drives_it(representation):
    """Each says in its own numbers: turn the shoulder by 0.02 rad a period."""
    own = told(representation)
    scale = {"action_center": (0.0, 0.0), "action_half_range": (1.0, 1.0), "obs_mean": (0.0,) * 8, "obs_std": (1.0,) * 8}
    policy = policy_in_memory(own, normalizer=description(own).normalizer | scale)
    world = make_world("planar_arm_position")
    stream = Stream(world)
    stream.reset(3)
    at = world.signal("joints")[:2]
    said = {"absolute": at + [0.3, 0.0], "delta_observed": [0.1, 0.0], "delta_last": [0.02, 0.0]}
    sampler = FakeSampler(constant(said[representation]))
    core = ControlCore(policy, InlineInference(sampler), settings(policy), enabled=True)
    result = run_episode(core, stream, 3)
    assert result.held_ticks == 0 and len(result.samples) > 3
    moved = result.path[-1][:2] - at
    assert moved[0] > 0.2 and abs(moved[1]) < 0.05, moved


@pytest.mark.parametrize("representation", WAYS)
def test_what_is_learnt_of_a_command_is_not_the_robots_business(tmp_path, representation):
    own, robot = told(representation), told("absolute")
    write_tiny(tmp_path / "p", own)
    assert load_policy(tmp_path / "p", robot).contract.actions[0].representation == representation
    other = robot.to_dict()
    other["actions"][0]["limits"]["elbow"]["rate"] = 1.0
    with pytest.raises(PolicyRefused, match="rate: policy has 2.5, robot has 1.0"):
        load_policy(tmp_path / "p", Contract.from_dict(other))
