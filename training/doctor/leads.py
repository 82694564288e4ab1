"""How commands lead the states, how far states stay off what was commanded, and what a command
means to the number that follows it: told from the recorded motion, not from names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.doctor.roles import Pair, column, joint
from training.pipeline.delay import measured_leads
from training.pipeline.streams import Stream, Survey

STILL = 0.25  # s before and after, in which a joint at rest does not move,
STILL_SHARE = 0.02  # by more than this share of its range
ENOUGH = 10  # moments at rest
WINDOW = 0.5  # s over which motions are compared, and
WINDOW_PERIODS = 5  # at least so many periods
LOOKED_AT = 20_000  # moments
CLEARLY = 0.1  # by which one likeness is better than another
ECHO = 0.99  # share of the rows that are equal to the bit


@dataclass(frozen=True)
class Lead:
    """Of one pair in one recording. NaN where nothing can be said.

    correlation: of the changes at the lead; negative where the state moves the other way.
    same, rate, step: how near the commanded motion is to the measured one, in [-1, 1]: of the command's
        own changes, of its integral, and of the sum of its rows. 1 is equal, 0.6 a third of the way,
        negative mirrored.
    echo: rows by which the command is nothing but the state, to the bit (1: the next row's).
    """

    seconds: float  # positive: the command comes first
    correlation: float
    offset: float  # median of command less state, at rest; in the state's unit
    same: float = float("nan")
    rate: float = float("nan")
    echo: float = float("nan")
    compared: float = 0.0  # s in which both were said
    step: float = float("nan")


def leads(survey: Survey, pairs: Sequence[Pair], period: float) -> dict[Pair, Lead]:
    """What one recording says of each pair that it has."""
    groups: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.command, pair.state].append(pair)
    found = {}
    for (topic, state_topic), group in groups.items():
        command, state = survey.signals.get(topic), survey.signals.get(state_topic)
        if command is None or state is None:
            continue
        group = [p for p in group if p.label in command.labels and p.state_label in state.labels]
        for pair in group:
            told = column(command.stream, [command.labels.index(pair.label)])
            did = column(state.stream, [state.labels.index(pair.state_label)])
            found[pair] = _lead(told, did, pair, period)
    return found


def _lead(told: Stream, did: Stream, pair: Pair, period: float) -> Lead:
    same = _compared(told, did, period)
    rate = _compared(integral(told), did, period)
    step = _compared(summed(told), did, period)
    # A command of velocities is seen in what it adds up to, unless it is a velocity that follows; so is
    # one of changes.
    seconds, correlation, likeness = rate if _better(rate[2], same[2]) else same
    if _better(step[2], likeness):
        seconds, correlation, likeness = step
    mirrored = likeness < 0
    offset = (
        steady_offset(told, did, seconds) if comparable(pair) and not mirrored else float("nan")
    )
    correlation = -correlation if mirrored else correlation
    return Lead(
        seconds, correlation, offset, same[2], rate[2], echo(told, did), overlap(told, did), step[2]
    )


def _better(rate: float, same: float) -> bool:
    return abs(np.nan_to_num(rate)) > abs(np.nan_to_num(same)) + CLEARLY


def _compared(told: Stream, did: Stream, period: float) -> tuple[float, float, float]:
    """Lead [s], correlation of the changes, and likeness of the motions: of the sign that is nearer,
    and of two that are as near the one with the shorter lead."""
    seconds, correlation = (x[:, 0] for x in measured_leads(told, did, period))
    like = [likeness(told, did, s, period) for s in seconds]
    plain, turned = np.nan_to_num(like[0]), np.nan_to_num(-like[1])
    shorter = abs(np.nan_to_num(seconds[1])) < abs(np.nan_to_num(seconds[0]))
    if turned > 0 and turned > plain - CLEARLY and (turned > plain + CLEARLY or shorter):
        return float(seconds[1]), float(correlation[1]), float(like[1])
    return float(seconds[0]), float(correlation[0]), float(like[0])


def likeness(told: Stream, did: Stream, lead: float, period: float) -> float:
    """Lin's concordance, about zero, of the changes over WINDOW of one column each, after the lead
    is taken off: 1 where the state does what it was told, as far and the same way; NaN where
    nothing moves."""
    told_at, value = _known(told)
    did_at, state = _known(did)
    if not np.isfinite(lead) or min(len(told_at), len(did_at)) < ENOUGH:
        return float("nan")
    window = max(WINDOW, WINDOW_PERIODS * period)
    first, last = max(told_at[0], did_at[0] - lead), min(told_at[-1], did_at[-1] - lead) - window
    count = int(min((last - first) / period, LOOKED_AT)) + 1
    if last <= first or count < ENOUGH:
        return float("nan")
    at = np.linspace(first, last, count)
    one, other = (
        np.interp(at + window + late, times, numbers) - np.interp(at + late, times, numbers)
        for times, numbers, late in ((told_at, value, 0.0), (did_at, state, lead))
    )
    total = float(one @ one + other @ other)
    return float(2 * (one @ other) / total) if total > 0 else float("nan")


def integral(stream: Stream) -> Stream:
    """What a column of velocities adds up to: each number held until the next."""
    at, value = _known(stream)
    total = np.concatenate([[0.0], np.cumsum(value[:-1] * np.diff(at))]) if len(at) else value
    stamp = np.round(at * 1e9).astype(np.int64)
    return Stream(stamp, stamp, total[:, None])


def summed(stream: Stream) -> Stream:
    """What a column of changes adds up to."""
    at, value = _known(stream)
    stamp = np.round(at * 1e9).astype(np.int64)
    return Stream(stamp, stamp, np.cumsum(value)[:, None])


def echo(told: Stream, did: Stream) -> float:
    """0 or 1, where the commands are the states of so many rows later, to the bit; else NaN."""
    one, other = told.values[:, 0], did.values[:, 0]
    if len(one) != len(other) or len(one) < ENOUGH or (one == one[0]).all():
        return float("nan")
    for rows in (0, 1):
        if np.mean(one[: len(one) - rows] == other[rows:]) >= ECHO:
            return float(rows)
    return float("nan")


def _known(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Times [s] and numbers of one column in order, what is not finite left out."""
    fine = np.isfinite(stream.values[:, 0])
    at, value = stream.stamp[fine] * 1e-9, stream.values[fine, 0]
    order = np.argsort(at, kind="stable")
    return at[order], value[order]


def overlap(told: Stream, did: Stream) -> float:
    """How long both were said [s]."""
    one, other = _known(told)[0], _known(did)[0]
    if not len(one) or not len(other):
        return 0.0
    return float(max(0.0, min(one[-1], other[-1]) - max(one[0], other[0])))


def comparable(pair: Pair) -> bool:
    """Whether command and state are the same quantity, so that their difference means something."""
    told, did = joint(pair.label)[0], joint(pair.state_label)[0]
    return told == did or pair.by == "correlation" or "" in (told, did)


def steady_offset(command: Stream, state: Stream, lead: float) -> float:
    """Median of command less state where both rest; NaN where they hardly ever do.

    command, state: one column each. lead [s] is taken off first, 0 where it is NaN.
    """
    did_known, told_known = (np.isfinite(s.values[:, 0]) for s in (state, command))
    if min(did_known.sum(), told_known.sum()) < ENOUGH:
        return float("nan")
    told_at, told = command.stamp[told_known] * 1e-9, command.values[told_known, 0]
    did_at, did = state.stamp[did_known] * 1e-9, state.values[did_known, 0]
    order = np.argsort(did_at, kind="stable")
    did_at, did = did_at[order], did[order]
    order = np.argsort(told_at, kind="stable")
    told_at, told = told_at[order], told[order]
    at = told_at + (lead if np.isfinite(lead) else 0.0)
    inside = (at - STILL >= did_at[0]) & (at + STILL <= did_at[-1])

    def moved(times: np.ndarray, values: np.ndarray, t: np.ndarray) -> np.ndarray:
        return np.abs(np.interp(t + STILL, times, values) - np.interp(t - STILL, times, values))

    rest = inside & (moved(did_at, did, at) <= STILL_SHARE * np.ptp(did))
    rest &= moved(told_at, told, told_at) <= STILL_SHARE * np.ptp(told)
    if rest.sum() < ENOUGH:
        return float("nan")
    return float(np.median(told[rest] - np.interp(at[rest], did_at, did)))
