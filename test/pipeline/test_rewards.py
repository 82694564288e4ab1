"""How episodes end: by topic, by field test, by both; and what is said of data that teaches little."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE, START, contract, velocity_dict

from training.pipeline.align import align
from training.pipeline.chunks import chunks
from training.pipeline.episodes import Episode
from training.pipeline.readers.rewards import diagnose_outcomes
from training.pipeline.report import Report
from training.pipeline.streams import Recording, Stream

MS = 1_000_000
T = 50 * MS


def stream(stamp, values):
    stamp = np.asarray(stamp, np.int64)
    values = np.asarray(values, float)
    return Stream(stamp, stamp, values if values.ndim == 2 else values[:, None])


def every(step, count, phase=0):
    return START + phase + step * np.arange(count, dtype=np.int64)


def force(test, topic="gripper/force", **more):
    return {"topic": topic, "type": "std_msgs/Float64", "fields": ["data"], "test": test} | more


def own(objective="time_to_success", **outcome):
    return contract(velocity_dict() | {"outcome": {"objective": objective, **outcome}})


def run(spec, count=40, **streams):
    """40 periods of two joints; and what else there is."""
    state, at = every(10 * MS, 5 * count + 10), every(T, count)
    streams = {
        "joints": stream(state, np.zeros((len(state), 4))),
        "goal": stream(state, np.zeros(len(state))),
        "arm": stream(at, np.zeros((count, 2))),
    } | streams
    report = Report()
    return align(Recording("bag", streams, one_episode=True), spec, report), report


GRASP = own(success=force("/gripper/force > 3 N for 0.5 s"))
AT = every(20 * MS, 100)  # 50 Hz for 2 s


def pressed(*spans, value=5.0):
    """5 N within the spans [ms), 1 N elsewhere."""
    ms = (AT - START) // MS
    on = np.zeros(len(AT), bool)
    for begin, end in spans:
        on |= (ms >= begin) & (ms < end)
    return stream(AT, np.where(on, value, 1.0))


# Field tests.


def test_success_comes_when_the_test_has_held_for_its_duration():
    (episode,), _ = run(GRASP, success=pressed((400, 2000)))
    assert episode.terminal and episode.success is True
    assert len(episode) == 18, "held from 400 ms on, so true at 900 ms: 18 periods"
    assert episode.reward.tolist() == [0] * 17 + [1]


@pytest.mark.parametrize("begin", [380, 400, 420])
def test_duration_is_met_to_the_message(begin):
    (episode,), _ = run(GRASP, success=pressed((begin, begin + 501)))
    assert episode.success is True and len(episode) == -(-(begin + 500) // 50)
    (episode,), _ = run(GRASP, success=pressed((begin, begin + 500)))
    assert episode.success is None and not episode.terminal, "one message too short"


def test_duration_begins_anew_after_a_break():
    (episode,), _ = run(GRASP, success=pressed((100, 500), (520, 2000)))
    assert len(episode) == 21 and episode.terminal, "from 520 ms on: 1020 ms"


def test_threshold_itself_is_not_above_it():
    assert run(GRASP, success=pressed((0, 2000), value=3.0))[0][0].success is None
    at_least = own(success=force("data >= 3 for 0.5 s"))
    assert run(at_least, success=pressed((0, 2000), value=3.0))[0][0].success is True


def test_fault_105_missing_messages_break_the_duration_and_are_counted():
    """The force is known before and after a second without messages; what it was then is not."""
    said = pressed((400, 2000))
    keep = (AT < START + 600 * MS) | (AT > START + 1600 * MS)
    (episode,), report = run(GRASP, success=stream(AT[keep], said.values[keep]))
    assert episode.success is None
    assert report.noticed["field test interrupted, messages missing: success"] == 1


def test_max_age_says_how_slow_a_tested_topic_may_be():
    slow = every(200 * MS, 10)
    said = stream(slow, np.full(10, 5.0))
    assert run(GRASP, success=said)[0][0].success is None, "150 ms is the default here"
    patient = own(success=force("data > 3 for 0.5 s", max_age=0.25))
    (episode,), _ = run(patient, success=said)
    assert episode.success is True and len(episode) == 12, "messages at 0 and at 600 ms"


def test_fault_096_nan_in_a_tested_topic_is_dropped_and_counted():
    said = pressed((400, 2000))
    said.values[30] = np.nan
    (episode,), report = run(GRASP, success=said)
    assert len(episode) == 18 and report.dropped["message not finite: success"] == 1


def test_duration_is_met_by_whole_rows_of_a_30_hz_table():
    at = START + np.round(np.arange(60) * 1e9 / 30).astype(np.int64)
    for first in range(10, 25):
        (episode,), _ = run(GRASP, success=stream(at, np.where(np.arange(60) >= first, 5.0, 0)))
        assert len(episode) == np.ceil((at[first + 15] - START) / T)


def test_order_in_the_file_does_not_matter_to_a_test():
    said = pressed((400, 2000))
    order = np.random.default_rng(0).permutation(len(AT))
    mixed = Stream(said.stamp[order], said.receipt[order], said.values[order])
    assert len(run(GRASP, success=mixed)[0][0]) == len(run(GRASP, success=said)[0][0]) == 18


def test_failure_by_test_ends_in_failure_and_first_come_counts():
    both = own(
        success=force("data > 3 for 0.5 s"), failure=force("data > 20", topic="gripper/torque")
    )
    calm, hit = stream(AT, np.zeros(100)), stream(AT, np.where(AT >= START + 700 * MS, 30.0, 0))
    (episode,), _ = run(both, success=pressed((400, 2000)), failure=calm)
    assert episode.success is True and len(episode) == 18
    (episode,), _ = run(both, success=pressed((400, 2000)), failure=hit)
    assert episode.terminal and episode.success is False and len(episode) == 14
    assert not episode.reward.any()


def test_at_one_moment_failure_counts():
    both = own(success=force("data > 3"), failure=force("data > 4", topic="other"))
    said = pressed((400, 2000))
    assert run(both, success=said, failure=said)[0][0].success is False


def test_failure_topic_without_a_test_ends_by_true_only():
    spec = own(
        success={"topic": "s", "type": "std_msgs/Bool", "fields": ["data"]},
        failure={"topic": "f", "type": "std_msgs/Bool", "fields": ["data"]},
    )
    at, nothing = every(T, 20, T // 2), stream([], np.empty((0, 1)))
    (episode,), _ = run(spec, failure=stream(at, np.zeros(20)), success=nothing)
    assert not episode.terminal and len(episode) == 40
    (episode,), _ = run(spec, failure=stream(at, np.arange(20) >= 10), success=nothing)
    assert episode.success is False and len(episode) == 11


@settings(max_examples=60 * SCALE, deadline=None)
@given(seed=st.integers(0, 10**6), seconds=st.sampled_from([0.0, 0.04, 0.1, 0.3]))
def test_test_is_what_looking_at_every_message_gives(seed, seconds):
    rng = np.random.default_rng(seed)
    at = np.unique(START + np.cumsum(rng.integers(5, 60, 80)) * MS)
    values = np.repeat(rng.integers(0, 2, 20), 4)[: len(at)] * 5.0
    since, expected = None, None
    for k, (now, value) in enumerate(zip(at, values)):
        if value <= 3:
            since = None
            continue
        if since is None or now - at[k - 1] > 40 * MS:
            since = now
        if now - since >= seconds * 1e9:
            expected = now
            break
    spec = own(success=force(f"data > 3 N for {seconds} s", max_age=0.04))
    (episode,), _ = run(spec, count=100, success=stream(at, values))
    assert episode.terminal == (expected is not None)
    if expected is not None:
        assert len(episode) == np.ceil((expected - START) / T)


# Through the readers.


def test_field_test_on_a_topic_of_a_bag_that_is_observed_too(tmp_path):
    """The goal's topic is observed, and its number ends the episode once it has stayed above 3."""
    pytest.importorskip("rosbags")
    from qgf_ros.bags.sources import contract_sources
    from training.pipeline.readers.load import load_episodes
    from training.pipeline.writers.bag import BagWriter

    written = own(assume_success=True)
    with BagWriter(tmp_path / "bag", contract_sources(written)) as bag:
        for k in range(40):
            at = START + k * T
            bag.write("joints", at, at, np.zeros(4))
            bag.write("goal", at, at, np.array([5.0 if k >= 12 else 1.0]))
            bag.write("arm", at, at, np.zeros(2))
    point = {"topic": "goal", "type": "geometry_msgs/PointStamped", "fields": ["point.x"]}
    spec = own(success=point | {"test": "/goal.point.x > 3 m for 0.5 s"})
    (episode,), _ = load_episodes(tmp_path / "bag", spec)
    assert episode.terminal and episode.success is True and len(episode) == 22


