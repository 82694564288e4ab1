"""What a trial hears of an episode, without the wire.

Pinned: an outcome of an earlier episode that judges this one.
"""

from types import SimpleNamespace

import ros_harness  # noqa: F401  the wire tests' check that ROS is there
from rclpy.qos import DurabilityPolicy, QoSProfile

from qgf_ros.ros.trial_bag import Ear


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

    def destroy_subscription(self, subscription):
        pass


def test_only_what_is_observed_counts_from_before():
    node = Node()
    Ear(node, "std_msgs/Bool", "success", lambda msg, at: None, raw=False)
    Ear(node, "std_msgs/Bool", "goal", lambda msg, at: None, raw=True, latched=True)
    found = {topic: profile.durability for topic, (profile, _) in node.heard.items()}
    assert found == {
        "success": DurabilityPolicy.VOLATILE,
        "goal": DurabilityPolicy.TRANSIENT_LOCAL,
    }
