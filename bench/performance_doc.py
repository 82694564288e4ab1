"""Writes the figures of docs/performance.md: tables and plot from the files of `sampler.py`, tables from that of
`camera_formats.py`.

    python bench/performance_doc.py --table FILE --curves FILE

Between the document's marks `begin: FILE` and `end` stands what `FILE` gives; by default each block
keeps its file. A test holds them together.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from qgf_ros.console import say
from qgf_ros.errors import UsageError, exit_codes

ROOT = Path(__file__).resolve().parents[1]
DOC = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "images" / "sampler_curves.svg"
QUIET = 1.0  # load average below which figures are believed: one core was free
BLOCK = re.compile(r"<!-- begin: (\S+) -->\n(.*?)<!-- end -->\n", re.DOTALL)
MODES = {
    "guided": "guided, the actions alone",
    "unguided": "unguided, the actions alone",
    "node": "as the node asks: unguided row, diagnostics, guards of config/default.yaml",
    "guided_best": "the best of N guided",
    "unguided_best": "the best of N unguided",
}
Rows = dict[tuple[str, str, int, str], dict[str, Any]]  # by net, mode, N, backend


@dataclass(frozen=True)
class Document:
    """Writes tables and plot of docs/performance.md."""

    table: Path | None = None  # results; none: those that the document names
    curves: Path | None = None

    def run(self) -> None:
        text = DOC.read_text()
        for name in BLOCK.findall(text):
            old = ROOT / name[0]
            given = self.curves if "curves" in old.name else self.table
            new = given if given and "sampler" in old.name else old
            text = text.replace(f"begin: {name[0]} -->", f"begin: {_inside(new)} -->")
        DOC.write_text(BLOCK.sub(lambda m: block(m[1]), text))
        for path, _ in BLOCK.findall(text):
            if "curves" in path:
                plot(json.loads((ROOT / path).read_text()), PLOT)
        say(f"written: {DOC}, {PLOT}")


def _inside(path: Path) -> str:
    try:
        return path.resolve().relative_to(ROOT).as_posix()
    except ValueError:
        raise UsageError(f"{path} is not in {ROOT}; the document names files of it") from None


def block(path: str) -> str:
    """The marks, and between them what that results file gives."""
    document = json.loads((ROOT / path).read_text())
    if "camera-formats" in path:
        parts = format_tables(document)
    else:
        parts = curve_tables(document) if "curves" in path else tables(document)
    return f"<!-- begin: {path} -->\n" + "\n\n".join(parts) + "\n<!-- end -->\n"


def tables(document: dict[str, Any]) -> list[str]:
    rows: Rows = {
        (row["net"], row["mode"], row["candidates"], row["backend"]): row
        for row in document["rows"]
    }
    nets = list(dict.fromkeys(key[0] for key in rows))
    parts = [machine_line(document), held_to(rows)]
    for mode, title in MODES.items():
        cases = [key[:3] for key in rows if key[1] == mode and key[0] in nets]
        cases = list(dict.fromkeys(cases))
        if cases:
            heads = [f"{net}, N = {n}" for net, _, n in cases]
            parts.append(f"**{title[0].upper()}{title[1:]}**; p50 in ms (its multiple of native)")
            parts.append(_table(["", *heads], _by_backend(rows, cases, _multiple)))
    alone = [(net, "guided", 1) for net in nets if (net, "guided", 1) in {k[:3] for k in rows}]
    heads = [f"{net}, N = 1" for net in nets]
    parts.append("**p99 / p50**, guided")
    parts.append(_table(["", *heads], _by_backend(rows, alone, _spread)))
    return parts


def machine_line(document: dict[str, Any]) -> str:
    machine, versions = document["machine"], document["versions"]
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    known = ", ".join(f"{name} {number}" for name, number in versions.items())
    load = machine["load_average_before"]
    busy = "" if load < QUIET else " **The machine was busy: to be taken again.**"
    return (
        f"{document['date']}, {machine['cpu']}, {machine['cores']} cores, one used ({caches}); "
        f"{known}; load average before: {load}.{busy}"
    )


def held_to(rows: Rows) -> str:
    """What the sampler is held to, and what was measured; medians, and ratios of one run."""

    def p50(net: str, backend: str, mode: str = "guided", n: int = 1) -> float:
        return rows[net, mode, n, backend]["p50_ms"]

    def spread(net: str, backend: str) -> float:
        row = rows[net, "guided", 1, backend]
        return row["p99_ms"] / row["p50_ms"]

    def bare(net: str, mode: str, n: int) -> float:
        return p50(net, "native_f32", mode, n) / p50(net, "native_f32")

    wanted: list[tuple[str, Callable[[], float], float, bool]] = [
        *(
            (f"JAX / native, {net}", lambda net=net: p50(net, "jax") / p50(net, "native_f32"), x, True)
            for net, x in (("3x256", 2.0), ("4x512", 1.25), ("4x1024", 1.0))
        ),
        ("eager / native, 3x256", lambda: p50("3x256", "eager") / p50("3x256", "native_f32"), 15.0, True),
        ("native / floor, 4x512", lambda: p50("4x512", "native_f32") / p50("4x512", "floor"), 1.6, False),
        ("float32 / float16, 4x512", lambda: p50("4x512", "native_f32") / p50("4x512", "native_f16"), 1.4, True),
    ]  # fmt: skip
    for net in dict.fromkeys(key[0] for key in rows):
        wanted += [
            (f"p99/p50 native over floor's, {net}",
             lambda net=net: spread(net, "native_f32") / spread(net, "floor"), 1.2, False),
            (f"as the node asks / bare, {net}", lambda net=net: bare(net, "node", 1), 1.5, False),
            (f"guided best of 4 / bare, {net}", lambda net=net: bare(net, "guided_best", 4), 3.0, False),
            (f"unguided best of 16, native / JAX, {net}",
             lambda net=net: p50(net, "native_f32", "unguided_best", 16)
             / p50(net, "jax", "unguided_best", 16), 1.0, False),
        ]  # fmt: skip
    lines = []
    for name, measure, limit, at_least in wanted:
        try:
            x = measure()
        except KeyError:  # a net or backend that was not run
            continue
        met = x >= limit if at_least else x <= limit
        bound = f"at {'least' if at_least else 'most'} {limit:g}"
        lines.append([name, bound, f"{x:.2f}", "met" if met else "missed"])
    return _table(["N = 1, guided, one thread", "wanted", "measured", ""], lines)


def curve_tables(document: dict[str, Any]) -> list[str]:
    parts = [machine_line(document), "![cost over T, N, E, width and D](images/sampler_curves.svg)"]
    for title, points in curves(document["rows"]).items():
        backends = list(dict.fromkeys(name for _, case in points for name in case))
        lines = [
            [name, *(f"{case[name]['p50_ms']:.3g}" if name in case else "" for _, case in points)]
            for name in backends
        ]
        parts.append(_table([title, *(str(x) for x, _ in points)], lines))
    return parts


def format_tables(document: dict[str, Any]) -> list[str]:
    """What `camera_formats.py` found: a table per recording, and one of LeRobot's own reader."""
    parts = []
    for name, found in document["recordings"].items():
        counts = f"{found['episodes']} episodes, {found['ticks']} ticks"
        heads = [f"{name}, {counts}", "MB", "bytes, mean / p99 / max"]
        heads += [f"{kind}, mean / p99" for kind in ("features", "action", "Q")]
        lines = []
        for form, figures in found["formats"].items():
            cells = [f"{figures['megabytes']:g}" if "megabytes" in figures else ""]
            for kind in ("bytes", "features", "action", "q"):
                said = figures.get(kind)
                keys = ("mean", "p99", "max") if kind == "bytes" else ("mean", "p99")
                cells.append(" / ".join(_figure(said[key]) for key in keys) if said else "")
            lines.append([form, *cells])
        parts.append(_table(heads, lines))
        parts.append(_shares(found["formats"]))
    readers: dict[tuple[str, ...], list[str]] = {}  # by what they found
    for found in document["lerobot"]:
        largest = found["largest_difference"]
        row = (
            f"{found['recording']}, {found['dataset']}", f"{found['frames']}", f"{found['refused'] or ''}",
            f"{largest['byte']:g}", f"{max(largest['state'], largest['action']):g}",
        )  # fmt: skip
        readers.setdefault(row, []).append(f"{found['lerobot']} with {found['decoder']}")
    lines = [[row[0], ", ".join(names), *row[1:]] for row, names in readers.items()]
    heads = ["dataset", "LeRobot", "frames compared", "it refuses", "a byte, at most", "a number, at most"]
    parts.append(_table(heads, lines))
    return parts


