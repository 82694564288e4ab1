"""State in: what counts as fresh, what is refused, and that nothing missing is ever filled in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_cameras import camera_dict
from qgf_make import SCALE, SECOND, START, contract, twist_dict, velocity_dict

from qgf_ros.control.assembler import Assembler, Observation
from qgf_ros.control.checks.clocks import FUTURE_TOLERANCE
from qgf_ros.control.notices import Notices
from qgf_ros.control.reasons import Problem
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract

MS = 1_000_000
JOINTS, GOAL = np.array([0.1, 0.2, 0.3, 0.4]), np.array([5.0])


@pytest.fixture
def box():
    return Assembler(contract())


def fill(box, now=START, joints=JOINTS, goal=GOAL):
    box.push("joints", now, now, joints)
    box.push("goal", now, now, goal)


def test_observation_is_the_sources_in_the_order_of_the_contract(box):
    box.push("goal", START - 3 * MS, START - 2 * MS, GOAL)
    box.push("joints", START - 5 * MS, START, JOINTS)
    got = box.assemble(START)
    assert isinstance(got, Observation)
    assert got.vector.tolist() == [0.1, 0.2, 0.3, 0.4, 5.0] and got.vector.dtype == np.float64
    assert got.stamp == START - 3 * MS, "newest stamp"
    assert got.age == pytest.approx(0.005), "oldest age"


def test_fault_001_nothing_ever_names_every_topic(box):
    got = box.assemble(START)
    assert isinstance(got, Problem)
    assert got.code_text == "STATE_MISSING:joint_states,goal"
    assert "joint_states" in got.detail and "goal" in got.detail


def test_fault_003_one_topic_missing_is_named_alone(box):
    box.push("joints", START, START, JOINTS)
    assert box.assemble(START).code_text == "STATE_MISSING:goal"


def test_fault_002_age_at_the_limit_and_beyond(box):
    fill(box)
    assert isinstance(box.assemble(START + 150 * MS), Observation), "max_age is 0.15 s"
    late = box.assemble(START + 150 * MS + 1)
    assert late.code_text == "STATE_STALE:joint_states"
    late = box.assemble(START + 151 * MS)
    assert (
        late.code_text == "STATE_STALE:joint_states"
        and "0.151" in late.detail
        and "0.150" in late.detail
    )


def test_fault_004_the_topic_that_stopped_is_named_exactly(box):
    for k in range(20):
        box.push("joints", START + k * 50 * MS, START + k * 50 * MS, JOINTS)
    box.push("goal", START, START, GOAL)
    assert box.assemble(START + 900 * MS).code_text == "STATE_STALE:goal"


def test_delay_of_a_source_counts_as_age():
    value = velocity_dict()
    value["observations"][0]["delay"] = 0.1
    box = Assembler(contract(value))
    fill(box)
    assert isinstance(box.assemble(START + 50 * MS), Observation)
    assert box.assemble(START + 50 * MS + 1).code_text == "STATE_STALE:joint_states"


def test_fault_005_sources_out_of_sync_are_no_state(box):
    """faults.md: skew beyond two periods is HOLD(STATE_SKEW). The goal may be 0.5 s old here, so its
    age alone does not save the robot from a state mixed of two moments."""
    box.push("goal", START - 200 * MS, START, GOAL)
    box.push("joints", START, START, JOINTS)
    got = box.assemble(START)
    assert isinstance(got, Problem) and got.code == "STATE_SKEW"


# Sources of different moments.


@pytest.mark.parametrize("source, limit", [("joints", 100), ("goal", 500 / 3)])
def test_fault_005_skew_of_two_periods_or_a_third_of_max_age(source, limit):
    """Periods of 50 ms; the joints may be 0.15 s old, the goal 0.5 s."""
    other, topic = ("goal", "joint_states") if source == "joints" else ("joints", "goal")
    values = {"joints": JOINTS, "goal": GOAL}
    for behind, fine in ((limit - 1, True), (limit + 1, False)):
        box = Assembler(contract())
        box.push(other, START, START, values[other])
        box.push(source, START - round(behind * MS), START, values[source])
        got = box.assemble(START)
        assert isinstance(got, Observation) if fine else got.code_text == f"STATE_SKEW:{topic}"
    assert f"{behind * 1e-3:.3f} s behind" in got.detail and f"{limit * 1e-3:.3f} s" in got.detail


def test_fault_005_at_high_rates_a_link_may_take_33_ms():
    value = velocity_dict(period=0.01)
    value["observations"][0]["max_age"] = 0.05
    for behind, fine in ((32, True), (35, False)):
        box = Assembler(contract(value))
        box.push("goal", START, START, GOAL)
        box.push("joints", START - behind * MS, START, JOINTS)
        got = box.assemble(START)
        assert isinstance(got, Observation) if fine else got.code_text == "STATE_SKEW:joint_states"


def test_fault_005_skew_is_over_with_the_next_message_in_time(box):
    fill(box)
    box.push("goal", START, START + 200 * MS, GOAL)
    box.push("joints", START + 200 * MS, START + 200 * MS, JOINTS)
    assert box.assemble(START + 200 * MS).code_text == "STATE_SKEW:goal"
    box.push("goal", START + 201 * MS, START + 201 * MS, GOAL)
    assert isinstance(box.assemble(START + 201 * MS), Observation)


def test_fault_005_what_waits_for_its_next_message_is_slow_and_not_skewed(box):
    """2.1 Hz, at once when it is said: max_age allows it."""
    fill(box)
    for k in range(1, 10):
        box.push("joints", START + k * 50 * MS, START + k * 50 * MS, JOINTS)
        assert isinstance(box.assemble(START + k * 50 * MS), Observation)


def test_fault_005_all_sources_late_together_are_one_moment(box):
    """The executor stood still for 140 ms: everything comes late, and belongs together."""
    for name, values in (("joints", JOINTS), ("goal", GOAL)):
        box.push(name, START, START + 140 * MS, values)
    assert isinstance(box.assemble(START + 140 * MS), Observation)


def test_fault_005_a_declared_delay_is_no_skew():
    value = velocity_dict()
    value["observations"][1] |= {"delay": 0.3}
    box = Assembler(contract(value))
    fill(box)
    assert isinstance(box.assemble(START), Observation), "the policy has learnt with it"


@pytest.mark.parametrize("latency", [0.0, 0.06, 0.15])
def test_fault_005_the_latency_of_a_camera_is_no_skew(latency):
    """Training pairs an action with the image of that long ago, so on the robot its features are late by
    nothing else. What comes still later is another moment than the state's."""
    own = contract(camera_dict(latency=latency, max_age=0.3))
    features = np.zeros(6)
    allowed = round(latency * 1000) + 100  # ms; two periods, and a third of max_age
    for behind, fine in ((allowed - 1, True), (allowed + 1, False)):
        box = Assembler(own.heard)
        fill(box)
        box.push("wrist", START - behind * MS, START, features)
        got = box.assemble(START)
        assert isinstance(got, Observation) if fine else got.code_text == "STATE_SKEW:qgf_encoder/wrist"


