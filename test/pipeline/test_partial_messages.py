"""Messages that are empty, of some joints, of other frames or lengths, or stamped by another clock:
all are looked at, by one rule for training, the node, the gate and replay."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qgf_make import SCALE, SECOND, START, velocity_dict

pytest.importorskip("rosbags")

from qgf_bags import custom
from rosbags.rosbag2 import StoragePlugin, Writer

from qgf_ros.bags.clock import RecordedClock
from qgf_ros.bags.commands import HOLD_PERIODS, in_force
from qgf_ros.bags.sources import contract_sources
from qgf_ros.control.assembler import Assembler, Observation
from qgf_ros.control.measured import MeasuredPositions
from qgf_ros.replay.events import BagEvents
from qgf_ros.replay.player import Commands
from qgf_ros.spaces.actions.spec import SilenceSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages import message_type
from training.doctor.checks import checks
from training.doctor.dataset import survey_dataset
from training.pipeline.align import align, observe
from training.pipeline.readers.rosbag2 import Rosbag2Reader
from training.pipeline.report import Report
from training.pipeline.writers.bag import BagWriter

STORE = custom("test_msgs/msg/Unused", "float64 x\n")
MS = SECOND // 1000
T = SECOND // 20


def make(kind, **fields):
    package, name = kind.split("/")
    return STORE.types[f"{package}/msg/{name}"](**fields)


def header(stamp, frame=""):
    time = make("builtin_interfaces/Time", sec=stamp // SECOND, nanosec=stamp % SECOND)
    return make("std_msgs/Header", stamp=time, frame_id=frame)


def joints(names, position, stamp=0):
    none = np.empty(0)
    return make("sensor_msgs/JointState", header=header(stamp), name=list(names),
                position=np.array(position, float), velocity=none, effort=none)  # fmt: skip


def plan(points):
    one = make("trajectory_msgs/JointTrajectoryPoint", positions=np.zeros(2), velocities=np.empty(0),
               accelerations=np.empty(0), effort=np.empty(0),
               time_from_start=make("builtin_interfaces/Duration", sec=0, nanosec=0))  # fmt: skip
    return make("trajectory_msgs/JointTrajectory", header=header(START), joint_names=["a", "b"],
                points=[one] * points)  # fmt: skip


def floats(*values):
    layout = make("std_msgs/MultiArrayLayout", dim=[], data_offset=0)
    return make("std_msgs/Float64MultiArray", layout=layout, data=np.array(values, float))


def clock(at):
    time = make("builtin_interfaces/Time", sec=at // SECOND, nanosec=at % SECOND)
    return make("rosgraph_msgs/Clock", clock=time)


def bag(path, messages):
    """messages: (receipt, topic, message)."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        to = {}
        for receipt, topic, msg in sorted(messages, key=lambda m: m[0]):
            kind = msg.__msgtype__
            if topic not in to:
                to[topic] = writer.add_connection(f"/{topic}", kind, typestore=STORE)
            writer.write(to[topic], receipt, STORE.serialize_cdr(msg, kind))
    return path


def own(merge=True, **action):
    value = velocity_dict()
    value["observations"] = [
        dict(value["observations"][0], fields=["position"], names=["a", "b", "c"])
    ]
    if merge:
        value["observations"][0]["merge"] = "joints"
    value["actions"][0] |= action
    return value


def newest_by_joint(messages, names):
    """What is known after each message, plainly: (receipt, oldest stamp, values)."""
    known, found = {}, []
    for receipt, msg in messages:
        stamp = msg.header.stamp.sec * SECOND + msg.header.stamp.nanosec
        given = dict(zip(msg.name, msg.position.tolist()))
        mine = {n: v for n, v in given.items() if n in names}
        if not mine:
            continue
        if all(map(math.isfinite, mine.values())):
            for n, v in mine.items():
                if n not in known or stamp >= known[n][0]:
                    known[n] = (stamp, v)
        else:
            continue  # of no use, and nobody forgets what was known
        if set(known) == set(names):
            found.append((receipt, min(s for s, _ in known.values()), [known[n][1] for n in names]))
    return found


