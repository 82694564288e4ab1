"""A UR5e with a gripper moves cubes: the cube tasks of OGBench (arXiv 2410.20092), as a robot.

Physics, tasks, success and the scripted teacher are the `ogbench` package's; here they get the
topics of a real robot. The package's action is a step added to the measured pose, once per 50 ms;
here it is a twist, held for as long, and the gripper is told an opening instead of a change.
"""

from __future__ import annotations

import warnings
from typing import Any

import mujoco
import numpy as np

# Of spaces in float32, which nobody here uses.
warnings.filterwarnings("ignore", message=".*precision lowered by casting")
warnings.filterwarnings("ignore", module="glfw")
from ogbench.manipspace.envs.cube_env import CubeEnv  # noqa: E402
from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle  # noqa: E402

from qgf_ros.sim.ur5e_cube import MAX_STEP, PERIOD  # noqa: E402
from qgf_ros.sim.world import Outcome, Publication  # noqa: E402

DEFAULT_TASK = 2  # of five, the one that the package's single-task benchmark means
GRIPPER_TRAVEL = 0.8  # rad of the driver joint from open to closed
ORACLE_NOISE = 0.1  # of the largest action; the play data has as much
KINDS = {1: "single", 2: "double"}


class Ur5eCube:
    """The world. Signals, with one cube (several are numbered: cube_0, goal_0, ...):

    joints (12,) position [rad] and velocity [rad/s]; gripper (1,) from 0, open, to 1; contact (1,)
    force at the right pad in 50 N, at most 1; tool, cube and goal: pose (7,) [m], quaternion
    x, y, z, w; goals without one (3,). Command: twist of the tool in the world's axes, linear x,
    y, z [m/s] and angular z [rad/s], then the gripper's opening.
    """

    control_period = step_time = PERIOD

    def __init__(self, cubes: int = 1, task: int | None = DEFAULT_TASK, time_limit: float = 10.0):
        """task: which of the package's five; None: drawn by the seed of the episode."""
        self._cubes = cubes
        self._task = task
        self._limit = round(time_limit / PERIOD)
        self.env = CubeEnv(
            KINDS[cubes], permute_blocks=False, terminate_at_goal=False, width=640, height=480
        )
        numbers = [""] if cubes == 1 else [f"_{i}" for i in range(cubes)]
        self._index = {f"{kind}{n}": i for i, n in enumerate(numbers) for kind in ("cube", "goal")}
        names = ("joints", "tool", "gripper", "contact", *self._index)
        self.publications = tuple(Publication(name, 1 / PERIOD) for name in names)
        self.reset(0)

    @property
    def goals(self) -> np.ndarray:
        """Where the cubes belong: (cubes, 3) [m]."""
        return self.env.data.mocap_pos[self.env._cube_target_mocap_ids].copy()

    def reset(self, seed: int) -> None:
        """A new episode; everything random comes from `seed`."""
        env = self.env
        rng = np.random.default_rng([20270, seed])
        task = int(rng.integers(1, 6)) if self._task is None else self._task
        env.reset(seed=int(rng.integers(2**31)), options={"task_id": task})
        # The package takes two unseeded random actions on its way here: their traces are cleared.
        data = env.data
        for trace in (data.ctrl, data.qacc_warmstart, data.qacc, data.cfrc_ext, data.qfrc_applied):
            trace[:] = 0
        data.time = 0
        data.ctrl[env._arm_actuator_ids] = data.qpos[env._arm_joint_ids]
        self._forward()
        self._steps = 0
        self._twist, self._opening = np.zeros(4), float(self.signal("gripper")[0])
        self.outcome = Outcome.RUNNING

    def _forward(self) -> None:
        mujoco.mj_forward(self.env.model, self.env.data)
        self.env.pre_step()  # what it compares the next state with
        self.env.post_step()

    @property
    def time(self) -> float:
        return self._steps * PERIOD

    def command(self, values: np.ndarray) -> None:
        """Twist (4,) and the gripper's opening."""
        self._twist, self._opening = np.array(values[:4], dtype=float), float(values[4])

    def step(self) -> None:
        """Advances by `step_time`. After the episode ended the arm stands still."""
        env, data = self.env, self.env.data
        twist = self._twist if self.outcome is Outcome.RUNNING else np.zeros(4)
        if twist.any():
            # At rest the last joint target stays: a target from the measured pose would sink.
            env.set_control(np.append(np.clip(twist * PERIOD / MAX_STEP, -1, 1), 0.0))
        data.ctrl[env._gripper_actuator_ids] = 255 * np.clip(self._opening, 0, 1)
        env.pre_step()
        mujoco.mj_step(env.model, data, nstep=env._n_steps)
        mujoco.mj_rnePostConstraint(env.model, data)  # contact forces
        env.post_step()
        if self.outcome is Outcome.RUNNING:
            self._steps += 1
            if self._steps >= self._limit:
                self.outcome = Outcome.TIME_OUT
            elif env._success:
                self.outcome = Outcome.SUCCESS

    def signal(self, name: str) -> np.ndarray:
        env, data = self.env, self.env.data
        if name == "joints":
            return np.concatenate([data.qpos[env._arm_joint_ids], data.qvel[env._arm_joint_ids]])
        if name == "gripper":
            return np.clip([data.qpos[env._gripper_opening_joint_id] / GRIPPER_TRAVEL], 0, 1)
        if name == "contact":
            force = np.linalg.norm(data.body("ur5e/robotiq/right_pad").cfrc_ext)
            return np.clip([force / 50], 0, 1)
        if name == "tool":
            return np.concatenate([data.site_xpos[env._pinch_site_id], self._tool_quaternion()])
        index = self._index[name]
        if name.startswith("goal"):
            return data.mocap_pos[env._cube_target_mocap_ids[index]].copy()
        pose = data.joint(f"object_joint_{index}").qpos
        return np.concatenate([pose[:3], np.roll(pose[3:], -1)])  # w, x, y, z -> x, y, z, w

    def _tool_quaternion(self) -> np.ndarray:
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self.env.data.site_xmat[self.env._pinch_site_id])
        return np.roll(quaternion, -1)

    def reward(self) -> float:
        """-1 for each cube that is not at its goal now. The package's relabelling looks at the
        moment before the action; a period of delay, the same for all."""
        return float(sum(self.env._compute_successes()) - self._cubes)

    def render(self) -> np.ndarray:
        """The scene from the front: (480, 640, 3) uint8."""
        return self.env.render()

    def demonstrator(self, seed: int) -> CubeTeacher:
        return CubeTeacher(self, seed)


