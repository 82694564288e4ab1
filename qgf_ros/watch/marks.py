"""What a terminal has no signs for: letters that are read from two metres, a curve in one line, and
an axis for beta."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from qgf_ros.watch.heard import Zone, zone

Join = Callable[[list[float]], float]
BARS = "▁▂▃▄▅▆▇█"
ABSURD = 1e100  # a number that would flatten a curve
LEAST, MOST = 1e-9, 1e9  # that a beta may be
GAP = " "  # where nothing came
HALVES = {"..": " ", "#.": "▀", ".#": "▄", "##": "█"}
ZONE_BAR = {"beyond": "█", "firm": "▓", "gentle": "░", "unknown": "─"}  # as dense as it guides
FONT = {
    "A": (".##.", "#..#", "####", "#..#", "#..#"),
    "C": (".###", "#...", "#...", "#...", ".###"),
    "D": ("###.", "#..#", "#..#", "#..#", "###."),
    "E": ("####", "#...", "###.", "#...", "####"),
    "F": ("####", "#...", "###.", "#...", "#..."),
    "G": (".###", "#...", "#.##", "#..#", ".###"),
    "H": ("#..#", "#..#", "####", "#..#", "#..#"),
    "I": ("###", ".#.", ".#.", ".#.", "###"),
    "L": ("#...", "#...", "#...", "#...", "####"),
    "N": ("#...#", "##..#", "#.#.#", "#..##", "#...#"),
    "O": (".##.", "#..#", "#..#", "#..#", ".##."),
    "R": ("###.", "#..#", "###.", "#.#.", "#..#"),
    "S": (".###", "#...", ".##.", "...#", "###."),
    "T": ("#####", "..#..", "..#..", "..#..", "..#.."),
    "U": ("#..#", "#..#", "#..#", "#..#", ".##."),
    "V": ("#...#", "#...#", "#...#", ".#.#.", "..#.."),
    "W": ("#...#", "#...#", "#.#.#", "##.##", "#...#"),
    "Y": ("#...#", ".#.#.", "..#..", "..#..", "..#.."),
    " ": ("..", "..", "..", "..", ".."),
}


def letters(text: str, room: int) -> list[str]:
    """Five lines that say `text` in block letters of two columns per point; half as large where
    `room` columns are not enough, and plain where a letter is not known or that is too wide, too."""
    if not set(text) <= set(FONT):
        return ["", "", text[:room], "", ""]
    rows = [".".join(FONT[letter][row] for letter in text) for row in range(5)]
    if 2 * len(rows[0]) <= room:
        return [row.replace(".", "  ").replace("#", "██") for row in rows]
    if len(rows[0]) > room:
        return ["", "", text[:room], "", ""]
    rows.append("." * len(rows[0]))
    pairs = [zip(upper, lower) for upper, lower in zip(rows[::2], rows[1::2])]
    return ["", *("".join(HALVES[a + b] for a, b in pair) for pair in pairs), ""]


def binned(
    samples: Iterable[tuple[float, float]], now: float, span: float, bins: int, join: Join = fmean
) -> list[float]:
    """(time, value) -> the last `span` s in `bins` intervals, each the `join` of its values, NaN
    where there is none. The intervals stand still while time goes on: a curve moves, and keeps its
    form."""
    width = span / bins
    newest = math.floor(now / width)
    found: list[list[float]] = [[] for _ in range(bins)]
    for at, value in samples:
        place = bins - 1 - newest + math.floor(at / width)
        if 0 <= place < bins and abs(value) < ABSURD:  # NaN neither
            found[place].append(value)
    return [join(values) if values else math.nan for values in found]


def bar(value: float, low: float, high: float) -> str:
    """One column of a curve between two values."""
    if math.isnan(value):
        return GAP
    share = (value - low) / (high - low) if high > low else 0.5
    return BARS[min(max(int(share * len(BARS)), 0), len(BARS) - 1)]


def on_axis(beta: float) -> bool:
    """Whether a logarithmic scale has a place for it; what comes from the wire may be anything."""
    return LEAST <= beta <= MOST


class BetaAxis:
    """Columns from a policy's floor, on a logarithmic scale, and one place for infinity at the end.

    Shows at least ten times the largest suggestion, and every finite beta that is given. All of them
    have to be `on_axis`.
    """

    END = "inf"
    BETWEEN = 2  # columns from the scale to infinity

    def __init__(
        self, floor: float, suggested: Sequence[float], betas: Sequence[float], columns: int
    ) -> None:
        self.suggested = list(suggested)
        self.columns = max(columns, 16)
        self._count = self.columns - len(self.END) - self.BETWEEN
        finite = [b for b in (*betas, *suggested) if math.isfinite(b)]
        self._low = math.log(floor)
        self._high = max(math.log(10 * max((floor, *suggested))), *map(math.log, finite or [floor]))

    def column(self, beta: float) -> int:
        """Where a beta stands; infinity in the middle of its sign."""
        if beta == math.inf:
            return self.columns - 2
        share = (math.log(beta) - self._low) / (self._high - self._low)
        return min(max(round(share * (self._count - 1)), 0), self._count - 1)

    def zones(self) -> list[Zone | None]:
        """By column; None between the scale and infinity."""
        step = (self._high - self._low) / (self._count - 1)
        # A suggestion's own column belongs to the zone that begins there.
        scale = [math.exp(self._low + (i + 0.5) * step) for i in range(self._count)]
        end: list[Zone | None] = [zone(math.inf, self.suggested)] * len(self.END)
        return [*(zone(b, self.suggested) for b in scale), *[None] * self.BETWEEN, *end]

    def labels(self, betas: Sequence[float]) -> str:
        """One line with numbers under their columns, the first ones first where room is short."""
        line = [" "] * (self.columns - len(self.END)) + list(self.END)
        for beta in betas:
            text = f"{beta:.3g}"
            begin = max(0, self.column(beta) - (len(text) - 1) // 2)
            free = line[max(0, begin - 1) : begin + len(text) + 1]
            if math.isfinite(beta) and set(free) == {" "}:
                line[begin : begin + len(text)] = text
        return "".join(line)
