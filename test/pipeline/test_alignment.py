"""The time law, on recordings whose truth is a formula.

The state at time t is x(t) = t since START in ms, on every joint another multiple of it; command j
carries the number j. So every row of an episode says when it was and which command it holds.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE, SECOND, START, contract, twist_dict, velocity_dict

from qgf_ros.bags.commands import HOLD_PERIODS
from qgf_ros.control.assembler import Assembler, Observation
from qgf_ros.control.reasons import Problem
from qgf_ros.spaces.observations.base import LARGEST
from training.pipeline.align import _usable, align, featured, observe
from training.pipeline.episodes import data_hash
from training.pipeline.readers.load import without_duplicates
from training.pipeline.report import Report
from training.pipeline.streams import Recording, Stream

MS = 1_000_000
T = 50 * MS
JOINT_FACTORS = np.array([1.0, 2.0, 3.0, 4.0])


def stream(stamp, receipt, values):
    stamp, receipt = np.asarray(stamp, np.int64), np.asarray(receipt, np.int64)
    return Stream(
        stamp, receipt, np.asarray(values, float).reshape(len(stamp), -1 if np.size(values) else 0)
    )


def millis(stamp):
    return (np.asarray(stamp) - START) / MS


def joints(stamp, delay=0):
    stamp = np.asarray(stamp, np.int64)
    return stream(stamp, stamp + delay, millis(stamp)[:, None] * JOINT_FACTORS)


def goal(stamp, delay=0):
    stamp = np.asarray(stamp, np.int64)
    return stream(stamp, stamp + delay, millis(stamp))


def commands(stamp):
    stamp = np.asarray(stamp, np.int64)
    number = np.arange(len(stamp))
    return stream(stamp, stamp, np.stack([number, -number], 1))


def told(stamp, values):
    return stream(stamp, stamp, values)


def recording(one_episode=True, **streams):
    return Recording("bag", streams, one_episode=one_episode)


def every(step, count, phase=0):
    return START + phase + step * np.arange(count, dtype=np.int64)


def run(rec, own=None):
    report = Report()
    return align(rec, own or contract(), report), report


def reward_contract():
    value = velocity_dict()
    value["outcome"] = {
        "objective": "reward",
        "reward": {"topic": "reward", "type": "std_msgs/Float64", "fields": ["data"]},
        "success": {"topic": "success", "type": "std_msgs/Bool", "fields": ["data"]},
        "episode_start": {"topic": "episode_start", "type": "std_msgs/Header"},
    }
    return contract(value)


# Observations and actions.


def test_one_row_per_command_in_the_ideal_case():
    (episode,), report = run(
        recording(joints=joints(every(T, 41)), goal=goal(every(T, 41)), arm=commands(every(T, 40)))
    )
    assert len(episode) == 40 and report.ticks == 40
    assert np.array_equal(episode.action[:, 0], np.arange(40))
    assert np.array_equal(episode.obs[:, :4], np.arange(41)[:, None] * 50 * JOINT_FACTORS)


def test_observation_is_the_newest_received_by_the_tick():
    """States every 10 ms arrive 23 ms late: at tick t the newest known one is of t - 30 ms."""
    state = every(10 * MS, 300)
    (episode,), _ = run(
        recording(
            joints=joints(state, 23 * MS),
            goal=goal(state, MS),
            arm=commands(every(T, 40, 100 * MS)),
        )
    )
    ticks = 100 + 50 * np.arange(len(episode) + 1)
    assert np.array_equal(episode.obs[:, 0], ticks - 30)
    assert np.array_equal(episode.obs[:, 4], ticks - 10)


def test_demonstrators_lead_is_kept_as_it_was():
    """Commands lead the state by 200 ms: pairing neither adds to it nor takes from it."""
    at, state = every(T, 40), every(10 * MS, 300)
    lead = stream(at, at, np.stack([millis(at) + 200] * 2, 1))
    (episode,), _ = run(recording(joints=joints(state), goal=goal(state), arm=lead))
    assert np.array_equal(episode.action[:, 0] - episode.obs[:-1, 0], np.full(len(episode), 200.0))


@pytest.mark.parametrize("phase", [0, 1, 7, 24, 25, 26, 49])
@pytest.mark.parametrize("jitter", [0, 5, 12])
def test_ticks_lie_on_the_commands_whatever_their_phase(phase, jitter):
    rng = np.random.default_rng(phase * 100 + jitter)
    at = every(T, 60, 200 * MS + phase * MS) + rng.integers(-jitter * MS, jitter * MS + 1, 60)
    state = every(5 * MS, 1000)
    (episode,), _ = run(recording(joints=joints(state), goal=goal(state), arm=commands(at)))
    assert np.array_equal(episode.action[:59, 0], np.arange(59)), "each command once, in order"
    assert (np.abs(episode.obs[:59, 0] - (200 + phase + 50 * np.arange(59))) <= 5 + jitter).all()


def test_one_late_first_command_does_not_throw_the_grid_off():
    """The first command half a period late, the others on their beat: the grid lies on the others."""
    count, rng = 61, np.random.default_rng(1)
    at = every(T, count, 200 * MS) + np.where(np.arange(count) % 2, 1, -1) * rng.integers(
        1, 2 * MS, count
    )
    at[0] = START + 225 * MS
    state = every(5 * MS, 1000)
    (episode,), _ = run(recording(joints=joints(state), goal=goal(state), arm=commands(at)))
    assert (np.diff(episode.action[1:-1, 0]) == 1).all(), "none twice, none skipped"


@pytest.mark.parametrize("jitter", [-1, 0])
def test_no_tick_is_made_up_after_the_last_command(jitter):
    made_up(jitter)


def test_no_tick_is_made_up_after_a_last_command_that_is_late():
    """A recording that was cut has as many ticks as commands, also when the last one jittered back."""
    made_up(1)


def made_up(jitter):
    at = every(T, 30, 200 * MS)
    at[-1] += jitter * MS
    state = every(5 * MS, 1000)
    (episode,), _ = run(recording(joints=joints(state), goal=goal(state), arm=commands(at)))
    assert np.array_equal(episode.action[:, 0], np.arange(30))


@pytest.mark.parametrize("fps", [10, 30, 60])
def test_no_tick_is_made_up_where_the_period_is_not_whole(fps):
    """30 Hz is 33333333.3 ns: rounding must not add a row (tables from LeRobot are all like this)."""
    value = velocity_dict(period=1 / fps)
    value["observations"][0]["max_age"] = value["observations"][1]["max_age"] = 0.35
    at = START + np.round(np.arange(500) * 1e9 / fps).astype(np.int64)
    (episode,), _ = run(
        recording(joints=joints(at), goal=goal(at), arm=commands(at)), contract(value)
    )
    assert np.array_equal(episode.action[:, 0], np.arange(500))


@settings(max_examples=40 * SCALE, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    phase=st.integers(0, 49),
    delay=st.integers(0, 40),
    step=st.integers(5, 45),
    jitter=st.integers(0, 10),
)
def test_law_holds_for_any_rate_delay_phase_and_jitter(seed, phase, delay, step, jitter):
    rng = np.random.default_rng(seed)
    sent = every(step * MS, 3200 // step)
    received = sent + delay * MS + rng.integers(0, 3 * MS, len(sent))
    arm = every(T, 40, 300 * MS + phase * MS) + rng.integers(-jitter * MS, jitter * MS + 1, 40)
    rec = shuffled(
        recording(
            joints=stream(sent, received, millis(sent)[:, None] * JOINT_FACTORS),
            goal=goal(every(T, 70)),
            arm=commands(arm),
        ),
        seed,
    )
    (episode,), _ = run(rec)
    assert np.array_equal(episode.action[:39, 0], np.arange(39))
    beat = START + 300 * MS + phase * MS
    for k in range(
        39
    ):  # the tick lies within the jitter of its beat: so does what was known by then
        early, late = (
            sent[received <= beat + k * T + d * jitter * MS + T // 100].max() for d in (-1, 1)
        )
        assert millis(early) <= episode.obs[k, 0] <= millis(late)


def shuffled(rec, seed):
    rng = np.random.default_rng(seed)

    def mix(s):
        order = rng.permutation(len(s))
        return Stream(s.stamp[order], s.receipt[order], s.values[order])

    return dataclasses.replace(rec, streams={name: mix(s) for name, s in rec.streams.items()})


@pytest.mark.parametrize("seed", range(5))
def test_order_of_arrival_in_the_file_changes_nothing(seed):
    rng = np.random.default_rng(9)
    rec = recording(
        joints=joints(every(9 * MS, 300), rng.integers(0, 20 * MS, 300)),
        goal=goal(every(33 * MS, 90), rng.integers(0, 20 * MS, 90)),
        arm=commands(every(T, 40, 100 * MS) + rng.integers(-9 * MS, 9 * MS, 40)),
    )
    a, b = run(rec)[0], run(shuffled(rec, seed))[0]
    assert len(a) == len(b) == 1 and data_hash(a) == data_hash(b)


def test_late_message_does_not_replace_a_newer_one():
    stamp = every(10 * MS, 100)
    receipt = stamp.copy()
    receipt[20] += 35 * MS  # overtaken by three
    rec = recording(
        joints=stream(stamp, receipt, millis(stamp)[:, None] * JOINT_FACTORS),
        goal=goal(stamp),
        arm=commands(every(T, 15, T)),
    )
    (episode,), _ = run(rec)
    assert (np.diff(episode.obs[:, 0]) > 0).all()


def compare_with_the_node(rows):
    """`observe` against the node's Assembler. rows: (stamp, receipt, number), in order of receipt."""
    own, box = contract(), Assembler(contract())
    stamp, receipt, number = (np.array(c) for c in zip(*rows))
    fine = np.arange(START, int(receipt[-1]) + 10 * T, T // 2)
    streams = {
        "joints": stream(stamp, receipt, number[:, None] * JOINT_FACTORS),
        "goal": goal(fine),
    }
    ticks = np.arange(START + MS, int(receipt[-1]) + 6 * T, T)
    obs, fresh = observe(streams, own, ticks)
    due = list(rows)
    for k, tick in enumerate(ticks):
        while due and due[0][1] <= tick:
            at, got, n = due.pop(0)
            box.push("joints", int(at), int(got), n * JOINT_FACTORS)
        newest = int(fine[fine <= tick][-1])
        box.push("goal", newest, newest, np.array([millis(newest)]))
        online = box.assemble(int(tick))
        if isinstance(online, Problem) and online.code == "STATE_SKEW":
            continue  # a robot does not act on it; as data it says what it says
        assert isinstance(online, Observation) == bool(fresh[k]), (k, online)
        if fresh[k]:
            assert np.array_equal(online.vector, obs[k]), k


@settings(max_examples=100 * SCALE, deadline=None)
@given(offers=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), min_size=1, max_size=20))
def test_offline_and_online_see_the_same_state(offers):
    now, rows = START, []
    for number, (wait, lag) in enumerate(offers):
        now += (wait + 1) * 3 * MS
        rows.append(
            (now - lag * 5 * MS + number, now + 700_000, float(number))
        )  # off the ticks; no stamp twice
    compare_with_the_node(rows)


