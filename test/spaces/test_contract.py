"""The contract says what is wrong with it: every broken one is a UsageError that names the place."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_cameras import camera_dict
from qgf_make import ARM_FILE, SCALE, contract, position_dict, twist_dict, velocity_dict

from qgf_ros.errors import UsageError
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages import TYPES
from qgf_ros.spaces.rotation import ENCODINGS

ARM = yaml.safe_load(ARM_FILE.read_text())


def refused(value, *parts):
    with pytest.raises(UsageError) as caught:
        Contract.from_dict(value, "robot.yaml")
    text = str(caught.value)
    assert text.startswith("robot.yaml")
    for part in parts:
        assert part in text, text
    return text


def changed(path, value, base=None):
    """A deep copy with the place `path` set to `value`."""
    out = copy.deepcopy(ARM if base is None else base)
    at = out
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return out


def places(value, path=()):
    """Every place of a nested value, inner ones included."""
    yield path, value
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


def test_arm_contract_loads_and_round_trips():
    loaded = Contract.load(ARM_FILE)
    again = Contract.from_dict(loaded.to_dict())
    assert again == loaded and again.hash == loaded.hash
    assert Contract.from_dict(yaml.safe_load(yaml.safe_dump(loaded.to_dict()))) == loaded
    assert loaded.observation_names == (
        "joints.position.shoulder", "joints.position.elbow", "joints.velocity.shoulder", "joints.velocity.elbow",
        "goal.point.x", "goal.point.y", "obstacle.point.x", "obstacle.point.y",
    )  # fmt: skip
    assert loaded.action_names == ("arm.shoulder", "arm.elbow")
    low, high, rate = loaded.limits
    assert (low.tolist(), high.tolist(), rate.tolist()) == ([-2, -2], [2, 2], [80, 80])
    assert loaded.velocity_like.all()


def test_hash_ignores_layout_but_no_value():
    loaded = Contract.load(ARM_FILE)
    shuffled = {k: ARM[k] for k in reversed(ARM)}
    assert Contract.from_dict(shuffled).hash == loaded.hash
    assert Contract.from_dict(changed(("time", "period"), 0.0500001)).hash != loaded.hash


def test_default_max_age_is_three_periods_and_at_least_50_ms():
    for period, expected in ((0.001, 0.05), (0.02, 0.06), (0.1, 0.3)):
        own = contract(changed(("observations", 0, "max_age"), 0.0, velocity_dict(period=period)))
        assert own.max_age(own.observations[0]) == pytest.approx(expected)


MAPPINGS = [p for p, v in places(ARM) if isinstance(v, dict)]


@pytest.mark.parametrize("path", MAPPINGS, ids=lambda p: ".".join(map(str, p)) or "top")
def test_fault_033_unknown_key_refused_everywhere(path):
    refused(changed((*path, "stranger"), 1), "stranger")


def test_fault_033_misspelt_key_is_guessed():
    refused(changed(("time", "perod"), 0.1), "perod", "'period'", "robot.yaml.time")


REQUIRED = [("contract",), ("robot",), ("time",), ("observations",), ("actions",), ("outcome",), ("time", "period"),
            ("time", "horizon"), ("observations", 0, "topic"), ("observations", 0, "type"), ("outcome", "objective"),
            ("actions", 0, "limits", "elbow", "min"), ("actions", 0, "limits", "elbow", "rate")]  # fmt: skip


@pytest.mark.parametrize("path", REQUIRED, ids=lambda p: ".".join(map(str, p)))
def test_fault_033_missing_key_named(path):
    value = copy.deepcopy(ARM)
    at = value
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    refused(value, f"'{path[-1]}'")


LEAVES = [(p, v) for p, v in places(ARM) if not isinstance(v, (dict, list))]
ALIENS = (None, [], {}, "text", True, 1.5, [1], {"a": 1}, b"x")


@pytest.mark.parametrize(
    "path,value", LEAVES, ids=lambda p: ".".join(map(str, p)) if isinstance(p, tuple) else ""
)
def test_fault_033_wrong_type_refused_at_every_leaf(path, value):
    for alien in ALIENS:
        if (
            isinstance(alien, type(value))
            and type(alien) is type(value)
            or isinstance(value, float)
            and alien == 1.5
        ):
            continue
        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and alien == 1.5
            and isinstance(value, float)
        ):
            continue
        refused(changed(path, alien), str(path[-1]))


FLOATS = [p for p, v in LEAVES if isinstance(v, float)]


@pytest.mark.parametrize("path", FLOATS, ids=lambda p: ".".join(map(str, p)))
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_fault_033_non_finite_number_refused(path, number):
    refused(changed(path, number))


@pytest.mark.parametrize(
    "path", [(), ("time",), ("observations",), ("actions",), ("outcome",), ("observations", 0)]
)
@pytest.mark.parametrize("alien", [None, 3, "text", []])
def test_fault_033_wrong_container_refused(path, alien):
    refused(changed(path, alien) if path else alien)


@pytest.mark.parametrize("version", [0, 2, -1, "1", 1.0, None])
def test_other_contract_version_refused(version):
    refused(changed(("contract",), version), "contract")


@pytest.mark.parametrize("place,number,allowed", [
    ("period", 0.0, "0.0001 to 10"), ("period", -0.05, "0.0001 to 10"), ("period", 11.0, "0.0001 to 10"),
    ("horizon", 0, "1 to 256"), ("horizon", 257, "1 to 256"), ("horizon", -1, "1 to 256"),
    ("execute_steps", 6, "horizon (5)"), ("execute_steps", -1, "horizon (5)"),
])  # fmt: skip
def test_time_out_of_range_names_what_is_allowed(place, number, allowed):
    refused(changed(("time", place), number), "time", place, str(number), allowed)


def test_execute_steps_is_horizon_by_default():
    value = copy.deepcopy(ARM)
    del value["time"]["execute_steps"]
    assert Contract.from_dict(value).time.execute_steps == 5


def test_fault_034_limits_missing_names_the_joint():
    value = copy.deepcopy(ARM)
    del value["actions"][0]["limits"]["elbow"]
    text = refused(value, "actions[0]", "limits", "elbow")
    assert "shoulder" not in text.split("limits")[1]
    refused(changed(("actions", 0, "limits"), {}), "shoulder", "elbow")


def test_fault_034_limits_for_a_stranger_refused():
    refused(changed(("actions", 0, "limits", "wrist"), {"min": -1, "max": 1, "rate": 1}), "wrist")


@pytest.mark.parametrize(
    "low,high", [(2.0, -2.0), (0.0, 0.0), (1.0, 1.0), (-math.inf, 1.0), (0.0, math.inf)]
)
def test_fault_034_min_not_below_max_names_the_joint(low, high):
    refused(
        changed(("actions", 0, "limits", "elbow"), {"min": low, "max": high, "rate": 1.0}),
        "elbow",
        "min",
        "max",
    )


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, -math.inf])
def test_fault_034_rate_must_be_positive(rate):
    refused(changed(("actions", 0, "limits", "elbow", "rate"), rate), "elbow", "rate")


@pytest.mark.parametrize("key", ["acceleration", "jerk"])
@pytest.mark.parametrize("value", [0.0, -1.0, -math.inf])
def test_fault_034_later_limits_must_be_positive(key, value):
    path = ("actions", 0, "limits", "b", key)
    refused(changed(path, value, position_dict()), "actions[0].limits.b", key)


def test_fault_034_acceleration_of_a_velocity_is_its_rate():
    given = changed(("actions", 0, "limits", "elbow", "acceleration"), 5.0)
    refused(given, "the rate of velocity is all that limits its change", "elbow")
    own = contract(changed(("actions", 0, "limits", "elbow", "jerk"), 5.0))
    assert own.actions[0].limits["elbow"].jerk == 5.0


def test_fault_034_jerk_of_a_position_needs_an_acceleration():
    given = changed(("actions", 0, "limits", "b", "jerk"), 5.0, position_dict())
    refused(given, "give the acceleration of b too")
    given["actions"][0]["limits"]["b"]["acceleration"] = 3.0
    own = contract(given)
    assert (own.actions[0].limits["b"].acceleration, own.actions[0].limits["b"].jerk) == (3.0, 5.0)
    assert Contract.from_dict(own.to_dict()) == own


def test_contracts_without_the_later_limits_keep_their_hash():
    given = changed(("actions", 0, "limits", "b", "acceleration"), math.inf, position_dict())
    assert contract(given).hash == contract(position_dict()).hash
    given["actions"][0]["limits"]["b"]["acceleration"] = 3.0
    assert contract(given).hash != contract(position_dict()).hash


@pytest.mark.parametrize("low,high", [(0.5, 2.0), (-2.0, -0.5)])
def test_fault_034_velocity_that_cannot_be_zero_refused(low, high):
    refused(
        changed(("actions", 0, "limits", "elbow"), {"min": low, "max": high, "rate": 1.0}),
        "elbow",
        "zero",
    )
    position = changed(
        ("actions", 0, "limits", "b"), {"min": low, "max": high, "rate": 1.0}, position_dict()
    )
    contract(position)  # a position may well be away from zero


@pytest.mark.parametrize("topic", ["/joint_states", "/", ""])
@pytest.mark.parametrize("place", ["observations", "actions"])
def test_absolute_or_empty_topic_refused(topic, place):
    refused(changed((place, 0, "topic"), topic), f"{place}[0]", "relative")


def test_fault_083_commanding_what_is_observed_refused():
    refused(changed(("actions", 0, "topic"), "joint_states"), "joint_states", "loop")


def test_duplicated_names_refused():
    refused(changed(("observations", 1, "name"), "joints"), "joints", "twice")
    refused(changed(("observations", 0, "names"), ["elbow", "elbow"]), "elbow", "duplicates")
    refused(changed(("actions", 0, "names"), ["elbow", "elbow"]), "elbow", "duplicates")
    two = copy.deepcopy(ARM)
    two["actions"].append(copy.deepcopy(two["actions"][0]) | {"topic": "other"})
    refused(two, "arm", "twice")


def test_a_topic_has_one_type():
    told = camera_dict()
    told["observations"].append(told["observations"][0] | {"name": "again", "type": "sensor_msgs/CompressedImage"})
    refused(told, "wrist/image_raw", "sensor_msgs/Image for wrist", "sensor_msgs/CompressedImage for again", "one type")
    refused(camera_dict(topic="joint_states"), "joint_states", "one type")
    refused(camera_dict(topic="success"), "success", "one type")
    two = camera_dict()
    two["observations"].append(two["observations"][0] | {"name": "close", "image": {"size": [8, 8], "crop": [0.2, 0.2, 0.5, 0.5]}})
    assert len(contract(two).cameras) == 2, "one camera may be seen twice"


def test_unsupported_type_names_the_supported():
    refused(
        changed(("observations", 0, "type"), "JointState"),
        "JointState",
        "sensor_msgs/JointState",
    )
    refused(changed(("actions", 0, "type"), "std_msgs/Float64"), "std_msgs/Float64")


@pytest.mark.parametrize("source", [
    {"type": "sensor_msgs/JointState", "fields": ["position"], "names": []},
    {"type": "sensor_msgs/JointState", "fields": [], "names": ["a"]},
    {"type": "sensor_msgs/JointState", "fields": ["torque"], "names": ["a"]},
    {"type": "std_msgs/Float64MultiArray", "fields": ["data"], "names": ["a"]},
    {"type": "std_msgs/Float64MultiArray", "fields": [], "names": []},
    {"type": "geometry_msgs/PointStamped", "fields": [], "names": []},
    {"type": "geometry_msgs/PointStamped", "fields": ["point.x"], "names": ["a"]},
    {"type": "std_msgs/Header", "fields": ["stamp.sec"], "names": []},
    {"type": "std_msgs/Float64", "fields": ["data"], "stamp": "header"},
])  # fmt: skip
def test_fields_that_the_type_cannot_have_refused(source):
    refused(
        changed(("observations", 0), {"name": "joints", "topic": "x"} | source),
        "observations[0]",
        source["type"],
    )


def test_quaternion_components_refused():
    source = {
        "name": "pose",
        "topic": "pose",
        "type": "geometry_msgs/PointStamped",
        "fields": ["pose.orientation.x"],
    }
    refused(changed(("observations", 1), source), "quaternion")


@pytest.mark.parametrize("outcome", [
    {"objective": "reward"}, {"objective": "time_to_success"}, {"objective": "profit", "assume_success": True}, {},
])  # fmt: skip
def test_outcome_without_its_source_refused(outcome):
    refused(changed(("outcome",), outcome), "outcome")


def test_on_hold_that_is_not_safe_refused():
    refused(changed(("actions", 0, "on_hold"), "hold_last_sent"), "ramp_to_zero")
    refused(changed(("actions", 0, "on_hold"), "ramp_to_zero", position_dict()), "hold_last_sent")


@pytest.mark.parametrize(
    "text",
    ["a: [", "\x00", "- 1\n- 2", "", "a: !!python/object/apply:os.system [true]", "\xff\xfe"],
)
def test_fault_033_file_that_is_no_contract_refused(tmp_path, text):
    path = tmp_path / "contract.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="contract.yaml"):
        Contract.load(path)


def test_fault_033_missing_or_huge_file_refused(tmp_path):
    with pytest.raises(UsageError, match="none.yaml"):
        Contract.load(tmp_path / "none.yaml")
    with pytest.raises(UsageError):
        Contract.load(tmp_path)
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (5 * 2**20))
    with pytest.raises(UsageError, match="larger"):
        Contract.load(huge)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
ALL = [p for p, _ in places(ARM) if p]


@settings(max_examples=300 * SCALE, deadline=None)
@given(path=st.sampled_from(ALL), value=JUNK)
def test_fault_033_any_junk_anywhere_gives_usage_error_or_a_contract(path, value):
    try:
        loaded = Contract.from_dict(changed(path, value))
    except UsageError as error:
        assert str(error)
    else:
        assert Contract.from_dict(loaded.to_dict()) == loaded


# What follows was found by reading the source; each is a way to be hurt by a file that loads.


def both_named(kind):
    value = velocity_dict()
    if kind == "action":
        value["observations"][1]["name"] = "arm"
    else:
        value["observations"][1]["name"] = kind
        value["outcome"] = ARM["outcome"]
    return value


@pytest.mark.parametrize("kind", ["action", "reward", "success", "episode_start"])
def test_observation_named_like_another_stream_refused(kind):
    """Streams are kept by name: an observation called as an action would be read from the action's
    topic, and the policy would be trained on its own commands as state."""
    refused(both_named(kind))


def test_joint_state_command_of_two_fields_refused():
    """One limit per joint, but two numbers per joint in a message: the sizes never fit."""
    value = position_dict()
    value["actions"][0] |= {"type": "sensor_msgs/JointState", "fields": ["position", "velocity"]}
    refused(value)


def test_effort_command_refused():
    """faults.md: effort mode must name what holds, or it is refused; holding the last effort is none."""
    value = position_dict()
    value["actions"][0] |= {"type": "sensor_msgs/JointState", "fields": ["effort"]}
    refused(value)


@pytest.mark.parametrize(
    "fields,representation", [(["velocity"], "absolute"), (["position"], "velocity")]
)
def test_joint_state_command_that_contradicts_its_representation_refused(fields, representation):
    value = position_dict()
    value["actions"][0] |= {
        "type": "sensor_msgs/JointState",
        "fields": fields,
        "representation": representation,
    }
    refused(value)


@pytest.mark.parametrize("text", ["a: " + "9" * 5000, "a: 2024-13-45", "[" * 3000])
def test_fault_033_yaml_that_breaks_the_parser_is_a_usage_error(tmp_path, text):
    path = tmp_path / "contract.yaml"
    path.write_text(text)
    with pytest.raises(UsageError):
        Contract.load(path)


def test_fault_033_integer_beyond_float_is_a_usage_error():
    refused(changed(("time", "period"), 10**400), "period")


def test_fault_033_key_given_twice_refused(tmp_path):
    """YAML lets the last one win: a joint's limits pasted twice would silently be the wider ones."""
    path = tmp_path / "contract.yaml"
    path.write_text(
        ARM_FILE.read_text().replace(
            "elbow: {min", "shoulder: {min: -9, max: 9, rate: 9}\n      elbow: {min"
        )
    )
    with pytest.raises(UsageError, match="shoulder"):
        Contract.load(path)


