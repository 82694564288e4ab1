"""What became of recorded data on its way to episodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

EXCLUDED = "episode excluded by its label"


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