def test_fault_005_a_goal_said_long_ago_is_no_skew():
    own = Contract.load(world_folder("ur5e_cube_goals") / "contract.yaml")
    box = Assembler(own)
    goal = own.outcome.goal.observation
    for o in own.observations:
        values = np.array([float(n.endswith("orientation.w")) for n in o.labels])
        box.push(o.name, START - (450 * MS if o.name == goal else 0), START, values)
    assert isinstance(box.assemble(START), Observation)


@pytest.mark.parametrize("control", [10, 50, 100, 250])
def test_fault_005_honest_robots_are_never_skewed(control):
    """Sixty robots with sources at 10 to 1000 Hz that come up to 60 ms late, with jitter, into an
    executor that stands still for 10 ms now and then. Their owners gave max_age room for that."""
    rng = np.random.default_rng(control)
    for _ in range(60):
        rates, late = 10 ** rng.uniform(1, 3, 4), 0.001 * 10 ** rng.uniform(0, 1.78, 4)
        ages = np.maximum(np.maximum(1.2 / rates + late, 3 * late) + 0.03, max(3 / control, 0.05))
        value = velocity_dict(period=1 / control)
        joints, other = value["observations"]
        more = [
            other | {"name": n, "topic": n, "max_age": a} for n, a in zip("bcd", ages[1:].tolist())
        ]
        value["observations"] = [joints | {"max_age": float(ages[0])}, *more]
        box, events = (
            Assembler(contract(value)),
            [(t, 0.0, "") for t in np.arange(0.3, 0.8, 1 / control)],
        )
        for name, rate, latest in zip(("joints", *"bcd"), rates, late):
            stamps = (np.arange(int(rate)) + rng.uniform(0, 0.2, int(rate))) / rate
            receipts = stamps + latest * rng.uniform(0.5, 1.0, len(stamps))
            stalled = receipts % 0.1 < 0.01
            receipts[stalled] += 0.01 - receipts[stalled] % 0.1
            events += [(r, s, name) for r, s in zip(receipts, stamps)]
        for at, stamp, name in sorted(events):
            now = START + round(at * SECOND)
            if name:
                box.push(
                    name, START + round(stamp * SECOND), now, np.zeros(4 if name == "joints" else 1)
                )
                continue
            got = box.assemble(now)
            assert isinstance(got, Observation), got


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_fault_007_non_finite_dropped_and_the_last_good_kept(box, bad):
    fill(box)
    spoilt = JOINTS.copy()
    spoilt[2] = bad
    box.push("joints", START + 50 * MS, START + 50 * MS, spoilt)
    got = box.assemble(START + 50 * MS)
    assert got.vector[:4].tolist() == JOINTS.tolist() and got.age == pytest.approx(0.05)
    assert box.dropped == 1