@pytest.mark.parametrize("field", ["point", "point.w", "poin.x", "header.frame_id"])
def test_fault_033_field_that_the_message_does_not_have_refused(field):
    refused(changed(("observations", 1, "fields"), [field]), field)


# Poses, twists, grippers, goals.

TWIST = twist_dict()
TOOL, ARM_ACTION, GRIP = ("observations", 1), ("actions", 0), ("actions", 1)


def twist_changed(place, **changes):
    """The twist contract with keys of one entry changed; None removes a key."""
    value = copy.deepcopy(TWIST)
    entry = value
    for key in place:
        entry = entry[key]
    entry |= changes
    for key in [k for k, v in changes.items() if v is None]:
        del entry[key]
    return value


def test_twist_contract_loads_and_names_its_numbers():
    own = contract(TWIST)
    assert Contract.from_dict(own.to_dict()) == own
    assert own.observation_names == (
        "joints.position.a", "joints.position.b", "tool.pose.position.x",
        *(f"tool.pose.orientation.{n}" for n in ("xx", "yx", "zx", "xy", "yy", "zy")),
        "tool.pose.position.z", "gripper.position.finger.left",
    )  # fmt: skip
    assert own.action_names == (
        "arm.twist.linear.x", "arm.twist.linear.z", "arm.twist.angular.z", "grip.finger.left",
    )  # fmt: skip
    assert own.velocity_like.tolist() == [True, True, True, False]
    assert [a.on_hold for a in own.actions] == ["ramp_to_zero", "hold_last_sent"]
    assert own.limits[0].tolist() == [-0.5, -0.5, -1, 0]


