"""A drafted contract loads, reads the data it was drafted from, and says of every guess where it came from."""

import copy
from pathlib import Path

import numpy as np
import pytest
from qgf_make import ARM_FILE, SECOND, START, contract, twist_dict, velocity_dict

from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.spaces.contract import Contract

pytest.importorskip("rosbags")
pytest.importorskip("pyarrow")

from qgf_ros.bags.sources import contract_sources
from training.doctor.checks import checks
from training.doctor.dataset import Dataset
from training.doctor.roles import pairs
from training.doctor.summary import summarise
from training.draft.draft import draft, drafted_from
from training.pipeline.readers.load import load_episodes
from training.pipeline.streams import Signal, Stream, Survey
from training.pipeline.writers.bag import BagWriter

G1 = Path(__file__).resolve().parents[3] / "shared" / "data" / "g1_lerobot_v21"
T = SECOND // 20
JOINT_STATES, COMMANDS = "/joint_states", "/arm_controller/commands"


def motion(rows, columns, seed=0):
    noise = np.random.default_rng(seed).normal(size=(rows + 40, columns))
    window = np.hanning(30)
    smooth = np.stack([np.convolve(n, window, "valid") for n in noise.T], 1)[:rows]
    return smooth / np.abs(smooth).max(axis=0)


