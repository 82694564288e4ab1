"""A draft never guesses what a command means, and never loses one: what is not known does not load."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import START

from qgf_ros.errors import UsageError
from qgf_ros.files.strict_yaml import parse_yaml
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.rotation import product, quaternion_of

pytest.importorskip("rosbags")
pytest.importorskip("pyarrow")

from training.doctor.check_timing import SEEN
from training.doctor.checks import checks
from training.doctor.dataset import Dataset
from training.doctor.roles import pairs, role
from training.doctor.summary import summarise
from training.draft.draft import drafted_from
from training.pipeline.readers.tables import names_of, told_apart
from training.pipeline.streams import Signal, Stream, Survey

RATE, ROWS = 20, 400
STEP = 10**9 // RATE


def motion(columns, seed, rows=ROWS):
    noise = np.random.default_rng(seed).normal(size=(rows + 39, columns))
    window = np.hanning(40)
    smooth = np.stack([np.convolve(n, window, "valid") for n in noise.T], 1)
    return smooth / np.abs(smooth).max(axis=0)


def survey(state, action, measured, commanded, kind=""):
    stamp = START + np.arange(len(state), dtype=np.int64) * STEP
    whole = [
        Signal("observation.state", "", tuple(measured), Stream(stamp, stamp, state)),
        Signal("action", kind, tuple(commanded), Stream(stamp, stamp, action)),
    ]
    return Survey("r", {s.topic: s for s in whole}, rate=float(RATE), one_episode=True)


def drafted(found):
    data = Dataset(Path("some/robot"), "test", period=1 / RATE)
    data.add(summarise(found, pairs(found, 1 / RATE), 1 / RATE))
    return drafted_from(data, None, 5), data


def action_of(text):
    """The drafted action, whether it loads or not."""
    return parse_yaml(text.replace(": FILL_IN", ": to_fill_in").encode(), "draft")["actions"][0]


NAMES = st.lists(
    st.text("abcdefgh_0123456789", min_size=1, max_size=8), min_size=1, max_size=4, unique=True
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    names=NAMES, seed=st.integers(0, 2**16), lead=st.integers(1, 6), same_names=st.booleans(),
    truth=st.sampled_from(["absolute", "velocity", "mirrored", "delta", "noise"]),
    offset=st.floats(-0.3, 0.3), constant=st.sampled_from([None, 0.0, 0.5]),
)  # fmt: skip
def test_fault_147_draft_that_loads_says_what_the_commands_are(names, seed, lead, same_names, truth, offset, constant):  # fmt: skip
    count = len(names)
    path = motion(count, seed, ROWS + lead)
    state = path[:ROWS]
    if truth == "velocity" or truth == "delta":
        speed = np.diff(path, axis=0, append=path[-1:]) * (RATE if truth == "velocity" else 1)
        action = speed[:ROWS]
    elif truth == "noise":
        action = np.random.default_rng(seed + 1).normal(size=(ROWS, count))
    else:
        action = path[lead:] * (-1 if truth == "mirrored" else 1) + offset
    commanded = names if same_names else [f"{n}.leader" for n in names]
    measured = list(names)
    if constant is not None:
        state, action = (np.column_stack([x, np.full(ROWS, constant)]) for x in (state, action))
        measured, commanded = [*measured, "still"], [*commanded, "still"]
    made, _ = drafted(survey(state, action, measured, commanded))
    found = action_of(made.text)
    assert len(found["names"]) == len(commanded) == len(found["limits"]), made.text
    if made.loads:
        assert found["representation"] == truth, made.text
    else:
        assert made.to_fill_in
    if truth == "delta" and same_names and "are changes" in made.text:
        # Whatever of both it is: the robot goes as far as it went.
        for k, limit in enumerate(list(found["limits"].values())[: len(names)]):
            at = state[:, k]
            assert limit == "to_fill_in" or limit["min"] <= np.quantile(at, 0.01) and limit["max"] >= np.quantile(at, 0.99)
    if truth == "absolute" and same_names and not all(n.isdecimal() for n in measured):
        assert made.loads or any(n.isdecimal() for n in measured), made.text


def test_fault_147_file_that_is_not_filled_in_does_not_load(tmp_path):
    path = motion(2, 0)
    made, _ = drafted(survey(path[:300], 60 * path[3:303], ["a", "b"], ["pan", "lift"]))
    (tmp_path / "c.yaml").write_text(made.text)
    line = next(i for i, x in enumerate(made.text.splitlines(), 1) if "representation: F" in x)
    with pytest.raises(UsageError, match=rf"c.yaml, line {line}: FILL_IN .*absolute .* velocity"):
        Contract.load(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text(made.text.replace(": FILL_IN", ": velocity"))
    assert Contract.load(tmp_path / "c.yaml").actions[0].names == ("pan", "lift")


@pytest.mark.parametrize("representation", ["delta_observed", "delta_last"])
def test_changes_of_position_are_named_and_a_person_says_relative_to_what(tmp_path, representation):
    path = motion(2, 0)
    made, _ = drafted(survey(path[:300], np.diff(path[:301], axis=0), ["a", "b"], ["a", "b"]))
    assert not made.loads and "are changes, and add up row by row to the motion of" in made.text
    assert "delta_observed or delta_last" in made.text
    (tmp_path / "c.yaml").write_text(made.text.replace(": FILL_IN", f": {representation}"))
    action = Contract.load(tmp_path / "c.yaml").actions[0]
    assert action.representation == representation and action.on_hold == "hold_last_sent"
    low, high = path[:300].min(axis=0), path[:300].max(axis=0)
    for k, limit in enumerate(action.limits.values()):
        assert limit.min <= low[k] + 0.01 and limit.max >= high[k] - 0.01


def test_fault_147_other_names_that_move_alike_are_offered_and_not_taken():
    path = motion(2, 0)
    made, _ = drafted(survey(path[:300], path[3:303], ["joint_1.pos", "joint_2.pos"], ["pan.pos", "lift.pos"]))  # fmt: skip
    assert not made.loads
    assert "# measured: {pan.pos: joint_1.pos, lift.pos: joint_2.pos}" in made.text


def test_fault_148_mirrored_joints_are_bad_and_not_drafted():
    path = motion(3, 4)
    made, data = drafted(survey(path[:390], path[5:395] * [-1, 1, -1], "sew", "sew"))
    lead = next(c for c in checks(data) if c.name == "lead")
    assert lead.verdict == "bad"
    assert "s, w are measured with the opposite sign: holding the measured pose" in lead.found
    assert not made.loads and "opposite sign" in made.to_fill_in[0]


def test_echo_of_the_next_state_is_said():
    path = motion(2, 5)
    _, data = drafted(survey(path[:-1], path[1:], "ab", "ab"))
    lead = next(c for c in checks(data) if c.name == "lead")
    assert lead.verdict == "warn" and "action[t] == state[t+1]" in lead.found


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    values=st.lists(st.sampled_from([0.0, 0.5, -1.0, None]), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_fault_149_no_commanded_number_of_a_twist_is_lost(values, seed):
    labels = ("linear.x", "linear.y", "angular.z")
    told = motion(3, seed)
    for i, value in enumerate(values):
        told[:, i] = told[:, i] if value is None else value
    base = survey(motion(2, seed + 1), motion(2, seed + 2), "ab", "ab")
    stamp = base.signals["action"].stream.stamp
    twist = Signal("/cmd_vel", "geometry_msgs/Twist", labels, Stream(stamp, stamp, told))
    found = Survey("r", {"observation.state": base.signals["observation.state"], "/cmd_vel": twist})
    made, _ = drafted(found)
    fields = action_of(made.text)["fields"]
    for label, value in zip(labels, values):
        assert label in fields or (value == 0.0 and f"/cmd_vel {label}: always 0" in made.text)


@pytest.mark.parametrize("topic, kind, expected", [
    ("/target_frame", "geometry_msgs/PoseStamped", "command"), ("/gripper/close", "std_msgs/Bool", "command"),
    ("/gripper/command", "std_msgs/Int32", "command"), ("/vacuum/set", "std_msgs/Bool", "command"),
    ("/desiredPose", "geometry_msgs/Pose", "command"), ("/goal", "geometry_msgs/PointStamped", "state"),
    ("/gripper/is_open", "std_msgs/Bool", "state"), ("/current_pose", "geometry_msgs/PoseStamped", "state"),
])  # fmt: skip
def test_fault_149_what_looks_like_a_command_is_no_observation(topic, kind, expected):
    assert role(topic, kind) == expected


def poses(path, turns, home):
    """(N, 7) places and orientations."""
    return np.concatenate([path, product(np.array(home), quaternion_of(turns))], axis=1)


@pytest.mark.parametrize("frames", [{"base": 400}, {"base": 200, "": 200}])
@pytest.mark.parametrize("measured", ["tool_pose", "another", None])
def test_a_commanded_pose_is_drafted_whole(tmp_path, frames, measured):
    """What measures it is told by how it moves; home and turns are those of the recording."""
    home, labels = [0.6, 0.8, 0.0, 0.0], ("position.x", "position.y", "position.z", *(f"orientation.{c}" for c in "xyzw"))
    labels = tuple(f"pose.{n}" for n in labels)
    path, turns = motion(3, 3, ROWS + 3), 0.8 * motion(3, 4, ROWS + 3)
    told = poses(path[3:], turns[3:], home) * np.where(np.arange(ROWS) % 2, 1, -1)[:, None] ** [0, 0, 0, 1, 1, 1, 1]
    did = poses(*(x[:ROWS] for x in (path, turns)), home)
    did = did if measured == "tool_pose" else poses(motion(3, 9), 0.5 * motion(3, 10), home)
    stamp = START + np.arange(ROWS, dtype=np.int64) * STEP
    whole = [Signal("/target_frame", "geometry_msgs/PoseStamped", labels, Stream(stamp, stamp, told), frames=frames)]
    if measured:
        whole.append(Signal(f"/{measured}", "geometry_msgs/PoseStamped", labels, Stream(stamp, stamp, did)))
    whole.append(Signal("/joint_states", "sensor_msgs/JointState", ("position.a",), Stream(stamp, stamp, motion(1, 5))))
    made, _ = drafted(Survey("r", {s.topic: s for s in whole}, rate=RATE))
    found = action_of(made.text)
    assert found["space"] == "pose" and found["representation"] == "absolute"
    assert made.loads == (measured == "tool_pose" and len(frames) == 1), made.text
    assert found["frame"] == ("base" if len(frames) == 1 else "to_fill_in")
    assert (found["measured"]["pose"] == "to_fill_in") == (measured != "tool_pose")
    assert abs(np.dot(found["home"], home)) > 0.95
    low, high = (np.array([limit[key] for limit in found["limits"].values()]) for key in ("min", "max"))
    assert (low[:3] <= path[3:].min(axis=0) + 0.01).all() and (high[:3] >= path[3:].max(axis=0) - 0.01).all()
    if made.loads:
        spec = Contract.from_dict(parse_yaml(made.text.encode(), "draft")).actions[0]
        numbers = spec.kind.numbers(spec, told)
        assert ((numbers >= low - 0.02) & (numbers <= high + 0.02)).all()
        rate = np.array([limit.rate for limit in spec.limits.values()])
        fastest = np.abs(np.diff(numbers, axis=0)).max(axis=0) * RATE
        assert (rate[:3] >= 0.9 * fastest[:3]).all() and (rate[3:] >= 0.7 * fastest[3:]).all()


def test_fault_149_command_of_another_type_is_left_out_with_a_line():
    base = survey(motion(2, 1), motion(2, 2), "ab", "ab")
    stamp = base.signals["action"].stream.stamp
    close = Signal("/gripper/close", "std_msgs/Bool", ("data",), Stream(stamp, stamp, motion(1, 3) > 0))  # fmt: skip
    made, _ = drafted(Survey("r", base.signals | {close.topic: close}, rate=RATE, one_episode=True))
    line = next(x for x in made.text.splitlines() if "/gripper/close" in x)
    assert line.startswith("# - ") and "looks like a command; this version cannot command Bool or integers" in line  # fmt: skip


@pytest.mark.parametrize("given, width, expected", [
    (["x", "gripper", "gripper"], 3, ("x", "gripper_0", "gripper_1")),
    (["a", "a", "a_0"], 3, ("a__0", "a_1", "a_0")),
    (["state"], 3, ()), (["state"], 1, ("state",)), (None, 3, ()),
    ({"motors": ["a", "b"]}, 2, ("a", "b")), ({"x": 0, "y": 1}, 2, ("x", "y")),
    ([["a", "b"], ["c"]], 3, ("a", "b", "c")),
    ({"left": ["j1", "j2"], "right": ["j1", "j2"]}, 4, ("left.j1", "left.j2", "right.j1", "right.j2")),
])  # fmt: skip
def test_names_as_public_datasets_have_them(given, width, expected):
    assert told_apart(names_of(given), width) == expected


def test_too_few_names_are_refused():
    with pytest.raises(ValueError, match="3 numbers and 2 names"):
        told_apart(["a", "b"], 3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["a", "b", "a_0", "a__0", "0"]), min_size=1, max_size=8))
def test_names_are_as_many_as_numbers_and_each_once(names):
    found = told_apart(names, len(names))
    assert len(set(found)) == len(names)


def test_signal_that_mostly_rests_is_no_outlier_and_a_glitch_in_it_is():
    """A simulator's rounding is no spread."""
    rng = np.random.default_rng(0)
    state = 1e-11 * rng.normal(size=(2000, 1))
    state[900:960, 0] += np.hanning(60)
    _, data = drafted(survey(state, motion(1, 1, 2000), "a", "a"))
    assert next(c for c in checks(data) if c.name == "outliers").verdict == "ok"
    state[100] = 500.0
    _, data = drafted(survey(state, motion(1, 1, 2000), "a", "a"))
    assert next(c for c in checks(data) if c.name == "outliers").verdict != "ok"


