"""A policy that is told where to go: the goal comes from a topic, once is enough, latched or not."""

import time

import pytest
import ros_harness as ros
from geometry_msgs.msg import PointStamped
from qgf_make import ARM_FILE, contract, write_tiny
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from qgf_ros.files.strict_yaml import load_yaml

LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
LONGER = 1.0  # s: any other source would be stale by then


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    own = load_yaml(ARM_FILE)
    for source in own["observations"]:
        if source["name"] == "goal":
            del source["max_age"]
    own["outcome"] = {
        "objective": "reach_goal",
        "goal": {
            "observation": "goal",
            "achieved": ["joints.position.shoulder", "joints.position.elbow"],
            "radius": 0.1,
        },
    }
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    write_tiny(folder, contract(own))
    return folder


@pytest.fixture
def pair(domain, tiny):
    with ros.node_and_robot(domain, policy=tiny) as both:
        yield both


def age_of_goal(status):
    return dict(zip(status.topics, status.topic_age))["goal"]


def drive_on_one_goal(proc, robot):
    robot.wait_state(ros.READY, 10)
    robot.enabled()
    robot.wait_state(ros.RUN, 5)
    begun, states = len(robot.statuses), len(robot.stamps["joint_states"])
    robot.wait(lambda: age_of_goal(robot.statuses[-1].msg) > LONGER, LONGER + 2, "a while", proc)
    assert {s.msg.state for s in robot.statuses[begun:]} <= {ros.RUN} or robot.fell_silent(states)
    robot.wait_state(ros.RUN, 5, proc)
    robot.wait_commands(10)


def test_a_goal_that_was_latched_before_the_node_listened_is_its_goal(domain, tiny):
    early = ros.Wire(domain, "early_goal")
    publisher = early.node.create_publisher(PointStamped, "goal", LATCHED)
    publisher.publish(ros.point(time.time_ns(), 0.3, 0.9))
    try:
        with ros.node_and_robot(domain, policy=tiny) as (proc, robot):
            robot.speak("joint_states", "obstacle")
            drive_on_one_goal(proc, robot)
    finally:
        early.close()


def test_without_a_goal_nothing_moves_and_one_plain_message_is_enough(pair):
    proc, robot = pair
    robot.speak("joint_states", "obstacle")
    robot.wait(
        lambda: robot.statuses and robot.statuses[-1].msg.reason == "STATE_MISSING:goal",
        10, "a state without a goal", proc,
    )  # fmt: skip
    assert not robot.enable().success
    robot.publishers["goal"].publish(ros.point(time.time_ns(), 0.3, 0.9))
    drive_on_one_goal(proc, robot)
