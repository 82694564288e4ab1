"""Episodes of many attempts, cut by the contract: at outcomes, at goals, by length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE, START, contract, velocity_dict

from qgf_ros.errors import UsageError
from training.pipeline.align import align, endings
from training.pipeline.labels import Label
from training.pipeline.readers.load import load_episodes
from training.pipeline.report import Report
from training.pipeline.streams import Recording, Stream
from training.pipeline.writers.convert import convert

MS = 1_000_000
T = 50 * MS
PLAIN = {"topic": "success", "type": "std_msgs/Bool", "fields": ["data"]}
FAILED = PLAIN | {"topic": "failure"}
TEST = {"topic": "force", "type": "std_msgs/Float64", "fields": ["data"], "test": "force > 3 N"}
GOAL = {"observation": "goal", "achieved": ["joints.position.a"], "radius": 0.1}


def own(end="outcome", objective="time_to_success", seconds=None, **outcome):
    attempts = {"end": end} | ({"seconds": seconds} if seconds is not None else {})
    given = velocity_dict()
    given["observations"][1]["max_age"] = 3600.0  # a goal is said once
    given["outcome"] = {"objective": objective, "attempts": attempts, **outcome}
    return contract(given)


def at(*ticks):
    """Ticks, as times [ns]."""
    return START + np.round(np.array(ticks, float) * T).astype(np.int64)


def said(ticks, values):
    """A stream of one number."""
    return Stream(at(*ticks), at(*ticks), np.array(values, float).reshape(len(ticks), -1))


def play(spec, count=100, labels=None, one=False, positions=None, **streams):
    """`count` ticks of two joints whose states and commands are the tick's number."""
    numbers = np.arange(count + 1, dtype=float)
    joints = np.tile(numbers[:, None], (1, 4))
    joints[:, 0] = numbers if positions is None else positions
    streams = {
        "joints": Stream(at(*numbers), at(*numbers), joints),
        "goal": said(numbers, np.zeros(count + 1)),
        "arm": Stream(at(*numbers[:-1]), at(*numbers[:-1]), np.tile(numbers[:-1, None], (1, 2))),
    } | streams
    report = Report()
    recording = Recording("play", streams, one_episode=one)
    return align(recording, spec, report, labels), report


def cut(episodes):
    """First tick, tick behind the last, and how it ended; what is in them is checked on the way."""
    found = []
    for e in episodes:
        first = int(e.action[0, 0])
        assert (e.action[:, 0] == first + np.arange(len(e))).all()
        assert (e.obs[:, 1] == first + np.arange(len(e) + 1)).all(), "the state after the last, too"
        assert e.terminal == (e.success is not None)
        found.append((first, first + len(e), e.success))
    return found


def test_fault_146_every_outcome_ends_an_attempt_and_the_last_one_was_cut():
    spec = own(success=PLAIN)
    episodes, report = play(spec, success=said([20, 50, 70], [1, 0, 1]))
    # A button names a moment: the next attempt begins with the first tick after it.
    assert cut(episodes) == [(0, 20, True), (21, 50, False), (51, 70, True), (71, 100, None)]
    assert [e.reward.sum() for e in episodes] == [1, 0, 1, 0]
    assert [e.name for e in episodes] == ["play#0", "play#1", "play#2", "play#3"]
    assert report.dropped["tick between attempts"] == 3 and report.lost == 0
    without = contract(
        velocity_dict() | {"outcome": {"objective": "time_to_success", "success": PLAIN}}
    )
    assert cut(play(without, success=said([20, 50, 70], [1, 0, 1]))[0]) == [(0, 20, True)]


def test_fault_146_a_success_that_lasts_is_one():
    """A button that is held, a topic that says it again and again, a test that goes on holding."""
    held = said([20, 21, 22, 23, 24, 60], np.ones(6))
    expected = [(0, 20, True), (25, 60, True), (61, 100, None)]
    assert cut(play(own(success=PLAIN), success=held)[0]) == expected
    force = np.zeros(101)
    force[20:25] = force[60] = 5
    test = play(own(success=TEST), success=said(range(101), force))
    assert cut(test[0]) == expected and test[1].dropped["tick between attempts"] == 6
    slow = own(success=PLAIN | {"max_age": 0.5})  # s between messages of one success
    assert cut(play(slow, success=said([20, 29, 60], np.ones(3)))[0]) == [
        (0, 20, True), (30, 60, True), (61, 100, None)
    ]  # fmt: skip


