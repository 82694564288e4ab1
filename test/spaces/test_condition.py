"""Field tests are parsed by a grammar and nothing else."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qgf_make import SCALE

from qgf_ros.spaces.condition import Comparison, Condition

NAMES = {"/gripper/force": 0, "wrench.force.z": 2, "position.finger-1": 1}


@pytest.mark.parametrize(
    "text,comparisons,seconds",
    [
        ("/gripper/force > 3 N for 0.5 s", [(0, ">", 3.0, "N")], 0.5),
        ("/gripper/force>3 N for .5 s", [(0, ">", 3.0, "N")], 0.5),
        ("wrench.force.z <= -1.5e-3", [(2, "<=", -1.5e-3, "")], 0.0),
        ("  wrench.force.z   >=   +2.  ", [(2, ">=", 2.0, "")], 0.0),
        (
            "wrench.force.z < 5 N and position.finger-1 > 0.01 m and wrench.force.z > 1 for 2 s",
            [(2, "<", 5.0, "N"), (1, ">", 0.01, "m"), (2, ">", 1.0, "")],
            2.0,
        ),
        ("/gripper/force > 3 N*m/s² for 1 s", [(0, ">", 3.0, "N*m/s²")], 1.0),
    ],
)
def test_what_is_allowed(text, comparisons, seconds):
    expected = Condition(tuple(Comparison(*c) for c in comparisons), seconds)
    assert Condition.parse(text, NAMES) == expected


@pytest.mark.parametrize(
    "text,part",
    [
        ("", "ends where a name is expected"),
        ("force > 3", "'force' is not known; allowed: /gripper/force, wrench.force.z"),
        ("/gripper/force", "ends where <, <=, > or >= is expected"),
        ("/gripper/force == 3", "'==' is none of"),
        ("/gripper/force => 3", "'=' is none of"),
        ("/gripper/force > ", "ends where a number"),
        ("/gripper/force > three", "'three' is no finite number"),
        ("/gripper/force > nan", "no finite number"),
        ("/gripper/force > 1e999", "no finite number"),
        ("/gripper/force > 0x10", "'0x10' is no finite number"),
        ("/gripper/force > 3N", "a space comes before its unit"),
        ("/gripper/force > 3 4", "'4' is no unit"),
        ("/gripper/force > 3 N for .5s", "a space comes before its unit"),
        ("/gripper/force > ٣", "no finite number"),
        ("/gripper/force > 3 N or 1", "'or' stands where it cannot"),
        ("/gripper/force > 3 N and", "ends where a name"),
        ("/gripper/force > 3 N for", "ends where a duration"),
        ("/gripper/force > 3 N for 0.5", "ends where s is expected"),
        ("/gripper/force > 3 N for 500 ms", "in s"),
        ("/gripper/force > 3 N for -1 s", "0 to 3600 s"),
        ("/gripper/force > 3 N for 9999 s", "0 to 3600 s"),
        ("/gripper/force > 3 N for 1 s and wrench.force.z > 1", "'and' stands where it cannot"),
        ("__import__('os').system('true') > 3", "is not known"),
        ("/gripper/force > __import__('os')", "no finite number"),
        ("3 < /gripper/force", "'3' is not known"),
        ("/gripper/force > 3" + " " * 500, "at most 500"),
    ],
)
def test_what_is_refused(text, part):
    with pytest.raises(ValueError) as caught:
        Condition.parse(text, NAMES)
    assert part in str(caught.value), caught.value


WORDS = st.sampled_from([*NAMES, "<", ">=", "3", "0.5", "-1e2", "N", "and", "for", "s", "=", "(", ""])  # fmt: skip


@settings(max_examples=300 * SCALE, deadline=None)
@given(text=st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=14).map(" ".join)))
@example("/gripper/force > 3 for for 1 s")
def test_any_text_is_a_condition_or_a_value_error(text):
    try:
        condition = Condition.parse(text, NAMES)
    except ValueError:
        return
    assert condition.comparisons and 0 <= condition.seconds <= 3600
    condition.holds(np.zeros((2, 3)))


def test_all_comparisons_must_hold_and_nan_never_does():
    condition = Condition.parse("wrench.force.z > 1 and /gripper/force <= 2", NAMES)
    values = np.array([[2, 0, 1.5], [2.1, 0, 1.5], [2, 0, 1], [np.nan, 0, 1.5], [2, 0, np.nan]])
    assert condition.holds(values).tolist() == [True, False, False, False, False]
