"""A world as a robot would speak of it: signals at their own rates, rewards, outcomes.

The recorder, in-process evaluation and the ROS simulation all advance a world through this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ros.sim.world import Outcome, World

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Event:
    """One thing said. `name` is an observation of the contract, or reward, success, episode_start."""

    name: str
    stamp: int  # ns on the world's clock
    values: np.ndarray


class Stream:
    """Steps a world and collects what it says. The clock runs on across episodes."""

    def __init__(self, world: World, start: int = 0) -> None:
        self.world = world
        self.now = start  # ns
        self._step = round(world.step_time * NANOSECONDS)
        every = {p.signal: round(1 / (p.rate * world.step_time)) for p in world.publications}
        self._every = every | {"reward": round(world.control_period / world.step_time)}
        self._steps = 0

    def reset(self, seed: int) -> list[Event]:
        """Begins an episode: its start, then every signal once."""
        self.place(seed)
        return self.start()

    def place(self, seed: int) -> None:
        """Sets the world up; it stands still and nothing counts until `start`."""
        self.world.reset(seed)
        self._seed = seed
        self._steps = 0

    def idle(self) -> list[Event]:
        """Lets the clock run on by one step while the world stands still."""
        self.now += self._step
        self._steps += 1
        return self._signals()

    def start(self) -> list[Event]:
        """The episode begins now: its start, then every signal once."""
        self._steps = 0
        return [Event("episode_start", self.now, np.array([float(self._seed)])), *self._signals()]

    def advance(self) -> list[Event]:
        """One step of the world, and what it says after it. Reward and success come only once
        more when the episode ends; signals go on."""
        running = self.world.outcome is Outcome.RUNNING
        self.world.step()
        self.now += self._step
        self._steps += 1
        events = self._signals()
        if running:
            ended = self.world.outcome is not Outcome.RUNNING
            if ended or self._steps % self._every["reward"] == 0:
                events.append(Event("reward", self.now, np.array([self.world.reward()])))
            if self.world.outcome in (Outcome.SUCCESS, Outcome.COLLISION):
                success = float(self.world.outcome is Outcome.SUCCESS)
                events.append(Event("success", self.now, np.array([success])))
        return events

    def _signals(self) -> list[Event]:
        return [
            Event(p.signal, self.now, self.world.signal(p.signal))
            for p in self.world.publications
            if self._steps % self._every[p.signal] == 0
        ]