def test_equal_stamps_the_later_message_counts_as_in_the_node():
    """A coarse clock (use_sim_time) stamps several messages alike; the node takes the last of them."""
    compare_with_the_node(
        [(START + 10 * MS, START + (11 + k) * MS + 700_000, float(k + 1)) for k in range(4)]
    )


def test_fault_017_a_stamp_from_the_future_does_not_freeze_the_state():
    """The node refuses it; offline one bad stamp must not stand for the newest state for ten seconds."""
    at = every(10 * MS, 400)
    bad = at.copy()
    bad[100] += 10 * SECOND
    rec = recording(
        joints=stream(bad, at, millis(at)[:, None] * JOINT_FACTORS),
        goal=goal(at),
        arm=commands(every(T, 70, T)),
    )
    episodes, _ = run(rec)
    assert episodes
    for episode in episodes:
        assert len(np.unique(episode.obs[:, 0])) > len(episode) // 2, "the state stands still"


# Names.


def test_fault_009_reordered_joints_give_identical_episodes(tmp_path):
    pytest.importorskip("rosbags")
    from qgf_ros.bags.sources import contract_sources
    from training.pipeline.readers.rosbag2 import Rosbag2Reader
    from training.pipeline.writers.bag import BagWriter

    swapped = velocity_dict()
    swapped["observations"][0]["names"] = ["b", "a"]
    values = np.random.default_rng(0).normal(size=(40, 4))
    hashes = []
    for name, writer, order in (
        ("straight", contract(), [0, 1, 2, 3]),
        ("swapped", contract(swapped), [1, 0, 3, 2]),
    ):
        with BagWriter(tmp_path / name, contract_sources(writer)) as bag:
            for k in range(40):
                at = START + k * T
                bag.write("joints", at, at, values[k][order])
                bag.write("goal", at, at, np.array([1.0]))
                bag.write("arm", at, at, np.array([0.5, -0.5]) * k)
        read = Rosbag2Reader().read(tmp_path / name, ".", contract())
        episodes = run(dataclasses.replace(read, one_episode=True))[0]
        assert np.array_equal(episodes[0].obs[:39, :4], values[:39])
        hashes.append(data_hash(episodes))
    assert hashes[0] == hashes[1]