def test_features_are_as_many_as_their_names_and_in_their_order():
    tool = contract(TWIST).observations[1]
    assert len(tool.labels) == 6 and len(tool.feature_labels) == len(tool.stems) == 8
    half = math.sqrt(0.5)
    got = tool.features(np.array([[5.0, 0, 0, half, half, 7.0]]))  # a quarter turn about z
    assert got[0] == pytest.approx([5, 0, 1, 0, -1, 0, 0, 7])


@pytest.mark.parametrize("encoding,width", [("rot6d", 6), ("matrix_columns", 9), ("yaw_sin_cos", 2)])  # fmt: skip
def test_every_encoding_has_its_width(encoding, width):
    own = contract(twist_changed(TOOL, encoding=encoding))
    assert len(own.observations[1].feature_labels) == width + 2
    assert len(set(own.observation_names)) == len(own.observation_names)


@pytest.mark.parametrize("changes,parts", [
    ({"encoding": None}, ("identity", "pose.orientation", "rot6d", "yaw_sin_cos")),
    ({"fields": ["pose.position.x"]}, ("rot6d", "pose.position.x", "do not hold", "identity without")),
    ({"encoding": "euler"}, ("euler", "rot6d")),
    ({"fields": ["pose.orientation.w"]}, ("quaternion components", "pose.orientation", "rot6d")),
    ({"fields": ["pose.orientation", "pose.orientation.x"]}, ("quaternion components",)),
    ({"fields": ["pose.orientation", "pose.orientation"]}, ("fields", "duplicates")),
    ({"fields": ["pose"]}, ("pose.position.x", "pose.orientation", "given fields ['pose']")),
    ({"type": "sensor_msgs/JointState", "fields": ["position"], "names": ["x"]}, ("rot6d", "do not hold")),
    ({"name": "tool.pose"}, ("'tool.pose'", "without a dot")),
])  # fmt: skip
def test_observed_orientation_that_makes_no_sense_says_what_is_allowed(changes, parts):
    refused(twist_changed(TOOL, **changes), "observations[1]", *parts)


