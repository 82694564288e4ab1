"""Asynchronous recordings onto one control grid.

The rules, which are also the node's:
- An observation at tick t is the newest one that could be known by t (by receipt), no older than
  the source's max_age (by stamp or receipt, the earlier one, less the source's delay). Nothing is
  filled with zeros. Where the contract says `resample`, a recording is read between its messages instead.
- Action k is the command meant for tick k: the one stamped nearest to it, within half a period,
  or else the last one before it. Ticks are laid onto the commands, whose rhythm they share.
- Reward is added up per period. A period that lacks fresh data cuts the episode there.

The order in which messages stand in a file does not matter: time is what their clocks say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qgf_ros.bags.commands import LATEST, of_this_clock
from qgf_ros.control.checks.clocks import ahead
from qgf_ros.errors import UsageError
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.base import finite
from training.pipeline.attempts import Attempt, attempts, marks, trimmed
from training.pipeline.episodes import Episode
from training.pipeline.frames import by_column
from training.pipeline.grid import LATE, SLACK, Grid, cut_episodes, lay
from training.pipeline.grid import observe as observe
from training.pipeline.labels import Label
from training.pipeline.readers.rewards import End, ending
from training.pipeline.report import EXCLUDED, Report
from training.pipeline.streams import Recording, Stream

AFTER = "row after the end of its episode, by a terminal state or an outcome"
EPISODE = {"success", "failure", "reward"}  # what counts within an episode only


def align(
    recording: Recording,
    contract: Contract,
    report: Report,
    labels: Mapping[str, Label] | None = None,
) -> list[Episode]:
    """Cuts a recording into episodes on the control grid; counts what was dropped in `report`.

    Args:
        labels: what people said of this recording, of all of it ("") or of an episode ("#2"), as
            `Labels.by_recording` gives it.

    Raises UsageError where a label names an episode that there is not.
    """
    commands = {a.name for a in contract.actions}
    found = featured(recording, contract)
    streams = {n: _usable(s, n, report, n in commands) for n, s in found.items()}
    streams |= _known(streams, contract)
    exact = commands | ({"reward"} if contract.outcome.objective == "reward" else set())
    refused = {n: _refused(recording, n) for n in sorted(exact & set(found))}
    for reason, count in recording.rejected.items():
        report.dropped[f"message rejected: {reason}"] += count
    labels, spans = labels or {}, _spans(recording, streams)
    cut: list[tuple[Grid, Attempt]] = []
    several = contract.outcome.attempts is not None
    for span in spans if several else ():
        grid = _grid_of(streams, contract, report, span, recording, refused)
        cut += [(grid, a) for a in grid.attempts] if grid is not None else []
    count = len(cut) if several else len(spans)
    check_numbers(recording.name, labels, count)
    episodes = []
    for number in range(count):
        one = recording.one_episode and not several
        name = recording.name if one else f"{recording.name}#{number}"
        label = labels.get(f"#{number}", labels.get(""))
        if label is not None and label.outcome == "exclude":
            report.dropped[EXCLUDED] += 1
        elif several:
            grid, attempt = cut[number]
            kept = trimmed(attempt, label, grid.ticks)
            episodes += cut_episodes(name, grid, kept, contract, report)
        else:
            span = spans[number]
            episodes += _episode(name, streams, contract, report, span, label, recording, refused)
    report.episodes += len(episodes)
    report.ticks += sum(len(e) for e in episodes)
    if recording.frames:
        frames = by_column(recording.frames, contract)
        episodes = [replace(e, frames=frames) for e in episodes]
    return episodes


def check_numbers(name: str, labels: Mapping[str, Label], count: int) -> None:
    """Raises UsageError where a label of a recording names an episode that there is not."""
    strangers = sorted(set(labels) - {"", *(f"#{n}" for n in range(count))})
    if strangers:
        raise UsageError(
            f"{name} has {count} episodes, counted from #0; labelled is {', '.join(strangers)}"
        )


def endings(recording: Recording, contract: Contract) -> list[tuple[str, float, End]]:
    """Number ("#2", "" where the recording is one episode), seconds, and end of each episode, as the
    topics say, without labels."""
    streams = {
        name: _usable(s, name, Report()) for name, s in featured(recording, contract).items()
    }
    found: list[tuple[str, float, End]] = []
    for begin, last in _spans(recording, streams):
        if contract.outcome.attempts is not None:
            span, none = (begin, last), dict[str, np.ndarray]()
            grid = _grid_of(streams, contract, Report(), span, recording, none)
            for a in grid.attempts if grid is not None else ():
                found.append((f"#{len(found)}", (a.last - a.begin) * 1e-9, a.end))
            continue
        window = {name: _between(s, begin, last) for name, s in streams.items() if name in EPISODE}
        over = _over(recording, begin, last)
        end = ending(window, contract, None, recording.cut, Counter(), over)
        seconds = ((last if end.at is None else end.at) - begin) * 1e-9
        found.append(("" if recording.one_episode else f"#{len(found)}", seconds, end))
    return found


def featured(recording: Recording, contract: Contract) -> dict[str, Stream]:
    """The streams with observations as the policy sees them: orientations encoded, NaN where the
    robot would not believe the message. What is read between messages is encoded after that."""
    seen = {}
    for o in contract.observations:
        if (s := recording.streams.get(o.name)) is not None:
            features = o.features(s.values)
            good = o.usable(s.values, features)[:, None]
            values = np.where(good, features if o.resample == "hold" else s.values, np.nan)
            seen[o.name] = replace(s, values=values)
    return recording.streams | seen


def _usable(stream: Stream, name: str, report: Report, command: bool = False) -> Stream:
    """In order of receipt; what the node would not believe either is dropped and counted."""
    sound = finite(stream.values)
    present = ~ahead(stream.stamp, stream.receipt)
    recent = (stream.receipt - stream.stamp <= LATEST * 1e9) | (not command)
    report.dropped[f"message not finite: {name}"] += int((~sound).sum())
    report.dropped[f"message stamped in the future: {name}"] += int((sound & ~present).sum())
    late = f"message stamped {LATEST:g} s before its receipt, by another clock: {name}"
    report.dropped[late] += int((sound & present & ~recent).sum())
    order = np.lexsort((stream.stamp, stream.receipt))
    when = np.stack([stream.receipt[order], stream.stamp[order]])
    if (when[:, 1:] == when[:, :-1]).all(axis=0).any():
        # Of one moment: the file's order is chance, the values' is not.
        order = np.lexsort((*stream.values.T, stream.stamp, stream.receipt))
    order = order[(sound & present & recent)[order]]
    stamp = stream.stamp[order]
    report.noticed[f"out of order: {name}"] += int((np.diff(stamp) < 0).sum())
    report.noticed[f"stamp repeated: {name}"] += len(stamp) - len(np.unique(stamp))
    return Stream(stamp, stream.receipt[order], stream.values[order])


def _known(streams: Mapping[str, Stream], contract: Contract) -> dict[str, Stream]:
    """The streams of cameras by when the robot will know their features, which is not when a recorder had
    their images."""
    late = {o.name: round(o.latency * 1e9) for o in contract.observations if o.latency}
    known = {}
    for name, latency in late.items():
        s = streams[name]
        order = np.argsort(s.stamp, kind="stable")
        known[name] = Stream(s.stamp[order], s.stamp[order] + latency, s.values[order])
    return known


def _refused(recording: Recording, name: str) -> np.ndarray:
    """When commands of an action were meant that are no use (K,) [ns], with those that the reader has
    not understood."""
    stream = recording.streams[name]
    broken = ~finite(stream.values)
    astray = ~of_this_clock(stream.stamp, stream.receipt)
    at = np.where(astray, stream.receipt, stream.stamp)[broken | astray]
    unread = recording.refused.get(name, np.empty(0, np.int64))
    return np.sort(np.concatenate([at, unread]))


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


def _over(recording: Recording, begin: int, end: int, label: Label | None = None) -> int | None:
    """When an episode entered a terminal state, within what a label keeps of it; None: it did not."""
    length = (end - begin) * 1e-9
    if label is not None and label.end < length:
        end = begin + round(label.end * 1e9)
    elif recording.one_episode:  # its last period ends one after its last row
        end = np.iinfo(np.int64).max
    if label is not None:
        begin += round(min(label.begin, length) * 1e9)
    low = int(np.searchsorted(recording.over, begin, side="right"))
    found = recording.over[low : low + 1]
    return int(found[0]) if len(found) and found[0] < end else None


def _between(stream: Stream, begin: int, end: int, and_before: bool = False) -> Stream:
    low, high = np.searchsorted(stream.receipt, [begin, end])
    low = max(low - and_before, 0)
    return Stream(stream.stamp[low:high], stream.receipt[low:high], stream.values[low:high])


def _windows(
    streams: dict[str, Stream], contract: Contract, span: tuple[int, int], label: Label | None
) -> dict[str, Stream]:
    """What was said in an episode. A label trims what was done, not what was seen: states from
    before its begin are known there."""
    begin, end = span
    first, last = begin, end
    if label is not None:
        length = (end - begin) * 1e-9
        first = begin + round(min(label.begin, length) * 1e9)
        last = begin + round(label.end * 1e9) if label.end < length else end
    goal = contract.outcome.goal.observation if contract.outcome.goal else ""
    done = {a.name for a in contract.actions} | EPISODE
    return {
        # A goal that was said before the episode still holds in it.
        name: _between(s, first, last) if name in done else _between(s, begin, end, name == goal)
        for name, s in streams.items()
    }


def _episode(
    name: str,
    streams: dict[str, Stream],
    contract: Contract,
    report: Report,
    span: tuple[int, int],
    label: Label | None,
    recording: Recording,
    refused: Mapping[str, np.ndarray],
) -> list[Episode]:
    """The episodes of one span: one, or several where data is missing in between."""
    streams = _windows(streams, contract, span, label)
    if not _spoken(streams, contract, report):
        return []
    over = _over(recording, *span, label)
    end = ending(streams, contract, label, recording.cut, report.noticed, over)
    if len(recording.over) and end.at is not None:  # a table: what comes after is nobody's
        after = max(int((streams[a.name].stamp >= end.at).sum()) for a in contract.actions)
        report.dropped[AFTER] += after
    grid = lay(name, streams, contract, report, span, end.at, refused)
    if grid is None:
        return []
    whole = Attempt(0, len(grid.ticks), span[0], grid.stop, end)
    return cut_episodes(name, grid, whole, contract, report)


def _grid_of(
    streams: dict[str, Stream],
    contract: Contract,
    report: Report,
    span: tuple[int, int],
    recording: Recording,
    refused: Mapping[str, np.ndarray],
) -> Grid | None:
    """A span of many attempts. They are cut on one grid: the robot went on from one to the next, and
    what was seen before an attempt is known in it."""
    streams = _windows(streams, contract, span, None)
    if not _spoken(streams, contract, report):
        return None
    slack = round(contract.time.period * 1e9) // SLACK
    found = marks(streams, contract, recording, slack, report.noticed)
    done = max(int(streams[a.name].stamp[-1]) for a in contract.actions)
    late = [m.at for m in found if done < m.at <= done + LATE * 1e9]  # who has let go of the robot
    grid = lay(recording.name, streams, contract, report, span, None, refused, min(late, default=0))
    if grid is None:
        return None
    cut = attempts(found, contract, span, grid.ticks, slack)
    report.dropped["tick between attempts"] += len(grid.ticks) - sum(a.stop - a.first for a in cut)
    return replace(grid, attempts=tuple(cut))


def _spoken(streams: dict[str, Stream], contract: Contract, report: Report) -> bool:
    """Whether every action and observation has said something."""
    names = [*(a.name for a in contract.actions), *(o.name for o in contract.observations)]
    if all(len(streams[n]) for n in names):
        return True
    report.dropped["episode without commands or observations"] += 1
    return False
