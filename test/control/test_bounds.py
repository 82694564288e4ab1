"""How far is too far: the box of recorded states, and what stands in for it where there is none."""

import dataclasses

import numpy as np
import pytest
from qgf_make import START, Rig, contract, policy_in_memory, settings, write_tiny

from qgf_ros.control.assembler import Assembler, Observation
from qgf_ros.control.checks import CHECKS
from qgf_ros.control.checks.base import Judgement, StateCheck
from qgf_ros.control.checks.bounds import LEAST_WIDTH, WARN_AT, WITHOUT_BOX, Bounds
from qgf_ros.control.notices import Notices
from qgf_ros.control.reasons import Problem
from qgf_ros.control.settings import resolve
from qgf_ros.control.supervisor import State
from qgf_ros.errors import PolicyRefused
from qgf_ros.policy.description import Support
from qgf_ros.policy.folder import load_policy

JOINTS = ("joints.position.a", "joints.position.b", "joints.velocity.a", "joints.velocity.b")
BOX = Support((-2.0, -2.0, -3.0, -3.0, 5.0), (2.0, 2.0, 3.0, 3.0, 5.0))  # the goal never varied
INSIDE = np.array([0.5, 0.5, 0.0, 0.0, 5.0])


def policy(states=BOX, **normalizer):
    own = contract()
    made = policy_in_memory(own, states=states)
    return dataclasses.replace(made, normalizer=dataclasses.replace(made.normalizer, **normalizer))


def judge(at=None, value=0.0, bound=1.0, states=BOX, **normalizer):
    vector = INSIDE.copy()
    if at is not None:
        vector[at] = value
    return Bounds(policy(states, **normalizer), bound).judge(vector)


def test_fault_014_inside_and_on_the_edges_scores_nothing():
    assert judge() == judge(0, 2.0) == judge(0, -2.0)
    assert judge().score == 0.0 and judge().warning is None and judge().problem is None


@pytest.mark.parametrize("value", [2.0 + 1.5 * 4, -2.0 - 1.5 * 4])
def test_fault_014_the_score_is_in_widths_of_the_numbers_own_range(value):
    got = judge(1, value)
    assert got.score == pytest.approx(1.5)
    assert got.problem.code_text == "STATE_OOD:joints.position.b" and got.warning is None
    assert (
        "recorded were -2 to 2, 1.5 widths outside" in got.problem.detail
        and f"{value:g}" in got.problem.detail
    )


def test_fault_014_inside_of_a_box_in_which_everything_varied_scores_nothing():
    """Not less than nothing either, however far inside."""
    got = judge(states=Support((-2.0,) * 5, (9.0,) * 5))
    assert got.score == 0.0 and got.warning is None and got.problem is None


def test_fault_014_what_never_varied_is_said_without_a_distance():
    detail = judge(4, 7.0).warning.detail
    assert "recorded was 5 alone" in detail and "widths" not in detail


def test_fault_014_a_little_outside_is_a_warning_and_beyond_the_bound_a_problem():
    width = 4.0
    assert judge(0, 2.0 + 0.99 * WARN_AT * width).warning is None
    near = judge(0, 2.0 + 0.5 * width)
    assert near.warning.code_text == "OOD:joints.position.a" and near.problem is None
    assert judge(0, 2.0 + 0.999 * width).problem is None
    assert judge(0, 2.0 + 1.001 * width).problem is not None
    assert judge(0, 2.0 + 0.3 * width, bound=0.2).problem is not None
    assert judge(0, 1e30, bound=np.inf).problem is None, "inf never stops"
    assert judge(0, 1e30, bound=np.inf).warning is not None, "and still says so"


def test_fault_014_what_never_varied_only_warns():
    got = judge(4, 5.2)
    assert got.score == 0.0 and got.problem is None and got.warning.code_text == "OOD:goal.point.x"
    assert "recorded was 5 alone" in got.warning.detail
    assert judge(4, 1e6).problem is None
    both = judge(4, 1e6).score, Bounds(policy(), 1.0).judge(np.array([9.0, 0, 0, 0, 1e6]))
    assert both[0] == 0.0 and both[1].problem.code_text == "STATE_OOD:joints.position.a"


def test_fault_014_what_hardly_varied_is_measured_by_three_standard_deviations():
    narrow = Support((-0.01,) * 5, (0.01,) * 5)
    got = Bounds(policy(narrow), 1.0).judge(np.array([0.01 + 0.9 * LEAST_WIDTH, 0, 0, 0, 0]))
    assert got.score == pytest.approx(0.9) and got.problem is None


def test_fault_014_the_box_is_of_normalised_numbers():
    scaled = judge(
        0,
        10.0 + 2.5 * 4,
        obs_mean=np.array([10.0, 0, 0, 0, 0]),
        obs_std=np.array([2.5, 1, 1, 1, 1]),
    )
    assert scaled.score == pytest.approx(0.5)
    assert "recorded were 5 to 15" in scaled.warning.detail, "for people in the robot's own units"


