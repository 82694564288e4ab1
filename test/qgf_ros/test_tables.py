"""test/tables.py changes nothing where all is as the code, and writes what is new."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from qgf_ros.control.settings import TABLE
from qgf_ros.control.spec import Spec

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("tables", ROOT / "test" / "tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)


def test_what_is_as_the_code_stays():
    readme, defaults = ((ROOT / n).read_text() for n in ("README.md", "config/default.yaml"))
    assert tables.with_table(readme, "Parameters", [s.readme_row for s in TABLE]) == readme
    assert tables.with_settings(defaults) == defaults


def test_a_new_setting_gets_its_line_where_it_belongs():
    own = Spec("least_charge", float, 0.2, "HOLD below it.", "", 0.0, 1.0)
    at = next(i for i, s in enumerate(TABLE) if s.name == "hold_if_frozen")
    before = (ROOT / "config/default.yaml").read_text()
    written = tables.with_settings(before, [*TABLE[:at], own, *TABLE[at:]])
    assert yaml.safe_load(written)["/**"]["ros__parameters"]["least_charge"] == 0.2
    lines = [line.split(":")[0].strip() for line in written.splitlines()]
    assert lines.index("least_charge") + 1 == lines.index("hold_if_frozen")
    assert "0 to 1" in written.splitlines()[lines.index("least_charge")]


def test_a_row_is_written_into_its_table_and_no_other():
    text = "## A\n\nwords\n\n| x |\n|---|\n| 1 |\n\n## B\n\n| y |\n|---|\n| 2 |\n| 3 |\n"
    assert tables.with_table(text, "B", [["4"]]) == text.replace("| 2 |\n| 3 |\n", "| 4 |\n")
    with pytest.raises(ValueError, match="no table"):
        tables.with_table(text, "C", [])
