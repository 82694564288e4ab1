"""One control core on bag time, and what it did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from qgf_ros.control.chunk import Sampled, choose
from qgf_ros.control.core import ControlCore, TickResult
from qgf_ros.control.inference import InlineInference, Result
from qgf_ros.control.settings import Settings
from qgf_ros.control.supervisor import State
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.policy.folder import Observed, Policy


class Row(NamedTuple):
    """One sample: when, for what, and what the critic says."""

    tick: int  # of the segment, which the chunk begins at
    observed: Observed
    executed: np.ndarray  # (H, A) robot units
    unguided: np.ndarray  # (D,) normalised, from the same noise
    sampled: Sampled


@dataclass
class Track:
    """What one core did in one segment, tick by tick."""

    sent: list[np.ndarray | None] = field(default_factory=list)
    admitted: list[bool] = field(default_factory=list)  # in RUN, not braking
    limited: int = 0
    rows: list[Row] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)  # ticks per state and reason
    refused: Counter[str] = field(default_factory=Counter)


class Watched(InlineInference):
    """Keeps the newest result: the core does not show what it did not execute."""

    newest: Result

    def poll(self, timeout: float) -> Result | None:
        result = super().poll(timeout)
        if result is not None:
            self.newest = result
        return result


class Drive:
    """A core that is enabled, and enabled again at once whenever something disabled it."""

    def __init__(self, policy: Policy, sampler: Sampler, settings: Settings) -> None:
        self.inference = Watched(sampler)
        self.core = ControlCore(policy, self.inference, settings, enabled=True)
        self.track = Track()

    def begin(self) -> None:
        """Another episode: nothing that was before counts."""
        self.core.activate(enabled=True)

    def again(self) -> None:
        """Another attempt of the same episode: nothing was sent, but what was seen is known."""
        self.core.reset()
        self.core.gate.silence()
        self.core.supervisor.enabled = True

    def tick(self, now: int, number: int) -> TickResult:
        """number: of the tick in the segment."""
        core, track = self.core, self.track
        result = core.tick(now)
        output = result.output
        track.sent.append(output.values)
        track.admitted.append(output.admitted)
        track.limited += output.limited
        if result.sampled is not None:
            track.rows.append(self._row(number, result.sampled))
        if result.state is not State.RUN:
            reason = f" {result.reason.code_text}" if result.reason else ""
            track.states[f"{result.state.name}{reason}"] += 1
        if output.refused is not None:
            track.refused[output.refused.code] += 1
        if result.state is State.FAULT:
            core.reset()
            core.supervisor.enabled = True
        return result

    def _row(self, number: int, sampled: Sampled) -> Row:
        request, sample = self.inference.newest.request, self.inference.newest.sample
        assert sample is not None
        row = 0
        if len(sample.action) > 1:
            choice = choose(sample, self.core.policy, request.observed, request.guards.keep_best)
            row = getattr(choice, "row", 0)
        return Row(
            number, request.observed, sampled.chunk.actions, sample.action_unguided[row], sampled
        )

    def take(self) -> Track:
        """What was done since it was last taken."""
        track, self.track = self.track, Track()
        return track