@pytest.mark.parametrize("name", ["planar_arm", "ur5e_cube"])
def test_fault_015_degrees_for_radians_are_caught_with_and_without_a_box(name):
    from qgf_ros.files.share import find_policy

    shipped = load_policy(find_policy(name))
    n = shipped.normalizer
    states = dataclasses.replace(shipped.description, states=None)
    at = [i for i, label in enumerate(shipped.contract.observation_names) if ".position." in label][
        :2
    ]
    for made in (shipped, dataclasses.replace(shipped, description=states)):
        vector = n.obs_mean.copy()
        assert Bounds(made, 1.0).judge(vector).problem is None
        vector[at] *= 57.3  # an ordinary pose, said in degrees
        got = Bounds(made, 1.0).judge(vector)
        assert got.problem.code_text.startswith("STATE_OOD:joints.position")


@pytest.mark.parametrize("huge", [1e30, -1e30, 3e38])
def test_fault_008_a_huge_number_is_caught_without_a_box(huge):
    got = judge(2, huge, states=None)
    assert got.problem.code_text == "STATE_OOD:joints.velocity.a" and np.isfinite(got.score)


def test_fault_014_without_a_box_fifteen_standard_deviations_are_the_end():
    edge = WITHOUT_BOX + 2 * WITHOUT_BOX
    assert edge == 15.0
    assert judge(0, edge, states=None).problem is None
    assert judge(0, edge + 0.01, states=None).problem is not None


# In the assembler and in the core.


def test_fault_014_the_assembler_refuses_warns_and_scores():
    notices = Notices()
    box = Assembler(contract(), (Bounds(policy(), 1.0),), notices)
    box.push("goal", START, START, np.array([5.0]))
    for k, (position, expected) in enumerate([(0.0, 0.0), (4.0, 0.5), (8.0, 1.5)]):
        box.push("joints", START + k, START + k, np.array([position, 0, 0, 0]))
        got = box.assemble(START + k)
        assert box.state_score == pytest.approx(expected)
        assert isinstance(got, Problem if expected > 1 else Observation)
    assert got.code_text == "STATE_OOD:joints.position.a"
    assert [n.code_text for n in notices.current(START)] == ["OOD:joints.position.a"]
    box.checks = (Bounds(policy(), 2.0),)
    assert isinstance(box.assemble(START + 9), Observation)


class Says(StateCheck):
    """A check that says one thing of every state, and what it was asked about."""

    def __init__(self, **said):
        self.said, self.asked = Judgement(**said), []

    def judge(self, vector):
        self.asked.append(vector.tolist())
        return self.said


def test_fault_014_checks_are_asked_in_their_order_until_one_refuses():
    low, high = Problem("STATE_OOD", "low", ""), Problem("STATE_OOD", "high", "")
    notices = Notices()
    odd, first, second = Says(warning=Problem("OOD", "odd", "")), Says(problem=low), Says(problem=high)
    box = Assembler(contract(), (Bounds(policy(), 1.0), odd, first, second), notices)
    box.push("goal", START, START, np.array([5.0]))
    box.push("joints", START, START, np.array([4.0, 0, 0, 0]))
    assert box.assemble(START) is low
    assert len(odd.asked) == len(first.asked) == 1 and not second.asked
    assert first.asked == [[4.0, 0.0, 0.0, 0.0, 5.0]]
    assert box.state_score == pytest.approx(0.5), "who says no score leaves that of the bounds"
    assert {n.subject for n in notices.current(START)} == {"joints.position.a", "odd"}


def test_fault_014_each_check_is_made_from_the_settings_and_the_policy():
    made = settings(policy()).checks
    kinds = [type(check) for check in made]
    assert kinds == [kind for kind in CHECKS if kind in kinds], "in the order of the table"
    assert Bounds in kinds, "applies without a setting"
    assert made[0].judge(np.array([12.0, 0, 0, 0, 5.0])).problem is not None
    free = resolve({"state_bound": np.inf}, policy()).checks
    assert free[0].judge(np.array([12.0, 0, 0, 0, 5.0])).problem is None


def test_the_score_is_unknown_without_a_state():
    box = Assembler(contract(), (Bounds(policy(), 1.0),))
    assert np.isnan(box.state_score)
    box.push("goal", START, START, np.array([5.0]))
    box.push("joints", START, START, np.zeros(4))
    box.assemble(START)
    assert box.state_score == 0.0
    box.assemble(START + 10**9)
    assert np.isnan(box.state_score)


def test_fault_014_a_far_state_holds_the_robot_in_the_same_tick_and_lets_it_go():
    rig = Rig(policy=policy())
    rig.state["goal"][:] = 5.0
    assert rig.step(7).state is State.RUN
    rig.state["joints"][0] = 12.0
    tick = rig.step()
    assert tick.state is State.HOLD and tick.reason.code_text == "STATE_OOD:joints.position.a"
    assert tick.candidate is None and not tick.output.admitted
    rig.state["joints"][0] = 1.0
    assert rig.step(12).state is State.RUN


# The trainer's box.


def test_a_policy_keeps_its_box_and_another_size_is_refused(tmp_path):
    write_tiny(tmp_path / "good", states=BOX)
    assert load_policy(tmp_path / "good").description.states == BOX
    write_tiny(tmp_path / "bad", states=Support((0.0,), (1.0,)))
    with pytest.raises(PolicyRefused, match="states has 1 numbers.*5"):
        load_policy(tmp_path / "bad")
