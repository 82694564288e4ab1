"""Pauses between commands, counted so that none can be missed."""

from __future__ import annotations


class Pauses:
    """Counts the pauses of more than `longest` ns between two commands.

    A thread may lose its turn before it sends, or after. So a pause is measured from before the one
    command was sent until after the other one was: it was at most so long, and none is too short
    by what the sender waited itself.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._before: int | None = None  # ns, of the last command
        self.count = 0

    def sent(self, before: int, after: int, counts: bool) -> None:
        """A command was sent between these two times [ns]. counts: a pause up to here is one to tell."""
        if counts and self._before is not None and after - self._before > self._longest:
            self.count += 1
        self._before = before