parts = st.lists(st.permutations(["a", "b", "c", "other"]).flatmap(
    lambda p: st.integers(0, 4).map(lambda k: p[:k])), min_size=3, max_size=25)  # fmt: skip


@settings(max_examples=15 * SCALE, deadline=None)
@given(names=parts, late=st.lists(st.integers(0, 60), min_size=25, max_size=25),
       bad=st.integers(0, 24))  # fmt: skip
# In the end just as old as is allowed: 0.15 s, as a float a little more.
@example(names=[[]] * 5 + [["a", "b", "c"]] + [[]] * 7, late=[0] * 6 + [10] + [0] * 18, bad=0)
def test_joints_are_merged_alike_in_training_node_gate_and_replay(
    tmp_path_factory, names, late, bad
):
    tmp_path = tmp_path_factory.mktemp("bag")
    said = []
    for k, some in enumerate([["c", "a", "b"], *names]):
        receipt = START + k * 20 * MS
        values = [k + 0.1 * "abco".index(n[0]) for n in some]
        if k == bad + 1 and some:
            values[0] = float("nan")
        said.append((receipt, joints(some, values, receipt - late[k % 25] * MS)))
    other = [(START + k * T, "commands", floats(0.0, 0.0)) for k in range(30)]
    path = bag(tmp_path / "bag", [(r, "joint_states", m) for r, m in said] + other)
    contract = Contract.from_dict(own())
    wanted = newest_by_joint(said, ["a", "b", "c"])

    recording = Rosbag2Reader().read(path, ".", contract)
    stream = recording.streams["joints"]
    good = np.isfinite(stream.values).all(axis=1)
    assert [(r, s, v) for r, s, v in zip(stream.receipt[good].tolist(), stream.stamp[good].tolist(),
                                         stream.values[good].tolist())] == wanted  # fmt: skip
    empty = sum(not m.name for _, m in said)
    assert sum(recording.rejected.values()) == empty, recording.rejected

    heard = [e for e in BagEvents(path, ".", contract) if e.name == "joints"]
    heard = [e for e in heard if np.isfinite(e.values).all()]
    assert [(e.at, e.stamp, e.values.tolist()) for e in heard] == wanted

    node, gate = Assembler(contract), MeasuredPositions(Contract.from_dict(position_with_merge()))
    source, kind = contract.observations[0], message_type("sensor_msgs/JointState")
    report = Report()
    align(recording, contract, report)
    assert report.dropped["message not finite: joints"] == int((~good).sum())
    streams = {
        "joints": type(stream)(stream.stamp[good], stream.receipt[good], stream.values[good])
    }
    for receipt, msg in said:
        stamp = msg.header.stamp.sec * SECOND + msg.header.stamp.nanosec
        if set(msg.name) & {"a", "b", "c"}:
            some = kind.decode_some(msg, source.fields, source.names)
            node.push_some("joints", stamp, receipt, *some)
            gate.push_message(gate.sources[0], stamp, stamp, msg)
        seen = node.assemble(receipt)
        expected, fresh = observe(streams, contract, np.array([receipt]))
        if isinstance(seen, Observation):
            assert fresh[0] and seen.vector.tolist() == expected[0].tolist()
            if np.isfinite(some[0][np.repeat(some[1], 1)]).all():
                assert gate.at(receipt).tolist() == expected[0, :2].tolist()
        else:
            before = [w for w in wanted if w[0] <= receipt]
            spoilt = seen.code == "STATE_SKEW"
            assert spoilt or not before or not fresh[0]


def position_with_merge():
    value = own()
    limits = {n: {"min": -99.0, "max": 99.0, "rate": 2.0} for n in "ab"}
    value["actions"][0] |= {"representation": "absolute", "limits": limits}
    return value


