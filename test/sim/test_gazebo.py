"""The bridge to Gazebo has ros_gz_bridge's form and the contract's topics. Gazebo itself is not run."""

from pathlib import Path

import pytest
import yaml

from qgf_ros.spaces.contract import Contract

EXAMPLES = Path(__file__).parents[2] / "examples"
BRIDGE = yaml.safe_load((EXAMPLES / "gazebo" / "bridge.yaml").read_text())
# What ros_gz_bridge's bridge_config.cpp reads; any other key it would pass over in silence.
KEYS = {
    "ros_topic_name", "gz_topic_name", "ros_type_name", "gz_type_name", "direction",
    "publisher_queue", "subscriber_queue", "lazy",
}  # fmt: skip
# Pairs out of its README's table.
PAIRS = {
    "rosgraph_msgs/msg/Clock": "gz.msgs.Clock",
    "nav_msgs/msg/Odometry": "gz.msgs.Odometry",
    "geometry_msgs/msg/Twist": "gz.msgs.Twist",
}


@pytest.mark.parametrize("entry", BRIDGE, ids=lambda e: e["ros_topic_name"])
def test_an_entry_has_the_bridges_form(entry):
    assert set(entry) <= KEYS
    assert PAIRS[entry["ros_type_name"]] == entry["gz_type_name"]
    assert entry["direction"] in ("GZ_TO_ROS", "ROS_TO_GZ")


def test_topics_types_and_directions_are_the_contracts():
    contract = Contract.load(EXAMPLES / "diff_drive.yaml")
    bridged = {
        (e["ros_topic_name"], e["ros_type_name"].replace("/msg/", "/"), e["direction"])
        for e in BRIDGE
    }
    state = {(o.topic, o.type, "GZ_TO_ROS") for o in contract.observations if o.name != "goal"}
    commands = {(a.topic, a.type, "ROS_TO_GZ") for a in contract.actions}
    assert bridged == state | commands | {("/clock", "rosgraph_msgs/Clock", "GZ_TO_ROS")}
