"""docs/safety.md says what the code does: transitions, reasons, numbers, modes, tested rows."""

import ast
import importlib.util
import random
import re
import sys
from pathlib import Path

import pytest

from qgf_ros import errors
from qgf_ros.control.assembler import Problem
from qgf_ros.control.reasons import REASONS
from qgf_ros.control.supervisor import DISABLED, State, Supervisor
from qgf_ros.spaces.actions import KINDS

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "safety.md").read_text()


def fault_matrix() -> list:
    """The rows with their tests, by test/faults/coverage.py."""
    path = ROOT / "test" / "faults" / "coverage.py"
    spec = importlib.util.spec_from_file_location("fault_coverage", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.covered()


def section(heading: str) -> str:
    return DOC.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def drawn() -> dict[tuple[str, str], str]:
    """The diagram's edges and their labels."""
    edges = re.findall(r"^    (\S+) --> (\w+)(?:: (.*))?$", DOC, re.MULTILINE)
    return {(a, b): label for a, b, label in edges}


def driven(seed: int) -> set[tuple[str, str]]:
    """Every transition that a supervisor makes while anything is done to it, at random."""
    dice, seen = random.Random(seed), set()
    supervisor, now = Supervisor(), 0

    def activate():
        supervisor.reset()
        supervisor.enabled = True  # enable_on_start

    stale, skew, stop = (Problem(code, "") for code in ("STATE_STALE:a", "STATE_SKEW:a", "ESTOP"))
    deeds = {
        lambda: supervisor.update(now, None): 100,
        lambda: supervisor.update(now, dice.choice([stale, skew, DISABLED])): 6,
        lambda: supervisor.enable(True): 6,
        lambda: supervisor.enable(False): 1,
        lambda: supervisor.interrupt(Problem("CLOCK_JUMP", "")): 1,
        lambda: supervisor.fault(stop): 1,
        lambda: supervisor.takeover("/teleop"): 1,
        supervisor.reset: 1,
        activate: 1,
    }
    for deed in dice.choices(list(deeds), list(deeds.values()), k=30_000):
        now += dice.choice([20_000_000, 5_000_000_000])
        before = supervisor.state
        deed()
        seen.add((before.name, supervisor.state.name))
    return {(a, b) for a, b in seen if a != b}


def test_the_diagrams_transitions_are_the_supervisors():
    ours = {State.WAITING, State.READY, State.RUN, State.HOLD, State.FAULT}
    names = {state.name for state in ours}
    assert {edge for edge in drawn() if names.issuperset(edge)} == driven(0)


def test_the_diagrams_lifecycle_is_the_nodes():
    source = (ROOT / "qgf_ros/ros/node.py").read_text()
    leads_to: dict[str, list[str]] = {}
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):  # on_configure, and _configure that it calls
            name = function.name.removeprefix("on").removeprefix("_")
            states = re.findall(r"_change_state\(State\.(\w+)\)", ast.unparse(function))
            leads_to.setdefault(name, []).extend(states)
    assert drawn()["[*]", "UNCONFIGURED"] == ""
    assert drawn()["UNCONFIGURED", leads_to["configure"].pop()] == "configure"
    assert drawn()["INACTIVE", leads_to["activate"].pop()] == "activate"
    assert leads_to["deactivate"] == ["INACTIVE"] and leads_to["close"] == ["SHUTDOWN"]


def test_reasons_are_those_of_the_code():
    told = rows("Reasons")
    assert told == [[f"`{c}`", r.leads_to, r.meaning, r.remedy] for c, r in REASONS.items()]


@pytest.mark.parametrize("row", rows("Numbers"), ids=lambda row: row[2].strip("`"))
def test_numbers_are_those_of_the_code(row):
    module, _, name = row[2].strip("`").rpartition(".")
    value = getattr(importlib.import_module(f"qgf_ros.{module}"), name)
    assert row[1] == f"{value} s" if isinstance(value, float) else row[1] == f"{value}"


def test_limits_and_holds_are_those_of_the_kinds_of_actions():
    told = {
        name.strip("`"): (limits, hold.strip("`")) for name, _, limits, hold in rows("The gate")
    }
    for kind in KINDS:
        keys = ", ".join(f"`{key}`" for key in kind.limits if key)
        assert told.pop(kind.name) == (f"`min`, `max`; {keys}", kind.hold)
    assert not told


def test_exit_codes_are_those_of_the_code():
    codes = {c.code for c in vars(errors).values() if isinstance(c, type) and hasattr(c, "code")}
    named = {int(n) for n in re.findall(r"\b(\d) [a-z]", section("Exit codes").split("|")[-1])}
    assert {int(row[0]) for row in rows("Exit codes")} | named == codes | {0}


def test_every_row_is_promised_or_said_to_be_untested():
    """The rows that are about the running node; data and training have their own documents."""
    matrix = {r.number: r for r in fault_matrix() if r.section not in ("Training", "Data")}
    promised = {int(n) for row in rows("By fault") for n in re.findall(r"\d+", row[3])}
    untested = {int(row[0]): row[1] for row in rows("What is not tested here")}
    assert promised | set(untested) == set(matrix)
    assert not [n for n in promised - set(untested) if not matrix[n].tests]
    assert untested == {n: row.reason for n, row in matrix.items() if not row.tests}


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!https?:)[^)#]+)\)", DOC))
def test_links_lead_somewhere(link):
    assert (ROOT / "docs" / link).exists()