def test_fault_007_non_finite_for_ever_ends_in_a_problem(box):
    fill(box)
    for k in range(1, 5):
        box.push("joints", START + k * 50 * MS, START + k * 50 * MS, np.full(4, np.nan))
    assert isinstance(box.assemble(START + 149 * MS), Observation)
    box.push("goal", START + 200 * MS, START + 200 * MS, GOAL)
    assert isinstance(box.assemble(START + 200 * MS), Problem)
    assert box.dropped == 4


def test_fault_007_the_problem_says_that_numbers_were_not_finite(box):
    fill(box)
    for k in range(1, 5):
        box.push("joints", START + k * 50 * MS, START + k * 50 * MS, np.full(4, np.nan))
    assert box.assemble(START + 200 * MS).code == "STATE_NONFINITE"


def test_fault_008_denormals_accepted(box):
    fill(box, joints=np.array([5e-324, -5e-324, 1e-310, 0.0]))
    assert box.assemble(START).vector[0] == 5e-324


@pytest.mark.parametrize("huge", [1e308, -1e308, 1e39])
def test_fault_008_what_float32_cannot_hold_is_not_state(box, huge):
    """The networks run in float32: 1e308 is finite here and infinite there."""
    fill(box)
    box.push("joints", START + MS, START + MS, np.array([huge, 0, 0, 0]))
    got = box.assemble(START + MS)
    assert isinstance(got, Observation) and got.vector[0] == JOINTS[0]


@pytest.mark.parametrize("count", [0, 3, 5, 10**6])
def test_fault_012_wrong_dimension_is_a_problem_until_a_good_message(box, count):
    fill(box)
    box.push("joints", START + MS, START + MS, np.zeros(count))
    got = box.assemble(START + MS)
    assert got.code_text == "STATE_SCHEMA:joint_states" and str(count) in got.detail
    box.push("joints", START + 2 * MS, START + 2 * MS, JOINTS)
    assert isinstance(box.assemble(START + 2 * MS), Observation)


@pytest.mark.parametrize("row", [10, 11])
def test_fault_010_011_reported_schema_error_forbids_the_state_at_once(box, row):
    fill(box)
    box.reject(
        "joints",
        "STATE_SCHEMA",
        "joints ['elbow'] are missing" if row == 10 else "joint names appear twice",
    )
    got = box.assemble(START)
    assert got.code_text == "STATE_SCHEMA:joint_states" and "joint" in got.detail
    assert box.dropped == 1