@pytest.mark.parametrize("changes,parts", [
    ({"type": "std_msgs/Float64MultiArray", "fields": [], "names": ["a"]}, ("space is twist", "geometry_msgs/TwistStamped")),
    ({"space": None}, ("space is joint", "geometry_msgs/TwistStamped")),
    ({"space": "gripper"}, ("space is gripper", "geometry_msgs/Twist")),
    ({"space": "telepathy"}, ("telepathy", "joint, twist, pose, gripper")),
    ({"representation": "absolute"}, ("absolute", "must be velocity")),
    ({"representation": "delta_observed"}, ("delta_observed", "velocity")),
    ({"representation": "delta_last"}, ("delta_last", "must be velocity")),
    ({"fields": ["linear.x"]}, ("['linear.x']", "twist.linear.x")),
    ({"fields": []}, ("twist.linear.x",)),
    ({"names": ["x"]}, ("no names", "['x']")),
    ({"fields": ["twist.linear.x", "twist.linear.x"]}, ("fields", "duplicates")),
    ({"frame": None}, ("frame is ''", "base_link")),
    ({"frame": "  "}, ("frame", "header")),
    ({"limits": {"linear.x": {"min": -1, "max": 1, "rate": 1}}}, ("missing for twist.linear.x", "given are linear.x")),
    ({"fields": ["twist.linear.x"]}, ("limits name twist.linear.z", "it has twist.linear.x")),
    ({"on_hold": "hold_last_sent"}, ("ramp_to_zero",)),
    ({"type": "geometry_msgs/PoseStamped"}, ("geometry_msgs/PoseStamped",)),
    ({"type": "geometry_msgs/PoseStamped", "fields": ["pose.position.x"]}, ("space pose goes with geometry_msgs/PoseStamped",)),
    ({"type": "nav_msgs/Odometry", "fields": ["pose.pose.position.x"]}, ("not a command type", "geometry_msgs/TwistStamped")),
    ({"encoding": "rot6d"}, ("encoding",)),
])  # fmt: skip
def test_twist_action_that_makes_no_sense_says_what_is_allowed(changes, parts):
    refused(twist_changed(ARM_ACTION, **changes), "actions[0]", *parts)


