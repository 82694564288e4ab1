"""Episodes of many attempts, cut into them: `outcome.attempts` of the contract.

What ends an attempt are marks in time, of success, failure, terminal states, goals that are reached
and goals that change. Until what a mark is about is over, no attempt begins: a success that lasts is
one success, and what is done within it belongs to no attempt. `qgf_ros.replay.ending` follows a bag
by the same rules, message by message.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qgf_ros.spaces.contract import Contract
from training.pipeline.labels import Label
from training.pipeline.readers.rewards import End, held
from training.pipeline.streams import Recording, Stream

LONG_AGO, NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max  # ns
FAILURE, SUCCESS, TERMINAL, CHANGED, REACHED = range(5)  # what counts first at one moment


@dataclass(frozen=True, order=True)
class Mark:
    """A moment in which an attempt ends [ns], what it is of, and when the next may begin [ns]."""

    at: int
    kind: int
    until: int

    @property
    def end(self) -> End:
        if self.kind == CHANGED:
            return End(None, self.at)
        if self.kind == TERMINAL:
            return End(None, self.at, over=True)
        return End(self.kind != FAILURE, self.at)


@dataclass(frozen=True)
class Attempt:
    """Ticks [first, stop) of a grid; from `begin` to `last` [ns]."""

    first: int
    stop: int
    begin: int
    last: int
    end: End


def marks(
    streams: Mapping[str, Stream],
    contract: Contract,
    recording: Recording,
    slack: int,
    noticed: Counter[str],
) -> list[Mark]:
    """Every mark of an episode, in order.

    Args:
        streams: what was said in it, in order of receipt.
        slack: ns, of a tick.
        noticed: counts where a field test was broken off by missing messages.
    """
    outcome, found = contract.outcome, []
    for name, kind in (("success", SUCCESS), ("failure", FAILURE)):
        source, stream = getattr(outcome, name), streams.get(name)
        if source is None or stream is None or not len(stream):
            continue
        max_age = contract.max_age(source)
        if source.condition is not None:
            known, holds, done = held(name, stream, source.condition, max_age, noticed)
            found += _lasting(known, holds, done, kind, begun=True)
        elif recording.one_episode:  # of tables: of each period whether it led there
            true = stream.values[:, 0] != 0
            found += _lasting(stream.receipt, true, true, kind, begun=False)
        else:
            found += _moments(stream, name, max_age, slack)
    if len(recording.over):
        begin = min((int(s.receipt[0]) for s in streams.values() if len(s)), default=0)
        end = max((int(s.receipt[-1]) for s in streams.values() if len(s)), default=0)
        last = NEVER if recording.one_episode else end
        # A state after which nothing comes is a failure, where success was not true before.
        kind = FAILURE if outcome.success is not None and "success" in streams else TERMINAL
        won = {m.at for m in found if m.kind == SUCCESS}
        if kind == FAILURE or outcome.objective == "reward":
            found += [
                Mark(at, kind, at + slack + 1)
                for at in recording.over.tolist()
                if begin <= at <= last and at not in won
            ]
    if outcome.attempts is not None and outcome.attempts.end == "goal":
        found += _goals(streams, contract)
    return sorted(found)


def _lasting(
    known: np.ndarray, holds: np.ndarray, done: np.ndarray, kind: int, begun: bool
) -> list[Mark]:
    """Of what holds for a while: (N,) ns, bool, bool as `held` gives them. begun: what holds from the
    first message on was not reached here, but found."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(int)))
    found = []
    for b, e in zip(edges[::2].tolist(), edges[1::2].tolist()):
        until = int(known[e]) if e < len(known) else NEVER
        if b == 0 and begun:
            found.append(Mark(LONG_AGO, kind, until))
        elif done[b:e].any():
            found.append(Mark(int(known[b + done[b:e].argmax()]), kind, until))
    return found


def _moments(stream: Stream, name: str, max_age: float, slack: int) -> list[Mark]:
    """Of messages that say an outcome each. Those that say the same, no further apart than `max_age`,
    are one, until the last of them: a button that is held, a topic that says it again and again."""
    true = stream.values[:, 0] != 0
    if name == "success":
        kinds = np.where(true, SUCCESS, FAILURE)
    else:
        kinds = np.where(true, FAILURE, -1)  # false says nothing
    receipt = stream.receipt
    apart = (np.diff(kinds) != 0) | (np.diff(receipt) > round(max_age * 1e9))
    begins = np.concatenate([[0], np.flatnonzero(apart) + 1]).tolist()
    return [
        Mark(int(receipt[b]), int(kinds[b]), int(receipt[e - 1]) + slack + 1)
        for b, e in zip(begins, [*begins[1:], len(kinds)])
        if kinds[b] >= 0
    ]


