"""One line of the verdict's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qgf_ros.statistics import Interval

Level = Literal["ok", "warn", "bad", "unknown"]

MORE = "record unguided episodes, failures among them, label how they ended, and train again"
LONGER = "train longer or on more episodes, or with another critic (monte_carlo or sarsa for little data)"
SIGN = "look at the sign of the reward, and at the labels of the outcomes"


@dataclass(frozen=True)
class Check:
    """One figure: what it asks, what it is and what it should be."""

    name: str
    asks: str
    value: Interval | str
    want: str
    level: Level
    says: str  # a sentence with the number
    todo: tuple[str, ...] = ()  # what helps
    decides: bool = True


def unknown(
    name: str, asks: str, want: str, why: str, todo: tuple[str, ...] = (), decides: bool = True
) -> Check:
    """A figure that the data or the policy cannot give."""
    return Check(name, asks, "not known", want, "unknown", why, todo, decides)


def two(value: Interval) -> str:
    """0.29, 95 % 0.21 to 0.37."""
    if value.mean != value.mean:
        return "not known"
    if value.low != value.low:
        return f"{value.mean:.2f}, no interval"
    return f"{value.mean:.2f}, 95 % {value.low:.2f} to {value.high:.2f}"
