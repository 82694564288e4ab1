"""For every message type what a contract may read of it, and numbers that it can hold."""

from hypothesis import strategies as st

from qgf_ros.spaces.messages import message_type

INTEGERS = "Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64".split()
# (fields, names) per type.
SHAPES = {
    "sensor_msgs/JointState": [
        (("position",), ("a", "b")),
        (("velocity", "position"), ("a",)),
        (("effort",), ("x", "y", "z")),
    ],
    "std_msgs/Float64MultiArray": [((), ("a", "b", "c"))],
    "qgf_ros/Features": [((), ("f0", "f1", "f2"))],
    "sensor_msgs/Image": [],  # pixels are no numbers
    "sensor_msgs/CompressedImage": [],
    "std_msgs/Header": [((), ())],
    "geometry_msgs/PointStamped": [
        (("point.x",), ()),
        (("point.z", "point.x"), ()),
        (("point.x", "point.y", "point.z"), ()),
    ],
    "geometry_msgs/PoseStamped": [
        (("pose.position.y",), ()),
        (("pose.orientation",), ()),
        (("pose.orientation", "pose.position.z", "pose.position.x"), ()),
    ],
    "geometry_msgs/Twist": [(("linear.x", "angular.z"), ()), (("angular.y",), ())],
    "geometry_msgs/TwistStamped": [
        (("twist.linear.x", "twist.linear.y", "twist.angular.z"), ()),
    ],
    "geometry_msgs/Point": [(("z", "x"), ())],
    "geometry_msgs/Vector3": [(("x", "y", "z"), ())],
    "geometry_msgs/Vector3Stamped": [(("vector.y",), ())],
    "geometry_msgs/Pose": [(("orientation", "position.z"), ()), (("position.x",), ())],
    "geometry_msgs/Accel": [(("linear.z", "angular.x"), ())],
    "geometry_msgs/AccelStamped": [(("accel.linear.z", "accel.angular.x"), ())],
    "geometry_msgs/Wrench": [(("force.x", "torque.z"), ())],
    "geometry_msgs/WrenchStamped": [(("wrench.force.x", "wrench.torque.z"), ())],
    "nav_msgs/Odometry": [
        (("pose.pose.position.x", "twist.twist.linear.x", "twist.twist.angular.z"), ()),
        (("twist.twist.linear.y", "pose.pose.orientation"), ()),
    ],
    "sensor_msgs/Imu": [(("orientation", "angular_velocity.z", "linear_acceleration.x"), ())],
    "trajectory_msgs/JointTrajectory": [
        (("position",), ("a", "b")),
        (("velocity", "position"), ("a", "b", "c")),
    ],
    "std_msgs/Float32MultiArray": [((), ("a", "b"))],
    "std_msgs/Int32MultiArray": [((), ("a", "b"))],
    "std_msgs/Float64": [(("data",), ()), ((), ("finger",))],
    "std_msgs/Float32": [(("data",), ()), ((), ("finger",))],
    "std_msgs/Bool": [(("data",), ())],
} | {f"std_msgs/{kind}": [(("data",), ())] for kind in INTEGERS}


def numbers_of(type_name):
    """Strategy of one number, exact in the message and in float64."""
    short = type_name.removeprefix("std_msgs/").removesuffix("MultiArray")
    if short == "Bool":
        return st.sampled_from([0.0, 1.0])
    if short in INTEGERS:
        bits = min(int(short.lstrip("UInt")), 53)
        low, high = (
            (0, 2**bits - 1) if short.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
        return st.integers(low, high).map(float)
    return st.floats(allow_nan=False, width=32 if short in ("Float32", "qgf_ros/Features") else 64)


def values_of(type_name, fields, names):
    """Strategy of the numbers of one message."""
    count = max(1, len(names)) * max(1, len(fields)) if fields or names else 0
    count += 3 * sum(map(message_type(type_name).is_orientation, fields))
    return st.lists(numbers_of(type_name), min_size=count, max_size=count)