@pytest.mark.parametrize("name", ["success", "failure"])
def test_field_test_on_a_column_of_a_table(tmp_path, name):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    from training.pipeline.readers.load import load_episodes

    said = np.where(np.arange(40) >= 12, 5.0, 1.0)
    rows = {"state": np.zeros((40, 2)), "goal": np.zeros(40), "action": np.zeros((40, 2)), "force": said}  # fmt: skip
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(
        json.dumps({
            "codebase_version": "v2.1", "fps": 20, "chunks_size": 1000, "total_episodes": 1,
            "data_path": "data/{episode_chunk}/{episode_index}.parquet",
            "features": {n: {"dtype": "float64", "shape": list(v.shape[1:]) or [1]} for n, v in rows.items()},
        })
    )  # fmt: skip
    (tmp_path / "data" / "0").mkdir(parents=True)
    pq.write_table(
        pa.table({n: v.tolist() for n, v in rows.items()}), tmp_path / "data/0/0.parquet"
    )
    value = velocity_dict()
    value["observations"][0]["fields"] = ["position"]
    value["observations"][0]["column"], value["observations"][1]["column"] = "state", "goal"
    value["actions"][0]["column"] = "action"
    tested = force("force >= 5 N for 0.5 s", column="force")
    value["outcome"] = {"objective": "time_to_success", "assume_success": name != "success", name: tested}  # fmt: skip
    (episode,), _ = load_episodes(tmp_path, contract(value))
    assert episode.terminal and episode.success is (name == "success") and len(episode) == 22