def _goals(streams: Mapping[str, Stream], contract: Contract) -> list[Mark]:
    """Where the goal was reached, and where another one was given: further than the radius from the
    one before. What is reached from the beginning on was not reached here."""
    spec = contract.outcome.goal
    assert spec is not None
    sources = {o.name: o for o in contract.observations}
    places = {
        f"{o.name}.{label}": (o.name, i)
        for o in contract.observations
        for i, label in enumerate(o.feature_labels)
    }
    names = {spec.observation, *(places[n][0] for n in spec.achieved)}
    newest = {n: _newest(streams[n]) for n in names}
    if not all(map(len, newest.values())):
        return []
    at = np.unique(np.concatenate([s.receipt for s in newest.values()]))
    seen = {}
    known = np.ones(len(at), bool)
    for name, stream in newest.items():
        pick = np.searchsorted(stream.receipt, at, side="right") - 1
        known &= pick >= 0
        raw = sources[name].resample != "hold"
        values = sources[name].features(stream.values) if raw else stream.values
        seen[name] = values[np.maximum(pick, 0)]
    achieved = np.stack([seen[n][:, i] for n, i in map(places.__getitem__, spec.achieved)], axis=1)
    width = len(sources[spec.observation].feature_labels)
    goal = seen[spec.observation][:, :width]
    # NaN, of what is half way between two turns, is within no distance
    there = known & (np.linalg.norm(achieved - goal, axis=1) <= spec.radius)
    other = _changes(newest[spec.observation], width, spec.radius)
    changed = np.isin(at, other)
    begins = there & (changed | ~np.concatenate([[False], there[:-1]]))
    edges = np.flatnonzero(begins | (~there & np.concatenate([[False], there[:-1]])))
    first = int(known.argmax())
    found = [Mark(int(t), CHANGED, int(t)) for t in other]
    for k, following in zip(edges, [*edges[1:], None]):
        if begins[k]:
            until = NEVER if following is None else int(at[following])
            found.append(Mark(LONG_AGO if k == first else int(at[k]), REACHED, until))
    return found


def _newest(stream: Stream) -> Stream:
    """Without what came after something newer, which it does not replace."""
    keep = stream.stamp >= np.maximum.accumulate(stream.stamp)
    return Stream(stream.stamp[keep], stream.receipt[keep], stream.values[keep])


def _changes(stream: Stream, width: int, radius: float) -> list[int]:
    """Receipts of goals that are further than `radius` from the last one that was another."""
    values = stream.values[:, :width]
    given = np.flatnonzero(np.append(True, (np.diff(values, axis=0) != 0).any(axis=1)))
    found: list[int] = []
    last = values[0].tolist()
    for k, value in zip(given.tolist(), values[given].tolist()):
        if math.dist(value, last) > radius:
            found.append(int(stream.receipt[k]))
            last = value
    return found


def attempts(
    found: Sequence[Mark],
    contract: Contract,
    span: tuple[int, int],
    ticks: np.ndarray,
    slack: int,
) -> list[Attempt]:
    """The attempts of an episode that have a tick; the last one was cut, if nothing says otherwise.

    Args:
        found: as `marks` gives them.
        span: of the episode, by receipt [ns].
        ticks: (N > 0,) of the episode [ns].
        slack: ns, how much before a moment a tick still counts as in it.
    """
    spec = contract.outcome.attempts
    assert spec is not None
    period = round(contract.time.period * 1e9)
    length = round(spec.seconds * 1e9 / period) if spec.seconds is not None else len(ticks)

    def tick(at: int) -> int:
        """The first that is not before a moment."""
        return min(max(-((int(ticks[0]) + slack - at) // period), 0), len(ticks))

    cut: list[Attempt] = []
    begin, i = span[0], 0
    while True:
        while i < len(found) and found[i].at <= begin:
            begin = max(begin, found[i].until)
            i += 1
        first = tick(begin)
        if begin >= NEVER or first >= len(ticks):
            return cut
        end = found[i].end if i < len(found) else End(None)
        stop = tick(end.at) if end.at is not None else len(ticks)
        if first + length < stop:
            stop = first + length
            end = End(None, int(ticks[stop]))
        last = span[1] if end.at is None else end.at
        if stop > first:
            cut.append(Attempt(first, stop, int(ticks[first]), last, end))
        begin = last
        if end.at is None:
            return cut


def trimmed(attempt: Attempt, label: Label | None, ticks: np.ndarray) -> Attempt:
    """What a label keeps of an attempt, and how it says that it ended."""
    if label is None:
        return attempt
    length = (attempt.last - attempt.begin) * 1e-9
    begin = attempt.begin + round(min(label.begin, length) * 1e9)
    last = attempt.begin + round(min(label.end, length) * 1e9)
    first, stop, end = attempt.first, attempt.stop, attempt.end
    if begin > attempt.begin:
        first = max(first, int(np.searchsorted(ticks, begin)))
    if last < attempt.last:
        stop, end = min(stop, int(np.searchsorted(ticks, last))), End(None, last)
    if label.outcome:
        end = replace(end, won={"success": True, "failure": False}.get(label.outcome), over=False)
    return Attempt(first, stop, begin, last, end)