def test_first_problem_is_the_first_of_the_contract_not_of_arrival(box):
    box.reject("goal", "STATE_SCHEMA", "x")
    box.reject("joints", "STATE_SCHEMA", "x")
    assert box.assemble(START).code_text == "STATE_SCHEMA:joint_states"


def test_fault_016_no_stamp_counts_by_receipt(box):
    box.push("joints", 0, START, JOINTS)
    box.push("goal", 0, START, GOAL)
    got = box.assemble(START + 10 * MS)
    assert got.age == pytest.approx(0.01) and got.stamp == START


def test_fault_016_stamp_zero_is_said_once_where_a_stamp_belongs():
    value = velocity_dict()
    value["observations"][1]["stamp"] = "receipt"
    notices = Notices()
    box = Assembler(contract(value), notices=notices)
    box.push("joints", 0, START, JOINTS)
    box.push("goal", 0, START, GOAL)
    assert [n.code_text for n in notices.current(START)] == ["STAMP_ZERO:joint_states"]
    box.push("joints", 0, START + 2 * SECOND, JOINTS)
    assert notices.current(START + 2 * SECOND) == ()


def test_fault_017_future_stamp_is_never_fresh(box):
    fill(box)
    ahead = round((FUTURE_TOLERANCE + 0.001) * SECOND)
    box.push("joints", START + ahead, START, np.full(4, 9.0))
    assert box.assemble(START).code_text == "STATE_FUTURE:joint_states"
    box.push("joints", START + MS, START + MS, JOINTS)
    got = box.assemble(START + MS)
    assert got.vector[0] == 0.1, "a future stamp must not shadow what comes after it"


def test_fault_017_ten_seconds_ahead_is_not_fresh_ten_seconds_later(box):
    fill(box)
    box.push("joints", START + 10 * SECOND, START, np.full(4, 9.0))
    box.push("goal", START + 10 * SECOND - MS, START + 10 * SECOND, GOAL)
    assert isinstance(box.assemble(START + 10 * SECOND), Problem)


def test_fault_020_state_from_after_now_is_no_state(box):
    """The clock went back: what was fresh then is from the future now."""
    fill(box)
    assert box.assemble(START - SECOND).code_text == "STATE_FUTURE:joint_states"


def test_future_within_tolerance_is_used(box):
    box.push("goal", START, START, GOAL)
    box.push("joints", START + 90 * MS, START, JOINTS)
    assert isinstance(box.assemble(START), Observation)


def test_fault_018_older_stamps_dropped_and_counted(box):
    fill(box)
    box.push("joints", START - MS, START + MS, np.full(4, 9.0))
    assert box.assemble(START + MS).vector[0] == 0.1 and box.dropped == 1


def test_fault_018_equal_stamp_the_later_message_counts(box):
    fill(box)
    box.push("joints", START, START + MS, np.full(4, 9.0))
    assert box.assemble(START + MS).vector[0] == 9.0


@settings(max_examples=200 * SCALE, deadline=None)
@given(
    offers=st.lists(
        st.tuples(st.integers(-50, 250), st.integers(0, 50), st.sampled_from([0.0, 1.0, np.nan, np.inf, 5e-324])),
        min_size=1, max_size=25,
    )
)  # fmt: skip
def test_fault_018_state_never_goes_back_in_time(offers):
    """Whatever arrives in whatever order: the stamp of the state grows, and the state is finite."""
    box, newest, now = Assembler(contract()), None, START
    for stamp, wait, number in offers:
        now += wait * MS
        box.push("joints", START + stamp * MS, now, np.full(4, number))
        box.push("goal", now, now, GOAL)
        got = box.assemble(now)
        held = box._latest.get("joints")
        if held is not None:
            assert newest is None or held.stamp >= newest
            newest = held.stamp
            assert (held.stamp - now) * 1e-9 <= FUTURE_TOLERANCE + 1e-9
        if isinstance(got, Observation):
            assert np.isfinite(got.vector).all() and got.age <= 0.5


def test_clear_forgets_all(box):
    fill(box)
    box.reject("goal", "STATE_SCHEMA", "x")
    box.clear()
    assert box.assemble(START).code_text == "STATE_MISSING:joint_states,goal"


