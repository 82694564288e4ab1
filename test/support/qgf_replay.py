"""Bags of the planar arm, driven by the control core itself: what a replay must find again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from qgf_make import SECOND, START

from qgf_ros.bags.sources import contract_sources
from qgf_ros.control.core import ControlCore
from qgf_ros.control.inference import InlineInference
from qgf_ros.control.settings import resolve
from qgf_ros.control.supervisor import State
from qgf_ros.files.share import find_policy
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import load_policy
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from training.pipeline.writers.bag import BagWriter

ARM = find_policy("planar_arm")
CONTRACT = Contract.load(world_folder("planar_arm") / "contract.yaml")
PERIOD = SECOND // 20
LOW, HIGH = np.array([-2.7, 0.1]), np.array([2.7, 2.3])  # rad, where the arm's joints were recorded


def arm_bag(
    path: Path,
    ticks: int,
    beta: float = 0.1,
    seed: int = 0,
    speaks: Callable[[int], bool] = lambda k: True,
    stamped: Callable[[int], int] = lambda k: k,
    won: bool = True,
) -> int:
    """One episode; the number of its ticks that the core was not in RUN.

    speaks: whether there is state at tick k. stamped: the tick that its stamps belong to.
    """
    policy = load_policy(ARM)
    core = ControlCore(
        policy,
        InlineInference(make_sampler(policy, device="cpu")),
        resolve({"seed": seed, "beta": beta}, policy),
        enabled=True,
    )
    position, velocity, held = np.array([-0.1, 0.8]), np.zeros(2), 0
    with BagWriter(path, contract_sources(CONTRACT)) as bag:
        bag.write("episode_start", START - SECOND, START - SECOND, np.array([1.0]))
        for k in range(ticks):
            at, receipt = START + k * PERIOD, START + k * PERIOD - SECOND // 250
            stamp = START + stamped(k) * PERIOD - SECOND // 200
            state = {
                "joints": np.concatenate([position, velocity]),
                "goal": np.array([-0.65, 0.0]),
                "obstacle": np.array([0.0, 0.45]),
            }
            for name, values in state.items() if speaks(k) else ():
                bag.write(name, stamp, receipt, values)
                core.assembler.push(name, stamp, receipt, values)
            result = core.tick(at)
            held += result.state is not State.RUN
            if result.output.values is not None:
                bag.write("arm", at, at, result.output.values)
                velocity = result.output.values
                position = np.clip(position + velocity * 0.05, LOW, HIGH)
        end = START + ticks * PERIOD - SECOND // 100
        bag.write("success", end, end, np.array([float(won)]))
    return held