def test_twist_that_cannot_stop_refused():
    limits = TWIST["actions"][0]["limits"] | {"twist.linear.z": {"min": 0.1, "max": 1, "rate": 1}}
    refused(twist_changed(ARM_ACTION, limits=limits), "twist.linear.z", "zero")


def test_unstamped_twist_needs_no_frame():
    """It has no header to put it into; the receiver's axes are its own."""
    fields = [f.removeprefix("twist.") for f in TWIST["actions"][0]["fields"]]
    limits = {f: {"min": -1.0, "max": 1.0, "rate": 1.0} for f in fields}
    own = contract(
        twist_changed(
            ARM_ACTION, type="geometry_msgs/Twist", fields=fields, limits=limits, frame=None
        )
    )
    assert own.action_names[:3] == ("arm.linear.x", "arm.linear.z", "arm.angular.z")
    assert own.actions[0].stamp == "receipt"


def test_gripper_by_velocity_needs_no_measured_position():
    value = twist_changed(GRIP, representation="velocity", names=["roller"],
                          limits={"roller": {"min": -1.0, "max": 1.0, "rate": 5.0}})  # fmt: skip
    own = contract(value)
    assert own.velocity_like.all() and own.actions[1].on_hold == "ramp_to_zero"


@pytest.mark.parametrize("observed", [
    {"names": ["finger.right"]}, {"fields": ["velocity"]},
    {"type": "std_msgs/Float64MultiArray", "fields": [], "names": ["finger.left"]},
])  # fmt: skip
def test_absolute_gripper_that_is_not_measured_by_name_refused(observed):
    refused(
        twist_changed(("observations", 2), **observed),
        "action grip", "finger.left", "not observed", "sensor_msgs/JointState", "observed are ['a', 'b'",
    )  # fmt: skip


