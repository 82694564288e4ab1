"""Asynchronous recordings onto one control grid.

The rules, which are also the node's:
- An observation at tick t is the newest one that could be known by t (by receipt), no older than
  the source's max_age (by stamp, less the source's delay). Nothing is filled with zeros.
- Action k is the command meant for tick k: the one stamped nearest to it, within half a period,
  or else the last one before it. Ticks are laid onto the commands, whose rhythm they share.
- Reward is added up per period. A period that lacks fresh data cuts the episode there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from qgf_ros.contract import Contract
from qgf_ros.control.assembler import FUTURE_TOLERANCE
from training.data.episodes import Episode
from training.data.streams import Recording, Stream

HOLD_PERIODS = 3  # a command counts as still in force for this many periods
SLACK = 100  # what is received within period / SLACK of a tick counts as there: rounded stamps


@dataclass
class Report:
    """What became of the data; counts of ticks, episodes and messages by reason."""

    episodes: int = 0
    ticks: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def without_duplicates(self, episodes: int, ticks: int) -> None:
        """An episode that is there twice would leak from training into the report."""
        self.dropped["duplicate episode"] += episodes
        self.episodes -= episodes
        self.ticks -= ticks

    def merge(self, other: Report) -> None:
        self.episodes += other.episodes
        self.ticks += other.ticks
        self.dropped.update(other.dropped)


def align(recording: Recording, contract: Contract, report: Report) -> list[Episode]:
    """Cuts a recording into episodes on the control grid; counts what was dropped in `report`."""
    streams = {name: _usable(s, name, report) for name, s in featured(recording, contract).items()}
    for reason, count in recording.rejected.items():
        report.dropped[f"message rejected: {reason}"] += count
    episodes = []
    goal = contract.outcome.goal.observation if contract.outcome.goal else ""
    for number, (begin, end) in enumerate(_spans(recording, streams)):
        # A goal that was said before the episode still holds in it.
        window = {name: _between(s, begin, end, name == goal) for name, s in streams.items()}
        name = f"{recording.name}#{number}" if not recording.one_episode else recording.name
        episodes += _episode(name, window, contract, report)
    report.episodes += len(episodes)
    report.ticks += sum(len(e) for e in episodes)
    return episodes


def featured(recording: Recording, contract: Contract) -> dict[str, Stream]:
    """The streams with observations as the policy sees them: orientations encoded."""
    encoded = {
        o.name: replace(s, values=o.features(s.values))
        for o in contract.observations
        if (s := recording.streams.get(o.name)) is not None
    }
    return recording.streams | encoded


def _usable(stream: Stream, name: str, report: Report) -> Stream:
    """In order of receipt; what the node would not believe either is dropped and counted."""
    finite = np.isfinite(stream.values).all(axis=1)
    present = stream.stamp - stream.receipt <= FUTURE_TOLERANCE * 1e9
    report.dropped[f"message not finite: {name}"] += int((~finite).sum())
    report.dropped[f"message stamped in the future: {name}"] += int((finite & ~present).sum())
    order = np.lexsort((stream.stamp, stream.receipt))
    order = order[(finite & present)[order]]
    return Stream(stream.stamp[order], stream.receipt[order], stream.values[order])


def _spans(recording: Recording, streams: dict[str, Stream]) -> list[tuple[int, int]]:
    """[begin, end) of each episode by receipt, in ns."""
    if not any(len(s) for s in streams.values()):
        return []
    last = max(int(s.receipt[-1]) for s in streams.values() if len(s)) + 1
    starts = streams.get("episode_start")
    if starts is None or not len(starts):
        return [(min(int(s.receipt[0]) for s in streams.values() if len(s)), last)]
    begins = [int(b) for b in starts.receipt]
    return list(zip(begins, [*begins[1:], last]))


def _between(stream: Stream, begin: int, end: int, and_before: bool = False) -> Stream:
    low, high = np.searchsorted(stream.receipt, [begin, end])
    low = max(low - and_before, 0)
    return Stream(stream.stamp[low:high], stream.receipt[low:high], stream.values[low:high])


def _episode(
    name: str, streams: dict[str, Stream], contract: Contract, report: Report
) -> list[Episode]:
    """The episodes of one span: one, or several where data is missing in between."""
    period = round(contract.time.period * 1e9)
    commands = [streams[a.name] for a in contract.actions]
    if any(len(s) == 0 for s in (*commands, *(streams[o.name] for o in contract.observations))):
        report.dropped["episode without commands or observations"] += 1
        return []
    success = streams.get("success")
    ended = bool(contract.outcome.assume_success or (success is not None and len(success)))
    won = (
        (bool(success.values[0, 0]) if success is not None and len(success) else True)
        if ended
        else None
    )
    stop = (
        int(success.receipt[0])
        if success is not None and len(success)
        else max(int(s.stamp[-1]) for s in commands) + period // 2
    )
    origin = _origin(commands, period)
    ticks = np.arange(origin, stop, period, dtype=np.int64)
    if len(ticks) == 0:
        report.dropped["episode of zero length"] += 1
        return []
    grid = np.append(ticks, ticks[-1] + period)  # one more observation than actions
    obs, fresh = observe(streams, contract, grid)
    action, commanded = _act(streams, contract, ticks)
    if contract.outcome.objective == "reward":
        reward = _rewards(streams.get("reward"), ticks, period, stop if ended else None)
    else:  # 1 when success comes, worth less the later it does; none where nobody said so
        reward = np.zeros(len(ticks))
        reward[-1] = float(bool(won))
    if ended and not fresh[-1]:  # the state after the end is never used: nothing is bootstrapped
        obs[-1], fresh[-1] = obs[-2], fresh[-2]
    usable = fresh[:-1] & commanded
    runs = _runs(usable, fresh)
    report.dropped["tick without fresh data"] += len(ticks) - sum(e - b for b, e in runs)
    return [
        Episode(
            name if end - begin == len(ticks) else f"{name}.{begin}",
            obs[begin : end + 1],
            action[begin:end],
            reward[begin:end],
            terminal=ended and end == len(ticks),
            success=won if end == len(ticks) else None,
        )
        for begin, end in runs
    ]


def _origin(commands: list[Stream], period: int) -> int:
    """First tick: where every action has begun, in the phase that the commands mostly have."""
    begin = max(int(s.stamp[0]) for s in commands)
    beats = commands[0].stamp[commands[0].stamp >= begin] - begin
    # A median on a circle: phases just before and just after a beat are close to each other.
    turns = np.exp(2j * np.pi * beats / period)
    middle = np.angle(turns.mean())
    phase = np.median(np.angle(turns * np.exp(-1j * middle))) + middle
    shift = round(phase / (2 * np.pi) * period)
    return begin + (shift + period // 2) % period - period // 2


def observe(
    streams: dict[str, Stream], contract: Contract, ticks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Observation at each tick (N, O), and whether every source was known and fresh (N,)."""
    columns, fresh = [], np.ones(len(ticks), bool)
    period = round(contract.time.period * 1e9)
    for source in contract.observations:
        stream = streams[source.name]
        pick = np.searchsorted(stream.receipt, ticks + period // SLACK, side="right") - 1
        known = pick >= 0
        holder = _holders(stream.stamp)[np.maximum(pick, 0)]
        age = (ticks - stream.stamp[holder]) * 1e-9 + source.delay
        fresh &= known & (age <= contract.max_age(source))
        columns.append(stream.values[holder])
    return np.concatenate(columns, axis=1), fresh


def _holders(stamp: np.ndarray) -> np.ndarray:
    """For each message, which one counts after it: a late one does not replace a newer one, and
    of equal stamps the last does."""
    holds = stamp >= np.maximum.accumulate(stamp)
    return np.maximum.accumulate(np.where(holds, np.arange(len(stamp)), 0))


def _act(
    streams: dict[str, Stream], contract: Contract, ticks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    period = round(contract.time.period * 1e9)
    columns, commanded = [], np.ones(len(ticks), bool)
    for spec in contract.actions:
        stream = streams[spec.name]
        order = np.argsort(stream.stamp, kind="stable")
        stamp, values = stream.stamp[order], stream.values[order]
        after = np.minimum(np.searchsorted(stamp, ticks), len(stamp) - 1)
        before = np.maximum(np.searchsorted(stamp, ticks, side="right") - 1, 0)
        nearer = np.where(
            np.abs(stamp[after] - ticks) < np.abs(stamp[before] - ticks), after, before
        )
        pick = np.where(np.abs(stamp[nearer] - ticks) <= period // 2, nearer, before)
        lag = ticks - stamp[pick]
        commanded &= (lag >= -(period // 2)) & (lag <= HOLD_PERIODS * period)
        columns.append(values[pick])
    return np.concatenate(columns, axis=1), commanded


def _rewards(stream: Stream | None, ticks: np.ndarray, period: int, end: int | None) -> np.ndarray:
    """Reward of each period: said at its end, so it belongs to the tick one period before. What is
    said as the episode ends belongs to the last one, which is seldom a whole period long."""
    reward = np.zeros(len(ticks))
    if stream is not None and len(stream):
        step = (stream.stamp - ticks[0] + period // 2) // period - 1
        if end is not None:
            step[stream.stamp >= end - period // 4] = len(ticks) - 1
        inside = (step >= -1) & (step <= len(ticks))  # what came long before belongs to nobody
        if end is not None:  # a reward topic need not stop with the episode
            inside &= stream.stamp <= end + period // 4
        np.add.at(reward, np.clip(step[inside], 0, len(ticks) - 1), stream.values[inside, 0])
    return reward


def _runs(usable: np.ndarray, fresh: np.ndarray) -> list[tuple[int, int]]:
    """[begin, end) of unbroken usable ticks. The tick after the last must be observed too."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], usable, [False]]).astype(int)))
    runs = [(int(b), int(e) if fresh[e] else int(e) - 1) for b, e in zip(edges[::2], edges[1::2])]
    return [(b, e) for b, e in runs if e > b]
