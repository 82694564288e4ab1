"""Output for people and for scripts: progress and tables on stderr, one JSON document on stdout."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from qgf_ros.errors import printable

console = Console(  # no markup: names in recordings are somebody else's text
    stderr=True, highlight=False, markup=False, width=None if sys.stderr.isatty() else 110
)
PLAIN_EVERY = 10  # lines per task without a terminal, at least
SILENT = 30.0  # s, the longest without a line


def track(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """Passes items on under a progress bar; as a few plain lines where there is no terminal."""
    if not console.is_terminal:
        began = said = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if done == total or done % max(1, total // PLAIN_EVERY) == 0 or now - said > SILENT:
                rate, said = done / max(now - began, 1e-9), now
                left = f", {(total - done) / rate:.0f} s left" if done < total else ""
                console.print(f"{what}: {done}/{total}, {rate:.3g} a second{left}")
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, note="")
        for item in items:
            yield item
            progress.advance(task)


def say(text: str) -> None:
    """One line for a person."""
    console.print(printable(text))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for a person; numbers are aligned right."""
    rows = [[printable(str(cell)) for cell in row] for row in rows]
    out = Table(title=printable(title), title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        number = rows and all(row[i][:1] in "0123456789-+.n" for row in rows)
        out.add_column(printable(column), justify="right" if number else "left")
    for row in rows:
        out.add_row(*row)
    console.print(out)


def emit(document: Mapping[str, Any]) -> None:
    """Exactly one JSON document on stdout, for --json. Infinity is written as the string "inf"."""
    json.dump(plain(document), sys.stdout, indent=1, allow_nan=False)
    print(flush=True)


def some(names: Iterable[str], shown: int = 5) -> str:
    """The first few of many names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def plain(value: Any) -> Any:
    """For JSON: dataclasses as objects, NaN as null, infinity as the string "inf"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, float) and abs(value) == float("inf"):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return value.item() if hasattr(value, "item") else str(value)