def test_absolute_command_measured_in_two_places_refused():
    """Two arms with the same joint names: the first command would begin where the other one is."""
    value = twist_changed(("observations", 0), names=["a", "finger.left"])
    refused(value, "action grip", "finger.left", "more than once")
    velocity = copy.deepcopy(value)
    velocity["actions"][1] |= {
        "representation": "velocity",
        "limits": {"finger.left": {"min": -1.0, "max": 1.0, "rate": 1.0}},
    }
    contract(velocity)  # begins at zero, wherever it is


def test_two_actions_on_one_topic_refused():
    refused(twist_changed(GRIP, topic="servo/twist"), "two actions", "servo/twist")


@pytest.mark.parametrize("source", [
    {"type": "geometry_msgs/PointStamped", "fields": ["point.x", "point.y"]}, {"type": "std_msgs/Header"},
    {"type": "geometry_msgs/PoseStamped", "fields": ["pose.orientation"]},
])  # fmt: skip
@pytest.mark.parametrize("kind", ["reward", "success"])
def test_outcome_of_more_or_less_than_one_number_refused(kind, source):
    outcome = {
        "objective": "reward",
        "reward": ARM["outcome"]["reward"],
        kind: {"topic": "x"} | source,
    }
    refused(changed(("outcome",), outcome), "outcome", f"{kind} is one number")


ACHIEVED = ["cube.pose.position.x", "cube.pose.position.y"]


def goal_dict(**goal):
    """Two poses of which one is a goal in the plane, and a source whose name begins like the goal's."""
    value = twist_dict()
    pose = {"type": "geometry_msgs/PoseStamped", "fields": ["pose.position.x", "pose.position.y"]}
    value["observations"] += [{"name": n, "topic": n} | pose for n in ("cube", "goal", "goal_b")]
    goal = {"observation": "goal", "achieved": ACHIEVED, "radius": 0.04} | goal
    value["outcome"] = {"objective": "reach_goal", "goal": goal}
    return value


