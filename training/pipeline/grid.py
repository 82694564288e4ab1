"""One stretch of a recording on the control grid, and the episodes that are cut from it.

Ticks are laid onto the commands, whose rhythm they share; what was seen and commanded at each of them
is found once, and every attempt is a piece of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qgf_ros.bags.commands import in_force
from qgf_ros.spaces.contract import Contract
from training.pipeline.attempts import Attempt
from training.pipeline.episodes import Episode
from training.pipeline.readers.rewards import rewards
from training.pipeline.report import Report
from training.pipeline.resample import between, hold
from training.pipeline.streams import Stream

SLACK = (
    100  # what is received, or ends, within period / SLACK of a tick does so there: rounded stamps
)
LATE = 2.0  # s from the last command or state to the outcome that still is its own
MOST_TICKS = 1_000_000  # of one episode, or a hundred per command where that is more


@dataclass(frozen=True)
class Grid:
    """One stretch of a recording on N ticks; everything that its episodes are cut from."""

    name: str
    ticks: np.ndarray  # (N,) ns
    stop: int  # ns, where the last period ends
    obs: np.ndarray  # (N + 1, O), one more than actions
    fresh: np.ndarray  # (N + 1,) bool
    action: np.ndarray  # (N, A)
    commanded: np.ndarray  # (N,) bool
    reward: Stream | None
    attempts: tuple[Attempt, ...] = ()  # with outcome.attempts


def lay(
    name: str,
    streams: dict[str, Stream],
    contract: Contract,
    report: Report,
    span: tuple[int, int],
    end: int | None,
    refused: Mapping[str, np.ndarray],
    at_least: int = 0,
) -> Grid | None:
    """Everything on ticks. end: ns; None: with the last command, or at `at_least`, the later one."""
    period = round(contract.time.period * 1e9)
    commands = [streams[a.name] for a in contract.actions]
    stop = end
    quiet = [a.silence is not None for a in contract.actions]
    if stop is None:
        stop = max(max(int(s.stamp[-1]) for s in commands) + period // 2, at_least)
        if any(quiet):
            said = max(int(s.receipt[-1]) for s in streams.values() if len(s))
            stop = max(stop, min(span[1], said))
    origin = _origin(commands, period)
    if all(quiet):  # until somebody spoke, it was silence that did
        first = max(int(streams[o.name].receipt[0]) for o in contract.observations)
        origin -= max(0, (origin - first) // period) * period
    if (stop - origin) // period > max(MOST_TICKS, 100 * sum(map(len, commands))):
        report.dropped["episode with hours of silence: mark its parts by episode_start"] += 1
        return None
    ticks = np.arange(origin, stop - period // SLACK, period, dtype=np.int64)
    if len(ticks) == 0:
        report.dropped["episode of zero length"] += 1
        return None
    obs, fresh = observe(streams, contract, np.append(ticks, ticks[-1] + period))
    action, commanded = _act(streams, contract, ticks, refused)
    return Grid(name, ticks, stop, obs, fresh, action, commanded, streams.get("reward"))


def cut_episodes(
    name: str, grid: Grid, attempt: Attempt, contract: Contract, report: Report
) -> list[Episode]:
    """The episodes of an attempt: one, or several where data is missing in between."""
    count, end = attempt.stop - attempt.first, attempt.end
    if count <= 0:
        report.dropped["episode of zero length"] += 1
        return []
    period = round(contract.time.period * 1e9)
    of = slice(attempt.first, attempt.stop)
    action, obs = grid.action[of], grid.obs[attempt.first : attempt.stop + 1].copy()
    fresh = grid.fresh[attempt.first : attempt.stop + 1].copy()
    ended = end.won is not None or end.over
    if contract.outcome.objective == "reward":
        at = grid.stop if end.at is None else end.at
        said = _earned(grid, attempt, period, ended)
        reward = rewards(said, grid.ticks[of], period, at if ended else None)
    else:  # 1 when success comes, worth less the later it does; none where nobody said so
        reward = np.zeros(count)
        reward[-1] = float(bool(end.won))
    if ended and not fresh[-1]:  # the state after the end is never used: nothing is bootstrapped
        obs[-1], fresh[-1] = obs[-2], fresh[-2]
    runs = _runs(fresh[:-1] & grid.commanded[of], fresh)
    last = count
    if ended and runs and runs[-1][1] < last:
        # Who has let go of the robot says how it went a moment later.
        if (last - runs[-1][1]) * period <= LATE * 1e9:
            last = runs[-1][1]
            reward[last - 1] += reward[last:].sum()
            report.noticed["outcome said after the last command or state"] += 1
        else:
            report.dropped[
                f"episode outcome: more than {LATE:g} s after the last command or state"
            ] += 1
    report.dropped["tick without fresh data"] += count - sum(e - b for b, e in runs)
    report.noticed["cut at a gap"] += max(len(runs) - 1, 0)
    return [
        Episode(
            name if end_ - begin == last else f"{name}.{begin}",
            obs[begin : end_ + 1],
            action[begin:end_],
            reward[begin:end_],
            terminal=ended and end_ == last,
            success=end.won if end_ == last else None,
            origin="" if end_ - begin == last else name,
        )
        for begin, end_ in runs
    ]


def _earned(grid: Grid, attempt: Attempt, period: int, ended: bool) -> Stream | None:
    """The rewards of an attempt, without those of its neighbours."""
    stream = grid.reward
    if stream is None:
        return None
    keep = np.ones(len(stream), bool)
    half = period - period // 2
    if attempt.first > 0:
        keep &= stream.stamp >= grid.ticks[attempt.first] + half
    if not ended and attempt.stop < len(grid.ticks):
        keep &= stream.stamp < grid.ticks[attempt.stop] + half
    return Stream(stream.stamp[keep], stream.receipt[keep], stream.values[keep])


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
    slack = round(contract.time.period * 1e9) // SLACK
    for source in contract.observations:
        stream, max_age = streams[source.name], contract.max_age(source)
        if source.resample == "hold":
            values, usable = hold(stream, ticks, source.delay, max_age, slack)
        else:
            values, usable = between(source, stream, ticks, max_age, slack)
            values = source.features(values)
            usable &= np.isfinite(values).all(axis=1)  # half way between two opposite turns
        columns.append(values)
        fresh &= usable
    return np.concatenate(columns, axis=1), fresh


def _act(
    streams: dict[str, Stream],
    contract: Contract,
    ticks: np.ndarray,
    refused: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Commands of each tick (N, A), and whether all of them are known, and what it earned (N,)."""
    period = round(contract.time.period * 1e9)
    columns, commanded = [], np.ones(len(ticks), bool)
    never = np.empty(0, np.int64)
    for spec in contract.actions:
        stream = streams[spec.name]
        values, known = in_force(
            stream.stamp, stream.values, refused.get(spec.name, never), ticks, period, spec.silence
        )
        commanded &= known
        columns.append(values)
    # A reward is said at the end of its period, and one that is not known is not 0.
    step = (refused.get("reward", never) - ticks[0] + period // 2) // period - 1
    commanded[step[(step >= 0) & (step < len(ticks))]] = False
    return np.concatenate(columns, axis=1), commanded


def _runs(usable: np.ndarray, fresh: np.ndarray) -> list[tuple[int, int]]:
    """[begin, end) of unbroken usable ticks. The tick after the last must be observed too."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], usable, [False]]).astype(int)))
    runs = [(int(b), int(e) if fresh[e] else int(e) - 1) for b, e in zip(edges[::2], edges[1::2])]
    return [(b, e) for b, e in runs if e > b]
