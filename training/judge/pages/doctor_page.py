"""What is in a dataset on one page, drawn from the document of `qgf data inspect` alone.

The page is one file: no script, no network. Its figures are SVG whose lines take the page's
colour, so that they can be read on paper, on white and on black.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from training.judge.pages.page import render

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8f98"
INK = "#010203"  # replaced by the page's own colour
MOST = 60  # rows of a figure; what comes after stands in the document
META = ("Creator", "Date", "Format", "Type")  # not written
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "qgf",  # the same document, the same page
    "text.parse_math": False,  # a topic may be called anything
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "xtick.color": INK,
    "ytick.color": INK,
}


def write_page(path: Path, document: Mapping[str, Any]) -> None:
    """One self-contained HTML file."""
    path.write_text(render("doctor_page.html.j2", d=document, figures=figures(document)))


def figures(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """{title, about, svg} of every figure that there is something to draw for."""
    told = [s for s in document["signals"] if s["role"] in ("state", "command") and s["numbers"]]
    drawn = [
        _figure(
            "Recordings",
            "Length of each; a mark is a gap, as long as it is tall.",
            3.2,
            lambda axis: _recordings(axis, document),
        )
    ]
    timed = [s for s in told if s["interval_ms"]][:MOST]
    if timed:
        drawn.append(
            _figure(
                "Intervals between messages",
                "Median and 99 % quantile; the cross is the longest gap.",
                1.2 + 0.28 * len(timed),
                lambda axis: _intervals(axis, timed),
            )
        )
    leads = [c for c in document["commands"] if c["lead_ms"] is not None][:MOST]
    if leads:
        drawn.append(
            _figure(
                "Command lead",
                "How long before the state its command came: median over recordings, and quartiles.",
                1.2 + 0.26 * len(leads),
                lambda axis: _leads(axis, leads),
            )
        )
    for signal in told[:MOST]:
        rows = signal["numbers"][:MOST]
        drawn.append(
            _figure(
                f"Ranges of {signal['topic']}",
                "Bar: middle half; line: 98 %; marks: smallest and largest."
                + (
                    f" The first {MOST} of {len(signal['numbers'])}."
                    if rows != signal["numbers"]
                    else ""
                ),
                1.2 + 0.26 * len(rows),
                partial(_ranges, rows=rows, unit=signal["units"]),
            )
        )
    return drawn


def _figure(
    title: str, about: str, height: float, draw: Callable[[plt.Axes], None]
) -> dict[str, str]:
    with matplotlib.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9, height))
        draw(axis)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color=GREY, alpha=0.25, lw=0.8)
        axis.set_axisbelow(True)
        figure.tight_layout()
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(META))
        plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # Several drawings on one page: each needs names of its own for what it refers to.
    prefix = hashlib.sha256(title.encode()).hexdigest()[:8]
    for reference in ('id="', "url(#", 'href="#'):
        svg = svg.replace(reference, f"{reference}{prefix}-")
    return {"title": title, "about": about, "svg": svg}


def _recordings(axis: plt.Axes, document: Mapping[str, Any]) -> None:
    lengths = document["lengths"]
    where = {r["name"]: k for k, r in enumerate(lengths)}
    seconds = [r["seconds"] for r in lengths]
    width = max(0.8, min(8.0, 560 / max(1, len(lengths))))
    axis.vlines(range(len(lengths)), 0, seconds, color=BLUE, lw=width)
    for signal in document["signals"]:
        for gap in signal["largest_gaps"]:
            at = where[gap["recording"]]
            axis.vlines(at, gap["at"], gap["at"] + gap["seconds"], color=ORANGE, lw=width + 1)
    axis.set(xlabel="recording", ylabel="s", ylim=(0, None), xlim=(-1, len(lengths)))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _intervals(axis: plt.Axes, signals: list[Mapping[str, Any]]) -> None:
    for row, signal in enumerate(signals):
        middle, late = signal["interval_ms"]["median"], signal["interval_ms"]["p99"]
        axis.plot([middle, late], [row, row], color=BLUE, lw=2)
        axis.plot(middle, row, "o", color=BLUE)
        axis.plot(late, row, "|", color=BLUE, ms=10)
        if signal["largest_gaps"]:
            axis.plot(signal["largest_gaps"][0]["seconds"] * 1e3, row, "x", color=ORANGE)
    axis.set(xscale="log", xlabel="ms")
    axis.set_xlim(axis.get_xlim()[0] / 2, axis.get_xlim()[1] * 2)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    _names(axis, [s["topic"] for s in signals])


def _leads(axis: plt.Axes, commands: list[Mapping[str, Any]]) -> None:
    for row, c in enumerate(commands):
        clear = c["correlation"] is not None and c["correlation"] >= 0.5
        axis.barh(row, c["lead_ms"], height=0.6, color=BLUE if clear else GREY)
        low, high = c["lead_ms_quartiles"]
        if low is not None:
            axis.plot([low, high], [row, row], color=INK, lw=1.4)
    axis.axvline(0, color=INK, lw=0.8)
    axis.set_xlabel("ms; positive: the command comes first")
    _names(axis, [c["name"] for c in commands])


def _ranges(axis: plt.Axes, rows: list[Mapping[str, Any]], unit: str) -> None:
    for row, n in enumerate(rows):
        low, quarter, middle, three, high = (
            np.nan if q is None else q for q in n["quantiles"].values()
        )
        axis.plot([low, high], [row, row], color=BLUE, lw=1.5)
        axis.barh(row, three - quarter, left=quarter, height=0.5, color=BLUE)
        axis.plot(middle, row, "|", color=INK, ms=9)
        ends = [np.nan if n[k] is None else n[k] for k in ("min", "max")]
        axis.plot(ends, [row, row], ".", color=ORANGE, ms=5)
    axis.set_xlabel(unit or "as recorded")
    _names(axis, [n["name"] for n in rows])


def _names(axis: plt.Axes, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
