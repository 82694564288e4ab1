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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qgf_ros.bags.commands import in_force
from qgf_ros.contract import Contract
from qgf_ros.control.usable import ahead, finite, usable
from qgf_ros.errors import UsageError
from training.data.attempts import Attempt, attempts, marks, trimmed
from training.data.episodes import Episode
from training.data.labels import Label
from training.data.resample import between, hold
from training.data.rewards import End, ending, rewards
from training.data.streams import Recording, Stream

SLACK = (
    100  # what is received, or ends, within period / SLACK of a tick does so there: rounded stamps
)
LATEST = 10.0  # s from a command's stamp to its receipt: beyond it, they are of different clocks
LATE = 2.0  # s from the last command or state to the outcome that still is its own
MOST_TICKS = 1_000_000  # of one episode, or a hundred per command where that is more
EXCLUDED = "episode excluded by its label"
EPISODE = {"success", "failure", "reward"}  # what counts within an episode only


@dataclass
class Report:
    """What became of the data; counts of ticks, episodes and messages by reason."""

    episodes: int = 0
    ticks: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    noticed: Counter[str] = field(default_factory=Counter)  # odd, but nothing was lost by it

    def without_duplicates(self, episodes: int, ticks: int) -> None:
        """An episode that is there twice would leak from training into the report."""
        self.dropped["duplicate episode"] += episodes
        self.episodes -= episodes
        self.ticks -= ticks

    @property
    def lost(self) -> int:
        """Messages, outcomes and whole episodes that nobody wanted to lose."""
        unwanted = ("message ", "episode ")
        return sum(
            count
            for reason, count in self.dropped.items()
            if reason.startswith(unwanted) and reason != EXCLUDED
        )

    def merge(self, other: Report) -> None:
        self.episodes += other.episodes
        self.ticks += other.ticks
        self.dropped.update(other.dropped)
        self.noticed.update(other.noticed)


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
    refused = {n: _refused(recording, n) for n in sorted(commands & set(found))}
    for reason, count in recording.rejected.items():
        report.dropped[f"message rejected: {reason}"] += count
    labels, spans = labels or {}, _spans(recording, streams)
    several = contract.outcome.attempts is not None
    pieces: Sequence[tuple[int, int] | tuple[Grid, Attempt]] = spans
    if several:
        pieces = [
            (grid, attempt)
            for span in spans
            if (grid := _grid_of(streams, contract, report, span, recording, refused)) is not None
            for attempt in grid.attempts
        ]
    check_numbers(recording.name, labels, len(pieces))
    episodes = []
    for number, piece in enumerate(pieces):
        one = recording.one_episode and not several
        name = recording.name if one else f"{recording.name}#{number}"
        label = labels.get(f"#{number}", labels.get(""))
        if label is not None and label.outcome == "exclude":
            report.dropped[EXCLUDED] += 1
            continue
        grid, attempt = piece
        if isinstance(grid, Grid) and isinstance(attempt, Attempt):
            episodes += _cut(name, grid, trimmed(attempt, label, grid.ticks), contract, report)
        else:
            episodes += _episode(name, streams, contract, report, piece, label, recording, refused)
    report.episodes += len(episodes)
    report.ticks += sum(len(e) for e in episodes)
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
            good = usable(o, s.values, features)[:, None]
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


def _refused(recording: Recording, name: str) -> np.ndarray:
    """When commands of an action were meant that are no use (K,) [ns], with those that the reader has
    not understood."""
    stream = recording.streams[name]
    broken = ~finite(stream.values)
    astray = np.abs(stream.receipt - stream.stamp) > LATEST * 1e9  # by another clock
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
    grid = _lay(name, streams, contract, report, span, end.at, refused)
    if grid is None:
        return []
    whole = Attempt(0, len(grid.ticks), span[0], grid.stop, end)
    return _cut(name, grid, whole, contract, report)


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
    grid = _lay(recording.name, streams, contract, report, span, None, refused, min(late, default=0))
    if grid is None:
        return None
    cut = attempts(found, contract, span, grid.ticks, slack)
    report.dropped["tick between attempts"] += len(grid.ticks) - sum(a.stop - a.first for a in cut)
    return replace(grid, attempts=tuple(cut))


def _spoken(streams: dict[str, Stream], contract: Contract, report: Report) -> bool:
    """Whether every action and observation has said something."""
    if all(len(streams[s.name]) for s in (*contract.actions, *contract.observations)):
        return True
    report.dropped["episode without commands or observations"] += 1
    return False


def _lay(
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


def _cut(
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
    """Commands of each tick (N, A), and whether all of them are known (N,)."""
    period = round(contract.time.period * 1e9)
    columns, commanded = [], np.ones(len(ticks), bool)
    for spec in contract.actions:
        stream = streams[spec.name]
        never = np.empty(0, np.int64)
        values, known = in_force(
            stream.stamp, stream.values, refused.get(spec.name, never), ticks, period, spec.silence
        )
        commanded &= known
        columns.append(values)
    return np.concatenate(columns, axis=1), commanded


def _runs(usable: np.ndarray, fresh: np.ndarray) -> list[tuple[int, int]]:
    """[begin, end) of unbroken usable ticks. The tick after the last must be observed too."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], usable, [False]]).astype(int)))
    runs = [(int(b), int(e) if fresh[e] else int(e) - 1) for b, e in zip(edges[::2], edges[1::2])]
    return [(b, e) for b, e in runs if e > b]
