"""What a trial found: figures per beta, intervals, one sentence; for people and as a document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from qgf_ros.console import say, table
from qgf_ros.statistics import wilson
from qgf_ros.trial.record import Record
from qgf_ros.trial.sequential import ERROR, Stop, differences, interval, level


@dataclass(frozen=True)
class Row:
    """One beta. Rates are shares of its counted episodes, NaN where there is none."""

    beta: float
    successes: int
    episodes: int
    low: float  # 95 % Wilson interval of the rate
    high: float
    interventions: int
    aborted: int
    seconds: float  # median of an episode
    than: float | None  # the one that stopped it, else the best; None: it is the best
    difference: tuple[float, float] | None  # its rate less that one's, a confidence sequence
    stopped: Stop | None

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else math.nan


def best(record: Record) -> float:
    """Of those that are left, the one with the most successes; of equals the gentlest."""
    blocks = record.blocks
    return max(record.left, key=lambda beta: (sum(b.get(beta, False) for b in blocks), beta))


def rows(record: Record) -> list[Row]:
    """One per beta, in the order in which they were asked for."""
    blocks, stops, leader = record.blocks, record.stops, best(record)
    error = level(len(record.design.betas))
    found = []
    for beta in record.design.betas:
        mine = [e for e in record.counted if e.beta == beta]
        count = sum(e.outcome == "success" for e in mine)
        stop = stops.get(beta)
        than = stop.worse_than if stop is not None else leader if beta != leader else None
        found.append(
            Row(
                beta,
                count,
                len(mine),
                *wilson(count, len(mine)),
                interventions=sum(e.interventions for e in mine),
                aborted=sum(e.beta == beta and e.outcome == "aborted" for e in record.episodes),
                seconds=median([e.seconds for e in mine]) if mine else math.nan,
                than=than,
                difference=None
                if than is None
                else interval(differences(blocks, beta, than), error),
                stopped=stop,
            )
        )
    return found


def decision(record: Record) -> str:
    """One plain sentence."""
    left, stops, planned = record.left, record.stops, record.design.episodes
    gone = ", ".join(f"{b:g} (after {s.block} episodes each)" for b, s in stops.items())
    if len(left) == 1:
        return f"Decided: beta {left[0]:g} does better than {gone}."
    whose = "beta " + " and ".join(f"{b:g}" for b in left)
    done = len(record.blocks)
    if record.next is not None:
        text = f"Unfinished: {done} of {planned} episodes of each are done, {whose} not told apart"
    else:
        text = f"Undecided: {done} episodes of each do not tell {whose} apart"
    return text + (f"; worse beyond doubt: {gone}." if gone else ".")


def document(record: Record) -> Mapping[str, Any]:
    """For --json."""
    return {
        "design": record.design,
        "finished": record.next is None,
        "decided": len(record.left) == 1,
        "best": best(record),
        "error": ERROR,
        "decision": decision(record),
        "results": [{**vars(row), "rate": row.rate} for row in rows(record)],
        "episodes": record.episodes,
    }


def show(record: Record) -> None:
    """The table, and the sentence."""
    columns = "beta", "success", "rate", "95 %", "difference", "hands", "aborted", "s", "stopped"
    table("Trial", columns, [_shown(row) for row in rows(record)])
    say(
        "difference: of the rate to another beta, true at any time for all pairs together with 95 %; "
        "hands: interventions; s: median of an episode"
    )
    say(decision(record))


def _shown(row: Row) -> tuple[Any, ...]:
    apart = "the best"
    if row.difference is not None:
        low, high = row.difference
        apart = f"{low:+.3f} to {high:+.3f}, to {row.than:g}"
    return (
        f"{row.beta:g}",
        f"{row.successes}/{row.episodes}",
        f"{row.rate:.3f}",
        f"{row.low:.3f} to {row.high:.3f}",
        apart,
        row.interventions,
        row.aborted,
        f"{row.seconds:.1f}",
        "" if row.stopped is None else f"after {row.stopped.block}",
    )
