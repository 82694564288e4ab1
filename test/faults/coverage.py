"""Every row of the fault matrix with the tests that carry its number, or the reason why none does.

    python test/faults/coverage.py [--json] [--write]

A test belongs to row 28 by its name: `test_fault_028_...`, several rows as `test_fault_002_004_...`
or `test_fault_010_to_013_...`. Skipped tests and expected failures do not count. Exit code 8 where
a row has neither test nor reason, or a P0 row has no test. --write writes the rows into
docs/faults.md, which a test holds to rows.yaml.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro
import yaml

from qgf_ros.console import emit, table
from qgf_ros.errors import CriterionNotMet, exit_codes

TESTS = Path(__file__).resolve().parents[1]
ROWS = TESTS / "faults" / "rows.yaml"
DOCUMENT = TESTS.parent / "docs" / "faults.md"
BLOCK = re.compile(r"(?<=<!-- begin: test/faults/rows.yaml -->\n).*(?=<!-- end -->)", re.DOTALL)
NUMBERS = re.compile(r"test_fault((?:_(?:\d{3}|to))+)_")
NOT_RUN = ("skip", "xfail")  # marks; skipif is run where it can be


@dataclass(frozen=True)
class Row:
    """A row of the matrix and what shows it."""

    number: int
    tier: str  # P0 or P1
    title: str
    must: str = ""  # what has to happen
    how: str = ""  # it is brought about
    reason: str = ""  # why there is no test
    section: str = ""
    tests: tuple[str, ...] = ()  # file::function

    @property
    def problem(self) -> str:
        """Why the row is not in order; "" if it is."""
        if self.tests:
            return ""
        if self.tier == "P0":
            return "P0 without a test"
        return "" if self.reason else "neither test nor reason"


@dataclass(frozen=True)
class Coverage:
    """Shows which tests cover the fault matrix."""

    json: bool = False
    write: bool = False  # docs/faults.md

    def run(self) -> None:
        rows = covered()
        if self.write:
            DOCUMENT.write_text(documented(DOCUMENT.read_text(), rows))
        lines = [(r.number, r.tier, r.title, _shown(r)) for r in rows]
        table("Fault matrix", ("row", "tier", "fault", "tests, or why none"), lines)
        if self.json:
            emit({"rows": [asdict(r) | {"problem": r.problem} for r in rows]})
        wrong = [f"{r.number} ({r.problem})" for r in rows if r.problem]
        if wrong:
            raise CriterionNotMet(
                f"{len(wrong)} of {len(rows)} rows are not in order: {', '.join(wrong)}; write "
                "the test, or for a P1 row the reason into test/faults/rows.yaml"
            )


def covered(folder: Path = TESTS) -> list[Row]:
    """The rows of rows.yaml with their tests below `folder`."""
    tests: dict[int, list[str]] = {}
    for file in sorted(folder.rglob("test_*.py")):
        for name in test_names(file.read_text()):
            for number in numbers(name):
                tests.setdefault(number, []).append(f"{file.relative_to(folder)}::{name}")
    rows = read()
    strangers = set(tests) - {r.number for r in rows}
    if strangers:
        raise CriterionNotMet(
            f"tests of rows that do not exist: {', '.join(t for n in strangers for t in tests[n])}"
        )
    return [replace(r, tests=tuple(tests.get(r.number, ()))) for r in rows]


def read(text: str | None = None) -> list[Row]:
    """The rows of rows.yaml, or of such a text, by number; each with its section."""
    text, section, rows = text or ROWS.read_text(), "", []
    for part in re.split(r"^(?=# )", text.partition("\n\n")[2], flags=re.MULTILINE):
        heading, _, body = part.partition("\n")
        section = heading.removeprefix("# ") if heading.startswith("# ") else section
        body = body if heading.startswith("# ") else part
        rows += [Row(section=section, **row) for row in yaml.safe_load(body) or ()]
    return sorted(rows, key=lambda row: row.number)


def documented(document: str, rows: list[Row]) -> str:
    """docs/faults.md with the table of these rows in it, section by section."""
    sections: dict[str, list[str]] = {}
    for row in rows:
        cells = (row.number, row.tier, row.title, row.must, row.how or row.reason)
        line = " | ".join(str(cell).replace("|", "\\|") for cell in cells)
        sections.setdefault(row.section, []).append(f"| {line} |\n")
    head = "| row | tier | fault | what must happen | how it is brought about |\n|---|---|---|---|---|\n"
    tables = [f"### {name}\n\n{head}{''.join(lines)}" for name, lines in sections.items()]
    written, blocks = BLOCK.subn(lambda _: "\n" + "\n".join(tables) + "\n", document)
    if blocks != 1:
        raise CriterionNotMet(
            f"{DOCUMENT}: the marks of the table are not there once; restore them"
        )
    return written


def test_names(source: str) -> Iterator[str]:
    """Functions of a file that pytest runs as tests and expects to pass."""
    module = ast.parse(source)
    bodies = [module.body, *(c.body for c in module.body if isinstance(c, ast.ClassDef))]
    for function in (f for body in bodies for f in body if isinstance(f, ast.FunctionDef)):
        marks = {n.attr for d in function.decorator_list for n in _mark(d)}
        if function.name.startswith("test_") and not marks & set(NOT_RUN):
            yield function.name


def _mark(decorator: ast.expr) -> list[ast.Attribute]:
    """`pytest.mark.NAME` of a decorator; marks of single parameters are within a call and not it."""
    outer = decorator.func if isinstance(decorator, ast.Call) else decorator
    return [outer] if isinstance(outer, ast.Attribute) else []


def numbers(name: str) -> list[int]:
    """The rows in a test's name, in order.

    Raises:
        ValueError: a test that says `test_fault` and no row, or a range that is none.
    """
    if not name.startswith("test_fault"):
        return []
    found = NUMBERS.match(name)
    if found is None:
        raise ValueError(f"{name}: test_fault_ is followed by the row in three digits")
    rows: list[int] = []
    parts = iter(found[1].strip("_").split("_"))
    for part in parts:
        if part != "to":
            rows.append(int(part))
            continue
        end = int(next(parts, "0"))
        if not rows or end <= rows[-1]:
            raise ValueError(f"{name}: a range goes up, as in 010_to_013")
        rows += range(rows[-1] + 1, end + 1)
    return rows


def _shown(row: Row) -> str:
    if row.problem:
        return f"! {row.problem}"
    more = f" and {len(row.tests) - 1} more" if len(row.tests) > 1 else ""
    return f"{row.tests[0]}{more}" if row.tests else f"no test: {row.reason}"


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Coverage, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
