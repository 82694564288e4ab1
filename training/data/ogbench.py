"""Play data of OGBench's cube tasks (npz) as episodes of the `ur5e_cube` worlds.

The package's observations are scaled and mixed; the contract's are what the robot says, so they
are taken apart here and put together by the contract. The package's action is a change of the
measured pose and opening per period; the contract's is a twist and an absolute opening.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.contract import Contract
from qgf_ros.sim.ur5e_cube import MAX_STEP, PERIOD
from training.data.episodes import Episode

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


def play_episodes(
    path: Path, contract: Contract, goals: np.ndarray
) -> tuple[list[Episode], dict[str, Any]]:
    """The file's episodes on the contract's grid, and how it was made.

    For a task with a reward they are cut where every cube reached its goal (a success ends an
    episode), and go on where they left it. For `reach_goal` they stay whole.
    """
    with np.load(path) as file:
        meta = json.loads(bytes(file["meta"])) if "meta" in file.files else {}
        count = int(file["terminals"].sum())
        obs, action = (
            file[k].reshape(count, -1, file[k].shape[-1]).astype(np.float64)
            for k in ("observations", "actions")
        )
    said = signals(obs, goals)
    seen = np.concatenate([o.features(said[o.name]) for o in contract.observations], -1)
    command = commands(obs, action)[:, :-1]
    cubes = [said[n][..., :3] for n in sorted(said) if n.startswith("cube")]
    there = np.stack([np.linalg.norm(c - g, axis=-1) <= RADIUS for c, g in zip(cubes, goals)])
    reward = (there.sum(0) - float(len(goals)))[:, 1:]
    if contract.outcome.goal is not None:
        none = np.zeros(command.shape[1])
        return [
            Episode(f"{path.stem}#{k}", seen[k], command[k], none, terminal=False)
            for k in range(count)
        ], meta
    episodes = []
    for k in range(count):
        for begin, end, won in _pieces(np.all(there[:, k], axis=0)):
            episodes.append(
                Episode(
                    f"{path.stem}#{k}.{begin}",
                    seen[k, begin : end + 1],
                    command[k, begin:end],
                    reward[k, begin:end],
                    terminal=won,
                    success=True if won else None,
                )
            )
    return episodes, meta


def _pieces(success: np.ndarray) -> list[tuple[int, int, bool]]:
    """(begin, end, won) of the runs of states without success; `end` is the state after the last
    action, the first success where there is one."""
    last = len(success) - 1
    edges = np.flatnonzero(np.diff(np.concatenate([[True], success, [True]]).astype(int)))
    runs = [(int(b), int(min(e, last))) for b, e in zip(edges[::2], edges[1::2])]
    return [(b, e, bool(success[e])) for b, e in runs if e > b]