class CubeTeacher:
    """The package's scripted plan, with its noise: takes cube after cube to its goal."""

    def __init__(self, world: Ur5eCube, seed: int) -> None:
        self._world = world
        self._random = np.random.RandomState(
            np.random.SeedSequence([20271, seed]).generate_state(1)
        )
        self._oracle = CubePlanOracle(env=world.env, noise=ORACLE_NOISE)
        self._plan()

    def _plan(self) -> None:
        solved = self._world.env._compute_successes()
        self._target = solved.index(False) if False in solved else 0
        self._with_own_randomness(lambda info: self._oracle.reset(None, info))

    def _with_own_randomness(self, ask: Any) -> Any:
        """The oracles draw from numpy's global generator."""
        env = self._world.env
        mocap = env._cube_target_mocap_ids[self._target]
        yaw = env.compute_ob_info()[f"privileged/block_{self._target}_yaw"]
        info = env.compute_ob_info() | {
            "privileged/target_block": self._target,
            "privileged/target_block_pos": env.data.mocap_pos[mocap].copy(),
            "privileged/target_block_yaw": yaw,
        }
        saved = np.random.get_state()
        np.random.set_state(self._random.get_state())
        try:
            return ask(info)
        finally:
            self._random.set_state(np.random.get_state())
            np.random.set_state(saved)

    def act(self) -> np.ndarray:
        """Twist and opening, once per control period."""
        if self._oracle.done:
            self._plan()
        action = np.clip(
            self._with_own_randomness(lambda info: self._oracle.select_action(None, info)), -1, 1
        )
        opening = float(self._world.signal("gripper")[0])
        return np.append(action[:4] * MAX_STEP / PERIOD, np.clip(opening + action[4], 0, 1))


def make() -> Ur5eCube:
    return Ur5eCube()
