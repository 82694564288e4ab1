"""What a trial hears of an episode, without the wire.

Pinned: an outcome of an earlier episode that judges this one; one that the operator overruled; a
second episode under the label of the first.
"""

import time
from types import SimpleNamespace

import pytest
import ros_harness as ros
from rclpy.clock import Clock
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Reader
from std_msgs.msg import Bool

from qgf_ros.ros.trial_bag import TELLS_WHEN, AdaptiveSubscription, BagRecorder
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract


class Node:
    """Hands out what was subscribed; all its publishers latch."""

    def __init__(self):
        self.heard = {}

    def get_publishers_info_by_topic(self, topic):
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return [SimpleNamespace(qos_profile=latched)]

    def create_subscription(self, kind, topic, callback, profile, raw):
        self.heard[topic] = profile, callback
        return topic

    def get_clock(self):
        return Clock()

    def say(self, topic, msg):
        when = [{"received_timestamp": time.time_ns()}] * TELLS_WHEN
        self.heard[topic][1](serialize_message(msg), *when)

    def destroy_subscription(self, subscription):
        pass


def test_only_what_is_observed_counts_from_before():
    node = Node()
    AdaptiveSubscription(node, "std_msgs/Bool", "success", lambda msg, at: None, raw=False)
    AdaptiveSubscription(
        node, "std_msgs/Bool", "goal", lambda msg, at: None, raw=True, latched=True
    )
    found = {topic: profile.durability for topic, (profile, _) in node.heard.items()}
    assert found == {
        "success": DurabilityPolicy.VOLATILE,
        "goal": DurabilityPolicy.TRANSIENT_LOCAL,
    }


@pytest.mark.parametrize("judged", [True, False])
def test_a_bag_holds_one_episode_and_an_outcome_where_it_judged(tmp_path, judged):
    node = Node()
    contract = Contract.load(world_folder("planar_arm") / "contract.yaml")
    recorder = BagRecorder(node, contract, "/qgf", simulated=False)
    recorder.begin(tmp_path / "bag")
    for _ in range(2):
        assert not recorder.began_anew
        node.say("episode_start", ros.Header())
        node.say("success", Bool(data=True))
    assert recorder.began_anew
    recorder.end(judged)
    with Reader(tmp_path / "bag") as bag:
        found = [connection.topic for connection, *_ in bag.messages()]
    assert found == ["/episode_start"] + ["/success"] * judged
