"""What a node says of itself, out of a bag: plain records, checked, since a bag may hold anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ros.bags.clock import CLOCK_TYPE, read_clock
from qgf_ros.control.supervisor import State
from qgf_ros.spaces.messages.base import MAX_VALUES, SchemaError

TICKED = (State.WAITING, State.READY, State.RUN, State.HOLD, State.FAULT)


@dataclass(frozen=True)
class Tick:
    """A row of the tick table, see Tick.msg."""

    at: int  # ns on the control clock
    number: int
    state: State
    epoch: int
    beta: float
    chunk: int  # sequence of the newest that was taken up
    stamps: dict[str, int]  # topic -> ns; {}: there was no complete state
    sent: dict[str, float]  # by name; {}: nothing


@dataclass(frozen=True)
class ShownChunk:
    """A chunk as ~/chunk shows it."""

    begin: int  # ns
    names: tuple[str, ...]
    actions: np.ndarray  # (H, len(names)); NaN where nothing was said


def read_tick(msg: Any) -> Tick:
    """Raises SchemaError where it cannot be one."""
    if msg.state not in TICKED:
        raise SchemaError(f"a tick in state {msg.state}")
    stamps = [_time(stamp) for stamp in msg.stamps]
    sent = [float(value) for value in msg.values]
    for given, names in ((stamps, msg.topics), (sent, msg.names)):
        if len(given) not in (0, len(names)) or len(names) > MAX_VALUES:
            raise SchemaError(f"{len(given)} values of {len(names)} names")
    return Tick(
        at=_time(msg.header.stamp),
        number=int(msg.tick),
        state=State(msg.state),
        epoch=int(msg.epoch),
        beta=float(msg.beta),
        chunk=int(msg.chunk),
        stamps=dict(zip(msg.topics, stamps)) if stamps else {},
        sent=dict(zip(msg.names, sent)) if sent else {},
    )


def read_chunk(msg: Any) -> ShownChunk:
    """Raises SchemaError where it has too many numbers."""
    names = tuple(msg.joint_names)
    if len(names) * len(msg.points) > MAX_VALUES:
        raise SchemaError(f"{len(msg.points)} points of {len(names)} joints")
    actions = np.full((len(msg.points), len(names)), np.nan)
    for row, point in zip(actions, msg.points):
        for values in (point.positions, point.velocities):
            if len(values) == len(names):
                row[:] = np.where(np.isnan(values), row, values)
    return ShownChunk(_time(msg.header.stamp), names, actions)


def read_policy(msg: Any) -> str:
    """The policy's id, out of ~/status."""
    return str(msg.policy_sha256)[:64]


TICK, CHUNK, STATUS, CLOCK = "~/ticks", "~/chunk", "~/status", "/clock"  # no names of a contract


def reader(topic: str, type_name: str) -> tuple[str, Callable[[Any], Any]] | None:
    """What a topic of a node or its clock is called here, and what reads it; None for others."""
    if type_name == "trajectory_msgs/JointTrajectory":
        return (CHUNK, read_chunk) if topic.endswith("/chunk") else None
    return {
        "qgf_ros/Tick": (TICK, read_tick),
        "qgf_ros/Status": (STATUS, read_policy),
        CLOCK_TYPE: (CLOCK, read_clock),
    }.get(type_name)


def _time(stamp: Any) -> int:
    """Raises SchemaError where it lies before time begins."""
    if stamp.sec < 0:
        raise SchemaError(f"a time of {stamp.sec} s")
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