def bag(path, value, ticks=200):
    """A bag by a contract: actions lead what is observed of the same field by two ticks."""
    own = contract(value)
    rng = np.random.default_rng(1)
    with BagWriter(path, contract_sources(own)) as writer:
        names = {n: k for k, n in enumerate(dict.fromkeys(n for a in own.actions for n in a.labels_of_joints))}  # fmt: skip
        moves = motion(ticks + 2, len(names))
        for k in range(ticks):
            at = START + k * T
            for o in own.observations:
                joints = [moves[k, names[n]] for n in o.names if n in names]
                values = (
                    np.tile(joints, len(o.fields)) if joints else rng.normal(size=len(o.labels))
                )
                writer.write(o.name, at, at + T // 10, values)
            for a in own.actions:
                writer.write(a.name, at, at + T // 10, moves[k + 2, [names[n] for n in a.labels_of_joints]])  # fmt: skip
    return own


def survey(rows=300, names=("a", "b"), command=None, unnamed=False, others=None):
    """A survey of a robot whose joints follow their position commands."""
    moves = motion(rows + 2, len(names))
    stamp = START + np.arange(rows, dtype=np.int64) * T
    labels = tuple(f"position.{n}" for n in names)
    values = moves[2:] if command is None else command
    told = tuple(f"data.{k}" for k in range(len(names))) if unnamed else labels
    kind = "std_msgs/Float64MultiArray" if unnamed else "sensor_msgs/JointState"
    signals = {
        JOINT_STATES: Signal(JOINT_STATES, "sensor_msgs/JointState", labels, Stream(stamp, stamp, moves[:rows])),
        COMMANDS: Signal(COMMANDS, kind, told, Stream(stamp, stamp, values)),
    }  # fmt: skip
    return Survey("r", signals | (others or {}))


def drafted(*surveys, period=None, horizon=5):
    data = Dataset(Path("some/robot"), "test", period=0.05)
    for s in surveys:
        data.add(summarise(s, pairs(surveys[0], 0.05), 0.05))
    return drafted_from(data, period, horizon)


def loaded(found, tmp_path):
    (tmp_path / "contract.yaml").write_text(found.text)
    return Contract.load(tmp_path / "contract.yaml")


def test_arm_that_is_driven_by_velocities(tmp_path):
    """An array without names: its numbers are known by the motion that follows them."""
    value = velocity_dict()
    value["observations"][0]["fields"] = ["velocity"]
    own = bag(tmp_path / "bag", value)
    draft(tmp_path / "bag", tmp_path / "contract.yaml")
    found = Contract.load(tmp_path / "contract.yaml")
    assert found.time.period == 0.05 and found.actions[0].names == ("a", "b")
    assert found.actions[0].representation == "velocity"
    assert [o.topic for o in found.observations] == ["joint_states", "goal"]
    ours, theirs = (load_episodes(tmp_path / "bag", c)[0] for c in (found, own))
    assert np.array_equal(ours[0].action, theirs[0].action)
    assert np.array_equal(ours[0].obs, theirs[0].obs)


def test_tool_that_is_driven_by_twists(tmp_path):
    value = copy.deepcopy(twist_dict())
    value["actions"][0]["topic"] = "servo/delta_twist_cmds"
    value["actions"][1]["topic"] = "gripper_controller/commands"
    bag(tmp_path / "bag", value)
    made = draft(tmp_path / "bag", tmp_path / "contract.yaml")
    found = Contract.load(tmp_path / "contract.yaml")
    actions = {a.topic: a for a in found.actions}
    assert (
        actions["servo/delta_twist_cmds"].space == "twist" and "the recorded frame_id" in made.text
    )
    grip = actions["gripper_controller/commands"]
    assert grip.representation == "absolute" and grip.names == ("finger.left",)
    assert grip.space == "gripper"
    pose = next(o for o in found.observations if o.topic == "tool/pose")
    assert pose.encoding == "rot6d" and "pose.orientation" in pose.fields
    assert load_episodes(tmp_path / "bag", found)[0]


def test_arm_that_is_driven_by_trajectories(tmp_path):
    value = velocity_dict()
    value["actions"][0] |= {"type": "trajectory_msgs/JointTrajectory", "fields": ["position"],
                            "representation": "absolute"}  # fmt: skip
    own = bag(tmp_path / "bag", value)
    draft(tmp_path / "bag", tmp_path / "contract.yaml")
    found = Contract.load(tmp_path / "contract.yaml")
    assert found.actions[0].type == "trajectory_msgs/JointTrajectory"
    assert found.actions[0].representation == "absolute" and found.actions[0].names == ("a", "b")
    ours, theirs = (load_episodes(tmp_path / "bag", c)[0] for c in (found, own))
    assert np.array_equal(ours[0].action, theirs[0].action)


def test_every_guess_says_where_it_came_from():
    found = drafted(survey())
    assert found.guesses >= 6 and found.loads and not found.to_fill_in
    for key in ("period", "horizon", "representation", "limits", "max_age", "assume_success"):
        line = next(line for line in found.text.splitlines() if line.strip().startswith(f"{key}:"))
        assert "# confirm: " in line, line


def test_limits_are_quantiles_and_a_tenth_more_and_a_glitch_is_none(tmp_path):
    rng = np.random.default_rng(0)
    command = rng.uniform([-1, 0], [1, 4], size=(4000, 2))
    command[1234] = 1e6
    action = loaded(drafted(survey(4000, command=command)), tmp_path).actions[0]
    assert action.limits["a"].min == pytest.approx(-1.2, abs=0.01)
    assert action.limits["a"].max == pytest.approx(1.2, abs=0.01)
    assert action.limits["b"].max == pytest.approx(4.4, abs=0.02)
    assert 1.0 < action.limits["a"].rate / 20 <= 2.2  # per second, of neighbours 1/20 s apart


def test_command_that_never_changed_gets_limits_that_say_so(tmp_path):
    command = np.zeros((300, 2))
    found = drafted(survey(command=command + [0.5, 0.0]))
    action = loaded(found, tmp_path).actions[0]
    assert action.limits["a"].min < 0.5 < action.limits["a"].max
    assert found.text.count("it never changed in the recording") == 2


def test_velocity_limits_include_a_standstill(tmp_path):
    stamp = START + np.arange(300, dtype=np.int64) * T
    wheels = Signal("/cmd_vel", "geometry_msgs/Twist", ("linear.x", "angular.z"), Stream(stamp, stamp, 1 + motion(300, 2) / 2))  # fmt: skip
    states = survey().signals[JOINT_STATES]
    action = loaded(drafted(Survey("r", {JOINT_STATES: states, "/cmd_vel": wheels})), tmp_path).actions[0]  # fmt: skip
    assert action.limits["linear.x"].min == 0 and action.space == "twist"


@pytest.mark.parametrize(
    "names", [("yes", "1e3"), ("a: b", "#x"), ("null", "[c]"), ("été", "d'e\"f")]
)
def test_names_come_back_as_they_were(tmp_path, names):
    found = loaded(drafted(survey(names=names)), tmp_path)
    assert found.actions[0].names == names == found.observations[0].names


def test_array_that_nothing_follows_is_to_be_filled_in():
    command = np.random.default_rng(3).normal(size=(300, 2))
    found = drafted(survey(command=command, unnamed=True))
    assert found.to_fill_in and found.to_fill_in[0].startswith("action arm_controller")
    head = found.text[: found.text.index("contract: 1")]
    assert "FILL IN" in head and found.to_fill_in[0] in head


def test_recording_without_commands_says_that_it_does_not_load():
    states = survey().signals[JOINT_STATES]
    found = drafted(Survey("r", {JOINT_STATES: states}))
    assert not found.loads and "does not load yet" in found.to_fill_in[0]


def test_what_this_version_cannot_use_is_listed_with_the_reason():
    stamp = START + np.arange(300, dtype=np.int64) * T
    plan = Signal("/plan", "trajectory_msgs/JointTrajectory", ("points.0",), Stream(stamp, stamp, np.ones((300, 1))))  # fmt: skip
    seen = Survey("r", survey(others={"/plan": plan}).signals, {"/camera": "sensor_msgs/Image"})
    text = drafted(seen).text
    assert "# - /plan (trajectory_msgs/JointTrajectory), a command: it holds neither" in text
    assert (
        "# - /camera (sensor_msgs/Image): a camera whose images could not be read: sensor_msgs/Image and"
        in text
    )


def two_arms(every=2, rows=400):
    """Left and right arm say what they do, and are told what to do, each in messages of its own: the
    left one at 20 Hz, the right one every `every`-th time, right after it."""
    labels = tuple(f"position.{n}" for n in ("l1", "l2", "r1"))
    moves = motion(rows + 2, 3)
    at = START + np.arange(rows, dtype=np.int64) * T

    def said(values):
        left, right = values.copy(), values[::every].copy()
        left[:, 2] = right[:, :2] = np.nan
        stamp = np.concatenate([at, at[::every] + 1])
        order = np.argsort(stamp)
        return Stream(stamp[order], stamp[order], np.concatenate([left, right])[order])

    kind = "sensor_msgs/JointState"
    signals = [Signal(JOINT_STATES, kind, labels, said(moves[:rows])),
               Signal("/joint_commands", kind, labels, said(moves[2:]))]  # fmt: skip
    return Survey("r", {s.topic: s for s in signals}), moves


@pytest.mark.parametrize("every", [1, 2, 3])
def test_arms_that_speak_apart_have_their_own_rates_and_are_merged(tmp_path, every):
    """Of one topic neither the rate of both together, nor the jumps from one arm to the other."""
    seen, moves = two_arms(every)
    found = loaded(drafted(seen), tmp_path)
    assert found.time.period == 0.05
    (joints,) = found.observations
    assert joints.names == ("l1", "l2", "r1") and joints.merge == "joints"
    assert found.max_age(joints) == pytest.approx(3 * every * 0.05, abs=0.011)
    assert [a.names for a in found.actions] == [("l1", "l2"), ("r1",)]
    fastest = np.abs(np.diff(moves[2::every, 2])).max() / (every * 0.05)
    assert found.actions[1].limits["r1"].rate == pytest.approx(1.1 * fastest, rel=0.05)


def test_arms_that_speak_apart_are_no_gap_no_jitter_and_nothing_missing():
    data = Dataset(Path("some/robot"), "test", period=0.05)
    seen, _ = two_arms()
    data.add(summarise(seen, pairs(seen, 0.05), 0.05))
    found = {c.name: c for c in checks(data)}
    for name in ("finite", "gaps", "rates", "stamps"):
        assert found[name].verdict == "ok", found[name]
    assert "20 Hz" in found["rates"].found
    late = seen.signals[JOINT_STATES].stream
    wait = np.where(np.arange(len(late)) >= 300, SECOND, 0)
    silent = Stream(late.stamp + wait, late.receipt + wait, late.values)
    gone = Signal(JOINT_STATES, "sensor_msgs/JointState", seen.signals[JOINT_STATES].labels, silent)
    data = Dataset(Path("some/robot"), "test", period=0.05)
    data.add(summarise(Survey("r", seen.signals | {JOINT_STATES: gone}), [], 0.05))
    assert data.signals[JOINT_STATES].gaps == 2  # of either arm


def test_comment_cannot_be_left_by_a_name(tmp_path):
    stamp = START + np.arange(300, dtype=np.int64) * T
    odd = Signal("/x\nactions: []", "std_msgs/Float64", ("data",), Stream(stamp, stamp, motion(300, 1)))  # fmt: skip
    found = drafted(survey(others={odd.topic: odd}))
    assert found.loads and len(loaded(found, tmp_path).actions) == 1


def test_joint_that_nobody_commands_and_that_never_moves_is_left_out(tmp_path):
    seen = survey(names=("a", "b"))
    s = seen.signals[JOINT_STATES]
    values = np.column_stack([s.stream.values, np.full(300, 0.7)])
    wider = Signal(s.topic, s.type, (*s.labels, "position.fixed"), Stream(s.stream.stamp, s.stream.receipt, values))  # fmt: skip
    found = drafted(Survey("r", seen.signals | {JOINT_STATES: wider}))
    assert loaded(found, tmp_path).observations[0].names == ("a", "b")
    assert (
        "position.fixed" not in found.text and "/joint_states fixed: it never changes" in found.text
    )


def test_existing_file_is_not_written_over(tmp_path):
    out = tmp_path / "contract.yaml"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        draft(tmp_path / "bag", out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("options", [{"period": 0.0}, {"period": 11.0}, {"horizon": 0}])
def test_options_out_of_range_refused(tmp_path, options):
    with pytest.raises(UsageError, match="allowed"):
        draft(tmp_path, tmp_path / "contract.yaml", **options)


def test_missing_dataset_refused_and_nothing_written(tmp_path):
    with pytest.raises(DataRefused):
        draft(tmp_path / "nowhere", tmp_path / "contract.yaml")
    assert not (tmp_path / "contract.yaml").exists()


def test_table_without_a_clock_is_drafted_for_the_period_that_is_given(tmp_path):
    """Rates are per second: of rows a period apart, not a second, as nobody knows better."""
    rows = motion(200, 2)
    ends = np.zeros(200, bool)
    ends[99::100] = True
    np.savez(tmp_path / "play.npz", observations=rows, actions=rows * 2, terminals=ends)
    made = draft(tmp_path / "play.npz", tmp_path / "contract.yaml", period=0.1)
    assert not made.loads and "nothing says how fast the rows were recorded" in made.to_fill_in[0]
    with pytest.raises(
        UsageError, match=r"line \d+: FILL_IN .* absolute \(positions\), velocity"
    ):
        Contract.load(tmp_path / "contract.yaml")
    filled = made.text.replace("representation: FILL_IN", "representation: velocity")
    (tmp_path / "contract.yaml").write_text(filled)
    found = Contract.load(tmp_path / "contract.yaml")
    rate = found.actions[0].limits["actions_0"].rate
    assert rate == pytest.approx(1.1 * np.abs(np.diff(rows[:, 0] * 2)).max() / 0.1, rel=0.1)
    assert len(load_episodes(tmp_path / "play.npz", found)[0]) == 2


def test_recorded_demonstrations_can_be_trained_on_by_their_draft(tmp_path):
    pytest.importorskip("mujoco")
    pytest.importorskip("torch")
    from training.learn.config import FitConfig
    from training.learn.fit import fit
    from training.pipeline.record import record

    record(tmp_path / "bags", "planar_arm", 6)
    made = draft(tmp_path / "bags", tmp_path / "contract.yaml")
    found, own = Contract.load(tmp_path / "contract.yaml"), Contract.load(ARM_FILE)
    assert made.loads and not made.to_fill_in
    assert found.actions[0].names == own.actions[0].names
    assert found.actions[0].representation == "velocity"
    assert set(found.observation_names) == set(own.observation_names)
    assert found.outcome.sources.keys() == own.outcome.sources.keys()
    fitted = fit(tmp_path / "bags", tmp_path / "contract.yaml", tmp_path / "run", FitConfig(steps=2, batch=16, hidden=(16,), workers=1))  # fmt: skip
    assert fitted.lost == 0 and np.isfinite(fitted.metrics["flow_loss"])


@pytest.mark.skipif(not G1.is_dir(), reason=f"the recordings are not here: {G1}")
def test_draft_of_real_recordings_reads_all_of_them(tmp_path):
    draft(G1, tmp_path / "contract.yaml")
    found = Contract.load(tmp_path / "contract.yaml")
    assert found.time.period == 1 / 30 and len(found.actions[0].names) == 26
    assert found.actions[0].representation == "absolute"
    episodes, report = load_episodes(G1, found)
    assert len(episodes) == 80 and report.ticks == 29417