def test_an_empty_first_message_is_counted_and_every_episode_kept(tmp_path):
    """It led to fewer numbers than messages, and training and inspection ended in a traceback."""
    rng = np.random.default_rng(0)
    said = [
        (START - 2 * MS, "joint_states", joints([], [])),
        (START - MS, "joint_states", joints([], [])),
    ]
    for k in range(60):
        order = rng.permutation(["a", "b", "c", "finger"])
        said.append(
            (
                START + k * T // 2,
                "joint_states",
                joints(order, [ord(n[0]) for n in order], START + k * T // 2),
            )
        )
    said += [(START + k * T, "commands", floats(*([k, 0.0] if k else []))) for k in range(30)]
    path = bag(tmp_path / "bag", said)
    contract = Contract.from_dict(own(merge=False))
    recording, report = Rosbag2Reader().read(path, ".", contract), Report()
    (episode,) = align(recording, contract, report)
    assert len(episode) == 29 and (episode.obs == [97, 98, 99]).all()
    assert sum(recording.rejected.values()) == 3 and report.lost == 3
    found = {c.name: c for c in checks(survey_dataset(path, contract))}
    assert "2 of 62" in found["unread"].found and "1 of 30" in str(found["unread"].where)
    assert "3 messages cannot be used" in found["contract"].found


def test_plans_and_odd_lengths_are_named_and_do_not_hide_the_rest(tmp_path):
    said = [(START + k * T, "plan", plan(5)) for k in range(30)]
    said += [(START + k * T, "commands", floats(*range(3 if k != 7 else 5))) for k in range(30)]
    said += [(START + k * T, "any", floats(*range(k % 4))) for k in range(30)]
    path = bag(tmp_path / "bag", said)
    survey = Rosbag2Reader().survey(path, ".")
    assert survey.signals["/commands"].labels == ("data.0", "data.1", "data.2")
    assert len(survey.signals["/commands"].stream) == 29
    assert set(survey.signals) == {"/commands"} and survey.rejected == {}
    assert survey.unread["/plan"] == {"commands of several points are not read": 30}
    assert survey.unread["/commands"] == {"data has 5 numbers, where most messages have 3": 1}
    found = {c.name: c for c in checks(survey_dataset(path))}
    assert found["unread"].verdict == "bad" and "30 of 30" in found["unread"].found
    assert "controller_state" in found["unread"].fix


def meant(commands, ticks, period, silence=None):
    """The command of each tick, one by one; None where nothing is known. commands: (stamp, value or
    None where it cannot be used), of different stamps."""
    for t in ticks:
        near = [c for c in commands if abs(c[0] - t) <= period // 2]
        before = [c for c in commands if c[0] <= t]
        pick = min(near, key=lambda c: (abs(c[0] - t), c[0] > t), default=None) or max(
            before, default=None
        )
        lag = None if pick is None else t - pick[0]
        if silence and (lag is None or lag > silence.after * SECOND):
            yield silence.value
        elif pick is None or (not silence and lag > HOLD_PERIODS * period):
            yield None
        else:
            yield pick[1]


@settings(max_examples=60 * SCALE, deadline=None)
@given(
    times=st.lists(st.integers(0, 2000), min_size=0, max_size=40, unique=True),
    use=st.lists(st.booleans(), min_size=40, max_size=40),
    after=st.sampled_from([None, 0.1, 0.5]),
)
def test_rejected_commands_are_not_bridged_and_silence_is_what_is_said(times, use, after):
    silence = None if after is None else SilenceSpec(after, 0.25)
    commands = [
        (START + t * MS, float(i) if ok else None) for i, (t, ok) in enumerate(zip(times, use))
    ]
    ticks = START + np.arange(-5, 60) * T
    good = [c for c in commands if c[1] is not None]
    values, known = in_force(
        np.array([c[0] for c in good], np.int64), np.array([[c[1]] for c in good]).reshape(-1, 1),
        np.array([c[0] for c in commands if c[1] is None], np.int64), ticks, T, silence,
    )  # fmt: skip
    got = [v if k else None for v, k in zip(values[:, 0].tolist(), known.tolist())]
    assert got == list(meant(commands, ticks.tolist(), T, silence))

    value = own()
    if silence is not None:
        value["actions"][0]["silence"] = {"after": after, "value": 0.25}
    replayed = Commands(Contract.from_dict(value))
    from qgf_ros.replay.events import BagMessage

    for at, number in commands:
        row = np.full(2, np.nan if number is None else number)
        replayed.add(BagMessage(at, "arm", at, row))
    column = replayed.at(ticks, T)[:, 0]
    assert [None if np.isnan(v) else v for v in column] == got


def test_twists_of_another_frame_cut_the_recording_and_replay_knows_nothing_there(tmp_path):
    value = own(merge=False, type="geometry_msgs/TwistStamped", fields=["twist.linear.x"], names=[],
                space="twist", frame="base_link")  # fmt: skip
    value["actions"][0]["limits"] = {"twist.linear.x": {"min": -99.0, "max": 99.0, "rate": 1.0}}
    contract, zero = Contract.from_dict(value), make("geometry_msgs/Vector3", x=0.0, y=0.0, z=0.0)

    def twist(k, frame):
        linear = make("geometry_msgs/Vector3", x=float(k), y=0.0, z=0.0)
        return make("geometry_msgs/TwistStamped", header=header(START + k * T, frame),
                    twist=make("geometry_msgs/Twist", linear=linear, angular=zero))  # fmt: skip

    frames = ["tool0" if k in (10, 11, 25) else ["", "base_link"][k % 2] for k in range(40)]
    said = [(START + k * T, "commands", twist(k, f)) for k, f in enumerate(frames)]
    said += [
        (START + k * T // 2, "joint_states", joints("abc", [k, 0, 0], START + k * T // 2))
        for k in range(90)
    ]
    path = bag(tmp_path / "bag", said)
    report = Report()
    episodes = align(Rosbag2Reader().read(path, ".", contract), contract, report)
    assert [e.action[:, 0].tolist() for e in episodes] == [
        list(range(10)), list(range(12, 25)), list(range(26, 40))]  # fmt: skip
    assert report.dropped["tick without fresh data"] == 3 and report.lost == 3
    replayed = Commands(contract)
    for event in BagEvents(path, ".", contract):
        if event.name == "arm":
            replayed.add(event)
    unknown = np.isnan(replayed.at(START + np.arange(40) * T, T)[:, 0])
    assert np.flatnonzero(unknown).tolist() == [10, 11, 25]
    found = {c.name: c for c in checks(survey_dataset(path, contract))}
    assert (
        "tool0 in 3" in found["frames"].found
        and "3 messages cannot be used" in found["contract"].found
    )


@pytest.mark.parametrize("simulated", [5 * SECOND, START + 900 * SECOND])
def test_a_simulator_recorded_in_wall_time_is_read_in_its_own(tmp_path, simulated):
    """Half as fast as the wall, which must show in no age and no rate."""
    said = []
    for k in range(240):
        wall, at = START + k * 20 * MS, simulated + k * 10 * MS
        said.append((wall, "clock", clock(at)))
        said.append((wall + MS, "joint_states", joints("abc", [k, 0, 0], at)))
        if k % 5 == 0:
            said.append((wall + MS, "commands", floats(float(k), 0.0)))
    said.append((START - SECOND, "commands", floats(9.0, 9.0)))  # before any clock
    path = bag(tmp_path / "bag", said)
    contract = Contract.from_dict(own(merge=False))
    recording = Rosbag2Reader().read(path, ".", contract)
    assert recording.streams["joints"].receipt[0] == simulated
    assert recording.rejected == {"received before the first /clock": 1}
    (episode,) = align(recording, contract, Report())
    assert len(episode) == 48 and episode.obs[:48, 0].tolist() == list(range(0, 240, 5))
    replayed = {e.at for e in BagEvents(path, ".", contract)}
    assert replayed == set(np.concatenate([s.receipt for s in recording.streams.values()]).tolist())
    check = {c.name: c for c in checks(survey_dataset(path))}["clocks"]
    assert check.verdict == "warn" and "/clock" in check.found


def test_a_clock_that_was_recorded_by_changes_nothing():
    own_clock = RecordedClock()
    for k in range(50):
        own_clock.add(clock(START + k * T), START + k * T + 3 * MS)
    assert own_clock.control([np.array([START])]) is None and own_clock.said == ""


def test_a_clock_that_goes_back_is_said():
    own_clock = RecordedClock()
    for k in range(50):
        own_clock.add(clock((1 + k % 25) * T), START + k * T)
    assert own_clock.control([np.array([START])]) is None and "goes back" in own_clock.said


def two_arms(**more):
    value = own()
    value["observations"][0]["names"] = ["l1", "l2", "r1"]
    arm = dict(value["actions"][0], type="sensor_msgs/JointState", fields=["velocity"])
    value["actions"] = [
        arm | {"name": name, "names": names, "limits": {n: {"min": -9.0, "max": 9.0, "rate": 80.0} for n in names}} | more
        for name, names in (("left", ["l1", "l2"]), ("right", ["r1"]))
    ]  # fmt: skip
    return value


def test_two_arms_on_one_topic_are_written_read_and_replayed(tmp_path):
    contract = Contract.from_dict(two_arms(stamp="receipt"))
    with BagWriter(tmp_path / "bag", contract_sources(contract)) as out:
        for k in range(30):
            at = START + k * T
            out.write("joints", at, at, np.array([k, k, k], float))
            out.write("left", at, at, np.array([k, -k], float))
            out.write("right", at + 5 * MS, at + 5 * MS, np.array([0.5 * k]))
    recording = Rosbag2Reader().read(tmp_path / "bag", ".", contract)
    assert recording.rejected == {} and recording.refused == {}
    (episode,) = align(recording, contract, Report())
    assert episode.action[:29].tolist() == [[k, -k, 0.5 * k] for k in range(29)]
    events = BagEvents(tmp_path / "bag", ".", contract)
    assert sorted({e.name for e in events}) == ["joints", "left", "right"] and not events.losses


def test_training_and_replay_count_the_same_of_a_shared_topic(tmp_path):
    """A message of strangers is counted once, and so is one that neither of two arms can use."""
    contract = Contract.from_dict(two_arms())
    joint_names = ["l1", "l2", "r1"]

    def command(names, velocity, at):
        empty = np.empty(0)
        return make("sensor_msgs/JointState", header=header(at), name=names, position=empty,
                    velocity=np.array(velocity, float), effort=empty)  # fmt: skip

    topic, said = contract.actions[0].topic, []
    for k in range(20):
        at = START + k * T
        names, velocity = (
            (["stranger"], [1])
            if k == 4
            else (joint_names, [1])
            if k == 7
            else (joint_names, [1] * 3)
        )
        said += [(at, contract.observations[0].topic, joints(joint_names, [0, 0, 0], at))]
        said += [(at, topic, command(names, velocity, at))]
    path = bag(tmp_path / "bag", said)
    recording = Rosbag2Reader().read(path, ".", contract)
    events = BagEvents(path, ".", contract)
    rows = [(e.name, e.stamp, e.values.tolist()) for e in events]
    assert dict(events.losses) == recording.rejected and sum(recording.rejected.values()) == 2
    for name, stream in recording.streams.items():
        sound = [(s, v) for n, s, v in rows if n == name and np.isfinite(v).all()]
        assert sound == list(zip(stream.stamp.tolist(), stream.values.tolist()))
    unusable = {
        n: sorted(s for m, s, v in rows if m == n and not np.isfinite(v).all())
        for n in ("left", "right")
    }
    assert unusable == {n: stamps.tolist() for n, stamps in recording.refused.items()}
    assert unusable["left"] == unusable["right"] == [START + 7 * T]
