"""Commands to what a policy learns of them, in [-1, 1], and back: the one way between the two.

Each kind says what it learns (`ActionKind.to_policy`), the normaliser scales that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer


@dataclass(frozen=True)
class Origin:
    """Where chunks begin, in robot units.

    obs: (..., O), what was observed then. last: (..., A), the command before the first of the chunk;
    NaN where there was none, and it begins where it is measured.
    """

    obs: np.ndarray
    last: np.ndarray

    @classmethod
    def stack(cls, origins: Sequence[Origin]) -> Origin:
        """Those of several chunks as one."""
        return cls(np.stack([o.obs for o in origins]), np.stack([o.last for o in origins]))


class Representation:
    """What the kinds of a contract's actions learn of commands; robot units on both sides."""

    def __init__(self, contract: Contract) -> None:
        self._measured = contract.measured
        self._specs = contract.actions
        self._sent = contract.action_slices
        self._learnt, begin = dict[str, slice](), 0
        for a in contract.actions:
            width = len(a.kind.learnt_labels(a))
            self._learnt[a.name], begin = slice(begin, begin + width), begin + width
        self._plain = not any(a.kind.learnt_from for a in contract.actions)

    def to_policy(self, commands: np.ndarray, origin: Origin) -> np.ndarray:
        """Commands (..., H, A) -> what is learnt of them (..., H, D)."""
        if self._plain:
            return commands
        start = self._starts(origin)
        return np.concatenate(
            [a.kind.to_policy(a, commands[..., self._sent[a.name]], start[a.name]) for a in self._specs], axis=-1
        )

    def from_policy(self, learnt: np.ndarray, origin: Origin) -> np.ndarray:
        """What is learnt (..., H, D) -> commands (..., H, A)."""
        if self._plain:
            return learnt
        start = self._starts(origin)
        return np.concatenate(
            [a.kind.from_policy(a, learnt[..., self._learnt[a.name]], start[a.name]) for a in self._specs], axis=-1
        )

    def reach(
        self, low: np.ndarray, high: np.ndarray, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest command (A,) of a chunk of H learnt numbers within low..high (D,)."""
        parts = [
            a.kind.reach(a, low[part], high[part], horizon)
            for a, part in zip(self._specs, self._learnt.values())
        ]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _starts(self, origin: Origin) -> dict[str, np.ndarray]:
        """(..., labels) of each action: where its kind says that a chunk begins; of no meaning for others."""
        measured, found = self._measured(origin.obs), {}
        for a in self._specs:
            part = self._sent[a.name]
            found[a.name] = measured[..., part]
            if a.kind.learnt_from == "last":
                last = origin.last[..., part]
                found[a.name] = np.where(np.isnan(last), found[a.name], last)
        return found


def commands_of(spec: ActionSpec, rows: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """What was commanded in an episode whose rows say it as the kind learns it: each relative to its own
    row's measurement, or to the row before it.

    Args:
        rows, measured: (T, labels), robot units. NaN makes what is relative to it NaN.
    """
    kind = spec.kind
    if kind.learnt_from == "observed":
        return kind.from_policy(spec, rows[:, None], measured)[:, 0]
    return kind.from_policy(spec, rows[None], measured[:1])[0] if len(rows) else rows


def rows_of(spec: ActionSpec, commands: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """The inverse of `commands_of`."""
    kind = spec.kind
    if kind.learnt_from == "observed":
        return kind.to_policy(spec, commands[:, None], measured)[:, 0]
    return kind.to_policy(spec, commands[None], measured[:1])[0] if len(commands) else commands


class ActionCodec:
    """Of one contract and one normaliser."""

    def __init__(self, contract: Contract, normalizer: Normalizer) -> None:
        self.normalizer = normalizer
        self._representation = Representation(contract)
        self._limits, self._horizon = contract.learnt_limits, contract.time.horizon

    def encode(self, commands: np.ndarray, origin: Origin, clip: bool = True) -> np.ndarray:
        """(..., H, A) robot units -> (..., H, D) in [-1, 1], float32; without `clip` what lies beyond stays
        there."""
        learnt = self._representation.to_policy(commands, origin)
        return self.normalizer.normalize_action(learnt, origin.obs, clip)

    def decode(self, action: np.ndarray, origin: Origin) -> np.ndarray:
        """(..., H, D) in [-1, 1] -> (..., H, A) robot units, float64."""
        learnt = self.normalizer.unnormalize_action(action, origin.obs)
        return self._representation.from_policy(learnt, origin)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest command, (A,) each in robot units, that [-1, 1] can mean, where what a
        relative one is relative to lies within its limits."""
        low, high = self.normalizer.action_bounds(*self._limits)
        return self._representation.reach(low, high, self._horizon)
