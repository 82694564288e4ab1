"""OGBench's play data becomes what the ur5e_cube worlds would have said and done."""

import json

import mujoco
import numpy as np
import pytest

from qgf_ros.sim.world import make_world, world_folder
from qgf_ros.spaces.contract import Contract
from training.pipeline.readers.ogbench import (
    RADIUS,
    commands,
    play_contract,
    play_episodes,
    signals,
)

WORLDS = ("ur5e_cube", "ur5e_cube_double")


@pytest.fixture(scope="module", params=WORLDS)
def world(request):
    world = make_world(request.param)
    world.contract = Contract.load(world_folder(request.param) / "contract.yaml")
    return world


def moved(world, rng, steps=8):
    world.reset(int(rng.integers(1000)))
    for _ in range(steps):
        world.command(np.append(rng.uniform(-1, 1, 4), rng.random()))
        world.step()
    return world.env.compute_observation()


def test_observations_taken_apart_are_the_worlds_signals(world):
    rng = np.random.default_rng(0)
    for _ in range(5):
        said = signals(moved(world, rng), world.goals)
        for source in world.contract.observations:
            ours, theirs = source.features(said[source.name]), world.signal(source.name)
            assert np.allclose(ours, source.features(theirs), atol=1e-6), source.name


def test_commands_move_the_world_as_the_packages_own_action_does(world):
    """One period from the same state: ours through twist and opening, theirs through env.step."""
    rng = np.random.default_rng(1)
    for _ in range(5):
        obs = moved(world, rng)
        action = rng.uniform(-1, 1, 5)
        data = world.env.data
        before = mujoco.MjData(world.env.model)
        mujoco.mj_copyData(before, world.env.model, data)
        world.command(commands(obs, action))
        world.step()
        ours = data.qpos.copy()
        mujoco.mj_copyData(data, world.env.model, before)
        world.env.step(action)
        assert np.abs(ours - data.qpos).max() < 1e-6
        assert np.abs(ours - before.qpos).max() > 1e-4  # and it did move


def pieces(success):
    """(begin, end, won) of the runs of states without success; `end` is the state after the last
    action, the first success where there is one."""
    last = len(success) - 1
    edges = np.flatnonzero(np.diff(np.concatenate([[True], success, [True]]).astype(int)))
    runs = [(int(b), int(min(e, last))) for b, e in zip(edges[::2], edges[1::2])]
    return [(b, e, bool(success[e])) for b, e in runs if e > b]


def test_pieces_end_at_success_and_go_on_after_it():
    state = np.array([0, 0, 1, 1, 0, 0, 0, 1, 0], bool)
    assert pieces(state) == [(0, 2, True), (4, 7, True)]
    assert pieces(np.array([0, 0, 1, 0, 0], bool)) == [(0, 2, True), (3, 4, False)]
    assert pieces(np.array([1, 1, 0, 0], bool)) == [(2, 3, False)]
    assert pieces(np.zeros(4, bool)) == [(0, 3, False)]
    assert pieces(np.ones(4, bool)) == []


def write_play(path, obs, action):
    flat = lambda x: x.reshape(-1, x.shape[-1]).astype(np.float32)  # noqa: E731
    terminals = np.zeros(obs.shape[:2], bool)
    terminals[:, -1] = True
    meta = np.frombuffer(json.dumps({"task": "test"}).encode(), np.uint8)
    np.savez(
        path, observations=flat(obs), actions=flat(action), terminals=terminals.ravel(), meta=meta
    )


def test_play_is_cut_where_the_cube_is_at_its_goal(tmp_path):
    world = make_world("ur5e_cube")
    contract = play_contract("ur5e_cube")
    base = world.env.compute_observation()
    obs = np.tile(base, (2, 21, 1))
    goal = (world.goals[0] - [0.425, 0, 0]) * 10
    obs[0, 10:13, 19:22] = goal  # three states of the first episode are a success
    action = np.random.default_rng(0).uniform(-1, 1, (2, 21, 5))
    write_play(tmp_path / "play.npz", obs, action)
    episodes, meta = play_episodes(tmp_path / "play.npz", contract, world.goals)
    assert meta == {"task": "test"}
    assert [(len(e), e.terminal, e.success) for e in episodes] == [
        (10, True, True),
        (7, False, None),
        (20, False, None),
    ]
    assert episodes[0].reward.tolist() == [-1] * 9 + [0]
    assert np.all(episodes[1].reward == -1)
    goals = play_contract("ur5e_cube_goals")
    whole, _ = play_episodes(tmp_path / "play.npz", goals, world.goals)
    assert [(len(e), e.terminal) for e in whole] == [(20, False), (20, False)]