# Gaps, staleness, ends.


@pytest.mark.parametrize("missing", ["joints", "goal", "arm", "all"])
@pytest.mark.parametrize("length", [12, 20, 100])
def test_fault_105_gap_cuts_the_episode_and_no_transition_spans_it(missing, length):
    gap = (START + 1000 * MS, START + 1000 * MS + length * T)
    n = 40 + length

    def made(name, make, at):
        return make(at[(at <= gap[0]) | (at >= gap[1])] if missing in (name, "all") else at)

    rec = recording(
        joints=made("joints", joints, every(10 * MS, 5 * n)),
        goal=made("goal", goal, every(10 * MS, 5 * n)),
        arm=made("arm", commands, every(T, n)),
    )
    episodes, report = run(rec)
    assert len(episodes) == 2 and len({e.name for e in episodes}) == 2
    assert report.dropped["tick without fresh data"] > 0
    first, second = episodes
    held = {"joints": 3, "arm": HOLD_PERIODS, "goal": 10, "all": 3}[missing]
    assert 20 <= len(first) <= 20 + held + 1
    if missing != "arm":
        column = 4 if missing == "goal" else 0
        assert first.obs[-1, column] == 1000 and second.obs[0, column] >= 1000 + length * 50
    assert not first.terminal and first.success is None, "the part before a gap was cut, not ended"
    assert second.terminal and second.success is True


def test_gap_of_commands_holds_the_last_for_three_periods_only():
    keep = np.r_[0:20, 40:60]
    at, state = every(T, 60)[keep], every(10 * MS, 400)
    first, second = run(
        recording(
            joints=joints(state), goal=goal(state), arm=stream(at, at, np.stack([keep, -keep], 1))
        )
    )[0]
    assert first.action[:, 0].tolist() == [*range(20), *[19] * HOLD_PERIODS]
    assert second.action[:, 0].tolist() == list(range(40, 60))


def test_fault_105_backward_and_duplicate_stamps_are_harmless():
    at = every(10 * MS, 300)
    stamp = at.copy()
    stamp[100:110] = stamp[100:110][::-1]
    stamp[150] = stamp[149]
    stamp = np.minimum(stamp, at)  # late, not from the future
    rec = recording(
        joints=stream(stamp, at, millis(stamp)[:, None] * JOINT_FACTORS),
        goal=goal(at),
        arm=commands(every(T, 55, T)),
    )
    (episode,), _ = run(rec)
    assert (np.diff(episode.obs[:, 0]) >= 0).all()
    ages = 50 * (np.arange(len(episode) + 1) + 1) - episode.obs[:, 0]
    assert (ages >= 0).all() and (ages <= 150).all()


def test_fault_106_stale_source_drops_ticks_and_ages_stay_below_the_limit():
    value = velocity_dict()
    value["observations"][1]["max_age"] = 0.12
    rec = recording(
        joints=joints(every(10 * MS, 500)),
        goal=goal(every(200 * MS, 30)),
        arm=commands(every(T, 95)),
    )
    episodes, report = run(rec, contract(value))
    assert len(episodes) > 10
    assert report.dropped["tick without fresh data"] >= 95 // 4
    for episode in episodes:
        age = episode.obs[:, 0] - episode.obs[:, 4]
        used = age if not episode.terminal else age[:-1]
        assert (used <= 120).all() and (used >= 0).all()


def test_fault_106_every_tick_is_used_or_counted():
    """Ticks kept and ticks dropped are all ticks there were."""
    value = velocity_dict()
    value["observations"][1]["max_age"] = 0.12
    rec = recording(
        joints=joints(every(10 * MS, 500)),
        goal=goal(every(200 * MS, 30)),
        arm=commands(every(T, 95)),
    )
    episodes, report = run(rec, contract(value))
    assert report.dropped["tick without fresh data"] + sum(map(len, episodes)) == 95


def test_fault_106_delay_of_a_source_counts_as_age():
    value = velocity_dict()
    value["observations"][1] |= {"max_age": 0.12, "delay": 0.1}
    rec = recording(
        joints=joints(every(10 * MS, 500)), goal=goal(every(T, 95)), arm=commands(every(T, 90))
    )
    assert sum(map(len, run(rec, contract(value))[0])) == 90
    value["observations"][1]["delay"] = 0.13
    assert run(rec, contract(value))[0] == []


def test_fault_106_source_that_never_comes_gives_no_episode():
    rec = recording(
        joints=joints(every(T, 40)),
        goal=told(every(T, 0), np.empty((0, 1))),
        arm=commands(every(T, 40)),
    )
    episodes, report = run(rec)
    assert episodes == [] and report.dropped["episode without commands or observations"] == 1


@pytest.mark.parametrize("count", [1, 2])
def test_fault_107_one_and_two_step_episodes(count):
    rec = recording(
        joints=joints(every(T, count + 1)),
        goal=goal(every(T, count + 1)),
        arm=commands(every(T, count)),
    )
    (episode,), _ = run(rec)
    assert len(episode) == count and len(episode.obs) == count + 1


def test_fault_107_zero_length_dropped_and_counted():
    at = every(T, 40)
    rec = recording(False, joints=joints(at), goal=goal(at), arm=commands(at), reward=told(at, np.zeros(40)),
                    success=told([START], [1.0]), episode_start=told([START - MS], np.empty((1, 0))))  # fmt: skip
    episodes, report = run(rec, reward_contract())
    assert episodes == [] and report.dropped["episode of zero length"] == 1 and report.episodes == 0


