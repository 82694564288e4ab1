"""The cube that only cameras see: what they see of it, and a model that is made light for looking at."""

import numpy as np
import pytest

pytest.importorskip("ogbench")

from qgf_ros.sim.camera import Camera, coarse
from qgf_ros.sim.world import make_world


@pytest.fixture(scope="module")
def world():
    return make_world("ur5e_cube_camera")


def red(image):
    """Pixels of the cube; its goal is darker."""
    r, g, b = (image[..., k].astype(int) for k in range(3))
    return int(((r > 150) & (r > 2 * g) & (r > b + 60)).sum())


def held(world, seed):
    """The world, once its teacher holds the cube above the table."""
    world.reset(seed)
    teacher = world.demonstrator(seed)
    for _ in range(120):
        world.command(teacher.act())
        world.step()
        if world.env.data.joint("object_joint_0").qpos[2] > 0.08:
            return
    raise AssertionError("the teacher never lifted the cube")


def test_both_cameras_see_the_cube_and_no_topic_tells_of_it(world):
    world.reset(1)
    assert red(world.signal("front")) >= 5
    held(world, 1)
    assert red(world.signal("tool_camera")) >= 100
    names = {p.signal for p in world.publications}
    assert {"front", "tool_camera"} <= names and not any(n.startswith("cube") for n in names)


def test_what_is_seen_is_told_by_the_seed(world):
    def seen():
        world.reset(3)
        return [world.signal(name) for name in ("front", "tool_camera")]

    for first, again in zip(seen(), seen()):
        assert np.array_equal(first, again)
    world.reset(4)
    assert not np.array_equal(world.signal("front"), seen()[0])


def test_a_coarse_model_looks_the_same_and_leaves_physics_alone(world):
    held(world, 2)
    model, data = world.env.model, world.env.data
    faces, samples = model.mesh_facenum.copy(), int(model.vis.quality.offsamples)
    light = coarse(model, 0.004)
    assert np.array_equal(model.mesh_facenum, faces) and model.vis.quality.offsamples == samples
    assert light.mesh_facenum.sum() < faces.sum() / 4 and (light.mesh_facenum > 0).all()
    fine, seen = (Camera(m, "front_pixels", (64, 64))(data).astype(int) for m in (model, light))
    assert np.abs(fine - seen).mean() < 4  # of 255; most of it is that edges are not smoothed
    assert abs(red(fine) - red(seen)) <= 4
