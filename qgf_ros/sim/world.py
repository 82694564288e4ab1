"""What every simulated world offers to the node, the recorder, evaluation and tests.

A world knows physics and its task. It knows neither ROS nor policies: `contract.yaml` beside it
says which of its signals travel on which topic.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from qgf_ros.plugins import Kinds

# A world is a module with `make()`, and contract.yaml beside it.
WORLDS = Kinds(
    "world",
    "qgf.worlds",
    {
        "planar_arm": "qgf_ros.sim.planar_arm.world",
        "planar_arm_camera": "qgf_ros.sim.planar_arm_camera.world",
        "planar_arm_position": "qgf_ros.sim.planar_arm_position.world",
        "pointmaze": "qgf_ros.sim.pointmaze.world",
        "ur5e_cube": "qgf_ros.sim.ur5e_cube.world",
        "ur5e_cube_goals": "qgf_ros.sim.ur5e_cube_goals.world",
        "ur5e_cube_camera": "qgf_ros.sim.ur5e_cube_camera.world",
        "ur5e_cube_double": "qgf_ros.sim.ur5e_cube_double.world",
    },
)


class Outcome(enum.Enum):
    """How an episode stands. TIME_OUT cuts it without judging it (truncation)."""

    RUNNING = "running"
    SUCCESS = "success"
    COLLISION = "collision"
    TIME_OUT = "time_out"


@dataclass(frozen=True)
class Publication:
    """How often the world says a signal [Hz]. The signal is named as in the contract."""

    signal: str
    rate: float


class World(Protocol):
    """One simulated task. Time starts at 0 with every `reset`."""

    step_time: float  # one `step` [s]
    control_period: float  # the demonstrator's period, one reward per period [s]
    publications: tuple[Publication, ...]
    outcome: Outcome

    @property
    def time(self) -> float:
        """Since reset [s]."""

    def reset(self, seed: int) -> None: ...

    def command(self, values: np.ndarray) -> None:
        """Values in the order of the contract's actions, held until the next call."""

    def step(self) -> None: ...

    def signal(self, name: str) -> np.ndarray:
        """Present value of an observation, in the order of the contract's fields and names; of a camera
        its image, (H, W, 3) uint8."""

    def reward(self) -> float:
        """Reward of the control period that just ended."""

    def demonstrator(self, seed: int) -> Demonstrator: ...


class Demonstrator(Protocol):
    """A scripted, imperfect teacher: called once per control period."""

    def act(self) -> np.ndarray: ...


def world_folder(name: str) -> Path:
    """Folder of a world (contract.yaml, MJCF). Raises UsageError for an unknown name."""
    if name in WORLDS.own:  # without its simulator, which need not be installed
        return Path(__file__).parent / name
    return Path(WORLDS.load(name).__file__).parent


def make_world(name: str) -> World:
    """Builds a world by name. Raises UsageError for an unknown one."""
    return WORLDS.load(name).make()  # type: ignore[no-any-return]
