"""One simulated episode through the control core, in process: no ROS, no waiting."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qgf_ros.control.chunk import Sampled
from qgf_ros.control.core import ControlCore
from qgf_ros.control.supervisor import State
from qgf_ros.policy.folder import Policy
from qgf_ros.sim.stream import NANOSECONDS, Event, Stream
from qgf_ros.sim.world import Outcome


class Cameras:
    """What `qgf_encoder` would do: features of each image, as late as the contract says."""

    def __init__(self, core: ControlCore) -> None:
        self._core = core
        sources = core.policy.contract.recorded.cameras
        self.names = {o.name for o in sources}
        self._latency = {o.name: round(o.latency * NANOSECONDS) for o in sources}
        self._encoders = _encoders(core.policy) if sources else {}
        self._waiting: deque[tuple[int, Event, np.ndarray]] = deque()

    def see(self, event: Event) -> None:
        """An image that was just taken."""
        features = self._encoders[event.name].features(event.values).astype(np.float64)
        self._waiting.append((event.stamp + self._latency[event.name], event, features))
        self.deliver(event.stamp)

    def deliver(self, now: int) -> None:
        """What is there by now [ns]."""
        while self._waiting and self._waiting[0][0] <= now:
            at, event, features = self._waiting.popleft()
            self._core.assembler.push(event.name, event.stamp, at, features)


_opened: dict[str, dict[str, Any]] = {}  # of the last policy, by its id: opening takes a moment


def _encoders(policy: Policy) -> dict[str, Any]:
    from qgf_ros.images.encoder import CameraEncoder

    if policy.sha256 not in _opened:
        _opened.clear()
        _opened[policy.sha256] = {name: CameraEncoder(policy, name) for name in policy.cameras}
    return _opened[policy.sha256]


@dataclass
class EpisodeResult:
    """How an episode went. `seconds` is its length on the world's clock."""

    seed: int
    outcome: Outcome
    seconds: float
    samples: list[Sampled] = field(default_factory=list)
    held_ticks: int = 0  # ticks in HOLD or FAULT
    path: np.ndarray = field(
        default_factory=lambda: np.empty((0, 0))
    )  # (ticks, d) first observation


def run_episode(core: ControlCore, stream: Stream, seed: int) -> EpisodeResult:
    """Runs one episode to its end. The core must be enabled; it is given what a node would hear."""
    world = stream.world
    period = round(core.policy.contract.time.period * NANOSECONDS)
    cameras = Cameras(core)
    observed = {o.name for o in core.policy.contract.observations}
    first = core.policy.contract.observations[0].name
    result = EpisodeResult(seed, Outcome.RUNNING, 0.0)
    path = []
    events = stream.reset(seed)
    next_tick = stream.now
    while True:
        cameras.deliver(stream.now)
        for event in events:
            if event.name in cameras.names:
                cameras.see(event)
            elif event.name in observed:
                core.assembler.push(event.name, event.stamp, event.stamp, event.values)
        if world.outcome is not Outcome.RUNNING:
            break
        if stream.now >= next_tick:
            next_tick += period
            tick = core.tick(stream.now)
            if tick.output.values is not None:
                world.command(tick.output.values)
            if tick.sampled is not None:
                result.samples.append(tick.sampled)
            result.held_ticks += tick.state in (State.HOLD, State.FAULT)
            path.append(world.signal(first))
        events = stream.advance()
    path.append(world.signal(first))
    result.outcome, result.seconds, result.path = world.outcome, world.time, np.array(path)
    return result