def test_ages_by_source(box):
    box.push("joints", START, START, JOINTS)
    ages = box.ages(START + 70 * MS)
    assert ages["joints"] == pytest.approx(0.07) and np.isnan(ages["goal"])


def test_values_are_copied(box):
    values = JOINTS.copy()
    fill(box, joints=values)
    values[:] = 99
    assert box.assemble(START).vector[0] == 0.1


def test_push_between_two_looks_of_assemble_does_no_harm(box):
    """`push` runs in another thread: a good message may clear the note between seeing and reading it."""

    class Vanishing(dict):
        def __len__(self):
            count = super().__len__()
            self.clear()
            return count

    fill(box)
    box._broken = Vanishing(joints=Problem("STATE_SCHEMA", "joint_states", "x"))
    assert isinstance(box.assemble(START), (Observation, Problem))


# Orientations.

POSE = np.array([0.4, 0.0, 0.0, 0.0, 1.0, 0.3])  # x, a quaternion, z
NO_ROTATION = POSE * [1, 0, 0, 0, 0, 1]


def twist_box(at=START, pose=POSE):
    box = Assembler(contract(twist_dict()))
    box.push("joints", at, at, np.zeros(2))
    box.push("gripper", at, at, np.zeros(1))
    if pose is not None:
        box.push("tool", at, at, pose)
    return box


def test_orientation_becomes_features_at_its_place_in_the_vector():
    got = twist_box().assemble(START).vector
    assert got.tolist() == [0, 0, 0.4, 1, 0, 0, 0, 1, 0, 0.3, 0]


def test_opposite_quaternions_are_one_state():
    turned = np.array([0.4, 0.1, -0.2, 0.4, 0.9, 0.3])  # of length 1.01
    flipped = turned * [1, -1, -1, -1, -1, 1]
    one, other = (twist_box(pose=p).assemble(START).vector for p in (turned, flipped))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("quaternion", [[0.0] * 4, [np.nan, 0, 0, 1], [0, 0, np.inf, 1]])
def test_fault_007_what_is_no_rotation_is_dropped_and_ends_in_a_problem(quaternion):
    box = twist_box()
    bad = np.array([9.0, *quaternion, 9.0])
    for k in range(1, 5):
        at = START + k * 45 * MS
        box.push("tool", at, at, bad)
        box.push("joints", at, at, np.zeros(2))
        assert box.dropped == k
        got = box.assemble(at)
        if k <= 3:
            assert got.vector[2] == 0.4, "the last good one, all of it, until it is too old"
        else:
            assert (
                got.code_text == "STATE_NONFINITE:tool/pose" and "held a quaternion" in got.detail
            )
    box.push("tool", at + MS, at + MS, POSE)
    assert isinstance(box.assemble(at + MS), Observation)


def test_fault_007_zero_quaternions_from_the_start_are_never_a_state_and_are_named():
    box = twist_box(pose=NO_ROTATION)
    got = box.assemble(START)
    assert got.code_text == "STATE_MISSING:tool/pose" and box.dropped == 1
    assert "waiting for tool/pose; " in got.detail and "held a quaternion" in got.detail
    silent = twist_box(pose=None).assemble(START)
    assert silent.detail == "waiting for tool/pose", "nothing came, nothing is said of it"


def test_fault_007_last_good_pose_that_ages_after_silence_is_stale_and_not_nonfinite():
    box = twist_box()
    box.push("tool", START + MS, START + MS, NO_ROTATION)
    box.push("tool", START + 2 * MS, START + 2 * MS, POSE)
    box.push("joints", START + 200 * MS, START + 200 * MS, np.zeros(2))
    assert box.assemble(START + 200 * MS).code_text == "STATE_STALE:tool/pose"


