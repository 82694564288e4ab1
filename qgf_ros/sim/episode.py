"""One simulated episode through the control core, in process: no ROS, no waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qgf_ros.control.chunk import Sampled
from qgf_ros.control.core import ControlCore
from qgf_ros.control.supervisor import State
from qgf_ros.sim.stream import NANOSECONDS, Stream
from qgf_ros.sim.world import Outcome


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
    observed = {o.name for o in core.policy.contract.observations}
    first = core.policy.contract.observations[0].name
    result = EpisodeResult(seed, Outcome.RUNNING, 0.0)
    path = []
    events = stream.reset(seed)
    next_tick = stream.now
    while True:
        for event in events:
            if event.name in observed:
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