def test_fault_146_an_attempt_does_not_begin_in_a_success():
    force = np.zeros(101)
    force[:10] = force[50:] = 5  # and it ends in one: nothing comes after it
    spec = own(success=TEST)
    assert cut(play(spec, success=said(range(101), force))[0]) == [(10, 50, True)]
    always = play(spec, success=said(range(101), np.full(101, 5.0)))
    assert always[0] == [] and always[1].dropped["tick between attempts"] == 100


def test_a_test_ends_an_attempt_when_it_has_held_for_its_duration_and_a_gap_ends_no_success():
    patient = own(success=TEST | {"test": "force > 3 N for 0.2 s"})
    force = np.zeros(101)
    force[20:23] = force[40:60] = 5  # too short; long enough at tick 44
    assert cut(play(patient, success=said(range(101), force))[0]) == [
        (0, 44, True), (60, 100, None)
    ]  # fmt: skip
    keep = [k for k in range(101) if not 48 <= k < 55]  # what it was then nobody knows
    assert cut(play(patient, success=said(keep, force[keep]))[0]) == [
        (0, 44, True), (60, 100, None)
    ]  # fmt: skip


def test_a_failure_topic_that_says_false_says_nothing():
    spec = own(objective="reach_goal", goal=GOAL, failure=FAILED)
    pressed = said([0, 30, 31, 32, 60], [0, 1, 1, 0, 0])
    episodes, _ = play(spec, failure=pressed)
    assert cut(episodes) == [(0, 30, False), (32, 100, None)]
    both = own(success=PLAIN, failure=FAILED)
    episodes, _ = play(both, success=said([30, 70], [1, 1]), failure=said([30], [1]))
    assert cut(episodes)[:2] == [(0, 30, False), (31, 70, True)], "at one time, failure"


def test_fault_146_goals_that_are_reached_and_goals_that_change_cut_an_attempt():
    spec = own("goal", "reach_goal", goal=GOAL)
    where = np.full(101, 0.0)
    where[30:40] = 1.0  # at the first goal
    where[80:] = 3.0  # at the third
    goals = said([0, 20, 40, 60], [1.0, 1.05, 2.0, 3.0])  # the second is the first, but for noise
    episodes, report = play(spec, positions=where, goal=goals)
    assert cut(episodes) == [(0, 30, True), (40, 60, None), (60, 80, True)]
    assert report.dropped["tick between attempts"] == 30
    assert play(spec, positions=np.full(101, 1.0), goal=said([0], [1.0]))[0] == [], "never away"
    # Given where the robot is already: the old one was not reached, and the new one not by it.
    episodes, _ = play(spec, positions=where, goal=said([0, 85], [9.0, 3.0]))
    assert cut(episodes) == [(0, 85, None)]


def test_fault_146_attempts_of_one_length_share_the_state_between_them():
    spec = own("length", "reach_goal", seconds=1.5, goal=GOAL)
    episodes, report = play(spec)
    assert cut(episodes) == [(0, 30, None), (30, 60, None), (60, 90, None), (90, 100, None)]
    assert report.dropped["tick between attempts"] == 0
    timed = own("length", seconds=1.5, success=PLAIN)  # a success ends them all the same
    episodes, _ = play(timed, success=said([40, 90], [1, 1]))
    assert cut(episodes) == [
        (0, 30, None), (30, 40, True), (41, 71, None), (71, 90, True), (91, 100, None)
    ]  # fmt: skip


def test_an_outcome_after_the_last_command_is_still_the_last_attempts():
    spec = own(success=PLAIN)
    episodes, report = play(spec, success=said([40, 120], [1, 1]))
    # The last command counts for three periods more, as everywhere.
    assert [(len(e), e.success) for e in episodes] == [(40, True), (62, True)]
    assert report.noticed["outcome said after the last command or state"] == 1


