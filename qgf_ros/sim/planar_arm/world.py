"""The planar arm: reach the goal on the far side; a post blocks one of the two ways around.

Both ways are about equally long and nothing but the post's side tells them apart. The scripted
demonstrator does not look at the post: about half of its episodes hit it, and half are slow.
Imitation can therefore do no better than about one in two; knowing which actions are better
is left to the critic.
"""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from qgf_ros.sim.world import Outcome, Publication

LINKS = (0.5, 0.4)  # m
OBSTACLE_RADIUS = 0.08  # m, of the post
GOAL_RADIUS = 0.1  # m, distance of tip and goal that counts as reached
TIME_LIMIT = 8.0  # s, about twice what a slow demonstration takes
STEP_REWARD = -0.1  # per control period: time costs
COLLISION_REWARD = -10.0  # once, on touching the post: as dear as 100 periods
MAX_SPEED = 2.0  # rad/s, the contract's limit
TREMOR = 0.2  # rad/s, of the demonstrator's hand per period


def forward_kinematics(joints: np.ndarray) -> np.ndarray:
    """Points of the arm for joints (..., 2) [rad] -> (..., 3, 2) [m]: base, elbow, tip."""
    shoulder, elbow = joints[..., 0], joints[..., 0] + joints[..., 1]
    middle = LINKS[0] * np.stack([np.cos(shoulder), np.sin(shoulder)], -1)
    tip = middle + LINKS[1] * np.stack([np.cos(elbow), np.sin(elbow)], -1)
    return np.stack([np.zeros_like(middle), middle, tip], -2)


def inverse_kinematics(target: np.ndarray) -> np.ndarray:
    """Joints (2,) [rad] with a positive elbow that put the tip at `target` (2,) [m]."""
    a, b = LINKS
    cosine = (target @ target - a * a - b * b) / (2 * a * b)
    elbow = np.arccos(np.clip(cosine, -1, 1))
    bearing = np.arctan2(target[1], target[0])
    shoulder = bearing - np.arctan2(b * np.sin(elbow), a + b * np.cos(elbow))
    return np.array([shoulder, elbow])


class PlanarArm:
    """The world. Signals: joints (4,) position and velocity, goal (2,), obstacle (2,)."""

    control_period = 0.05
    step_time = 0.01
    publications: tuple[Publication, ...] = (
        Publication("joints", 100.0),
        Publication("goal", 20.0),
        Publication("obstacle", 20.0),
    )

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(Path(__file__).parent / "arm.xml"))
        self.data = mujoco.MjData(self.model)
        self._substeps = round(self.step_time / self.model.opt.timestep)
        self._mocap = {n: self.model.body(n).mocapid[0] for n in ("goal", "obstacle")}
        self.reset(0)

    def reset(self, seed: int) -> None:
        """A new episode; everything random comes from `seed`."""
        rng = np.random.default_rng([20260, seed])
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = rng.uniform([-0.25, 0.4], [0.25, 1.2])
        bearing = np.pi + rng.uniform(-0.25, 0.25)
        self._place("goal", rng.uniform(0.55, 0.75), bearing)
        side = rng.choice([-1.0, 1.0])
        self._place("obstacle", rng.uniform(0.38, 0.5), side * (np.pi / 2 + rng.uniform(-0.3, 0.3)))
        self.outcome = Outcome.RUNNING
        self._max_command = self.model.actuator_ctrlrange[:, 1]
        mujoco.mj_forward(self.model, self.data)

    def _place(self, body: str, radius: float, bearing: float) -> None:
        self.data.mocap_pos[self._mocap[body]] = [
            radius * np.cos(bearing),
            radius * np.sin(bearing),
            0,
        ]

    @property
    def time(self) -> float:
        return float(self.data.time)

    @property
    def tip(self) -> np.ndarray:
        """Tip position (2,) [m]."""
        return self.data.site("tip").xpos[:2].copy()

    def command(self, values: np.ndarray) -> None:
        """Joint velocities (2,) [rad/s]."""
        self.data.ctrl[:] = np.clip(values, -self._max_command, self._max_command)

    def step(self) -> None:
        """Advances by `step_time`. After the episode ended the arm stands still."""
        if self.outcome is not Outcome.RUNNING:
            self.data.ctrl[:] = 0
        mujoco.mj_step(self.model, self.data, nstep=self._substeps)
        if self.outcome is Outcome.RUNNING:
            self.outcome = self._judge()

    def _judge(self) -> Outcome:
        if self.data.ncon:  # only the links and the post can collide
            return Outcome.COLLISION
        if np.linalg.norm(self.tip - self.signal("goal")) < GOAL_RADIUS:
            return Outcome.SUCCESS
        return Outcome.TIME_OUT if self.time >= TIME_LIMIT else Outcome.RUNNING

    def signal(self, name: str) -> np.ndarray:
        if name == "joints":
            return np.concatenate([self.data.qpos, self.data.qvel])
        return self.data.mocap_pos[self._mocap[name]][:2].copy()

    def reward(self) -> float:
        return STEP_REWARD + (COLLISION_REWARD if self.outcome is Outcome.COLLISION else 0.0)

    def demonstrator(self, seed: int) -> ArmDemonstrator:
        return ArmDemonstrator(self, seed)


class ArmDemonstrator:
    """Picks a way at random, drives there at a random pace, and never looks at the post."""

    def __init__(self, world: PlanarArm, seed: int) -> None:
        rng = np.random.default_rng([20261, seed])
        self._world = world
        self._noise = np.random.default_rng([20262, seed])
        goal = inverse_kinematics(world.signal("goal"))
        start = world.signal("joints")[:2]
        ways = np.array([goal[0] + 2 * np.pi * k for k in (-1, 0, 1)])
        left = ways[ways > start[0]].min()
        right = ways[ways < start[0]].max()
        self._goal = np.array([left if rng.random() < 0.5 else right, goal[1]])
        self._speed = rng.uniform(1.4, 1.8) if rng.random() < 0.5 else rng.uniform(0.6, 0.9)
        self._tremor = np.zeros(2)

    def _here(self) -> np.ndarray:
        """Joints (2,) [rad] that it goes on from."""
        return self._world.signal("joints")[:2]

    def act(self) -> np.ndarray:
        """Joint velocities (2,) [rad/s]: towards the goal, slower when near, a little unsteady."""
        error = self._goal - self._here()
        wanted = 4.0 * error
        wanted *= min(1.0, self._speed / (np.abs(wanted).max() + 1e-9))
        # An unsteady hand: it strays and corrects, so the data shows how to come back.
        self._tremor = 0.8 * self._tremor + self._noise.normal(0, TREMOR, 2)
        return np.clip(wanted + self._tremor, -MAX_SPEED, MAX_SPEED)


def make() -> PlanarArm:
    return PlanarArm()