def test_fault_107_recording_without_any_message_is_no_crash():
    nothing = told(every(T, 0), np.empty((0, 1)))
    assert run(recording(joints=nothing, goal=nothing, arm=nothing))[0] == []


def test_fault_096_non_finite_messages_dropped_and_counted():
    s, c = joints(every(10 * MS, 300)), commands(every(T, 40))
    s.values[[50, 51, 120]] = [[np.nan, 0, 0, 0], [0, np.inf, 0, 0], [0, 0, 0, -np.inf]]
    c.values[7] = np.nan
    (first, episode), report = run(recording(joints=s, goal=goal(every(T, 60)), arm=c))
    assert (
        report.dropped["message not finite: joints"] == 3
        and report.dropped["message not finite: arm"] == 1
    )
    assert np.isfinite(episode.obs).all() and np.isfinite(episode.action).all()
    assert len(first) == 7 and episode.action[0, 0] == 8, "an older command stands in for none"
    assert episode.obs[2, 0] == 490, "500 ms was not finite"


def test_fault_096_one_stream_without_a_finite_number_gives_no_episode():
    s = joints(every(T, 40))
    s.values[:] = np.nan
    assert run(recording(joints=s, goal=goal(every(T, 40)), arm=commands(every(T, 40))))[0] == []


def test_rejected_messages_of_the_reader_are_counted():
    rec = recording(joints=joints(every(T, 9)), goal=goal(every(T, 9)), arm=commands(every(T, 8)))
    report = run(dataclasses.replace(rec, rejected={"joint_states: x": 3}))[1]
    assert report.dropped["message rejected: joint_states: x"] == 3


def lengths_of(*counts):
    report, episodes = Report(), []
    for n in counts:
        rec = recording(
            joints=joints(every(T, n + 1)), goal=goal(every(T, n + 1)), arm=commands(every(T, n))
        )
        episodes += align(rec, contract(), report)
    return without_duplicates(episodes, report), report


def test_fault_108_duplicates_dropped_and_counted():
    left, report = lengths_of(30, 20, 30)
    assert [len(e) for e in left] == [30, 20]
    assert report.dropped["duplicate episode"] == 1 and report.episodes == 2


def test_fault_108_ticks_of_dropped_duplicates_are_not_reported():
    left, report = lengths_of(30, 20, 30)
    assert report.ticks == sum(map(len, left))


# Outcome.


def with_outcome(success=None, rewards=None, reward_at=None, count=40, end=None):
    at = every(T, 2 * count)
    rewards = -0.1 * np.ones(count) if rewards is None else np.asarray(rewards)
    reward_at = every(T, len(rewards), T) if reward_at is None else reward_at
    end = START + count * T - 3 * MS if end is None else end
    return recording(
        False,
        joints=joints(at), goal=goal(at), arm=commands(every(T, count)), reward=told(reward_at, rewards),
        success=told([] if success is None else [end], np.empty((0, 1)) if success is None else [float(success)]),
        episode_start=told([START], np.empty((1, 0))),
    )  # fmt: skip


@pytest.mark.parametrize("success", [True, False])
def test_success_and_failure_are_terminal(success):
    (episode,), _ = run(with_outcome(success), reward_contract())
    assert episode.terminal and episode.success is success and len(episode) == 40


def test_fault_107_neither_is_a_truncation():
    (episode,), _ = run(with_outcome(None), reward_contract())
    assert not episode.terminal and episode.success is None and len(episode) == 40


def test_nothing_after_the_end_is_used():
    (episode,), _ = run(with_outcome(True, end=START + 20 * T - MS), reward_contract())
    assert len(episode) == 20 and episode.terminal and episode.action[-1, 0] == 19


@pytest.mark.parametrize("jitter", [-10, 0, 10])
def test_reward_k_is_what_was_said_at_the_end_of_period_k(jitter):
    rewards = np.arange(1, 41, dtype=float)
    (episode,), _ = run(
        with_outcome(None, rewards, every(T, 40, T + jitter * MS)), reward_contract()
    )
    assert np.array_equal(episode.reward, rewards)


def test_several_rewards_of_a_period_add_up():
    (episode,), _ = run(
        with_outcome(None, np.ones(200), every(10 * MS, 200, 10 * MS)), reward_contract()
    )
    assert episode.reward.sum() == 200 and (episode.reward[1:-1] == 5).all()


@pytest.mark.parametrize("cut", [1, 7, 20, 49])
def test_terminal_reward_belongs_to_the_last_tick(cut):
    """The episode ends `cut` ms into its last period, and the last reward is said at that moment."""
    end = START + 39 * T + cut * MS
    at, rewards = np.append(every(T, 39, T), end), np.append(-0.1 * np.ones(39), -10.0)
    (episode,), _ = run(with_outcome(False, rewards, at, end=end), reward_contract())
    assert len(episode) == 40 and episode.reward[-1] <= -10 + 1e-9
    assert episode.reward.sum() == pytest.approx(-0.1 * 39 - 10), (
        "no reward is lost or counted twice"
    )


def test_rewards_that_go_on_after_the_end_belong_to_nobody():
    """A reward topic does not stop with the episode: what it says later must not become the last reward."""
    (episode,), _ = run(
        with_outcome(True, -np.ones(75), end=START + 20 * T - MS), reward_contract()
    )
    assert len(episode) == 20
    assert episode.reward[:19].tolist() == [-1] * 19 and -2 <= episode.reward[19] <= 0


@settings(max_examples=60 * SCALE, deadline=None)
@given(seed=st.integers(0, 10**6), success=st.booleans(), cut=st.integers(1, 49))
def test_sum_of_rewards_is_preserved(seed, success, cut):
    rng = np.random.default_rng(seed)
    end = START + 39 * T + cut * MS
    rewards = rng.normal(size=60)
    (episode,), _ = run(
        with_outcome(success, rewards, np.sort(rng.integers(START, end + 1, 60)), end=end),
        reward_contract(),
    )
    assert episode.reward.sum() == pytest.approx(rewards.sum())


