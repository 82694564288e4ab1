"""Every code that the package can say is explained in one table, and what goes on the wire comes back."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from qgf_make import START

import qgf_ros
from qgf_ros.control.gate import Refused
from qgf_ros.control.reasons import REASONS, Code, Problem
from qgf_ros.control.supervisor import HEALTHY_TICKS, State, Supervisor

PACKAGE = Path(qgf_ros.__file__).parent
# Function -> where its code stands, a string or a choice of two.
RAISES = {"Problem": 0, "Refused": 0, "reject": 1, "_said": 0, "_guarded": 1}


def raised():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in RAISES and len(node.args) > RAISES[name]:
                for part in ast.walk(node.args[RAISES[name]]):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield path.name, part.value


def test_every_code_that_is_raised_has_a_row():
    found = list(raised())
    assert len(found) > 40, "the scan finds them"
    assert not [f for f in found if f[1] not in REASONS]


def test_the_type_has_the_tables_codes_in_its_order():
    assert get_args(Code) == tuple(REASONS)


@pytest.mark.parametrize("code", REASONS)
def test_a_row_is_fit_for_a_table(code):
    row = REASONS[code]
    assert code.isupper() and row.leads_to in ("warning", "HOLD", "FAULT")
    assert row.meaning.endswith(".") and row.remedy.endswith(".")
    assert "|" not in row.meaning + row.remedy


def running():
    supervisor = Supervisor(True)
    supervisor.update(START, None)
    supervisor.update(START, None)
    assert supervisor.state is State.RUN
    return supervisor


def healthy(supervisor):
    for _ in range(HEALTHY_TICKS + 1):
        supervisor.update(START, None)
    return supervisor.state


@pytest.mark.parametrize("code", [c for c, r in REASONS.items() if r.leads_to == "HOLD"])
def test_enable_goes_on_from_a_hold_exactly_where_the_remedy_says_so(code):
    supervisor, row = running(), REASONS[code]
    supervisor.stand_down(Problem(code, "", "x"))
    refusal = supervisor.enable(True)
    assert (refusal == "") == row.by_a_person == ("~/enable with true" in row.remedy)
    assert (healthy(supervisor) is State.RUN) == row.by_a_person


@pytest.mark.parametrize("code", [c for c, r in REASONS.items() if r.leads_to == "FAULT"])
def test_reset_and_enable_go_on_from_a_fault_and_a_stop_says_so(code):
    supervisor, row = running(), REASONS[code]
    supervisor.fault(Problem(code, "", "x"))
    assert "~/reset" in supervisor.enable(True) and row.is_stop == ("~/reset" in row.remedy)
    supervisor.reset()
    assert healthy(supervisor) is State.READY
    assert supervisor.enable(True) == "" and healthy(supervisor) is State.RUN


def test_states_are_those_of_the_message():
    lines = (Path(__file__).parents[2] / "msg/Status.msg").read_text()
    told = {name: int(number) for name, number in re.findall(r"^uint8 (\w+)=(\d)", lines, re.M)}
    assert told == {state.name: state.value for state in State}
    assert [State.said(n) for n in (-1, 0, 7, 8)] == [
        None,
        State.UNCONFIGURED,
        State.SHUTDOWN,
        None,
    ]


@pytest.mark.parametrize("text, code, subject", [
    ("ESTOP", "ESTOP", ""), ("STATE_STALE:joint_states", "STATE_STALE", "joint_states"),
    ("STATE_MISSING:joint_states,/arm/goal", "STATE_MISSING", "joint_states,/arm/goal"),
    ("ERROR_4", "ERROR", "4"), ("OOD:joints.position.a", "OOD", "joints.position.a"),
])  # fmt: skip
def test_what_goes_on_the_wire_comes_back(text, code, subject):
    problem = Problem(code, subject, "it is: late")
    assert problem.code_text == text and str(problem) == f"{text}: it is: late"
    assert Problem.parse(text, "it is: late") == Problem.parse(str(problem)) == problem
    assert problem.row is REASONS[code]
    assert problem.subjects == [s for s in subject.split(",") if s]
    assert Refused(code, subject, "it is: late").problem == problem


@pytest.mark.parametrize(
    "text", ["", ":", "estop", "ESTOPPED", "STATE", "ERRORS", "a: b", "\x1b[2J"]
)
def test_what_this_version_does_not_know_is_no_problem_of_ours(text):
    assert Problem.parse(text, "x") is None
