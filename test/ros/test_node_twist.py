"""A tool on twists with a gripper: two command topics and a pose on the wire.

Pinned: a quaternion of zeros, as an uninitialised message has it, is no orientation; a gripper
does not move while the arm is brought to a stop.
"""

import contextlib
import signal
import threading
import time

import pytest
import ros_harness as ros
from qgf_make import contract, twist_dict, write_tiny

T = ros.PERIOD
RATE = 2.0
GRIP = 0.3  # where the gripper is measured
REST = [0.0] * 6


class ToolRobot(ros.Wire):
    """Says joints, pose and gripper at 100 Hz; hears twists, gripper commands and the status."""

    def __init__(self, domain):
        from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, TwistStamped

        super().__init__(domain, "fake_tool", spin=False)
        self.quaternion = (0.0, 0.0, 0.0, 1.0)
        reliable = ros.QoSProfile(depth=1000, reliability=ros.ReliabilityPolicy.RELIABLE)
        self.twists = self.record(TwistStamped, "servo/twist", reliable)
        self.grips = self.record(ros.Float64MultiArray, "gripper/commands", reliable)
        self.candidates = self.record(ros.Command, "qgf/command", reliable)
        self.statuses = self.record(ros.Status, "qgf/status", reliable)
        self._enable = self.node.create_client(ros.SetBool, "qgf/enable")

        def joint_state(header, names, position):
            return ros.JointState(header=header, name=names, position=position)

        def pose(header):
            x, y, z, w = self.quaternion
            return PoseStamped(
                header=header,
                pose=Pose(position=Point(x=0.4, z=0.2), orientation=Quaternion(x=x, y=y, z=z, w=w)),
            )

        said = {
            "joint_states": (ros.JointState, lambda h: joint_state(h, ["b", "a"], [0.1, 0.2])),
            "tool/pose": (PoseStamped, pose),
            "gripper/joint_states": (
                ros.JointState,
                lambda h: joint_state(h, ["finger.left"], [GRIP]),
            ),
        }
        self._said = [
            (self.node.create_publisher(kind, topic, ros.qos_profile_sensor_data), make)
            for topic, (kind, make) in said.items()
        ]
        self._ending_heart = threading.Event()
        self._heart = threading.Thread(target=self._publish, name="fake-tool", daemon=True)
        self.begin()
        self._heart.start()

    def _publish(self):
        while not self._ending_heart.wait(0.01):
            header = ros.Header(stamp=ros.time_msg(time.time_ns()))
            for publisher, make in self._said:
                publisher.publish(make(header))

    def enable(self, on=True):
        return self.call(self._enable, ros.SetBool.Request(data=on))

    def wait_state(self, state, timeout, proc):
        def reached():
            return self.statuses and self.statuses[-1].msg.state == state

        self.wait(reached, timeout, f"state {state}", proc)
        return self.statuses[-1].msg

    def drive(self, proc):
        self.wait_state(ros.READY, 15, proc)
        answer = self.enable()
        assert answer.success, answer.message
        self.wait_state(ros.RUN, 5, proc)
        count = len(self.candidates)
        self.wait(lambda: len(self.candidates) >= count + 20, 5, "20 candidates", proc)

    def close(self):
        self._ending_heart.set()
        self._heart.join(timeout=2.0)
        super().close()


def six(arrived):
    linear, angular = arrived.msg.twist.linear, arrived.msg.twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    write_tiny(folder, contract(twist_dict(RATE)))
    return folder


@pytest.fixture
def pair(domain, tiny):
    with contextlib.ExitStack() as stack:
        robot = ToolRobot(domain)
        stack.callback(robot.close)
        proc = ros.Proc([*ros.node_command(), *ros.ros_args(policy=tiny)], domain)
        stack.callback(proc.close)
        yield proc, robot
        proc.stop()
        check_envelope(robot)


def check_envelope(robot):
    """Whatever happened: within limits and rate, along the contract's axes, nothing unasked."""
    before, grip = REST, [GRIP]
    for arrived in robot.twists:
        values = six(arrived)
        assert arrived.msg.header.frame_id == "base_link"
        assert values[1] == values[3] == values[4] == 0, "numbers that the policy does not command"
        assert max(map(abs, values[:3])) <= 0.5 + 1e-9 and abs(values[5]) <= 1 + 1e-9
        assert max(abs(a - b) for a, b in zip(values, before)) <= RATE * T + 1e-9
        before = values
    for arrived in robot.grips:
        assert len(arrived.values) == 1 and 0 <= arrived.values[0] <= 1
        assert abs(arrived.values[0] - grip[0]) <= RATE * T + 1e-9, "begins where it is measured"
        grip = arrived.values