def test_fault_146_the_contract_cuts_play_as_the_benchmark_did_by_hand(world, tmp_path):
    """To the bit: the figures of docs/benchmark.md are of the cut by hand, which `pieces` was."""
    rng, name = np.random.default_rng(2), "ur5e_cube" + "_double" * (len(world.goals) > 1)
    contract, base = play_contract(name), world.env.compute_observation()
    obs = np.tile(base, (4, 101, 1)) + rng.normal(scale=0.01, size=(4, 101, len(base)))
    at_goal = np.cumsum(rng.random((2, 4, 101)) < 0.1, axis=2) % 2 == 1
    for i, goal in enumerate(world.goals):
        first = 19 + 9 * i
        there = 10 * (goal - [0.425, 0, 0]) + rng.normal(scale=0.2, size=(4, 101, 3))
        there = np.where(at_goal[i][..., None], there, there + 3)
        obs[..., first : first + 3] = there
    action = rng.uniform(-1, 1, (4, 101, 5))
    write_play(tmp_path / "play.npz", obs, action)
    obs, action = (x.astype(np.float32).astype(float) for x in (obs, action))
    said = signals(obs, world.goals)
    seen = np.concatenate([o.features(said[o.name]) for o in contract.observations], -1)
    cubes = [said[n][..., :3] for n in sorted(said) if n.startswith("cube")]
    there = [np.linalg.norm(c - g, axis=-1) <= RADIUS for c, g in zip(cubes, world.goals)]
    reward = (np.sum(there, axis=0) - float(len(world.goals)))[:, 1:]
    by_hand = [
        (k, begin, end, won)
        for k in range(4)
        for begin, end, won in pieces(np.all(there, axis=0)[k])
    ]
    episodes, _ = play_episodes(tmp_path / "play.npz", contract, world.goals)
    assert len(episodes) == len(by_hand) > 8 and any(e.terminal for e in episodes)
    for e, (k, begin, end, won) in zip(episodes, by_hand):
        assert np.array_equal(e.obs, seen[k, begin : end + 1])
        assert np.array_equal(e.action, commands(obs, action)[k, begin:end])
        assert np.array_equal(e.reward, reward[k, begin:end])
        assert (e.terminal, e.success) == (won, True if won else None)


def test_the_teacher_takes_cubes_to_their_goals(world):
    won = 0
    for seed in range(3):
        world.reset(seed)
        teacher = world.demonstrator(seed)
        while world.outcome.value == "running":
            world.command(teacher.act())
            world.step()
        won += world.outcome.value == "success"
    assert won == 3


def test_an_episode_is_repeatable_whatever_ran_before(world):
    def play(seed):
        world.reset(seed)
        teacher, seen = world.demonstrator(seed), []
        for _ in range(15):
            world.command(teacher.act())
            world.step()
            seen.append(np.concatenate([world.signal(p.signal) for p in world.publications]))
        return np.array(seen)

    first = play(3)
    play(4)
    assert np.array_equal(first, play(3))
    assert not np.array_equal(first, play(4))


def test_without_a_command_the_arm_keeps_its_place(world):
    """A target taken from the measured pose would sink by most of a millimetre per step."""
    world.reset(0)
    for _ in range(20):
        world.step()
    before = world.signal("tool")[:3]
    for _ in range(20):
        world.step()
    assert np.abs(world.signal("tool")[:3] - before).max() < 1e-4


def test_it_renders_without_a_display(world):
    picture = world.render()
    assert picture.shape == (480, 640, 3)
    assert picture.std() > 10
