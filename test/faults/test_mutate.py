"""The mutation tool itself: a missing branch that a test pins is noticed, another is not; the
working tree stays as it is, and tests of another copy are not believed."""

import functools
import hashlib
import importlib.util
import sys
from pathlib import Path

import pytest

from qgf_ros.errors import UsageError

spec = importlib.util.spec_from_file_location("mutate", Path(__file__).with_name("mutate.py"))
mutate = sys.modules["mutate"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutate)

GATE = "qgf_ros/control/gate.py"
TESTS = """
import numpy as np
from qgf_ros.spaces.contract import Contract
from qgf_ros.control.gate import Candidate, Gate
from qgf_ros.sim.world import world_folder

own = Contract.load(world_folder("planar_arm") / "contract.yaml")

def refused(deadline, value):
    return Gate(own).step(5, Candidate("a", 1, 0, 5, 5, deadline, own.action_names, np.array([0, value]))).refused

def test_fault_late():
    assert refused(4, 0.0).code == "DEADLINE"

def test_fault_nonfinite():
    assert str(refused(5, np.nan)) == "NONFINITE: NaN or Inf"
"""


@functools.cache
def of_the_gate():
    return mutate.mutants(GATE, (mutate.ROOT / GATE).read_text())


def found(*words):
    """The only mutant of the gate that is described by all the words."""
    (one,) = [m for m in of_the_gate() if all(w in m.what for w in words)]
    return one


def digest():
    return hashlib.sha256((mutate.ROOT / GATE).read_bytes()).hexdigest()


def test_a_branch_that_a_test_pins_is_killed_and_another_survives(tmp_path):
    tests = tmp_path / "test_few.py"
    tests.write_text(TESTS)
    before = digest()
    todo = [
        found("never", "c.deadline < now"),
        found("not raised", "Refused('NONFINITE'"),
        found("never", "c.epoch"),
    ]
    alive = mutate.run(todo, (tests,), "fault")
    assert alive == [False, False, True]
    assert digest() == before


def test_what_is_taken_out_is_what_is_said():
    source = """
def f(x: int | None, low) -> int | None:
    if x is None or x < low:
        raise ValueError
    x = np.clip(x, low, 9) if np.isfinite(x).all() else low
    return (x < 3) | (x > 5)
"""
    made = mutate.mutants("f.py", source)
    assert [m.what.split(":")[0] for m in made] == [
        "never", "without part 1", "without part 2", "not raised", "never", "all finite", "unbounded",
        "without part 1", "without part 2",
    ]  # fmt: skip
    assert len({m.source for m in made}) == len(made), "each is another"
    assert "if False:" in made[0].source and "if x < low:" in made[1].source
    assert "pass" in made[3].source and "x = x if" in made[6].source
    assert "return x > 5" in made[7].source
    for m in made:
        compile(m.source, m.file, "exec")
        assert "def f(x: int | None, low) -> int | None:" in m.source


def test_tests_that_fail_without_a_mutant_prove_nothing(tmp_path):
    wrong = tmp_path / "test_wrong.py"
    wrong.write_text("import qgf_ros.control.gate\ndef test_fault(): assert False\n")
    with pytest.raises(UsageError, match="gate.py as it is"):
        mutate.run([found("never", "c.deadline < now")], (wrong,), "fault")


def test_tests_that_do_not_import_the_mutant_prove_nothing(tmp_path):
    wrong = tmp_path / "test_wrong.py"
    wrong.write_text("def test_fault(): pass\n")
    with pytest.raises(UsageError, match="do not import .*gate.py"):
        mutate.run([found("never", "c.deadline < now")], (wrong,), "fault")


def test_what_is_called_equivalent_is_a_mutant():
    """Else the entry would excuse nothing, or another branch than was looked at."""
    files = {file for file, _, _ in mutate.EQUIVALENT}
    keys = [m.key for f in files for m in mutate.mutants(f, (mutate.ROOT / f).read_text())]
    assert all(keys.count(key) == 1 for key in mutate.EQUIVALENT)
    assert files <= set(mutate.FILES)