def test_goal_contract_loads_and_round_trips():
    own = contract(goal_dict())
    assert own.outcome.goal.achieved == tuple(ACHIEVED) and own.outcome.goal.radius == 0.04
    assert Contract.from_dict(yaml.safe_load(yaml.safe_dump(own.to_dict()))) == own
    assert contract(goal_dict(radius=0.05)).hash != own.hash
    contract(goal_dict(achieved=["goal_b.pose.position.x", "goal_b.pose.position.y"]))


@pytest.mark.parametrize("goal,parts", [
    ({"observation": "gaol"}, ("observation is 'gaol'", "joints, tool, gripper, cube, goal")),
    ({"observation": "goal.pose"}, ("observation is 'goal.pose'", "cube")),
    ({"achieved": []}, ("achieved is []", "2 numbers", "goal.pose.position.x")),
    ({"achieved": ACHIEVED[:1]}, (ACHIEVED[0], "2 numbers", "goal.pose.position.y")),
    ({"achieved": [*ACHIEVED, "tool.pose.position.x"]}, ("2 numbers", "tool.pose.position.x")),
    ({"achieved": ACHIEVED[:1] * 2}, ("another observed number",)),
    ({"achieved": ["cube.pose.position.x", "cube.pose.position.z"]}, ("cube.pose.position.z are not observed", ACHIEVED[1])),
    ({"achieved": ["tool.pose.orientation.x", ACHIEVED[0]]}, ("tool.pose.orientation.x", "tool.pose.orientation.xx")),
    ({"achieved": ["goal.pose.position.x", "goal.pose.position.y"]}, ("goal.pose.position.x", "the goal itself", ACHIEVED[0])),
    ({"radius": 0.0}, ("radius is 0.0", "positive")),
    ({"radius": -1.0}, ("radius is -1.0", "positive")),
    ({"radius": math.inf}, ("radius is inf", "finite")),
    ({"radius": math.nan}, ("radius",)),
    ({"tolerance": 1}, ("tolerance", "radius")),
])  # fmt: skip
def test_goal_that_makes_no_sense_says_what_is_allowed(goal, parts):
    refused(goal_dict(**goal), *parts)


def test_goal_and_reach_goal_go_together():
    without = goal_dict()
    del without["outcome"]["goal"]
    refused(without, "outcome", "objective is reach_goal without a goal", "radius")
    refused(
        changed(("outcome",), goal_dict()["outcome"] | {"objective": "time_to_success", "assume_success": True},
                goal_dict()),
        "outcome", "objective is time_to_success with a goal", "reach_goal",
    )  # fmt: skip


def groups(own):
    """Names of numbers that share a scale."""
    found = {}
    for name, number in zip(own.observation_names, own.observation_siblings, strict=True):
        found.setdefault(int(number), []).append(name)
    return sorted(found.values())


def test_siblings_stand_in_one_source_and_one_field():
    own = contract(TWIST)
    orientation = [f"tool.pose.orientation.{n}" for n in ("xx", "yx", "zx", "xy", "yy", "zy")]
    assert groups(own) == sorted([
        ["joints.position.a", "joints.position.b"], ["tool.pose.position.x", "tool.pose.position.z"],
        orientation, ["gripper.position.finger.left"],
    ])  # fmt: skip
    arm = contract(velocity_dict())
    assert groups(arm) == [
        ["goal.point.x"],
        ["joints.position.a", "joints.position.b"],
        ["joints.velocity.a", "joints.velocity.b"],
    ]


def test_dots_in_names_neither_part_joints_nor_join_what_has_no_unit():
    """Joints share a field whatever they are called; the numbers of an array share nothing."""
    value = velocity_dict()
    value["observations"][0]["names"] = ["left.a", "right.a"]
    value["observations"].append({
        "name": "raw", "topic": "raw", "type": "std_msgs/Float64MultiArray", "names": ["t.x", "t.y", "z"],
    })  # fmt: skip
    assert groups(contract(value)) == [
        ["goal.point.x"],
        ["joints.position.left.a", "joints.position.right.a"],
        ["joints.velocity.left.a", "joints.velocity.right.a"],
        ["raw.t.x"], ["raw.t.y"], ["raw.z"],
    ]  # fmt: skip


