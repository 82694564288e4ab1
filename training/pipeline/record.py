"""Demonstrations in simulation, written as the bags that a robot would have left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from qgf_ros.bags.sources import contract_sources
from qgf_ros.executors import Progress, each
from qgf_ros.sim.stream import NANOSECONDS, Event, Stream
from qgf_ros.sim.world import Outcome, make_world, world_folder
from qgf_ros.spaces.contract import Contract
from training.pipeline.writers.bag import EPOCH, BagWriter

PAUSE = NANOSECONDS // 2  # between two episodes of a bag


@dataclass(frozen=True)
class Imperfections:
    """What a real recording has: transport that takes a while and varies, messages that get lost.
    Latencies are uniform [ms]. States and commands travel apart, so nothing is aligned."""

    state_latency: tuple[float, float] = (0.5, 3.0)
    command_latency: tuple[float, float] = (2.0, 8.0)
    loss: float = 0.005


def record(
    folder: Path,
    world: str,
    episodes: int,
    seed: int = 0,
    episodes_per_bag: int = 100,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Records `episodes` demonstrations as bags below `folder`; counts of outcomes.

    The same arguments but `workers` give the same messages. Raises UsageError if a bag exists.
    """
    contract = Contract.load(world_folder(world) / "contract.yaml")
    seeds = np.arange(seed * 1_000_000, seed * 1_000_000 + episodes)
    parts = np.array_split(seeds, max(1, -(-episodes // episodes_per_bag)))
    work = partial(_bag, folder, world, contract)
    outcomes: dict[str, int] = {o.value: 0 for o in Outcome if o is not Outcome.RUNNING}
    for counts in each(work, list(enumerate(parts)), workers, progress, "recording"):
        for outcome, count in counts.items():
            outcomes[outcome] += count
    return outcomes


def _bag(
    folder: Path, world_name: str, contract: Contract, part: tuple[int, Sequence[int]]
) -> dict[str, int]:
    number, seeds = part
    world = make_world(world_name)
    stream = Stream(world, EPOCH)
    counts: dict[str, int] = {}
    cameras = {o.name for o in contract.cameras}
    with BagWriter(folder / f"demonstrations_{number:03d}", contract_sources(contract)) as bag:
        for seed in seeds:
            rng = np.random.default_rng([20263, seed])
            said = _episode(stream, contract, int(seed), rng, Imperfections())
            for receipt, event in sorted(said, key=lambda pair: pair[0]):
                write = bag.write_image if event.name in cameras else bag.write
                write(event.name, event.stamp, receipt, event.values)
            counts[world.outcome.value] = counts.get(world.outcome.value, 0) + 1
            stream.now += PAUSE
    return counts


def _episode(
    stream: Stream,
    contract: Contract,
    seed: int,
    rng: np.random.Generator,
    imperfect: Imperfections,
) -> list[tuple[int, Event]]:
    """Everything said in one demonstration, with the time of its receipt [ns]."""

    def received(events: list[Event]) -> list[tuple[int, Event]]:
        kept = [e for e in events if not (e.name in states and rng.random() < imperfect.loss)]
        return [(e.stamp + _milliseconds(rng, imperfect.state_latency), e) for e in kept]

    states = {o.name for o in contract.observations}
    said = [(e.stamp, e) for e in stream.reset(seed)]
    teacher = stream.world.demonstrator(seed)
    per_period = round(stream.world.control_period / stream.world.step_time)
    while stream.world.outcome is Outcome.RUNNING:
        values = teacher.act()
        stream.world.command(values)
        sent = stream.now + _milliseconds(rng, imperfect.command_latency)
        parts = contract.action_slices.items()
        said += [(sent, Event(action, sent, values[part])) for action, part in parts]
        for _ in range(per_period):
            said += received(stream.advance())
            if stream.world.outcome is not Outcome.RUNNING:
                break
    for _ in range(per_period):  # the robot goes on speaking for a moment
        said += received(stream.advance())
    return said


def _milliseconds(rng: np.random.Generator, span: tuple[float, float]) -> int:
    return int(rng.uniform(*span) * 1e6)
