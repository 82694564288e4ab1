"""The slider's physics and task. It knows neither ROS nor policies."""

import numpy as np

from qgf_ros.sim.world import Outcome, Publication

NEAR = 0.02  # m
TIME_OUT = 5.0  # s


class Slider:
    """Position on a rail from -1 to 1 m; success within 20 mm of the mark."""

    step_time = 0.01
    control_period = 0.05
    publications = (Publication("rail", 100.0), Publication("mark", 10.0))

    def reset(self, seed):
        self._rng = np.random.default_rng(seed)
        self._at, self._mark = self._rng.uniform(-1, 1, 2)
        self._speed, self._steps = 0.0, 0
        self.outcome = Outcome.RUNNING

    @property
    def time(self):
        return self._steps * self.step_time

    def command(self, values):
        self._speed = float(np.clip(values[0], -1, 1))

    def step(self):
        self._steps += 1
        self._at = float(np.clip(self._at + self._speed * self.step_time, -1, 1))
        if abs(self._at - self._mark) < NEAR:
            self.outcome = Outcome.SUCCESS
        elif self.time >= TIME_OUT:
            self.outcome = Outcome.TIME_OUT

    def signal(self, name):
        return np.array([self._at if name == "rail" else self._mark])

    def reward(self):
        return float(self.outcome is Outcome.SUCCESS)

    def demonstrator(self, seed):
        return Teacher(self, np.random.default_rng([7, seed]))


class Teacher:
    """Goes to the mark, in half of the episodes by way of a detour."""

    def __init__(self, world, rng):
        self._world, self._rng = world, rng
        self._detour = rng.integers(0, 20) if rng.random() < 0.5 else 0

    def act(self):
        gap = self._world.signal("mark") - self._world.signal("rail")
        if self._detour > 0:
            self._detour -= 1
            gap = -gap
        return np.clip(4 * gap + self._rng.normal(0, 0.1, 1), -1, 1)


def make():
    return Slider()