# Episodes without an end.


@pytest.mark.parametrize("count", [1, 2, 8])
def test_fault_107_an_episode_without_end_is_bootstrapped(count):
    spec = own(success={"topic": "s", "type": "std_msgs/Bool", "fields": ["data"]})
    (episode,), _ = run(spec, count=count, success=stream([], np.empty((0, 1))))
    assert len(episode) == count and not episode.terminal and episode.success is None
    parts = chunks([episode], 1, 0.9)
    assert (parts.mask == 1).all() and np.isnan(parts.to_go).all()


# What is said of the data.


def episode(success, steps=10, reward=None, obs=None):
    rewards = np.zeros(steps) if reward is None else np.broadcast_to(reward, steps).astype(float)
    if reward is None:
        rewards[-1] = float(success is True)
    obs = np.zeros((steps + 1, 6)) if obs is None else obs
    return Episode("e", obs, np.zeros((steps, 2)), rewards, success is not None, success)


REWARD = own("reward", reward={"topic": "r", "type": "std_msgs/Float64", "fields": ["data"]})
SUCCESS = own(assume_success=True)


def test_success_and_failure_are_enough():
    both = [episode(True), episode(False), episode(True, 12)]
    assert diagnose_outcomes(both, SUCCESS) == []
    assert diagnose_outcomes([episode(True, reward=-0.1), episode(True, 12, -0.1), episode(False, 9, -1)], REWARD) == []  # fmt: skip


def test_success_only_is_named_with_what_can_be_done():
    found = diagnose_outcomes([episode(True), episode(True, 14)], SUCCESS)
    assert "all 2 episodes are successes" in found[0] and "discount below 1" in found[0]
    assert "unguided rollouts" in found[0] and "reach_goal" in found[0]
    assert len(found) == 2 and "discount of 1 would leave nothing" in found[1]


def test_success_only_with_a_reward_is_offered_time_to_success():
    sooner = diagnose_outcomes([episode(True, 10, -0.1), episode(True, 14, -0.1)], REWARD)
    assert len(sooner) == 1, "the same reward in every period tells who was sooner"
    found = diagnose_outcomes([episode(True, 10, -0.1), episode(True, 10, -0.1)], REWARD)
    assert "objective time_to_success" in sooner[0] and "objective time_to_success" in found[0]
    assert "the reward is -0.1 in every period: it is constant" in found[1]


def test_success_only_of_one_length_has_no_variation_at_all():
    found = diagnose_outcomes([episode(True), episode(True)], SUCCESS)
    assert "have the same return, 1" in found[1] and "unguided rollouts" in found[1]


def test_no_outcome_at_all_is_named():
    (found,) = diagnose_outcomes([episode(None), episode(None)], SUCCESS)
    assert "none of the 2 episodes has an outcome" in found and "qgf data label" in found


def test_failure_only_is_named():
    found = diagnose_outcomes([episode(False), episode(False, 12)], SUCCESS)
    assert "all 2 episodes are failures" in found[0]


def test_goals_that_nothing_moves_towards_are_named():
    own_ = velocity_dict()
    own_["outcome"] = {
        "objective": "reach_goal",
        "goal": {"observation": "goal", "achieved": ["joints.position.a"], "radius": 0.5},
    }
    spec, obs = contract(own_), np.zeros((11, 5))
    (found,) = diagnose_outcomes([episode(None, obs=obs)], spec)
    assert "never moved further than radius 0.5" in found
    moved = obs.copy()
    moved[:, 0] = np.arange(11)
    assert diagnose_outcomes([episode(None, obs=moved)], spec) == []


def test_nothing_is_said_of_nothing():
    assert diagnose_outcomes([], SUCCESS) == []