def _shares(formats: dict[str, Any]) -> str:
    """What compression moves on average, as a share of what the image before does."""
    late = formats["raw, one image late"]
    lossy = [f for f in formats.values() if f is not late and f.get("bytes", {}).get("mean")]
    said = []
    for kind in ("features", "action", "q"):
        shares = sorted(100 * f[kind]["mean"] / late[kind]["mean"] for f in lossy)
        said.append(f"{kind.replace('q', 'Q')} {shares[0]:.0f} to {shares[-1]:.0f} %")
    return f"JPEG and mp4, of what an image late moves: {', '.join(said)}."


def _figure(value: float) -> str:
    """Two digits, all of a whole byte; what is below 1e-5 is float32's rounding."""
    if 0 < value < 1e-5:
        return "< 1e-5"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


AXES = {
    "T": lambda row: row["steps"],
    "N": lambda row: row["candidates"],
    "E": lambda row: row["critics"],
    "width": lambda row: int(row["net"].partition("x")[2]),
    "D": lambda row: row["action"],
}
Point = tuple[int, dict[str, dict[str, Any]]]  # where, and the row of each backend


def curves(rows: list[dict[str, Any]]) -> dict[str, list[Point]]:
    """By axis: the rows that differ from the base, which is the first row's case, there alone."""
    base = {axis: at(rows[0]) for axis, at in AXES.items()}
    result: dict[str, list[Point]] = {}
    for axis, at in AXES.items():
        points: dict[int, dict[str, dict[str, Any]]] = {}
        for row in rows:
            if all(other == axis or AXES[other](row) == base[other] for other in AXES):
                points.setdefault(at(row), {})[row["backend"]] = row
        result[axis] = sorted(points.items())
    return result


