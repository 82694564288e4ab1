"""A bag played to several control cores at once, on bag time, as fast as the machine goes.

Ticks of an episode are laid onto the rhythm of the recorded commands, as in training: its first one
says where the grid begins. A message counts from the first tick on that is not before its receipt.
Each episode start begins anew; where there are such, what comes between an outcome and the next
start belongs to no episode. With `outcome.attempts` every attempt begins anew, on the same grid of
ticks, and what comes between two of them belongs to none.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from qgf_ros.bags.commands import HOLD_PERIODS, in_force, of_this_clock
from qgf_ros.replay.attempts import Attempts, Turn
from qgf_ros.replay.drive import Drive, Track
from qgf_ros.replay.ending import Ending
from qgf_ros.replay.events import BagMessage
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.base import finite

SEGMENT = 20.0  # s: longer stretches are cut, so that memory stays flat and intervals can be had
SILENCE = 10.0  # s without any message: time is not ticked through, but jumps
BACK_PERIODS = 2  # how far the control clock may go back before that is a jump
NO_COMMAND = 1.0  # s after which the grid begins without one
FAR = 1.0  # s from a command's stamp to its receipt, beyond which the stamp says nothing
PATIENCE = 0.5  # s in which the command for a tick is received


@dataclass
class Segment:
    """A stretch of ticks without a break: an episode, or a part of one."""

    begin: int  # ns, tick 0
    period: int  # ns
    ticks: int = 0
    ended: bool = False  # an outcome was said at its end
    goes_on: bool = False  # the next segment is the same episode's
    tracks: list[Track] = field(default_factory=list)  # one per drive

    @property
    def end(self) -> int:
        """ns, the tick after the last."""
        return self.begin + self.ticks * self.period


class Commands:
    """Recorded commands of the last while."""

    def __init__(self, contract: Contract) -> None:
        self._rows: dict[str, tuple[list[int], list[np.ndarray]]] = {
            a.name: ([], []) for a in contract.actions
        }
        self._silence = {a.name: a.silence for a in contract.actions}
        longest = max((s.after for s in self._silence.values() if s is not None), default=0.0)
        self.kept = max(HOLD_PERIODS * contract.time.period, longest)  # s before a tick
        self._columns, self._numbers = contract.action_slices, len(contract.action_names)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def add(self, said: BagMessage) -> None:
        stamps, values = self._rows[said.name]
        sound = bool(of_this_clock(said.stamp, said.at))
        stamps.append(said.stamp if sound else said.at)
        values.append(said.values if sound else np.full(len(said.values), np.nan))

    def at(self, ticks: np.ndarray, period: int) -> np.ndarray:
        """(M, A): what was commanded for each of the ticks (M,) [ns]; NaN where nothing was."""
        found = np.full((len(ticks), self._numbers), np.nan)
        for name, (stamps, values) in self._rows.items():
            stamp = np.array(stamps, np.int64)
            here = self._columns[name]
            said = np.array(values).reshape(len(stamps), here.stop - here.start)
            usable = finite(said)
            column, known = in_force(
                stamp[usable], said[usable], stamp[~usable], ticks, period, self._silence[name]
            )
            found[:, here] = np.where(known[:, None], column, np.nan)
        found[~np.isfinite(found).all(axis=1)] = np.nan
        return found

    def forget(self, until: int) -> None:
        """Those that no tick from `until` [ns] on can mean."""
        for name, (stamps, values) in self._rows.items():
            keep = [i for i, stamp in enumerate(stamps) if stamp >= until]
            self._rows[name] = ([stamps[i] for i in keep], [values[i] for i in keep])


class Player:
    """Plays events to `drives`; hands each segment with the recorded commands of its ticks, and of
    a chunk's length beyond them, to `score`."""

    def __init__(
        self,
        contract: Contract,
        drives: Sequence[Drive],
        horizon: int,
        score: Callable[[Segment, np.ndarray], None],
        rate: float = 0.0,
    ) -> None:
        """rate: of bag time to real time; 0: as fast as the machine goes."""
        self._period = round(contract.time.period * 1e9)
        self._drives, self._horizon, self._score = drives, horizon, score
        self._observed = {o.name for o in contract.observations}
        self._ending = Ending(contract)
        spec = contract.outcome.attempts
        self._attempts = Attempts(contract) if spec is not None else None
        self._length = round((spec.seconds or 0) * 1e9 / self._period) if spec is not None else 0
        self._ticked = 0  # ticks of the attempt
        self._rhythm: int | None = None  # ns, a tick of the grid, while nobody drives
        self._commands = Commands(contract)
        self._segment: Segment | None = None
        self._pending: deque[Segment] = deque()
        self._next: int | None = None  # ns, the next tick
        self._heard: int | None = None  # ns, the first observation of the episode
        self._between = False  # outcome and start: nobody drives
        self._rate, self._began = rate, (0, 0.0)
        self._newest = 0
        self.jumps = 0
        self.episodes = 0

    def play(self, events: Iterable[BagMessage]) -> None:
        """From the first message to the last."""
        for said in events:
            self._until(said)
            self._hear(said)
            while self._pending and said.at > self._due(self._pending[0]):
                self._finish(self._pending.popleft())
        self._settle()
        self._close()
        while self._pending:
            self._finish(self._pending.popleft())

    def _until(self, said: BagMessage) -> None:
        """Ticks until just before a message."""
        if said.at < self._newest - BACK_PERIODS * self._period:
            self._jump()
            self._another()
        if said.at > self._newest:
            self._settle()
        self._newest = said.at
        if self._next is None:
            return
        if said.at - self._next > SILENCE * 1e9:
            self._jump()
            return
        while self._next < said.at:
            self._tick(self._next)
            self._next += self._period

    def _tick(self, now: int) -> None:
        if self._rate:
            self._pace(now)
        if self._segment is None:
            self._segment = Segment(now, self._period)
        number = self._segment.ticks
        for drive in self._drives:
            drive.tick(now, number)
        self._segment.ticks += 1
        self._ticked += 1
        if self._ticked == self._length:
            self._close()
            self._again()
        elif self._segment.ticks * self._period >= SEGMENT * 1e9:
            self._close(goes_on=True)

    def _hear(self, said: BagMessage) -> None:
        name = said.name
        if name in self._observed:
            for drive in self._drives:
                drive.core.assembler.push(name, said.stamp, said.at, said.values)
            if self._next is None and not self._between:
                self._heard = said.at if self._heard is None else self._heard
                if said.at - self._heard > NO_COMMAND * 1e9:
                    self._next = -(-said.at // self._period) * self._period
        elif name in self._commands:
            self._commands.add(said)
            if self._next is None and not self._between and np.isfinite(said.values).all():
                late = said.at - said.stamp
                if not 0 <= late <= FAR * 1e9:  # another clock's
                    late = 0
                self._next = said.at - late + -(-late // self._period) * self._period
        elif name == "episode_start":
            self._close()
            self._anew()
        elif self._attempts is None and not self._between and self._ending.said(said):
            self._close(ended=True)
            if self.episodes:
                self._next, self._between = None, True
        if self._attempts is not None:
            self._attempts.hear(said)

    def _settle(self) -> None:
        """All messages of one moment were heard."""
        for turn in self._attempts.settle() if self._attempts is not None else ():
            self._turn(turn)

    def _turn(self, turn: Turn) -> None:
        """An attempt ends, or another begins."""
        if turn.close == "dropped":
            self._segment = None
            for drive in self._drives:
                drive.take()
            while self._pending and self._pending[-1].begin > turn.since > 0:
                self._pending.pop()
                self.episodes -= 1
        elif turn.close:
            self._close(ended=turn.close == "ended")
        rhythm = self._next if self._next is not None else self._rhythm
        self._between, self._next, self._rhythm = turn.begin is None, None, rhythm
        if turn.begin is not None:
            if rhythm is not None:
                self._next = turn.begin + (rhythm - turn.begin) % self._period
            self._again()

    def _again(self) -> None:
        """Another attempt of the same episode."""
        self._ticked = 0
        for drive in self._drives:
            drive.again()

    def _another(self) -> None:
        """What held until now does not count."""
        self._ticked, self._rhythm = 0, None
        if self._attempts is not None:
            self._attempts.anew()

    def _anew(self) -> None:
        self.episodes += self._attempts is None
        self._another()
        self._ending.anew()
        self._next, self._heard, self._between = None, None, False
        for drive in self._drives:
            drive.begin()

    def _jump(self) -> None:
        """The clock jumped, or nobody spoke for long."""
        self.jumps += self._next is not None
        self._close()
        self._ending.anew()
        self._next, self._heard, self._began = None, None, (0, 0.0)
        for drive in self._drives:
            drive.core.clock_jumped()

    def _close(self, ended: bool = False, goes_on: bool = False) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.ended, segment.goes_on = ended, goes_on
            segment.tracks = [drive.take() for drive in self._drives]
            self._pending.append(segment)
            self.episodes += self._attempts is not None and not goes_on
        elif ended and self._pending:  # the cut fell on the tick before the outcome
            same = self._attempts is None or self._length or self._pending[-1].goes_on
            self._pending[-1].ended |= bool(same)

    def _due(self, segment: Segment) -> int:
        return segment.end + self._horizon * self._period + round(PATIENCE * 1e9)

    def _finish(self, segment: Segment) -> None:
        """Scores a segment, whose chunks reach a horizon beyond it, but not into another episode."""
        beyond = self._horizon if segment.goes_on else 0
        ticks = segment.begin + self._period * np.arange(segment.ticks + beyond, dtype=np.int64)
        recorded = self._commands.at(ticks, self._period)
        empty = np.full((self._horizon - beyond, recorded.shape[1]), np.nan)
        self._score(segment, np.concatenate([recorded, empty]))
        self._commands.forget(segment.end - round(self._commands.kept * 1e9))

    def _pace(self, now: int) -> None:
        """Waits until bag time `now` [ns] is due."""
        origin, began = self._began
        if not origin:
            self._began = now, time.monotonic()
            return
        time.sleep(max(0.0, began + (now - origin) * 1e-9 / self._rate - time.monotonic()))
