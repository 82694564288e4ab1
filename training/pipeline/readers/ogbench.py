"""Play data of OGBench's cube tasks (npz) as episodes of the `ur5e_cube` worlds.

The package's observations are scaled and mixed; the contract's are what the robot says, so they
are taken apart here and put together by the contract. The package's action is a change of the
measured pose and opening per period; the contract's is a twist and an absolute opening.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.sim.ur5e_cube import MAX_STEP, PERIOD
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.outcome import AttemptsSpec
from training.pipeline.align import align
from training.pipeline.episodes import Episode
from training.pipeline.report import Report
from training.pipeline.streams import Recording, Stream

CENTER, SCALE = np.array([0.425, 0.0, 0.0]), 10.0  # of positions in the package's observations
GRIPPER_SCALE = 3.0
ROBOT, CUBE = 19, 9  # numbers about the robot, and about each cube after them
RADIUS = 0.04  # m, of success


def signals(obs: np.ndarray, goals: np.ndarray) -> dict[str, np.ndarray]:
    """What the worlds' signals would have been: obs (..., 19 + 9 cubes) as the package has it,
    goals (cubes, 3) [m] -> name -> (..., d) in the order of the contract's labels."""
    yaw = np.arctan2(obs[..., 16], obs[..., 15])
    zero = np.zeros_like(yaw)
    said = {
        "joints": obs[..., :12],
        "tool": np.concatenate(
            [
                obs[..., 12:15] / SCALE + CENTER,
                np.stack([zero, zero, np.sin(yaw / 2), np.cos(yaw / 2)], -1),
            ],
            -1,
        ),
        "gripper": obs[..., 17:18] / GRIPPER_SCALE,
        "contact": obs[..., 18:19],
    }
    for i, goal in enumerate(goals):
        number = "" if len(goals) == 1 else f"_{i}"
        cube = obs[..., ROBOT + CUBE * i :]
        quaternion = np.roll(cube[..., 3:7], -1, axis=-1)  # w, x, y, z -> x, y, z, w
        said[f"cube{number}"] = np.concatenate([cube[..., :3] / SCALE + CENTER, quaternion], -1)
        said[f"goal{number}"] = np.broadcast_to(goal, (*obs.shape[:-1], 3))
    return said


def commands(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """obs (..., O), action (..., 5) of the package -> twist [m/s, rad/s] and opening (..., 5)."""
    opening = np.clip(obs[..., 17:18] / GRIPPER_SCALE + action[..., 4:5], 0, 1)
    return np.concatenate([action[..., :4] * MAX_STEP / PERIOD, opening], -1)


def play_contract(world: str) -> Contract:
    """A world's contract for its play data. Of a task with a reward, an attempt ends where every
    cube has reached its goal; for `reach_goal` play stays whole."""
    contract = Contract.load(world_folder(world) / "contract.yaml")
    if contract.outcome.goal is not None:
        return contract
    outcome = replace(contract.outcome, attempts=AttemptsSpec("outcome"))
    return replace(contract, outcome=outcome)


def play_episodes(
    path: Path, contract: Contract, goals: np.ndarray
) -> tuple[list[Episode], dict[str, Any]]:
    """The file's episodes on the contract's grid, cut as it says, and how the file was made."""
    with np.load(path) as file:
        meta = json.loads(bytes(file["meta"])) if "meta" in file.files else {}
        count = int(file["terminals"].sum())
        obs, action = (
            file[k].reshape(count, -1, file[k].shape[-1]).astype(np.float64)
            for k in ("observations", "actions")
        )
    episodes, report = [], Report()
    for k in range(count):
        play = recording(f"{path.stem}#{k}", obs[k], action[k], contract, goals)
        episodes += align(play, contract, report)
    return episodes, meta


def recording(
    name: str, obs: np.ndarray, action: np.ndarray, contract: Contract, goals: np.ndarray
) -> Recording:
    """What the world would have said in an episode: obs (T + 1, O) and action (T + 1, 5) of the
    package, the last of which only comes with a state; goals as of `signals`."""
    period = round(contract.time.period * 1e9)
    stamp = np.arange(len(obs), dtype=np.int64) * period
    said = signals(obs, goals)
    cubes = [said[n][:, :3] for n in sorted(said) if n.startswith("cube")]
    there = np.stack([np.linalg.norm(c - g, axis=-1) <= RADIUS for c, g in zip(cubes, goals)])
    streams = {o.name: Stream(stamp, stamp, said[o.name]) for o in contract.observations}
    for name, part in contract.action_slices.items():
        streams[name] = Stream(stamp[:-1], stamp[:-1], commands(obs, action)[:-1, part])
    if contract.outcome.goal is None:  # a success for another goal is none
        reward = (there.sum(axis=0) - float(len(goals)))[1:, None]
        streams["reward"] = Stream(stamp[1:], stamp[1:], reward)
        won = (there.sum(axis=0) == len(goals))[:, None].astype(np.float64)
        streams["success"] = Stream(stamp, stamp, won)
    return Recording(name, streams, one_episode=True)
