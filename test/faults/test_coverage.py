"""The fault matrix is covered, and the tool that says so can tell."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MATRIX = HERE.parents[2] / "shared" / "faults.md"  # where the first rows came from


def load():
    spec = importlib.util.spec_from_file_location("fault_coverage", HERE / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


coverage = load()


def test_every_row_has_a_test_or_a_reason_and_every_p0_row_has_a_test():
    rows = coverage.covered()
    numbers = [r.number for r in rows]
    assert numbers == sorted(set(numbers)) and set(numbers) >= set(range(1, 119))
    assert {r.tier for r in rows} == {"P0", "P1"} and all(r.title and r.section for r in rows)
    assert all(r.must and r.how for r in rows if r.number < 119)
    assert not {r.number: r.problem for r in rows if r.problem}


@pytest.mark.skipif(not MATRIX.is_file(), reason="the matrix itself is not here")
def test_rows_and_tiers_are_those_of_the_matrix():
    text = MATRIX.read_text()
    numbers = [int(n) for n in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    first = re.search(r"^P0,[^:]*: ([0-9, -]+)\.", text, re.MULTILINE)[1]
    p0 = set()
    for part in first.split(","):
        begin, _, end = part.strip().partition("-")
        p0 |= set(range(int(begin), int(end or begin) + 1))
    rows = [r for r in coverage.covered() if r.number <= max(numbers)]  # more were found since
    assert sorted(numbers) == [r.number for r in rows]
    assert {r.number for r in rows if r.tier == "P0"} == p0


def test_the_document_says_what_the_rows_say():
    """Where this fails: python test/faults/coverage.py --write"""
    document = coverage.DOCUMENT.read_text()
    assert coverage.documented(document, coverage.read()) == document
    for row in coverage.read():
        assert f"| {row.number} | {row.tier} | {row.title} |" in document


def test_a_section_may_be_gone_on_with_and_a_row_that_differs_is_seen():
    text = (
        "# about\n\n# Data\n- {number: 2, tier: P0, title: two}\n# People\n"
        "- {number: 1, tier: P1, title: one, must: a | b, how: c}\n# Data\n- {number: 3, tier: P1, title: three}\n"
    )
    rows = coverage.read(text)
    assert [(r.number, r.section) for r in rows] == [(1, "People"), (2, "Data"), (3, "Data")]
    empty = "<!-- begin: test/faults/rows.yaml -->\n<!-- end -->\n"
    written = coverage.documented(empty, rows)
    assert "| 1 | P1 | one | a \\| b | c |\n" in written
    assert written.count("### Data") == 1 and written.index("| 2 |") < written.index("| 3 |")
    assert coverage.documented(written, rows) == written
    assert coverage.documented(written, rows[1:]) != written
    with pytest.raises(Exception, match="marks"):
        coverage.documented("no marks", rows)


@pytest.mark.parametrize(
    "name, rows",
    [
        ("test_fault_028_words", [28]),
        ("test_fault_002_004_words_2", [2, 4]),
        ("test_fault_010_to_013_words", [10, 11, 12, 13]),
        ("test_fault_001_to_003_007_words", [1, 2, 3, 7]),
        ("test_of_something_else", []),
    ],
)
def test_rows_are_read_from_the_name(name, rows):
    assert coverage.numbers(name) == rows


@pytest.mark.parametrize(
    "name", ["test_fault_words", "test_fault_28_words", "test_fault_013_to_010_x"]
)
def test_a_name_without_a_row_is_an_error(name):
    with pytest.raises(ValueError, match=name):
        coverage.numbers(name)


def test_what_does_not_run_does_not_count():
    source = """
import pytest
@pytest.mark.skip(reason="later")
def test_fault_001_a(): ...
@pytest.mark.xfail
def test_fault_002_a(): ...
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.xfail), 2])
def test_fault_003_a(x): ...
class TestOf:
    def test_fault_004_a(self): ...
def helper():
    def test_fault_005_a(): ...
"""
    assert list(coverage.test_names(source)) == ["test_fault_003_a", "test_fault_004_a"]


def test_a_row_that_is_silently_absent_fails(tmp_path):
    (tmp_path / "test_x.py").write_text(
        "def test_fault_001_a(): ...\ndef test_fault_013_a(): ...\n"
    )
    rows = {r.number: r for r in coverage.covered(tmp_path)}
    assert rows[1].tests == ("test_x.py::test_fault_001_a",) and not rows[1].problem
    assert rows[2].problem == "P0 without a test"
    assert rows[6].problem == "neither test nor reason"
    assert not coverage.Row(1, "P1", "a fault", reason="nobody can").problem