def test_contracts_of_the_documentation_load_and_it_names_every_type_and_encoding():
    text = (Path(__file__).parents[2] / "docs" / "contract.md").read_text()
    blocks = text.split("```yaml\n")[1:]
    whole, camera, limits, twist, pose, space, play, tested, labels = (
        yaml.safe_load(b.split("```")[0]) for b in blocks
    )
    contract(whole)
    seeing = contract(whole | {"observations": whole["observations"] + camera})
    assert [o.name for o in seeing.cameras] == ["wrist"]
    limit = contract(changed(("actions", 0, "limits", "b"), limits["elbow"], position_dict()))
    assert limit.actions[0].limits["b"].jerk == 200.0
    assert contract(whole).outcome.attempts.seconds == 10.0
    assert contract(whole | play).outcome.attempts.end == "outcome"
    assert contract(whole | tested).outcome.success.condition is not None
    assert set(labels) == {"version", "episodes"}
    own = contract(twist_dict() | twist)
    assert own.outcome.goal is not None and own.actions[0].frame == "base_link"
    arm = contract(whole | {"outcome": twist_dict()["outcome"] | {"objective": "time_to_success"}} | pose).actions[0]
    assert arm.kind.name == "pose" and arm.measured == {"pose": "tool"}
    pose["actions"][0] |= space
    arm = contract(whole | {"outcome": twist_dict()["outcome"] | {"objective": "time_to_success"}} | pose).actions[0]
    assert arm.workspace.tilt == 0.5 and "table" in arm.workspace.keep_out
    for name in (*TYPES, *ENCODINGS):
        assert name in text, name


TWIST_PLACES = [p for p, _ in places(goal_dict()) if p]


@settings(max_examples=300 * SCALE, deadline=None)
@given(path=st.sampled_from(TWIST_PLACES), value=JUNK)
def test_fault_033_any_junk_in_a_twist_contract_gives_usage_error_or_a_contract(path, value):
    try:
        loaded = Contract.from_dict(changed(path, value, goal_dict()))
    except UsageError as error:
        assert str(error)
    else:
        assert Contract.from_dict(loaded.to_dict()) == loaded


def test_a_goal_that_was_said_once_stays_the_goal():
    from qgf_ros.sim.world import world_folder

    own = Contract.load(world_folder("ur5e_cube_goals") / "contract.yaml").to_dict()
    goal = next(o for o in own["observations"] if o["name"] == "goal")
    cube = next(o for o in own["observations"] if o["name"] == "cube")
    goal["max_age"] = cube["max_age"] = 0.0
    contract = Contract.from_dict(own)
    ages = {o.name: contract.max_age(o) for o in contract.observations}
    assert ages["goal"] == 3600
    assert ages["cube"] == pytest.approx(0.15)


def test_grippers_and_positions_between_messages_are_never_relative():
    value = position_dict()
    assert (
        contract(value).relative_positions.tolist() == contract(value).measured_positions.tolist()
    )
    value["actions"][0]["space"] = "gripper"
    assert contract(value).relative_positions.tolist() == [-1, -1]
    value = position_dict()
    value["observations"][0]["resample"] = "linear"
    assert contract(value).relative_positions.tolist() == [-1, -1]


def test_measured_positions_are_found_by_name_and_velocities_have_none():
    value = velocity_dict()
    assert contract(value).measured_positions.tolist() == [-1, -1]
    value["actions"][0]["representation"] = "absolute"
    value["observations"][0]["names"] = ["b", "c", "a"]
    assert contract(value).measured_positions.tolist() == [2, 0]


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"latency": 0.2, "max_age": 0.2}, "wrist: latency is 0.2 s and max_age 0.2 s"),
        ({"latency": 0.5}, "wrist: latency is 0.5 s and max_age 0.15 s"),
        ({"topic": "qgf_encoder/wrist"}, "where qgf_encoder publishes features"),
        ({"name": "a" * 65}, "up to 64"),
        ({"name": "aé"}, "give letters, digits and _"),
    ],
)
def test_a_camera_that_could_never_be_heard_is_refused(keys, words):
    """Features older than max_age when they come, on a topic of their own, or of a name that no file of a
    policy has: training would end with an error of ours, or the robot would wait for ever."""
    refused(camera_dict(**keys), words)


def test_a_camera_has_the_longest_name_that_a_policy_holds():
    own = contract(camera_dict(name="a" * 64, latency=0.14))
    assert own.heard.observations[0].topic == "qgf_encoder/" + "a" * 64


def test_cameras_are_as_many_as_a_policy_holds():
    told = camera_dict()
    seen = [told["observations"][0] | {"name": f"eye_{k}", "topic": f"eye_{k}"} for k in range(9)]
    contract(told | {"observations": seen[:8] + told["observations"][1:]})
    refused(told | {"observations": seen + told["observations"][1:]}, "9 cameras are observed; at most 8")
