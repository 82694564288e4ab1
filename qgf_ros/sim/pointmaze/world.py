"""A mobile base in a maze: the point of OGBench's pointmaze-medium (arXiv 2410.20092), as a robot.

Physics, walls, tasks and success are the `ogbench` package's; here they get a base's topics. The
package's action is a step of at most 0.2 m along each axis, once per 0.1 s; here it is the
velocity that makes this step. The base is holonomic: it drives along x and y and never turns.

The task is the package's third, there and back: six cells apart, by two ways of one length. The
teacher is no expert: it takes wrong turns, hesitates, and is slow half of the time. Imitation
does as it does; that time costs, and which way is a detour, is left to the critic.
"""

from __future__ import annotations

import warnings
from collections import deque
from pathlib import Path

import mujoco
import numpy as np

# Of spaces in float32, which nobody here uses.
warnings.filterwarnings("ignore", message=".*precision lowered by casting")
warnings.filterwarnings("ignore", module="glfw")
from ogbench.locomaze.maze import make_maze_env  # noqa: E402

from qgf_ros.sim.world import Outcome, Publication  # noqa: E402

PERIOD = 0.1  # s, the package's step
MAX_SPEED = 2.0  # m/s along each axis: the package's action at 1
TASK = 3  # of the package's five
TIME_LIMIT = 25.0  # s; at full speed the way takes 12 s
STEP_REWARD = -0.1  # per control period: time costs
NEAR = 0.8  # m from the middle of a cell: it was visited
TREMOR = 0.3  # m/s, of the demonstrator's hand per period
WRONG_TURN = 0.15  # of the cells on the way: into another neighbour, and back
HESITATION = 0.01  # of the periods: begins to stand still, for up to 2 s

Cell = tuple[int, int]


class PointMaze:
    """The world. Signals: odometry (4,) position x, y [m] and velocity x, y [m/s]; goal (2,) [m].
    Command: velocity x, y [m/s]."""

    control_period = step_time = PERIOD
    publications: tuple[Publication, ...] = (
        Publication("odometry", 1 / PERIOD),
        Publication("goal", 1 / PERIOD),
    )

    def __init__(self) -> None:
        self.env = make_maze_env("point", "maze", maze_type="medium", terminate_at_goal=False)
        Path(self.env.fullpath).unlink()  # the package writes its maze to a temporary file
        self.reset(0)

    def reset(self, seed: int) -> None:
        """A new episode: there or back, both ends up to 1 m off the middle of their cells, along
        each axis. Everything random comes from `seed`; the package's own reset draws from numpy's
        global generator."""
        rng = np.random.default_rng([20280, seed])
        task = self.env.task_infos[TASK - 1]
        ends = [task["init_xy"], task["goal_xy"]]
        start, goal = ends if rng.random() < 0.5 else ends[::-1]
        mujoco.mj_resetData(self.env.model, self.env.data)
        self.env.set_goal(goal_xy=goal + rng.uniform(-1, 1, 2))
        self.env.set_xy(start + rng.uniform(-1, 1, 2))
        self._command = self._velocity = np.zeros(2)
        self._steps = 0
        self.outcome = Outcome.RUNNING

    @property
    def time(self) -> float:
        return self._steps * PERIOD

    def command(self, values: np.ndarray) -> None:
        """Velocity (2,) [m/s]."""
        self._command = np.clip(values, -MAX_SPEED, MAX_SPEED)

    def step(self) -> None:
        """Advances by `step_time`. After the episode ended the base stands still."""
        running = self.outcome is Outcome.RUNNING
        before = self.env.get_xy()
        self.env.step((self._command if running else np.zeros(2)) / MAX_SPEED)
        self._velocity = (self.env.get_xy() - before) / PERIOD  # less than asked, at a wall
        if running:
            self._steps += 1
            if self.env.compute_success():
                self.outcome = Outcome.SUCCESS
            elif self._steps >= round(TIME_LIMIT / PERIOD):
                self.outcome = Outcome.TIME_OUT

    def signal(self, name: str) -> np.ndarray:
        if name == "goal":
            return np.array(self.env.cur_goal_xy)
        return np.concatenate([self.env.get_xy(), self._velocity])

    def reward(self) -> float:
        return STEP_REWARD

    def cell(self, xy: np.ndarray) -> Cell:
        """Row and column of the maze at a position (2,) [m]."""
        row, column = self.env.xy_to_ij(xy)
        return row, column

    def middle(self, cell: Cell) -> np.ndarray:
        """Position (2,) [m] of a cell."""
        return np.array(self.env.ij_to_xy(cell))

    def neighbours(self, cell: Cell) -> list[Cell]:
        """Free cells beside a free cell; walls are all around."""
        row, column = cell
        beside = [(row - 1, column), (row, column - 1), (row + 1, column), (row, column + 1)]
        return [c for c in beside if self.env.maze_map[c] == 0]

    def distances(self, end: Cell) -> dict[Cell, int]:
        """How many cells it is to `end`, from every cell that leads there; breadth first."""
        found = {end: 0}
        queue = deque([end])
        while queue:
            cell = queue.popleft()
            for c in self.neighbours(cell):
                if c not in found:
                    found[c] = found[cell] + 1
                    queue.append(c)
        return found

    def demonstrator(self, seed: int) -> MazeDriver:
        return MazeDriver(self, seed)


class MazeDriver:
    """Drives from cell to cell, with wrong turns, at a pace of its own, a little unsteady."""

    def __init__(self, world: PointMaze, seed: int) -> None:
        self._world = world
        self._rng = rng = np.random.default_rng([20281, seed])
        self._goal = world.signal("goal")
        distance = world.distances(world.cell(self._goal))
        cell = world.cell(world.signal("odometry")[:2])
        self._waypoints: deque[np.ndarray] = deque()
        while distance[cell]:
            beside = world.neighbours(cell)
            shorter = [c for c in beside if distance[c] < distance[cell]]
            after = shorter[rng.integers(len(shorter))]
            if rng.random() < WRONG_TURN:
                wrong = beside[rng.integers(len(beside))]
                self._waypoints += [world.middle(wrong), world.middle(cell)]
            self._waypoints.append(world.middle(after))
            cell = after
        self._speed = rng.uniform(1.5, MAX_SPEED) if rng.random() < 0.5 else rng.uniform(0.8, 1.2)
        self._tremor = np.zeros(2)
        self._standing = 0  # periods left

    def act(self) -> np.ndarray:
        """Velocity (2,) [m/s], once per control period."""
        position = self._world.signal("odometry")[:2]
        if self._waypoints and np.linalg.norm(self._waypoints[0] - position) < NEAR:
            self._waypoints.popleft()
        error = (self._waypoints[0] if self._waypoints else self._goal) - position
        wanted = error * min(self._speed / (np.abs(error).max() + 1e-9), 1 / PERIOD)
        if self._standing == 0 and self._rng.random() < HESITATION:
            self._standing = int(self._rng.integers(5, 21))
        if self._standing:
            self._standing -= 1
            wanted = np.zeros(2)
        self._tremor = 0.7 * self._tremor + self._rng.normal(0, TREMOR, 2)
        return np.clip(wanted + self._tremor, -MAX_SPEED, MAX_SPEED)


def make() -> PointMaze:
    return PointMaze()
