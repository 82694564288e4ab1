"""Messages are matched by name; what does not fit is a SchemaError, and nothing else."""

from pathlib import Path
from types import SimpleNamespace as Msg

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from message_shapes import SHAPES, values_of
from qgf_make import SCALE

from qgf_ros.spaces.messages import TYPES, message_type
from qgf_ros.spaces.messages.base import MAX_VALUES, SchemaError

JOINTS = message_type("sensor_msgs/JointState")
ARRAY = message_type("std_msgs/Float64MultiArray")


def joint_state(names, position=None, velocity=None, effort=None):
    return Msg(
        name=list(names),
        position=position if position is not None else [],
        velocity=velocity or [],
        effort=effort or [],
    )


def fake(type_name, **fields):
    return Msg(type_name=type_name, **fields)


def rosbags_make():
    rosbags = pytest.importorskip("rosbags.typesys")
    store = rosbags.get_typestore(rosbags.Stores.ROS2_KILTED)
    own = (Path(__file__).parents[2] / "msg/Features.msg").read_text()
    store.register(rosbags.get_types_from_msg(own, "qgf_ros/msg/Features"))

    def make(type_name, **fields):
        package, name = type_name.split("/")
        return store.types[f"{package}/msg/{name}"](**fields)

    return make


@settings(max_examples=100 * SCALE, deadline=None)
@given(data=st.data())
def test_fault_009_joint_state_is_read_by_name_under_any_order(data):
    names = data.draw(
        st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=8, unique=True)
    )
    wanted = data.draw(st.permutations(names).map(lambda p: p[: max(1, len(p) // 2)]))
    order = data.draw(st.permutations(range(len(names))))
    position = {n: float(i) for i, n in enumerate(names)}
    velocity = {n: 100.0 + i for i, n in enumerate(names)}
    shuffled = [names[i] for i in order]
    msg = joint_state(shuffled, [position[n] for n in shuffled], [velocity[n] for n in shuffled])
    got = JOINTS.decode(msg, ("velocity", "position"), tuple(wanted))
    assert got.tolist() == [*(velocity[n] for n in wanted), *(position[n] for n in wanted)]
    assert got.dtype == np.float64


def test_fault_010_missing_joint_is_named():
    with pytest.raises(SchemaError, match=r"\['elbow'\].*'elbow_2'"):
        JOINTS.decode(
            joint_state(["shoulder", "elbow_2"], [1, 2]), ("position",), ("shoulder", "elbow")
        )


def test_fault_010_unknown_joints_beside_the_wanted_are_no_error():
    got = JOINTS.decode(joint_state(["gripper", "elbow"], [7, 8]), ("position",), ("elbow",))
    assert got.tolist() == [8]


def test_fault_011_duplicate_joint_refused_even_if_not_wanted():
    for names in (["a", "a", "b"], ["a", "b", "b"]):
        with pytest.raises(SchemaError, match="twice"):
            JOINTS.decode(joint_state(names, [1, 2, 3]), ("position",), ("a",))


@pytest.mark.parametrize("position", [[], [1.0], [1.0, 2.0, 3.0]])
def test_fault_012_lengths_that_do_not_match_refused(position):
    with pytest.raises(SchemaError, match=f"position has {len(position)} values for 2"):
        JOINTS.decode(joint_state(["a", "b"], position), ("position",), ("a", "b"))


def test_fault_012_empty_message_refused():
    with pytest.raises(SchemaError):
        JOINTS.decode(joint_state([]), ("position",), ("a",))
    with pytest.raises(SchemaError, match="0 numbers"):
        ARRAY.decode(Msg(data=[]), (), ("a", "b"))


def test_fault_013_empty_velocity_refused_where_velocity_is_wanted():
    msg = joint_state(["a", "b"], [1.0, 2.0])
    with pytest.raises(SchemaError, match="velocity has 0"):
        JOINTS.decode(msg, ("position", "velocity"), ("a", "b"))
    assert JOINTS.decode(msg, ("position",), ("a", "b")).tolist() == [1, 2]


class Endless(list):
    """Says it is a million long, and fails whoever looks inside."""

    def __len__(self):
        return 1_000_000

    def __iter__(self):
        raise AssertionError("a message of a million values was looked at")

    __getitem__ = count = index = __contains__ = lambda *_: (_ for _ in ()).throw(
        AssertionError("looked at")
    )


def test_fault_012_million_elements_refused_by_their_length_alone():
    with pytest.raises(SchemaError, match="1000000"):
        JOINTS.decode(Msg(name=Endless(), position=Endless()), ("position",), ("a",))
    with pytest.raises(SchemaError, match="1000000"):
        JOINTS.decode(Msg(name=["a"], position=Endless()), ("position",), ("a",))
    with pytest.raises(SchemaError, match="1000000"):
        ARRAY.decode(Msg(data=Endless()), (), ("a",))


def test_fault_012_the_largest_message_that_is_read():
    names = [str(i) for i in range(MAX_VALUES)]
    assert JOINTS.decode(
        joint_state(names, np.arange(MAX_VALUES)), ("position",), ("4095",)
    ).tolist() == [4095]
    with pytest.raises(SchemaError, match=f"at most {MAX_VALUES}"):
        JOINTS.decode(
            joint_state([*names, "more"], np.arange(MAX_VALUES + 1)), ("position",), ("4095",)
        )


def test_float_array_of_another_length_refused():
    for count in (1, 3):
        with pytest.raises(SchemaError, match=f"{count} numbers where the contract names 2"):
            ARRAY.decode(Msg(data=[0.0] * count), (), ("a", "b"))


def test_missing_field_named():
    with pytest.raises(SchemaError, match="point.w"):
        message_type("geometry_msgs/PointStamped").decode(Msg(point=Msg(x=1.0)), ("point.w",), ())


def test_non_finite_values_are_passed_on_for_the_caller_to_judge():
    got = JOINTS.decode(joint_state(["a", "b"], [np.nan, np.inf]), ("position",), ("a", "b"))
    assert np.isnan(got[0]) and np.isinf(got[1])


def test_decoded_array_is_a_copy():
    data = np.array([1.0, 2.0])
    got = ARRAY.decode(Msg(data=data), (), ("a", "b"))
    data[0] = 99
    assert got.tolist() == [1, 2]


def test_every_type_is_covered_below():
    assert set(SHAPES) == set(TYPES)


def test_pixels_are_no_numbers():
    for name in ("sensor_msgs/Image", "sensor_msgs/CompressedImage"):
        with pytest.raises(SchemaError, match="pixels"):
            message_type(name).decode(Msg(), (), ())
        with pytest.raises(ValueError, match="no fields and no names"):
            message_type(name).check(("data",), ())


@pytest.mark.parametrize("maker", ["fake", "rosbags"])
@pytest.mark.parametrize("type_name", TYPES)
@settings(max_examples=25 * SCALE, deadline=None)
@given(data=st.data())
def test_decode_inverts_encode(type_name, maker, data):
    make = fake if maker == "fake" else rosbags_make()
    kind = message_type(type_name)
    header = make(
        "std_msgs/Header", stamp=make("builtin_interfaces/Time", sec=7, nanosec=8), frame_id=""
    )
    for fields, names in SHAPES[type_name]:
        kind.check(fields, names)
        values = np.array(data.draw(values_of(type_name, fields, names)), dtype=float)
        msg = kind.encode(make, fields, names, values, header)
        assert np.array_equal(kind.decode(msg, fields, names), values)
        if kind.stamped:
            stamp = (msg if type_name == "std_msgs/Header" else msg.header).stamp
            assert (stamp.sec, stamp.nanosec) == (7, 8)


def test_unknown_type_names_the_supported():
    with pytest.raises(ValueError, match="sensor_msgs/JointState"):
        message_type("JointState")


def test_fault_012_refusing_duplicates_costs_no_tick():
    """Counted comparisons, not time: the refusal of many equal names must not be quadratic."""
    compared = 0

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    count = MAX_VALUES // 4
    names = [Name(i // 2) for i in range(count)]
    with pytest.raises(SchemaError, match="twice"):
        JOINTS.decode(joint_state(names, np.zeros(count)), ("position",), ("0",))
    assert compared < 100 * count, compared


@pytest.mark.parametrize("field", ["point", "header", "header.frame_id"])
def test_fault_012_a_field_that_is_no_number_is_a_schema_error(field):
    msg = Msg(point=Msg(x=1.0), header=Msg(frame_id="map"))
    with pytest.raises(SchemaError):
        message_type("geometry_msgs/PointStamped").decode(msg, (field,), ())


POSE = message_type("geometry_msgs/PoseStamped")


@pytest.mark.parametrize("maker", ["fake", "rosbags"])
def test_parts_that_no_field_names_are_zero_and_upright(maker):
    make = fake if maker == "fake" else rosbags_make()
    header = make("std_msgs/Header", stamp=make("builtin_interfaces/Time", sec=1, nanosec=2), frame_id="map")  # fmt: skip
    msg = POSE.encode(make, ("pose.position.y",), (), np.array([3.0]), header)
    p, q = msg.pose.position, msg.pose.orientation
    assert [p.x, p.y, p.z, q.x, q.y, q.z, q.w] == [0, 3, 0, 0, 0, 0, 1]
    assert msg.header.frame_id == "map"
    twist = message_type("geometry_msgs/TwistStamped")
    msg = twist.encode(make, ("twist.angular.z",), (), np.array([4.0]), header).twist
    assert [msg.linear.x, msg.linear.y, msg.linear.z, msg.angular.x, msg.angular.y, msg.angular.z] == [0, 0, 0, 0, 0, 4]  # fmt: skip


def test_orientation_is_read_as_x_y_z_w():
    msg = Msg(pose=Msg(orientation=Msg(w=4.0, z=3.0, y=2.0, x=1.0)))
    assert POSE.decode(msg, ("pose.orientation",), ()).tolist() == [1, 2, 3, 4]


def test_pose_without_an_orientation_names_what_is_missing():
    with pytest.raises(SchemaError, match="pose.orientation.x"):
        POSE.decode(Msg(pose=Msg(position=Msg(x=1.0))), ("pose.orientation",), ())


@pytest.mark.parametrize("type_name,fields", [
    ("geometry_msgs/PoseStamped", ("pose.position",)), ("geometry_msgs/PoseStamped", ("pose.orientation.a",)),
    ("geometry_msgs/PoseStamped", ("header.stamp.sec",)), ("geometry_msgs/Twist", ("twist.linear.x",)),
    ("geometry_msgs/Twist", ("linear",)), ("geometry_msgs/TwistStamped", ("linear.x",)),
    ("geometry_msgs/TwistStamped", ("twist.linear.x.",)), ("geometry_msgs/Twist", ("",)),
])  # fmt: skip
def test_paths_that_lead_nowhere_or_to_no_number_refused(type_name, fields):
    with pytest.raises(ValueError, match="needs fields out of"):
        message_type(type_name).check(fields, ())
