"""Columns that say where and how episodes end, against each other: what no convention can mean is
refused, with both names. docs/contract.md has the conventions; `endings` reads what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["terminals", "terminal", "cut", "done", "mask", "last", "state"]
Said = Mapping[Kind, np.ndarray]
ENDS: tuple[Kind, ...] = ("terminals", "terminal", "cut", "done")
LEAD: tuple[Kind, ...] = ("terminal", "mask")
OVER: tuple[Kind, ...] = ("terminal", "mask", "state", "terminals", "done")
LAST: tuple[Kind, ...] = ("last",)
BY_CUT: tuple[Kind, ...] = ("terminals",)  # terminal states, where `cut` is there
NEARLY = 0.9  # share of the rows that are terminal and end nothing: a mask the other way round
OFTEN = 0.75  # share of the rows that end an episode: no robot's last a row and a third
FEW = 8  # rows, of which a share says nothing


def told(kind: Kind, of: Mapping[Kind, str]) -> str:
    """What a column says where it is true, as a text has it."""
    return f"{of[kind]} are 0" if kind == "mask" else f"{of[kind]} is true"


def check_together(said: Said, of: Mapping[Kind, str]) -> None:
    """Raises ValueError where two columns contradict each other.

    Args:
        said: (N,) bool by kind; of a mask, true where it is 0.
        of: what the column of each kind is called.
    """
    pairs, ends = _Pairs(said, of), "an episode that is over has ended"
    leads = "both mark what leads into a terminal state"
    pairs.same("mask", "terminal", leads)
    pairs.within("terminal", "terminals", ends)
    pairs.within("terminal", "done", ends)
    pairs.within("terminals", "done", ends)
    pairs.within("cut", "done", "an episode that was cut is done; terminal states are `terminals`")
    if "cut" in said:  # then terminals are terminal states
        pairs.same("mask", "terminals", leads)
        if "terminal" in said and "terminals" in said:
            either = said["terminal"] | said["cut"]
            if (said["terminals"] != either).any():  # or the ends of trajectories, cut or not
                pairs.same("terminal", "terminals", leads)
        over: Kind | None = next((k for k in ("terminal", "terminals") if k in said), None)
        if "done" in said and over is not None:
            unsaid = said["done"] & ~said[over] & ~said["cut"]
            pairs.refuse("done", over, unsaid, f"{of['cut']} does not say that it was cut")
        elif "done" in said and "mask" in said:
            differ = said["mask"] != (said["done"] & ~said["cut"])
            pairs.refuse("mask", "done", differ, f"what is done and not {of['cut']} is terminal")
    elif "terminals" not in said:
        pairs.within("mask", "done", ends, near=True)
    # RLDS: is_last and is_terminal are of states; the others of what leads into them, or of both.
    for kind in ENDS:
        pairs.within(kind, "last", "the episode goes on after it", near=True)
    pairs.within("state", "last", "a terminal state is the last one")
    for kind in LEAD + (BY_CUT if "cut" in said else ()):
        if kind in said and "state" in said:
            pairs.within(kind, "state", "what it leads into is the terminal state", near=True)
            led = said[kind] | np.append(False, said[kind][:-1])
            pairs.refuse("state", kind, said["state"] & ~led, "what leads there must say so")


@dataclass(frozen=True)
class _Pairs:
    """Two columns at a time; a kind that nobody gave contradicts nothing."""

    said: Said
    of: Mapping[Kind, str]

    def refuse(self, a: Kind, b: Kind, wrong: np.ndarray, why: str) -> None:
        """Raises ValueError where a row is wrong."""
        if wrong.any():
            raise ValueError(
                f"{self.of[a]} and {self.of[b]} contradict each other: they differ in row "
                f"{int(wrong.argmax())}, and {why}; keep the one that is right"
            )

    def within(self, a: Kind, b: Kind, why: str, near: bool = False) -> None:
        """Wherever `a` is true `b` must be, there or, if near, in the row after."""
        if a in self.said and b in self.said:
            there = self.said[b] | (np.append(self.said[b][1:], False) & near)
            self.refuse(a, b, self.said[a] & ~there, why)

    def same(self, a: Kind, b: Kind, why: str) -> None:
        if a in self.said and b in self.said:
            self.refuse(a, b, self.said[a] != self.said[b], why)


def check_inverted(
    said: Said, of: Mapping[Kind, str], terminal: np.ndarray | None, episodes: Sequence[slice]
) -> None:
    """Raises ValueError where nearly every row would be terminal, or end an episode: such a column says
    the opposite of what its name means, and all but the first rows would be lost."""
    rows = sum(e.stop - e.start for e in episodes)
    if terminal is not None:
        inner = np.ones(rows, bool)
        for episode in episodes:
            inner[max(episode.stop - 2, episode.start) : episode.stop] = False
        if inner.sum() >= FEW - 2 and terminal[inner].mean() > NEARLY:
            kind = next(k for k in OVER if k in said)
            raise ValueError(
                f"{told(kind, of)} in {int(terminal[inner].sum())} of {int(inner.sum())} rows that end no "
                f"episode: {of[kind]} is probably inverted. 0 means of masks, and 1 of the others, that "
                "nothing comes after the row; write 1 minus it, or leave it out"
            )
    for kind in ENDS + LAST:
        if len(episodes) > 1 and kind in said and rows >= FEW and OFTEN < said[kind].mean() < 1:
            raise ValueError(
                f"{told(kind, of)} in {int(said[kind].sum())} of {rows} rows, which would each end an "
                f"episode: {of[kind]} is probably inverted; write 1 minus it, or leave it out"
            )
