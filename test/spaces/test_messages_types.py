"""Types beyond the arm's: odometry, trajectories, single numbers, and types that nobody here knows."""

from types import SimpleNamespace as Msg

import numpy as np
import pytest

from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.limits import Limit
from qgf_ros.spaces.messages import TYPES, message_type
from qgf_ros.spaces.messages.base import SchemaError
from qgf_ros.spaces.messages.foreign import Foreign
from qgf_ros.spaces.observations.source import ObservationSource
from qgf_ros.spaces.rotation import ENCODINGS

ODOMETRY = message_type("nav_msgs/Odometry")
TRAJECTORY = message_type("trajectory_msgs/JointTrajectory")
LIMIT = Limit(-1.0, 1.0, 2.0)


def fake(type_name, **fields):
    return Msg(type_name=type_name, **fields)


def test_covariances_and_frames_are_no_numbers():
    assert ODOMETRY.fields[:5] == (
        "pose.pose.position.x",
        "pose.pose.position.y",
        "pose.pose.position.z",
        "pose.pose.orientation",
        "pose.pose.orientation.x",
    )
    assert not [f for t in TYPES.values() for f in t.fields if "covariance" in f or "frame" in f]
    for field in ("pose.covariance", "child_frame_id", "pose.pose", "twist.covariance.0"):
        with pytest.raises(ValueError, match="needs fields out of"):
            ODOMETRY.check((field,), ())


def test_unread_parts_are_written_as_zeros_of_their_size():
    msg = ODOMETRY.encode(fake, ("twist.twist.linear.x",), (), np.array([2.0]))
    for covariance in (msg.pose.covariance, msg.twist.covariance):
        assert covariance.dtype == np.float64 and covariance.tolist() == [0.0] * 36
    assert msg.child_frame_id == "" and msg.pose.pose.orientation.w == 1
    imu = message_type("sensor_msgs/Imu").encode(fake, ("angular_velocity.z",), (), np.array([1.0]))
    assert imu.linear_acceleration_covariance.shape == (9,)


@pytest.mark.parametrize("type_name,field", [("nav_msgs/Odometry", "pose.pose.orientation"), ("sensor_msgs/Imu", "orientation"), ("geometry_msgs/Pose", "orientation")])  # fmt: skip
@pytest.mark.parametrize("encoding", ["rot6d", "yaw_sin_cos", "matrix_columns"])
def test_orientations_become_what_a_network_can_learn(type_name, field, encoding):
    source = ObservationSource("t", type_name, (field,), name="base", encoding=encoding)
    assert source.labels == tuple(f"{field}.{c}" for c in "xyzw")
    quaternion = np.array([0.0, 0.0, 0.6, 0.8])
    assert np.array_equal(source.features(quaternion), ENCODINGS[encoding].encode(quaternion))
    assert len(source.feature_labels) == source.features(quaternion).size
    for fields in ((f"{field}.z",), (f"{field}.x", f"{field}.w")):
        with pytest.raises(ValueError, match="quaternion components"):
            ObservationSource("t", type_name, fields, name="base")


def trajectory(names, *points):
    return Msg(joint_names=names, points=[Msg(positions=p, velocities=v) for p, v in points])


def test_trajectory_is_one_point_a_period_from_now():
    msg = TRAJECTORY.encode(fake, ("position",), ("a", "b"), np.array([1.0, 2.0]), "head", 1.25)
    (point,) = msg.points
    assert msg.header == "head" and msg.joint_names == ["a", "b"]
    assert point.positions.tolist() == [1, 2] and len(point.velocities) == 0
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (1, 250_000_000)


def test_fault_009_trajectory_is_read_by_name():
    msg = trajectory(["c", "b", "a"], ([3.0, 2.0, 1.0], []))
    assert TRAJECTORY.decode(msg, ("position",), ("a", "c")).tolist() == [1, 3]
    with pytest.raises(SchemaError, match="velocity has 0 values for 3"):
        TRAJECTORY.decode(msg, ("velocity",), ("a",))