def test_time_to_success_is_one_at_the_end_of_a_success_only():
    rec = recording(
        joints=joints(every(T, 21)), goal=goal(every(T, 21)), arm=commands(every(T, 20))
    )
    (episode,), _ = run(rec)
    assert (
        episode.reward.tolist() == [0] * 19 + [1] and episode.terminal and episode.success is True
    )
    value = velocity_dict()
    value["outcome"] = {
        "objective": "time_to_success",
        "success": {"topic": "s", "type": "std_msgs/Bool", "fields": ["data"]},
    }
    failed = dataclasses.replace(
        rec, streams=rec.streams | {"success": told([START + 20 * T - MS], [0.0])}
    )
    (episode,), _ = run(failed, contract(value))
    assert not episode.reward.any() and episode.terminal and episode.success is False


def test_episode_starts_cut_a_bag_and_rewards_stay_with_their_episode():
    at = every(T, 130)
    begins = START + np.array([0, 40, 80]) * T
    parts = np.concatenate([b + T * np.arange(38) for b in begins])
    rec = recording(
        False, joints=joints(at), goal=goal(at), arm=commands(parts), episode_start=told(begins, np.empty((3, 0))),
        reward=told(np.concatenate([b + T * np.arange(1, 39) for b in begins]), np.repeat([1.0, 10.0, 100.0], 38)),
        success=told(begins[:2] + 38 * T - MS, [1.0, 0.0]),
    )  # fmt: skip
    episodes, report = run(rec, reward_contract())
    assert [(e.terminal, e.success, len(e)) for e in episodes] == [
        (True, True, 38),
        (True, False, 38),
        (False, None, 38),
    ]
    assert report.episodes == 3 and len({e.name for e in episodes}) == 3
    assert [e.action[0, 0] for e in episodes] == [0, 38, 76]
    for e, unit in zip(episodes, (1.0, 10.0, 100.0)):
        assert np.array_equal(e.reward, np.full(38, unit))


def test_two_actions_of_different_rate_begin_where_both_have_begun():
    value = velocity_dict()
    value["actions"].append({
        "name": "hand", "topic": "hand", "type": "std_msgs/Float64MultiArray", "names": ["g"],
        "representation": "velocity", "limits": {"g": {"min": -1.0, "max": 1.0, "rate": 1.0}}})  # fmt: skip
    state = every(10 * MS, 400)
    rec = recording(
        joints=joints(state),
        goal=goal(state),
        arm=commands(every(T, 45)),
        hand=told(every(2 * T, 20, 4 * T), np.arange(20.0)),
    )
    (episode,), _ = run(rec, contract(value))
    assert episode.action[0].tolist() == [4, -4, 0]
    assert episode.action[:6, 2].tolist() == [0, 0, 1, 1, 2, 2], (
        "the last one stays in force between"
    )


# Orientations.


def twist_recording(pose=None, count=40):
    """Poses every 50 ms that turn about z by 0.1 rad each, stamped as the ticks."""
    at = every(T, count + 1)
    if pose is None:
        half = 0.05 * np.arange(count + 1)
        pose = np.stack(
            [millis(at), 0 * half, 0 * half, np.sin(half), np.cos(half), 7 + 0 * half], 1
        )
    number = np.arange(count)
    return recording(
        joints=stream(at, at, np.zeros((count + 1, 2))), tool=stream(at, at, pose),
        gripper=stream(at, at, np.zeros(count + 1)), arm=stream(at[:-1], at[:-1], np.stack([number] * 3, 1)),
        grip=stream(at[:-1], at[:-1], -number),
    )  # fmt: skip


def test_orientations_are_encoded_and_every_action_entry_has_its_columns():
    own = contract(twist_dict())
    (episode,), _ = run(twist_recording(), own)
    assert episode.obs.shape == (41, len(own.observation_names)) == (41, 11)
    turn = 0.1 * np.arange(41)
    zero = np.zeros(41)
    rot6d = np.stack([np.cos(turn), np.sin(turn), zero, -np.sin(turn), np.cos(turn), zero], 1)
    assert np.allclose(episode.obs[:, 3:9], rot6d, atol=1e-12)
    assert np.array_equal(episode.obs[:, 2], 50 * np.arange(41)) and (episode.obs[:, 9] == 7).all()
    assert np.array_equal(episode.action, np.arange(40)[:, None] * [1, 1, 1, -1])


def test_fault_096_zero_quaternions_are_dropped_and_counted_and_never_trained_on():
    rec = twist_recording()
    rec.streams["tool"].values[[10, 20, 21, 22, 23, 24]] *= [1, 0, 0, 0, 0, 1]
    value = twist_dict()
    value["observations"][1]["max_age"] = 0.16
    episodes, report = run(rec, contract(value))
    assert report.dropped["message not finite: tool"] == 6
    assert report.dropped["tick without fresh data"] > 0, "the last good one grew too old"
    assert [len(e) for e in episodes] == [22, 15]
    for e in episodes:
        assert np.allclose(np.linalg.norm(e.obs[:, 3:6], axis=1), 1)
        assert np.allclose(np.linalg.norm(e.obs[:, 6:9], axis=1), 1)
    assert episodes[0].obs[10, 2] == 450, "the pose before it, whole"


def test_fault_096_nothing_but_zero_quaternions_is_no_episode():
    rec = twist_recording()
    rec.streams["tool"].values[:, 1:5] = 0
    assert run(rec, contract(twist_dict()))[0] == []


def test_recording_is_left_as_it_was():
    """Conversion writes the recording after it was aligned: messages, not features."""
    rec = twist_recording()
    raw = rec.streams["tool"].values.copy()
    run(rec, contract(twist_dict()))
    assert np.array_equal(rec.streams["tool"].values, raw)