def test_a_gap_cuts_an_attempt_into_parts_and_its_outcome_is_the_last_ones():
    seen = np.array([k for k in range(101) if not 30 <= k < 40], float)
    joints = Stream(at(*seen), at(*seen), np.tile(seen[:, None], (1, 4)))
    spec = own(success=PLAIN)
    episodes, report = play(spec, joints=joints, success=said([20, 60], [1, 1]))
    assert [(e.name, e.success) for e in episodes] == [
        ("play#0", True), ("play#1.0", None), ("play#1.19", True), ("play#2", None)
    ]  # fmt: skip
    assert report.noticed["cut at a gap"] == 1


def test_fault_146_no_reward_goes_to_a_neighbour():
    source = PLAIN | {"topic": "reward", "type": "std_msgs/Float64"}
    spec = own(objective="reward", reward=source, success=PLAIN)
    earned = 2.0 ** -np.arange(100)
    reward = said(np.arange(1, 101), earned)
    episodes, _ = play(spec, reward=reward, success=said([20, 50], [1, 1]))
    assert cut(episodes) == [(0, 20, True), (21, 50, True), (51, 100, None)]
    for e, (first, stop, _) in zip(episodes, cut(episodes)):
        assert np.array_equal(e.reward, earned[first:stop])
    lengths = own("length", "reward", seconds=1.0, reward=source)
    episodes, _ = play(lengths, reward=reward)
    assert np.array_equal(np.concatenate([e.reward for e in episodes]), earned)


def test_labels_are_of_attempts():
    spec = own(success=PLAIN)
    outcomes = said([20, 50, 70], [1, 1, 1])
    labels = {
        "#0": Label("failure"),
        "#1": Label("exclude"),
        "#2": Label("", 0.25, 0.75),  # s from its beginning, tick 51
        "#3": Label("success"),
    }
    episodes, report = play(spec, success=outcomes, labels=labels)
    assert cut(episodes) == [(0, 20, False), (56, 66, None), (71, 100, True)]
    assert report.dropped["episode excluded by its label"] == 1
    listed = endings(Recording("play", _streams(success=outcomes)), spec)
    assert [(n, e.won) for n, _, e in listed] == [
        ("#0", True), ("#1", True), ("#2", True), ("#3", None)
    ]  # fmt: skip
    assert [round(s, 2) for _, s, _ in listed] == [1.0, 1.45, 0.95, 1.45]
    with pytest.raises(UsageError, match="play has 4 episodes, counted from #0; labelled is #4"):
        play(spec, success=outcomes, labels={"#4": Label("failure")})


def _streams(**more):
    numbers = np.arange(101, dtype=float)
    return {
        "joints": Stream(at(*numbers), at(*numbers), np.tile(numbers[:, None], (1, 4))),
        "goal": said(numbers, np.zeros(101)),
        "arm": Stream(at(*numbers[:-1]), at(*numbers[:-1]), np.tile(numbers[:-1, None], (1, 2))),
    } | more


def test_episodes_that_have_starts_are_cut_each_for_itself():
    spec = own(success=PLAIN, episode_start={"topic": "start", "type": "std_msgs/Header"})
    starts = Stream(at(0, 40), at(0, 40), np.zeros((2, 0)))
    episodes, _ = play(spec, episode_start=starts, success=said([20, 60], [1, 1]))
    assert [(len(e), e.success) for e in episodes] == [
        (20, True), (19, None), (20, True), (39, None)
    ]  # fmt: skip


@settings(max_examples=60 * SCALE, deadline=None)
@given(st.lists(st.sampled_from([0.0, 5.0]), min_size=101, max_size=101), st.booleans())
def test_fault_146_no_tick_is_lost_and_none_is_there_twice(force, limit):
    """Against the rule, tick by tick: what leads from a state that is no success belongs to an
    attempt, and one ends where a success comes."""
    end = {"end": "length", "seconds": 0.5} if limit else {}
    spec = own(**end, success=TEST)
    episodes, report = play(spec, success=said(range(101), force))
    expected, first = [], None
    for k in range(101):
        won = force[k] > 3
        if first is not None and (won or k == 100 or (limit and k - first == 10)):
            expected += [(first, k, True if won else None)]
            first = None
        if first is None and not won and k < 100:
            first = k
    assert cut(episodes) == expected
    count = sum(len(e) for e in episodes)
    assert count + report.dropped["tick between attempts"] == 100