@pytest.mark.parametrize("count", [0, 2])
def test_trajectory_of_another_number_of_points_refused(count):
    with pytest.raises(SchemaError, match=f"{count} points"):
        TRAJECTORY.decode(trajectory(["a"], *[([1.0], [])] * count), ("position",), ("a",))


def test_trajectory_as_a_command_is_what_its_representation_says():
    given = {"names": ("a",), "name": "arm", "limits": {"a": LIMIT}}
    kind = "trajectory_msgs/JointTrajectory"
    ActionSpec("c", kind, ("position",), representation="absolute", **given)
    ActionSpec("c", kind, ("velocity",), representation="velocity", **given)
    for fields in (("velocity",), ("position", "velocity"), ()):
        with pytest.raises(ValueError, match="fields"):
            ActionSpec("c", kind, fields, representation="absolute", **given)


def test_one_number_commands_the_joint_that_it_is_named_after():
    given = {"space": "gripper", "name": "grip", "limits": {"finger": LIMIT}}
    spec = ActionSpec("c", "std_msgs/Float64", names=("finger",), **given)
    assert spec.labels_of_joints == ("finger",)
    msg = message_type(spec.type).encode(fake, spec.fields, spec.names, np.array([0.25]))
    assert msg.data == 0.25 and type(msg.data) is float
    with pytest.raises(ValueError, match="one number"):
        ActionSpec("c", "std_msgs/Float64", names=("finger", "thumb"), **given)
    with pytest.raises(ValueError, match="not a command type"):
        ActionSpec("c", "std_msgs/Bool", names=("finger",), **given)


@pytest.mark.parametrize("kind", [k for k in TYPES if "Int" in k and "Multi" not in k])
def test_integers_stay_integers_on_the_wire(kind):
    msg = message_type(kind).encode(fake, ("data",), (), np.array([7.0]))
    assert msg.data == 7 and type(msg.data) is int


LOW_STATE = "unitree_hg/LowState"


def test_a_type_of_the_robots_own_is_read_by_dotted_paths_and_indices():
    motors = [Msg(q=0.1, dq=1), Msg(q=0.2, dq=2)]
    source = ObservationSource(
        "lowstate", LOW_STATE, ("motor_state.1.q", "motor_state.0.dq"), stamp="receipt", name="legs"
    )
    kind = message_type(LOW_STATE)
    assert isinstance(kind, Foreign) and not kind.command
    assert kind.decode(Msg(motor_state=motors), source.fields, ()).tolist() == [0.2, 1]
    assert source.labels == source.fields


@pytest.mark.parametrize("path", ["motor_state.2.q", "motor_state.q", "tick.0", "imu.x", "name"])
def test_a_path_that_the_message_does_not_have_is_a_schema_error(path):
    msg = Msg(motor_state=[Msg(q=1.0)] * 2, tick=3, name="7")
    with pytest.raises(SchemaError, match=path):
        message_type(LOW_STATE).decode(msg, (path,), ())


@pytest.mark.parametrize("field", ["__class__.x", "a.__dict__", "a..b", ".a", "a.", "0.a", "a.-1", "a[0]", "a b", "", "a.123456"])  # fmt: skip
def test_only_plain_paths_are_followed_into_a_foreign_message(field):
    with pytest.raises(ValueError, match="is none of"):
        message_type(LOW_STATE).check((field,), ())


def test_a_foreign_type_must_say_where_its_time_comes_from():
    with pytest.raises(ValueError, match="stamp: header"):
        ObservationSource("t", LOW_STATE, ("x",), name="legs")
    for stamp in ("header", "receipt"):
        assert ObservationSource("t", LOW_STATE, ("x",), name="legs", stamp=stamp).stamp == stamp


def test_a_foreign_type_commands_nothing():
    with pytest.raises(ValueError, match="not a command type"):
        ActionSpec("t", LOW_STATE, ("x",), name="legs", stamp="receipt", limits={"x": LIMIT})


@pytest.mark.parametrize("name", ["JointState", "std_msgs/msg/Float64", "a/b/c", "std_msgs/", "os/system", "../x/Y"])  # fmt: skip
def test_what_is_no_name_of_a_type_refused(name):
    with pytest.raises(ValueError, match="write package/Type"):
        message_type(name)
