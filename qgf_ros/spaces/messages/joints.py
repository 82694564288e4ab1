"""Messages that name joints, and hold arrays of numbers beside the names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from qgf_ros.spaces.messages.base import MAX_VALUES, Given, Make, MessageType, Names, SchemaError


class Others(SchemaError):
    """A message that names joints, and none of those that are asked for: it is about others."""


class Joints(MessageType):
    """Arrays of numbers beside an array of the joints' names."""

    def check(self, fields: Names, names: Names) -> None:
        if not fields or not names or not set(fields) <= set(self.fields):
            raise ValueError(f"{self.name} needs fields out of {', '.join(self.fields)}, and names")

    def joints(self, msg: Any) -> Sequence[str]:
        """The names that a message gives."""
        raise NotImplementedError

    def decode_some(self, msg: Any, fields: Names, names: Names) -> tuple[np.ndarray, np.ndarray]:
        """As `decode`, of those of `names` that the message has, at least one.

        Returns:
            (F * N,) float64, NaN where the message has no such joint, and (N,) bool: which it has.
        """
        given = set(self.joints(msg)[: MAX_VALUES + 1])
        there = np.array([n in given for n in names])
        some = tuple(n for n in names if n in given)
        values = np.full((len(fields), len(names)), np.nan)
        values[:, there] = self.decode(msg, fields, some or names).reshape(len(fields), -1)
        return values.reshape(-1), there


class JointState(Joints):
    """What the joints do, or shall do."""

    @property
    def fields(self) -> Names:
        return ("position", "velocity", "effort")

    def joints(self, msg: Any) -> Sequence[str]:
        return msg.name

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        return _joints(msg.name, {f: getattr(msg, f) for f in fields}, names)

    def build(self, make: Make, given: Given) -> Any:
        arrays = dict.fromkeys(self.fields, np.empty(0)) | _blocks(given)
        return make(self.name, header=given.header, name=list(given.names), **arrays)


class JointTrajectory(Joints):
    """A trajectory of one point: where to be (position), or how fast (velocity), a period from now."""

    def command_stamp(self, now: int) -> int:
        """To a controller 0 means from now on; it refuses a start that transport made the past."""
        return 0

    @property
    def fields(self) -> Names:
        return ("position", "velocity")

    def joints(self, msg: Any) -> Sequence[str]:
        return msg.joint_names

    def decode(self, msg: Any, fields: Names, names: Names) -> np.ndarray:
        if len(msg.points) != 1:
            raise SchemaError(f"{len(msg.points)} points; a command of one period has one")
        arrays = {f: getattr(msg.points[0], PLURAL[f]) for f in fields}
        return _joints(msg.joint_names, arrays, names)

    def build(self, make: Make, given: Given) -> Any:
        arrays = dict.fromkeys((*PLURAL.values(), "accelerations", "effort"), np.empty(0))
        arrays |= {PLURAL[f]: block for f, block in _blocks(given).items()}
        seconds, nanoseconds = divmod(round(given.period * 1e9), 10**9)
        duration = make("builtin_interfaces/Duration", sec=seconds, nanosec=nanoseconds)
        point = make("trajectory_msgs/JointTrajectoryPoint", time_from_start=duration, **arrays)
        return make(self.name, header=given.header, joint_names=list(given.names), points=[point])


PLURAL = {"position": "positions", "velocity": "velocities"}


def _blocks(given: Given) -> dict[str, np.ndarray]:
    """Values as `decode` gives them to an array per field."""
    shape = len(given.fields), len(given.names)
    rows = np.ascontiguousarray(given.values, dtype=np.float64).reshape(shape)
    return dict(zip(given.fields, rows))


def _joints(given: Sequence[str], arrays: dict[str, Any], names: Names) -> np.ndarray:
    """Values of the joints `names`, field by field, out of arrays in the order of `given`."""
    if len(given) > MAX_VALUES:
        raise SchemaError(f"{len(given)} joints; at most {MAX_VALUES} are read")
    index = {name: i for i, name in enumerate(given)}
    if len(index) != len(given):
        twice = [name for name, count in Counter(given).items() if count > 1]
        raise SchemaError(f"joint names appear twice: {sorted(twice)[:8]}")
    missing = [n for n in names if n not in index]
    if given and len(missing) == len(names):
        raise Others(f"joints {missing[:8]} are missing; the message has {list(given)[:8]}")
    if missing:
        raise SchemaError(f"joints {missing[:8]} are missing; the message has {list(given)[:8]}")
    order = [index[n] for n in names]
    blocks = []
    for field, values in arrays.items():
        if len(values) != len(given):
            raise SchemaError(f"{field} has {len(values)} values for {len(given)} joint names")
        blocks.append(np.asarray(values, dtype=np.float64)[order])
    return np.concatenate(blocks)