# Tables.


def table(path, success, rewards=False):
    numbers = np.arange(len(success), dtype=np.float32)
    columns = {
        "observation.joints": np.tile(numbers[:, None], (1, 4)),
        "observation.goal": numbers * 0,
        "action": np.tile(numbers[:, None], (1, 2)),
        "success": np.array(success, np.float32),
        "timeouts": np.eye(1, len(success), len(success) - 1, dtype=bool)[0],
        "fps": np.array(20.0),
    }
    np.savez(path, **columns)


def test_fault_146_a_tables_success_is_cut_in_every_row_and_its_bag_is_the_same(tmp_path):
    """`success` of a row is of the period that follows it; false says nothing there, and would be a
    failure in a bag."""
    won = np.zeros(60)
    won[19:22] = won[40] = 1
    table(tmp_path / "play.npz", won)
    given = velocity_dict()
    given["outcome"] = {
        "objective": "time_to_success",
        "success": PLAIN | {"column": "success"},
        "attempts": {"end": "outcome"},
    }
    spec = contract(given)
    episodes, _ = load_episodes(tmp_path / "play.npz", spec)
    # timeouts: the last row is only a state
    assert cut(episodes) == [(0, 20, True), (23, 41, True), (42, 59, None)]
    import yaml

    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(given))
    convert(tmp_path / "play.npz", tmp_path / "contract.yaml", tmp_path / "bag", 0, "mcap")
    again, _ = load_episodes(tmp_path / "bag", spec)
    assert [(len(e), e.success) for e in again[:2]] == [(20, True), (18, True)]
    assert all(np.array_equal(a.obs, b.obs) for a, b in zip(episodes[:2], again))


# What makes no sense is refused, and no contract of before is another one.

REFUSED = {
    "outcome without a source": (
        {"objective": "time_to_success", "labels": "labels.yaml", "attempts": {"end": "outcome"}},
        "neither success nor failure says when",
    ),
    "all of them succeeded": (
        {"objective": "time_to_success", "assume_success": True, "success": PLAIN,
         "attempts": {"end": "outcome"}},
        "leave one of the two out",
    ),
    "no goal": (
        {"objective": "time_to_success", "success": PLAIN, "attempts": {"end": "goal"}},
        "give objective reach_goal",
    ),
    "length without one": (
        {"objective": "reach_goal", "goal": GOAL, "attempts": {"end": "length"}},
        "end is length, and seconds is None; allowed: above 0",
    ),
    "no length": (
        {"objective": "reach_goal", "goal": GOAL, "attempts": {"end": "length", "seconds": 0.0}},
        "seconds is 0.0; allowed: above 0",
    ),
    "negative": (
        {"objective": "reach_goal", "goal": GOAL, "attempts": {"end": "length", "seconds": -1}},
        "allowed: above 0",
    ),
    "shorter than a chunk": (
        {"objective": "reach_goal", "goal": GOAL, "attempts": {"end": "length", "seconds": 0.2}},
        "as long as a chunk, horizon",
    ),
    "seconds of an outcome": (
        {"objective": "time_to_success", "success": PLAIN,
         "attempts": {"end": "outcome", "seconds": 5}},
        "only attempts of one length",
    ),
    "what there is not": (
        {"objective": "time_to_success", "success": PLAIN, "attempts": {"end": "success"}},
        "allowed: outcome, goal, length",
    ),
    "nothing": (
        {"objective": "time_to_success", "success": PLAIN, "attempts": {}},
        "lacks the key 'end'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_fault_146_what_makes_no_sense_is_refused(case):
    outcome, why = REFUSED[case]
    with pytest.raises(UsageError) as refused:
        contract(velocity_dict() | {"outcome": outcome})
    assert why in str(refused.value) and "outcome" in str(refused.value)


def test_a_contract_without_the_key_keeps_its_hash():
    plain = contract(
        velocity_dict() | {"outcome": {"objective": "time_to_success", "success": PLAIN}}
    )
    assert "attempts" not in plain.to_dict()["outcome"]
    assert own(success=PLAIN).hash != plain.hash
    assert contract(own(success=PLAIN).to_dict()) == own(success=PLAIN)
