"""How commands lead the states, and how far states stay off what was commanded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.data.delay import measured_lead
from training.data.doctor.roles import Pair, column, joint
from training.data.streams import Stream, Survey

STILL = 0.25  # s before and after, in which a joint at rest does not move,
STILL_SHARE = 0.02  # by more than this share of its range
ENOUGH = 10  # moments at rest


@dataclass(frozen=True)
class Lead:
    """Of one pair in one recording. NaN where nothing can be said."""

    seconds: float  # positive: the command comes first
    correlation: float
    offset: float  # median of command less state, at rest; in the state's unit


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
        told = column(command.stream, [command.labels.index(p.label) for p in group])
        did = column(state.stream, [state.labels.index(p.state_label) for p in group])
        seconds, correlation = measured_lead(told, did, period)
        for i, pair in enumerate(group):
            offset = (
                steady_offset(column(told, [i]), column(did, [i]), float(seconds[i]))
                if comparable(pair)
                else np.nan
            )
            found[pair] = Lead(float(seconds[i]), float(correlation[i]), offset)
    return found


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
