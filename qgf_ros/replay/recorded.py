"""Whether a node's bag gives the same chunks and commands again, on the ticks that it recorded.

The table (~/ticks) says when the node ticked, in which state, which message of each source it saw,
and when a chunk was taken up. All else is the core's own work: it is done again from the recorded
messages, and compared. With real_time_chunking the moment of a request hangs on measured latency,
which no table has: such chunks begin elsewhere and are counted as not compared.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from qgf_ros.control.chunk import Chunk
from qgf_ros.control.core import ControlCore
from qgf_ros.control.inference import InlineInference, Result
from qgf_ros.control.reasons import Problem
from qgf_ros.control.settings import Settings
from qgf_ros.control.supervisor import State, Supervisor
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.policy.folder import Policy
from qgf_ros.replay.events import BagMessage
from qgf_ros.replay.node_messages import CHUNK, STATUS, TICK, ShownChunk, Tick

LATE = 1_000_000_000  # ns by which what a tick saw may come behind the tick, in the recorder
KEPT = 5_000_000_000  # ns for which messages are remembered beyond that
SAME = 1e-6  # robot units: a command is the same
DIFFERENCES = ("chunk_difference", "command_difference")  # what thresholds may be about


@dataclass
class Sameness:
    """What was compared. Differences are the largest, in robot units; NaN: nothing was."""

    ticks: int = 0
    commands: int = 0
    commands_same: int = 0  # within SAME
    command_difference: float = float("nan")
    chunks: int = 0
    chunks_same: int = 0  # to the last bit
    chunk_difference: float = float("nan")
    chunks_not_compared: int = 0  # none was recorded that begins then
    inexact: int = 0  # observations of a stamp that the bag does not have: the nearest was taken
    joined: int = 0  # ticks in RUN or braking since before the recording: their chunks alone count
    held: Counter[str] = field(default_factory=Counter)  # ticks in RUN that could not be done again
    policies: set[str] = field(default_factory=set)  # ids in the bag's ~/status

    def merge(self, other: Sameness) -> None:
        """Adds another bag's."""
        for name in ("ticks", "commands", "commands_same", "chunks", "chunks_same",
                     "chunks_not_compared", "inexact", "joined"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.command_difference = _larger(self.command_difference, other.command_difference)
        self.chunk_difference = _larger(self.chunk_difference, other.chunk_difference)
        self.held.update(other.held)
        self.policies |= other.policies


class _Followed(Supervisor):
    """Is in the recorded state, whatever it thinks of it."""

    recorded = State.WAITING

    def update(self, now: int, problem: Problem | None) -> State:
        self.state, self.reason, self.enabled = self.recorded, problem, True
        return self.state


class _Timed(InlineInference):
    """Samples at once, and answers when the recorded answer was taken up."""

    due = 0  # answers that were taken up in this tick

    def forget(self) -> None:
        """What was asked before is of no use."""
        self._result = None

    def poll(self, timeout: float) -> Result | None:
        if self.due == 0:
            return None
        result = super().poll(timeout)
        self.due -= result is not None
        return result


class Recorded:
    """Follows a bag's tick table beside whatever else is done with the bag."""

    def __init__(self, policy: Policy, sampler: Sampler, settings: Settings) -> None:
        self._contract = policy.contract
        self._inference = _Timed(sampler)
        self._supervisor = _Followed()
        # The recorded state has judged the sensors already, and its beta was slewed.
        settings = replace(settings, slew=0.0, checks=(), hold_if_frozen=False)
        self.core = ControlCore(policy, self._inference, settings)
        self.core.supervisor = self._supervisor
        self._seen: dict[str, deque[tuple[int, np.ndarray]]] = {
            o.name: deque() for o in policy.contract.observations
        }
        self._ticks: deque[tuple[int, Tick]] = (
            deque()
        )  # not yet followed, with when they were heard
        self._chunks: dict[int, ShownChunk] = {}  # recorded, by their begin
        self._last: Tick | None = None  # the tick before
        self._stamps: tuple[int, ...] = ()
        self._whole = False  # this epoch was recorded from its beginning
        self._joined = False  # or else is followed from a chunk on
        self._braking = False  # what is sent is the rest of a stop that began before
        self.found = Sameness()

    def watch(self, events: Iterable[BagMessage]) -> Iterator[BagMessage]:
        """Passes events on, but for the node's own, and follows what it said."""
        for said in events:
            if said.name in self._seen:
                self._remember(said)
                yield said
            elif said.name == TICK:
                self._ticks.append((said.at, said.values))
            elif said.name == CHUNK:
                self._chunks[said.values.begin] = said.values
            elif said.name == STATUS:
                self.found.policies.add(said.values)
            else:
                yield said
            while self._ticks and said.at > self._ticks[0][0] + LATE:
                self._follow(self._ticks.popleft()[1])
        while self._ticks:
            self._follow(self._ticks.popleft()[1])

    def _remember(self, said: BagMessage) -> None:
        rows = self._seen[said.name]
        rows.append((said.stamp, said.values))
        while len(rows) > 1 and rows[1][0] < said.stamp - KEPT:
            rows.popleft()

    def _follow(self, tick: Tick) -> None:
        """Does one recorded tick again."""
        last, self._last = self._last, tick
        self.found.ticks += 1
        run = tick.state is State.RUN
        gap = last is None or last.number + 1 != tick.number  # what was between is not known
        begun = gap or last is None or last.epoch != tick.epoch
        taken_up = max(0, tick.chunk - (last.chunk if last else 0))
        if begun:
            self._whole, self._joined = not (gap and run), False
        self._braking = (gap or self._braking) and not run and bool(tick.sent)
        if run and begun:
            self._supervisor.state = State.WAITING
            self._inference.forget()
        if run and not self._whole:
            self.found.joined += 1
            if not self._joined:
                if not (taken_up and tick.at in self._chunks):
                    return
                self._joined, self._supervisor.state = True, State.WAITING
        self._supervisor.recorded = tick.state
        # Outside of RUN an answer is a sign of life, and never taken up.
        self._inference.due = 1 if not run else min(taken_up, 1) if gap else taken_up
        if tick.beta != self.core.settings.beta:
            self.core.apply(replace(self.core.settings, beta=tick.beta))
        self._push(tick)
        result = self.core.tick(tick.at)
        if run and result.reason is not None:
            self.found.held[result.reason.code_text] += 1
        if self._braking:
            self.found.joined += 1
        elif self._whole or not run:
            self._compare_command(tick, result.output.values)
        if result.sampled is not None:
            self._compare_chunk(result.sampled.chunk)
        for begin in [begin for begin in self._chunks if begin < tick.at - KEPT]:
            del self._chunks[begin]

    def _push(self, tick: Tick) -> None:
        """Lets the core see what the node saw."""
        stamps = tuple(tick.stamps.values())
        if not stamps or any(a < b for a, b in zip(stamps, self._stamps)):  # the clock went back
            self.core.assembler.clear()
        self._stamps = stamps or self._stamps
        for source in self._contract.observations:
            stamp = tick.stamps.get(source.topic)
            values = None if stamp is None else self._values(source.name, stamp)
            if stamp is not None and values is not None:
                self.core.assembler.push(source.name, stamp, stamp, values)

    def _values(self, name: str, stamp: int) -> np.ndarray | None:
        """What the source said with that stamp, or else with the nearest."""
        rows = self._seen[name]
        if not rows:
            return None
        exact = next((values for at, values in reversed(rows) if at == stamp), None)
        if exact is not None:
            return exact
        self.found.inexact += 1
        return min(rows, key=lambda row: abs(row[0] - stamp))[1]

    def _compare_command(self, tick: Tick, values: np.ndarray | None) -> None:
        if not tick.sent and values is None:
            return
        names, difference = self._contract.action_names, float("inf")
        if values is not None and set(tick.sent) == set(names):
            wanted = np.array([tick.sent[name] for name in names])
            difference = float(np.abs(values - wanted).max())
        self.found.commands += 1
        self.found.commands_same += difference <= SAME
        self.found.command_difference = _larger(self.found.command_difference, difference)

    def _compare_chunk(self, chunk: Chunk) -> None:
        shown, names = self._chunks.get(chunk.start), self._contract.action_names
        if (
            shown is None
            or not set(names) <= set(shown.names)
            or len(shown.actions) != len(chunk.actions)
        ):
            self.found.chunks_not_compared += 1
            return
        recorded = shown.actions[:, [shown.names.index(name) for name in names]]
        difference = float(np.abs(recorded - chunk.actions).max())
        self.found.chunks += 1
        self.found.chunks_same += difference == 0
        self.found.chunk_difference = _larger(self.found.chunk_difference, difference)


def _larger(a: float, b: float) -> float:
    return float(np.fmax(a, b))