def test_two_frames_of_one_command_are_said_and_the_frame_is_to_be_filled_in():
    base = survey(motion(2, 1), motion(2, 2), "ab", "ab")
    stamp = base.signals["action"].stream.stamp
    twist = Signal("/servo/cmd", "geometry_msgs/TwistStamped", ("twist.linear.x",), Stream(stamp, stamp, motion(1, 3)),
                   frames={"tool0": 200, "": 200})  # fmt: skip
    made, data = drafted(Survey("r", {"observation.state": base.signals["observation.state"], "/servo/cmd": twist}))  # fmt: skip
    assert not made.loads and "frame: FILL_IN" in made.text
    found = next(c for c in checks(data) if c.name == "frames")
    assert found.verdict == "warn" and "tool0 in 200, an empty frame_id in 200" in found.found


def test_every_place_to_fill_in_is_explained_in_the_contracts_page():
    """And none that a draft does not write."""
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/contract.md").read_text()
    section = page.split("### What a draft leaves open: `FILL_IN`")[1].split("\n### ")[0]
    explained = set(re.findall(r"^\| `?(\w+)", section, re.M)) - {"FILL_IN"}
    written = set()
    for file in (root / "training/draft").glob("*.py"):
        written |= set(re.findall(r"(\w+): \{FILL_IN\}", file.read_text()))
        written |= {"a"} if "- {FILL_IN}" in file.read_text() else set()  # a source
        written |= {"limits"} if "(name)}: {FILL_IN}" in file.read_text() else set()  # of a name
    assert explained == {"measured" if place == "pose" else place for place in written}
    assert f"{SEEN:g} s of all recordings" in section
    guide = (root / "docs/your_robot.md").read_text()
    assert "`FILL_IN`" in guide and "(contract.md#what-a-draft-leaves-open-fill_in)" in guide


def test_a_constant_command_is_not_to_be_left_out_unless_it_is_0():
    """A field that a contract leaves out is sent as 0."""
    state, told = motion(2, 1), motion(2, 2)
    told[:, 1] = 0.5
    _, data = drafted(survey(state, told, "ab", "ab"))
    found = next(c for c in checks(data) if c.name == "constant")
    assert found.verdict == "warn" and found.where == ("action b",)
    assert "What is commanded stays in the contract unless it is 0" in found.fix
