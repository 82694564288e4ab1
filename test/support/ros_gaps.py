"""When the node sent what it sent, and whether its status tells of every gap between commands.

Times are the middleware's own [ns, system]: a test that is not given the processor does not see
gaps where there were none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import ros_harness as ros

SAYS_SO_WITHIN = 0.5  # s after a gap; the status comes ten times a second


class Heard(NamedTuple):
    """A message, when it was sent and when it arrived [ns]."""

    sent: int
    received: int
    msg: Any


def listen(wire: ros.Wire, kind: Any, topic: str) -> list[Heard]:
    """Subscribes and keeps every message."""
    heard: list[Heard] = []
    qos = ros.QoSProfile(depth=1000, reliability=ros.ReliabilityPolicy.RELIABLE)

    def note(msg: Any, info: dict[str, int]) -> None:
        heard.append(Heard(info["source_timestamp"], info["received_timestamp"], msg))

    wire.node.create_subscription(kind, topic, note, qos)
    return heard


def gaps(sent: Sequence[int], period: float) -> list[tuple[int, int]]:
    """Pauses of more than two periods [s] between commands that were sent at these times [ns]."""
    return [(a, b) for a, b in zip(sent, sent[1:]) if b - a > 2e9 * period]


def silent(
    found: Sequence[tuple[int, int]], twins: Sequence[int], period: float
) -> list[tuple[int, int]]:
    """Gaps in which nothing was sent. Of a command that got lost on its way the sender cannot tell: what
    counts is the newest one, and nothing is sent again. Its twin, as `~/command` or `~/passed`, which
    is sent at these times [ns], shows that the other end of the wire was not silent."""
    return [
        (a, b)
        for a, b in found
        if gaps([a, *(t for t in twins if a + 0.5e9 * period < t < b - 0.5e9 * period), b], period)
    ]


def unexplained(
    found: Sequence[tuple[int, int]], statuses: Sequence[Heard], period: float
) -> list[tuple[int, int]]:
    """Gaps of which no status says more than that all is well: every one is RUN, counts no more
    overruns than before, and warns of nothing new."""
    return [gap for gap in found if not _explained(*gap, statuses, round(period * 1e9))]


def _explained(begin: int, end: int, statuses: Sequence[Heard], period: int) -> bool:
    known = next((s.msg for s in reversed(statuses) if s.sent <= begin - period), None)
    around = [
        s.msg for s in statuses if begin - period < s.sent <= end + round(SAYS_SO_WITHIN * 1e9)
    ]
    if known is None:
        return any(m.state != ros.RUN for m in around)
    return known.state != ros.RUN or any(
        m.state != ros.RUN or m.overruns > known.overruns or set(m.warnings) - set(known.warnings)
        for m in around
    )