@settings(max_examples=30 * SCALE, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_offline_and_online_see_the_same_poses(seed):
    """Random poses, a third of them no rotation: the assembler's state at each tick is the episode's."""
    rng, own = np.random.default_rng(seed), contract(twist_dict())
    at = every(T, 31)
    pose = rng.normal(size=(31, 6))
    lengths = np.linalg.norm(pose[:, 1:5], axis=1, keepdims=True)
    pose[:, 1:5] *= rng.uniform(0.92, 1.08, (31, 1)) / lengths  # as a robot's may be
    pose[1:][rng.random(30) < 0.3, 1:5] = rng.choice([0.0, np.nan])
    rec = twist_recording(pose, 30)
    streams = {n: _usable(s, n, Report()) for n, s in featured(rec, own).items()}
    obs, fresh = observe(streams, own, at)
    box = Assembler(own)
    for k, now in enumerate(at):
        for o in own.observations:
            box.push(o.name, int(now), int(now), rec.streams[o.name].values[k])
        got = box.assemble(int(now))
        assert isinstance(got, Observation) == fresh[k]
        if fresh[k]:
            assert np.array_equal(got.vector, obs[k])


# Clocks.


def test_fault_105_what_is_odd_in_the_stamps_is_counted():
    stamp = every(10 * MS, 300)
    stamp[100:110] = stamp[100:110][::-1]  # in order of receipt, nine steps back
    stamp[150] = stamp[149]
    at = np.maximum(stamp, every(10 * MS, 300))
    rec = recording(
        joints=stream(stamp, at, millis(stamp)[:, None] * JOINT_FACTORS),
        goal=goal(every(10 * MS, 300)),
        arm=commands(every(T, 55, T)),
    )
    _, report = run(rec)
    assert report.noticed["out of order: joints"] == 4, "five of them arrive only with the rest"
    assert report.noticed["stamp repeated: joints"] == 1
    assert report.noticed["out of order: arm"] == report.noticed["stamp repeated: arm"] == 0


def test_fault_105_cuts_at_gaps_are_counted():
    keep = np.r_[0:20, 40:60, 80:100]
    at, state = every(T, 100)[keep], every(10 * MS, 600)
    rec = recording(
        joints=joints(state), goal=goal(state), arm=stream(at, at, np.stack([keep, -keep], 1))
    )
    episodes, report = run(rec)
    assert len(episodes) == 3 and report.noticed["cut at a gap"] == 2


def test_fault_105_command_stamped_by_another_clock_is_dropped_and_counted():
    """One stamp since boot among stamps since 1970 would lay the grid over half a century."""
    c, state = commands(every(T, 40)), every(10 * MS, 300)
    c.stamp[:1] = 5_000_000_000
    rec = recording(
        joints=joints(state), goal=goal(state), arm=Stream(c.stamp, every(T, 40), c.values)
    )
    (episode,), report = run(rec)
    assert len(episode) == 39 and episode.action[0, 0] == 1
    reason = "message stamped 10 s before its receipt, by another clock: arm"
    assert report.dropped[reason] == 1


def test_fault_105_silence_of_months_is_refused_not_laid_out():
    at, state = every(T, 40), every(10 * MS, 200)
    at[-1] += 10_000_000 * SECOND
    rec = recording(joints=joints(state), goal=goal(state), arm=commands(at))
    episodes, report = run(rec)
    assert episodes == []
    assert report.dropped["episode with hours of silence: mark its parts by episode_start"] == 1


def test_fault_096_numbers_beyond_float32_are_dropped_as_in_the_node():
    """The networks would see infinity; the node does not take them either."""
    s, c = joints(every(10 * MS, 300)), commands(every(T, 40))
    s.values[50, 2], s.values[51, 0], c.values[7, 1] = 3.5e38, -1e300, 1e39
    (_, episode), report = run(recording(joints=s, goal=goal(every(T, 60)), arm=c))
    assert report.dropped["message not finite: joints"] == 2
    assert report.dropped["message not finite: arm"] == 1
    assert episode.obs[2, 0] == 490 and episode.action[0, 0] == 8
    assert np.isfinite(episode.obs.astype(np.float32)).all()


@settings(max_examples=40 * SCALE, deadline=None)
@given(
    numbers=st.lists(
        st.one_of(
            st.floats(),
            st.sampled_from([LARGEST, -LARGEST, np.nextafter(LARGEST, np.inf), np.inf, np.nan]),
        ),
        min_size=3,
        max_size=20,
    )
)
def test_fault_096_offline_and_online_drop_the_same_numbers(numbers):
    at = every(T // 2, len(numbers))
    box = Assembler(contract())
    for now, number in zip(at, numbers):
        box.push("goal", int(now), int(now), np.array([number]))
    kept = _usable(stream(at, at, numbers), "goal", Report())
    assert len(numbers) - len(kept) == box.dropped


# Between messages.


def resampled(how, source=0, base=velocity_dict, **more):
    value = base()
    value["observations"][source] |= {"resample": how} | more
    return contract(value)


def slow(step=110 * MS, phase=20 * MS, count=20):
    """A state every 110 ms, off the ticks; x(t) = t, so what is read between is t too."""
    at = every(step, count, phase)
    return recording(
        joints=joints(at), goal=goal(every(10 * MS, 300)), arm=commands(every(T, 38, T))
    )


def test_linear_is_what_lies_between_at_the_tick():
    (episode,), report = run(slow(), resampled("linear"))
    assert len(episode) == 38 and report.dropped["tick without fresh data"] == 0
    expected = (50 + 50 * np.arange(39))[:, None] * JOINT_FACTORS
    assert np.allclose(episode.obs[:-1, :4], expected[:-1], rtol=0, atol=1e-9)
    held = run(slow(), contract())[0][0]
    assert (held.obs[:-1, 0] <= expected[:-1, 0]).all() and (
        held.obs[:-1, 0] < expected[:-1, 0]
    ).any()


def test_nearest_is_the_message_stamped_nearest():
    (episode,), _ = run(slow(), resampled("nearest"))
    said = 20 + 110 * np.arange(20)
    ticks = 50 + 50 * np.arange(38)
    nearest = said[np.abs(said - ticks[:, None]).argmin(1)]
    assert np.array_equal(episode.obs[:-1, 0], nearest)


@pytest.mark.parametrize("how", ["hold", "linear", "nearest"])
def test_of_equal_stamps_the_last_received_counts(how):
    """Every stamp twice; what was said of it first is not believed any more."""
    at = np.repeat(every(T, 40), 2)
    said = millis(at) - 1000 * (np.arange(80) % 2 == 0)
    rec = recording(
        joints=stream(at, at + np.tile([0, MS // 10], 40), said[:, None] * JOINT_FACTORS),
        goal=goal(every(10 * MS, 300)),
        arm=commands(every(T, 30, T)),
    )
    (episode,), _ = run(rec, resampled(how))
    assert np.array_equal(episode.obs[:-1, 0], 50 + 50 * np.arange(30))


def test_receipt_does_not_matter_between_messages_but_the_age_does():
    at = every(30 * MS, 80)
    late = recording(
        joints=joints(at, 200 * MS), goal=goal(every(10 * MS, 300)), arm=commands(every(T, 38, T))
    )
    assert run(late)[0] == [], "held, all is older than 150 ms"
    (episode,), _ = run(late, resampled("linear"))
    assert np.allclose(episode.obs[:, 0], 50 + 50 * np.arange(39))
    assert run(late, resampled("linear", delay=0.13))[0] == [], (
        "30 ms apart, 130 ms old by themselves"
    )


@pytest.mark.parametrize("how", ["linear", "nearest"])
def test_fault_105_nothing_is_read_across_a_gap(how):
    """Half a second without states: no tick in it, though both its ends are known."""
    at = every(10 * MS, 300)
    at = at[(at <= START + 1000 * MS) | (at >= START + 1500 * MS)]
    rec = recording(
        joints=joints(at), goal=goal(every(10 * MS, 300)), arm=commands(every(T, 50, T))
    )
    first, second = run(rec, resampled(how))[0]
    assert first.obs[-1, 0] == 1000 and second.obs[0, 0] == 1500
    assert np.array_equal(first.obs[:, 0], 50 * np.arange(1, 21))
    assert not first.terminal


def test_fault_105_gap_up_to_max_age_is_read_across_and_no_further():
    for hole, episodes in ((150, 1), (160, 2)):
        at = every(10 * MS, 300)
        at = at[(at <= START + 1010 * MS) | (at >= START + (1010 + hole) * MS)]
        rec = recording(
            joints=joints(at), goal=goal(every(10 * MS, 300)), arm=commands(every(T, 50, T))
        )
        assert len(run(rec, resampled("linear"))[0]) == episodes


def test_fault_096_what_is_dropped_is_read_across_as_if_it_had_not_come():
    rec = slow(step=40 * MS, count=60)
    rec.streams["joints"].values[20, 1] = np.nan
    (episode,), report = run(rec, resampled("linear"))
    assert report.dropped["message not finite: joints"] == 1
    assert np.allclose(episode.obs[:, 0], 50 + 50 * np.arange(39)), "a line is a line"


@pytest.mark.parametrize("how", ["linear", "nearest"])
def test_first_and_last_message_serve_ticks_that_were_rounded(how):
    """LeRobot rows at 30 Hz lie a nanosecond beside their ticks, the last one after it."""
    value = velocity_dict(period=1 / 30)
    value["observations"][0] |= {"resample": how, "max_age": 0.1}
    at = START + np.round(np.arange(300) * 1e9 / 30).astype(np.int64)
    (episode,), _ = run(
        recording(joints=joints(at), goal=goal(at), arm=commands(at)), contract(value)
    )
    assert np.array_equal(episode.action[:, 0], np.arange(300))
    assert np.allclose(episode.obs[:-1, 0], millis(at), atol=1e-4)


def test_two_episodes_are_never_mixed_between_messages():
    """What is said in the next episode is no neighbour of what was said in this one."""
    at, begins = every(30 * MS, 130), START + np.array([0, 40]) * T
    number = (at >= begins[1]).astype(float) * 1000
    rec = recording(
        False,
        joints=stream(at, at, number[:, None] * JOINT_FACTORS),
        goal=goal(every(10 * MS, 400)),
        arm=commands(every(T, 78)),
        episode_start=told(begins, np.empty((2, 0))),
    )
    for episode in run(rec, resampled("linear"))[0]:
        assert len(np.unique(episode.obs[:, 0])) == 1


def turning(count=41, step=70 * MS, speed=0.01):
    """Poses that turn about a slanted axis by `speed` rad per ms; every second quaternion is
    written as its opposite, which is the same rotation."""
    from scipy.spatial.transform import Rotation

    at = every(step, count)
    axis = np.array([1.0, 2.0, -2.0]) / 3
    turn = Rotation.from_rotvec(speed * millis(at)[:, None] * axis)
    q = turn.as_quat() * np.where(np.arange(count) % 2, -1, 1)[:, None]
    x = millis(at)
    pose = np.concatenate([x[:, None], q, x[:, None] + 7], 1)
    rec = twist_recording(None, 40)
    fine = every(T, 41)
    rec.streams["tool"] = stream(at, at, pose)
    return rec, Rotation.from_rotvec(speed * millis(fine)[:, None] * axis).as_matrix()


def test_slerp_goes_the_shortest_way_at_even_speed_and_numbers_beside_it_linearly():
    rec, expected = turning()
    (episode,), _ = run(rec, resampled("slerp", 1, twist_dict))
    n = len(episode)
    assert n == 40
    assert np.allclose(episode.obs[:n, 3:6], expected[:n, :, 0], atol=1e-12)
    assert np.allclose(episode.obs[:n, 6:9], expected[:n, :, 1], atol=1e-12)
    assert np.allclose(episode.obs[:n, 2], 50 * np.arange(n)), "positions linearly"
    assert np.allclose(episode.obs[:n, 9], 7 + 50 * np.arange(n))


def test_slerp_is_scipys():
    from scipy.spatial.transform import Rotation, Slerp

    rng, own = np.random.default_rng(3), resampled("slerp", 1, twist_dict)
    at = every(60 * MS, 40)
    pose = rng.normal(size=(40, 6))
    pose[:, 1:5] /= np.linalg.norm(pose[:, 1:5], axis=1, keepdims=True)
    rec = twist_recording()
    rec.streams["tool"] = stream(at, at, pose)
    (episode,), _ = run(rec, own)
    ticks = every(T, len(episode))
    wanted = Slerp(millis(at), Rotation.from_quat(pose[:, 1:5]))(millis(ticks)).as_matrix()
    assert np.allclose(episode.obs[: len(ticks), 3:6], wanted[..., 0], atol=1e-9)


@pytest.mark.parametrize("how", ["slerp", "hold", "nearest"])
@pytest.mark.parametrize("length", [1e-200, 0.5, 0.8999, 0.9001, 1.0, 1.0999, 1.1001, 2.0, 1e200])
def test_fault_143_training_drops_the_quaternions_that_the_robot_refuses(length, how):
    rec, _ = turning(step=30 * MS, count=70)
    rec.streams["tool"].values[20, 1:5] *= length
    own = resampled(how, 1, twist_dict)
    robot = Assembler(own)
    robot.push("tool", START, START, rec.streams["tool"].values[20])
    _, report = run(rec, own)
    assert report.dropped["message not finite: tool"] == robot.dropped == (not 0.9 <= length <= 1.1)


@pytest.mark.parametrize("late", [-1, 0, 1])
def test_fault_143_of_the_future_is_the_same_for_both(late):
    rec, _ = turning(step=30 * MS, count=70)
    stamps = rec.streams["tool"].stamp.copy()
    rec.streams["tool"] = Stream(
        stamps, *(getattr(rec.streams["tool"], a) for a in ("receipt", "values"))
    )
    receipt = int(rec.streams["tool"].receipt[20])
    stamps[20] = receipt + 100 * MS + late
    own = resampled("hold", 1, twist_dict)
    robot = Assembler(own)
    robot.push("tool", int(stamps[20]), receipt, rec.streams["tool"].values[20])
    _, report = run(rec, own)
    assert report.dropped["message stamped in the future: tool"] == robot.dropped == (late > 0)


@pytest.mark.parametrize("scale", [0.91, 1.09])
def test_length_of_a_quaternion_does_not_matter_to_slerp(scale):
    rec, expected = turning()
    rec.streams["tool"].values[:, 1:5] *= scale
    (episode,), _ = run(rec, resampled("slerp", 1, twist_dict))
    assert np.allclose(episode.obs[:-1, 3:6], expected[: len(episode), :, 0], atol=1e-9)


def test_fault_096_zero_quaternions_are_no_neighbours():
    rec, _ = turning(step=30 * MS, count=70)
    rec.streams["tool"].values[20, 1:5] = 0
    (episode,), report = run(rec, resampled("slerp", 1, twist_dict))
    assert report.dropped["message not finite: tool"] == 1
    assert np.allclose(np.linalg.norm(episode.obs[:, 3:6], axis=1), 1)


@pytest.mark.parametrize("how", ["hold", "linear", "nearest"])
@pytest.mark.parametrize("seed", range(3))
def test_shuffled_arrival_gives_the_same_arrays(how, seed):
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(0, 3000, 90)) * MS + START  # some stamps twice
    rec = recording(
        joints=stream(at, at + rng.integers(0, 60 * MS, 90), rng.normal(size=(90, 4))),
        goal=goal(every(33 * MS, 90), rng.integers(0, 20 * MS, 90)),
        arm=commands(every(T, 40, 100 * MS) + rng.integers(-9 * MS, 9 * MS, 40)),
    )
    own = resampled(how, max_age=1.0)
    (a, first), (b, second) = run(rec, own), run(shuffled(rec, seed), own)
    assert a and data_hash(a) == data_hash(b) and first == second


@pytest.mark.parametrize("how", ["hold", "linear"])
def test_messages_of_one_moment_are_the_same_in_any_order(how):
    """A recorder with a coarse clock: of ten messages at once, the order in the file is chance."""
    rng = np.random.default_rng(0)
    at = np.repeat(every(30 * MS, 80), 10)
    rec = recording(
        joints=stream(at, at, rng.normal(size=(800, 4))),
        goal=goal(every(T, 50)),
        arm=commands(every(T, 40)),
        reward=told(np.repeat(every(T, 40), 3), rng.normal(size=120)),
        success=told(every(T, 0), np.empty((0, 1))),
    )
    value = reward_contract().to_dict()
    value["observations"][0]["resample"] = how
    a, b = run(rec, contract(value))[0], run(shuffled(rec, 1), contract(value))[0]
    assert a[0].reward.any() and data_hash(a) == data_hash(b)


@settings(max_examples=40 * SCALE, deadline=None)
@given(seed=st.integers(0, 10**6), how=st.sampled_from(["linear", "nearest"]))
def test_fault_106_between_messages_no_tick_is_further_from_one_than_the_limit(seed, how):
    """Random losses: every tick that is kept lies between two messages at most 150 ms apart."""
    rng = np.random.default_rng(seed)
    at = every(20 * MS, 200)[rng.random(200) < 0.3]
    if len(at) < 2:
        return
    rec = recording(
        joints=joints(at), goal=goal(every(10 * MS, 500)), arm=commands(every(T, 75, T))
    )
    episodes, report = run(rec, resampled(how))
    said, kept = millis(at), 0
    for episode in episodes:
        first = int(round(episode.action[0, 0]))
        ticks = 50 + 50 * (first + np.arange(len(episode)))
        kept += len(ticks)
        for tick, value in zip(ticks, episode.obs[:, 0]):
            before, after = said[said <= tick].max(), said[said >= tick].min()
            assert after - before <= 150
            assert abs(value - tick) <= (1e-6 if how == "linear" else 75)
    assert kept + report.dropped["tick without fresh data"] == 75


@pytest.mark.parametrize("late", [3 * T, 20 * T])
def test_who_lets_go_and_then_says_how_it_went_is_heard(late):
    """The outcome comes after the last command: it is that of the episode, which ends with it."""
    last = START + 39 * T
    said = told([last + late], [[1.0]])
    rewarded = told([last + k * T for k in range(1, 9)], [[1.0]] * 8)
    rec = recording(
        joints=joints(every(T, 90)), goal=goal(every(T, 90)), arm=commands(every(T, 40)),
        success=said, reward=rewarded,
    )  # fmt: skip
    (episode,), report = run(rec, reward_contract())
    assert episode.terminal and episode.success is True and episode.origin == ""
    assert len(episode) in (40, 41, 42, 43) and episode.reward.sum() == min(8, late // T)
    noticed = report.noticed["outcome said after the last command or state"]
    assert noticed == (late > 3 * T) and report.lost == 0


def test_an_outcome_that_comes_much_later_is_lost_and_counted():
    last = START + 39 * T
    rec = recording(
        joints=joints(every(T, 200)), goal=goal(every(T, 200)), arm=commands(every(T, 40)),
        success=told([last + 60 * T], [[1.0]]),
        reward=told([last], [[0.0]]),
    )  # fmt: skip
    (episode,), report = run(rec, reward_contract())
    assert not episode.terminal and episode.success is None
    assert report.lost == 1 and any("episode outcome" in reason for reason in report.dropped)


def test_fault_132_a_stamp_ahead_of_its_receipt_makes_nothing_younger_offline_either():
    ahead = 90 * MS
    compare_with_the_node(
        [(START + k * T + ahead, START + k * T, float(k)) for k in (0, 1, 2, 9, 10, 20)]
    )
