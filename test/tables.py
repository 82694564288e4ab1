"""Writes what documents say by heart of the code, where the code has changed: `make tables`.

README.md (Parameters), docs/safety.md (Reasons), docs/faults.md (the fault matrix), and the settings
that config/default.yaml lacks. Tests hold each of them to the code; this saves writing them by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from qgf_ros.control.reasons import REASONS
from qgf_ros.control.settings import TABLE
from qgf_ros.control.spec import Spec

ROOT = Path(__file__).resolve().parents[1]


def with_table(text: str, heading: str, rows: Iterable[Sequence[str]]) -> str:
    """The document with these rows in the first table below the heading; its head stays.

    Raises:
        ValueError: there is no such heading, or no table below it.
    """
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    body = re.compile(
        rf"(^#+ {re.escape(heading)}\n(?:(?!^#).*\n)*?\|.*\n\|[-| :]+\|\n)(?:\|.*\n)*", re.M
    )
    written, count = body.subn(lambda found: found[1] + "".join(lines), text, count=1)
    if count != 1:
        raise ValueError(f"no table below the heading {heading!r}")
    return written


def with_settings(text: str, table: Sequence[Spec] = TABLE) -> str:
    """config/default.yaml with a line for each setting that it lacks, before the one that follows."""
    lines = text.splitlines(keepends=True)
    for at, spec in enumerate(table):
        if any(_names(line, spec) for line in lines):
            continue
        later = [n for s in table[at + 1 :] for n, line in enumerate(lines) if _names(line, s)]
        shown = f"{spec.default}".lower() if spec.kind is bool else f"{spec.default}"
        value = f"# {spec.name}: ''" if spec.default is None else f"{spec.name}: {shown}"
        span = f"; {spec.range_text}" if spec.range_text else ""
        lines.insert(
            later[0] if later else len(lines),
            f"    {value.replace(': inf', ': .inf')} # {spec.description.rstrip('.')}{span}\n",
        )
    return "".join(lines)


def _names(line: str, spec: Spec) -> bool:
    return line.strip(" #").startswith(f"{spec.name}: ")


def main() -> None:
    reasons = [(f"`{c}`", r.leads_to, r.meaning, r.remedy) for c, r in REASONS.items()]
    for path, change in (
        ("README.md", lambda t: with_table(t, "Parameters", [s.readme_row for s in TABLE])),
        ("docs/safety.md", lambda t: with_table(t, "Reasons", reasons)),
        ("config/default.yaml", with_settings),
    ):
        file = ROOT / path
        before = file.read_text()
        if (after := change(before)) != before:
            file.write_text(after)
            print(f"{path}: written")
    coverage = [sys.executable, ROOT / "test/faults/coverage.py", "--write"]
    subprocess.run(coverage, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