def plot(document: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "qgf", "font.size": 8})  # the same file again
    import matplotlib.pyplot as plt

    axes_points = curves(document["rows"])
    figure, axes = plt.subplots(1, len(axes_points), figsize=(13, 3), sharey=True)
    for ax, (title, points) in zip(axes, axes_points.items()):
        for name in dict.fromkeys(name for _, case in points for name in case):
            line = [(x, case[name]["p50_ms"]) for x, case in points if name in case]
            style = "--" if name.startswith("floor") else "-"
            ax.plot(*zip(*line), style, marker=".", label=name)
        ax.set(xscale="log", yscale="log", xlabel=title)
        ax.set_xticks([x for x, _ in points], [str(x) for x, _ in points])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("p50, ms")
    figure.tight_layout(rect=(0, 0, 0.92, 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="center right", fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def _by_backend(rows: Rows, cases: list[Any], cell: Callable[..., str]) -> list[list[str]]:
    names = list(dict.fromkeys(key[3] for key in rows if key[:3] in cases))
    return [[name, *(cell(rows, case, name) for case in cases)] for name in names]


def _multiple(rows: Rows, case: tuple[str, str, int], name: str) -> str:
    row, native = rows.get((*case, name)), rows.get((*case, "native_f32"))
    if row is None:
        return ""
    shown = f"{row['p50_ms']:.3g}"
    if native is None:
        return shown
    times = row["p50_ms"] / native["p50_ms"]
    return f"{shown} ({times:.{0 if times >= 10 else 1 if times >= 2 else 2}f})"


def _spread(rows: Rows, case: tuple[str, str, int], name: str) -> str:
    row = rows.get((*case, name))
    return "" if row is None else f"{row['p99_ms'] / row['p50_ms']:.2f}"


def _table(heads: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Document, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