@pytest.mark.parametrize("length, fine", [
    (0.89, False), (0.9001, True), (1.0, True), (1.0999, True), (1.11, False), (2.0, False),
    (1e200, False), (5e-324, False),
])  # fmt: skip
def test_fault_019_a_quaternion_is_normalised_or_dropped(length, fine):
    box = twist_box()
    box.push("tool", START + MS, START + MS, np.array([9.0, 0, 0, length * 0.6, length * 0.8, 9.0]))
    got = box.assemble(START + MS)
    assert box.dropped == (0 if fine else 1)
    assert got.vector[2] == (9.0 if fine else 0.4)
    x, y = got.vector[3:6], got.vector[6:9]
    assert abs(x @ x - 1) < 1e-12 and abs(y @ y - 1) < 1e-12
    box.push("joints", START + 200 * MS, START + 200 * MS, np.zeros(2))
    if not fine:
        assert box.assemble(START + 200 * MS).code_text == "STATE_NONFINITE:tool/pose"


@pytest.mark.parametrize("count", [5, 7, 8])
def test_fault_012_pose_of_another_width_is_a_schema_problem_and_no_exception(count):
    box = twist_box()
    box.push("tool", START + MS, START + MS, np.zeros(count))
    got = box.assemble(START + MS)
    assert got.code_text == "STATE_SCHEMA:tool/pose" and "where 6 are expected" in got.detail


@settings(max_examples=200 * SCALE, deadline=None)
@given(numbers=st.lists(st.floats(width=64) | st.just(0.0), min_size=6, max_size=6))
def test_whatever_pose_comes_the_state_is_a_rotation_or_there_is_none(numbers):
    got = twist_box(pose=np.array(numbers)).assemble(START)
    if isinstance(got, Observation):
        x, y = got.vector[3:6], got.vector[6:9]
        assert np.abs(got.vector).max() <= np.finfo(np.float32).max
        assert abs(x @ y) < 1e-9 and abs(x @ x - 1) < 1e-9 and abs(y @ y - 1) < 1e-9


@pytest.mark.parametrize("ahead", [0, 1, 30 * MS, 90 * MS, 100 * MS])
def test_fault_132_stamps_ahead_of_the_clock_make_nothing_younger(box, ahead):
    """Pinned: a sensor whose clock is 90 ms ahead, and dies, was noticed 90 ms later."""
    box.push("joints", START + ahead, START, JOINTS)
    box.push("goal", START, START, GOAL)
    limit = 150 * MS
    assert box.assemble(START + limit).age == pytest.approx(0.15)
    assert box.ages(START + limit)["joints"] == pytest.approx(0.15)
    late = box.assemble(START + limit + 1)
    assert late.code_text == "STATE_STALE:joint_states"


# Parts of a source, each in a message of its own.


def in_parts():
    value = velocity_dict()
    joints = dict(value["observations"][0], fields=["position"], names=["a", "b"], merge="joints")
    value["observations"] = [joints]
    return Assembler(contract(value))


def some(first, second):
    values = np.array([first, second])
    return values, np.isfinite(values)


def test_fault_003_the_joints_that_no_message_has_held_are_named():
    box = in_parts()
    box.push_some("joints", START, START, *some(0.1, np.nan))
    waits = box.assemble(START)
    assert waits.code_text == "STATE_MISSING:joint_states" and waits.detail.endswith(
        "waiting for b"
    )
    box.push_some("joints", START + MS, START + MS, *some(np.nan, 0.2))
    got = box.assemble(START + MS)
    assert got.vector.tolist() == [0.1, 0.2] and got.age == pytest.approx(0.001)


def test_fault_016_a_part_without_a_stamp_counts_as_received_now():
    box = in_parts()
    box.push_some("joints", 0, START, *some(0.1, np.nan))
    box.push_some("joints", 0, START + MS, *some(np.nan, 0.2))
    got = box.assemble(START + MS)
    assert got.vector.tolist() == [0.1, 0.2] and got.age == pytest.approx(0.001)


def test_fault_132_a_part_from_the_future_stands_in_for_nothing():
    box = in_parts()
    box.push_some("joints", START, START, *some(0.1, 0.2))
    box.push_some("joints", START + SECOND, START, *some(9.0, np.nan))
    assert box.assemble(START).code == "STATE_FUTURE"
    box.push_some("joints", START + MS, START + MS, *some(0.3, 0.4))
    assert box.assemble(START + MS).vector.tolist() == [0.3, 0.4]
