"""The mobile base's world: the package's physics under Twist, the same for the same seed."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ogbench")

from qgf_ros.sim.pointmaze.world import MAX_SPEED, PERIOD, TIME_LIMIT
from qgf_ros.sim.world import Outcome, make_world


@pytest.fixture(scope="module")
def world():
    return make_world("pointmaze")


def drive(world, seed):
    """Path (steps + 1, 4) of one demonstration."""
    world.reset(seed)
    teacher = world.demonstrator(seed)
    path = [world.signal("odometry")]
    while world.outcome is Outcome.RUNNING:
        world.command(teacher.act())
        world.step()
        path.append(world.signal("odometry"))
    return np.array(path)


def test_everything_random_comes_from_the_seed(world):
    np.random.seed(1)
    first = drive(world, 7)
    np.random.seed(2)
    drive(world, 8)
    assert np.array_equal(drive(make_world("pointmaze"), 7), first)
    assert not np.array_equal(drive(world, 8)[:5], first[:5])


def test_a_twist_moves_it_by_that_velocity_and_walls_stop_it(world):
    world.reset(0)
    world.env.set_xy(world.middle((3, 3)))  # free to both sides along x, walls are further off
    world.command(np.array([1.5, 0.0]))
    before = world.signal("odometry")[:2]
    world.step()
    position, velocity = np.split(world.signal("odometry"), 2)
    assert position - before == pytest.approx([1.5 * PERIOD, 0], abs=1e-9)
    assert velocity == pytest.approx([1.5, 0], abs=1e-8)

    world.env.set_xy(world.middle((1, 1)))
    world.command(np.array([0.0, -9.0]))  # no faster than it can, and into the wall
    for _ in range(40):
        world.step()
    position, velocity = np.split(world.signal("odometry"), 2)
    assert world.middle((1, 1))[1] - position[1] < 1.8 and abs(velocity[1]) < 0.5


def test_demonstrations_are_imperfect_and_end_where_they_should(world):
    outcomes, lengths = [], []
    for seed in range(40):
        path = drive(world, seed)
        outcomes.append(world.outcome)
        lengths.append(len(path) - 1)
        cells = {world.cell(p) for p in path[:, :2]}
        assert all(world.env.maze_map[c] == 0 for c in cells), "never inside a wall"
        assert np.abs(path[:, 2:]).max() < MAX_SPEED + 0.5
        near = np.linalg.norm(path[-1, :2] - world.signal("goal")) <= 1.0
        assert near == (world.outcome is Outcome.SUCCESS)
    assert 10 <= outcomes.count(Outcome.SUCCESS) <= 30
    assert min(lengths) * PERIOD > 10 and max(lengths) * PERIOD == pytest.approx(TIME_LIMIT)


def test_both_ends_are_six_cells_apart_by_two_ways(world):
    starts = set()
    for seed in range(20):
        world.reset(seed)
        start, goal = (world.cell(world.signal(s)[:2]) for s in ("odometry", "goal"))
        distance = world.distances(goal)
        assert distance[start] == 6
        assert sum(distance[c] == 5 for c in world.neighbours(start)) == 2
        starts.add(start)
    assert len(starts) == 2


def test_no_files_are_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_world("pointmaze")
    assert not list(Path(tmp_path).iterdir())
