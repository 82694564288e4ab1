"""Every message type in ROS's own bytes: written by rclpy and read by the bag reader, and the other
way round, with the numbers kept; types that are not installed are refused before they are imported."""

from pathlib import Path

import numpy as np
import pytest
import ros_harness as ros
from hypothesis import given, settings
from hypothesis import strategies as st
from message_shapes import SHAPES, values_of
from qgf_make import SCALE

from qgf_ros.errors import UsageError
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.limits import Limit
from qgf_ros.spaces.messages import TYPES, message_type


@pytest.fixture(scope="module")
def store():
    from ament_index_python.packages import get_package_share_directory
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_KILTED)
    for name in TYPES:
        if long(name) not in store.types:  # one of ours
            package, short = name.split("/")
            text = Path(get_package_share_directory(package), "msg", f"{short}.msg").read_text()
            store.register(get_types_from_msg(text, long(name)))
    return store


def long(type_name):
    return type_name.replace("/", "/msg/")


@pytest.mark.parametrize("type_name", TYPES)
@settings(max_examples=10 * SCALE, deadline=None)
@given(data=st.data())
def test_ros_and_the_bag_reader_say_the_same_bytes(type_name, data, store):
    from rclpy.serialization import deserialize_message, serialize_message

    from qgf_ros.ros.conversions import header, make, ros_type

    def bag_make(of, **fields):
        return store.types[long(of)](**fields)

    kind = message_type(type_name)
    for fields, names in SHAPES[type_name]:
        values = np.array(data.draw(values_of(type_name, fields, names)), dtype=float)
        time = bag_make("builtin_interfaces/Time", sec=7, nanosec=8)
        head = bag_make("std_msgs/Header", stamp=time, frame_id="map")
        by_bag = kind.encode(bag_make, fields, names, values, head, 0.05)
        raw = bytes(store.serialize_cdr(by_bag, long(type_name)))
        by_ros = kind.encode(make, fields, names, values, header(7_000_000_008, "map"), 0.05)
        back = deserialize_message(raw, ros_type(type_name))
        assert back == by_ros
        assert np.array_equal(kind.decode(back, fields, names), values)

        # Longer than what goes on the wire where empty arrays come last: rclpy's estimate.
        padded = serialize_message(by_ros)
        read = store.deserialize_cdr(padded[: len(raw)], long(type_name))
        assert np.array_equal(kind.decode(read, fields, names), values)


def test_a_trajectory_begins_when_it_arrives():
    from qgf_ros.ros.conversions import action_message

    spec = ActionSpec(
        "c", "trajectory_msgs/JointTrajectory", ("position",), ("a", "b"), name="arm",
        limits={n: Limit(-1, 1, 1) for n in "ab"},
    )  # fmt: skip
    msg = action_message(spec, np.array([0.5, -0.5]), 1_700_000_000 * 10**9, 0.05)
    assert ros.ns(msg.header.stamp) == 0 and list(msg.joint_names) == ["a", "b"]
    assert ros.ns(msg.points[0].time_from_start) == 50_000_000


@pytest.mark.parametrize("name", ["antigravity/Message", "no_such_robot/LowState", "std_msgs/Nope"])
def test_a_type_that_is_not_installed_is_refused_before_anything_is_imported(name):
    import sys

    from qgf_ros.ros.conversions import ros_type

    with pytest.raises(UsageError, match=f"{name}.*source the workspace"):
        ros_type(name)
    assert name.split("/")[0] == "std_msgs" or name.split("/")[0] not in sys.modules