def test_twists_and_gripper_arrive_together_with_frame_and_stamp(pair):
    proc, robot = pair
    robot.drive(proc)
    offset = time.time() - time.monotonic()
    twists = list(robot.twists)
    stamps = [ros.ns(t.msg.header.stamp) for t in twists]
    late = [t.at + offset - s * 1e-9 for t, s in zip(twists, stamps)]
    print(
        f"{len(twists)} twists, {min(late) * 1e3:.1f} to {max(late) * 1e3:.1f} ms after their stamp"
    )
    assert all(b > a for a, b in zip(stamps, stamps[1:])) and all(
        s % 50_000_000 == 0 for s in stamps
    )
    assert min(late) >= 0 and sorted(late)[len(late) // 2] < T
    assert max(abs(v) for t in twists for v in six(t)) > 0.05, "the policy wants to move"
    robot.wait(lambda: len(robot.grips) >= len(twists), 2, "a gripper command for every twist")
    assert len({g.values[0] for g in robot.grips}) > 1

    assert robot.enable(False).success
    robot.wait(lambda: six(robot.twists[-1]) == REST, 3, "rest")
    robot.wait_state(ros.READY, 3, proc)


def test_fault_019_zero_quaternion_holds_the_robot_and_a_rotation_moves_it_again(pair):
    proc, robot = pair
    robot.quaternion = (0.0,) * 4
    robot.wait(
        lambda: robot.statuses and robot.statuses[-1].msg.reason == "STATE_MISSING:tool/pose",
        15, "a state without a pose", proc,
    )  # fmt: skip
    assert "held a quaternion" in robot.statuses[-1].msg.detail
    answer = robot.enable()
    assert not answer.success and "tool/pose" in answer.message
    assert not robot.twists and not robot.grips

    robot.quaternion = (0.0, 0.0, 0.63, 0.84)  # of length 1.05: normalised
    robot.drive(proc)
    spoilt = time.monotonic()
    robot.quaternion = (0.0,) * 4
    held = robot.wait_state(ros.HOLD, 3, proc)
    assert held.reason == "STATE_NONFINITE:tool/pose" and held.dropped > 0
    robot.wait(lambda: six(robot.twists[-1]) == REST, 3, "rest", proc)
    last_wish = robot.candidates[-1].at
    print(
        f"last candidate {last_wish - spoilt:.3f} s after the last pose, allowed {0.15 + 2 * T:.3f} s"
    )
    assert last_wish - spoilt <= 0.15 + 2 * T + 2 * ros.slack()
    count = len(robot.candidates)

    def kept():
        return [g.values[0] for g in robot.grips if g.at > last_wish + T / 2]

    robot.wait(lambda: len(kept()) >= 3, 2, "a hold that is repeated", proc)
    assert len(set(kept())) == 1, "the gripper stays"

    robot.quaternion = (0.0, 0.0, -0.6, -0.8)  # the same rotation, of another sign
    robot.wait_state(ros.RUN, 3, proc)
    robot.wait(lambda: len(robot.candidates) > count + 5, 3, "commands again", proc)


def test_ctrl_c_ends_with_a_twist_of_zero_and_the_gripper_kept(pair):
    proc, robot = pair
    robot.drive(proc)
    robot.wait(lambda: max(map(abs, six(robot.twists[-1]))) > 0.1, 5, "a moving tool", proc)
    proc.send(signal.SIGINT)
    assert proc.wait(5.0) == 0, proc.log
    count = -1
    while count != len(robot.twists) + len(robot.grips):
        count = len(robot.twists) + len(robot.grips)
        time.sleep(0.2)
    assert six(robot.twists[-1]) == REST
    last_wish = robot.candidates[-1].at
    kept = {g.values[0] for g in robot.grips if g.at > last_wish + T / 2}
    assert len(robot.twists) == len(robot.grips) and len(kept) <= 1
