"""Every code that the package can say is explained in one table."""

import ast
from pathlib import Path

import pytest

import qgf_ros
from qgf_ros.control.reasons import REASONS, base_code

PACKAGE = Path(qgf_ros.__file__).parent
RAISES = {"Problem": 0, "Refused": 0, "reject": 1, "_said": 0}  # function -> where its code stands


def literal(node):
    """The fixed beginning of a string, "" where it is not written there."""
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def raised():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in RAISES and len(node.args) > RAISES[name]:
                code = literal(node.args[RAISES[name]])
                if code:
                    yield path.name, code


def test_every_code_that_is_raised_has_a_row():
    found = list(raised())
    assert len(found) > 20, "the scan finds them"
    for where, code in found:
        known = base_code(code) in REASONS
        # f"STATE_{...}:topic" and f"ERROR_{number}": the rest is chosen at run time.
        assert known or (code.endswith("_") and any(k.startswith(code) for k in REASONS)), (
            where,
            code,
        )


@pytest.mark.parametrize("code", REASONS)
def test_a_row_is_fit_for_a_table(code):
    row = REASONS[code]
    assert code.isupper() and row.leads_to in ("warning", "HOLD", "FAULT")
    assert row.meaning.endswith(".") and row.remedy.endswith(".")
    assert "|" not in row.meaning + row.remedy


def test_codes_with_what_they_are_about_lead_to_their_row():
    assert base_code("STATE_STALE:joint_states") == "STATE_STALE"
    assert base_code("ERROR_4") == "ERROR" and base_code("ESTOP") == "ESTOP"
