"""What a trial hears of an episode, without the wire.

Pinned: an outcome of an earlier episode that judges this one; one that the operator overruled; a
second episode under the label of the first.
"""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import ros_harness as ros
from builtin_interfaces.msg import Time
from rclpy.clock import Clock
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock as ClockMsg
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool

from qgf_ros.ros.trial_bag import TELLS_WHEN, AdaptiveSubscription, BagRecorder
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract

ARM = Contract.load(world_folder("planar_arm") / "contract.yaml")


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


@pytest.mark.parametrize("seconds", [-5, 2**31 - 1])
def test_fault_155_whatever_is_on_the_wire_an_episode_gets_its_bag(tmp_path, seconds):
    """Bytes that are no message, a clock before its time, a stamp of another century: the trial
    died of them when it wrote down an episode that had gone well."""
    node = Node()
    recorder = BagRecorder(node, ARM, "/qgf", simulated=True)
    recorder.begin(tmp_path / "bag")
    when = [{"received_timestamp": time.time_ns()}] * TELLS_WHEN
    for clock in (seconds, 7):
        node.heard["/clock"][1](ClockMsg(clock=Time(sec=clock)), *when)
        for raw in (
            b"",
            b"\0",
            b"\0\1\0\0\1",
            serialize_message(ros.Header(stamp=Time(sec=seconds))),
        ):
            node.heard[ARM.observations[0].topic][1](raw, *when)
            node.heard["/qgf/status"][1](raw, *when)
    recorder.end()
    with Reader(tmp_path / "bag") as bag:
        receipts = [receipt for _, receipt, _ in bag.messages()]
    assert receipts and set(receipts) <= {0, 7 * 10**9, max(seconds, 0) * 10**9}


def test_cameras_are_kept_compressed_with_the_stamp_of_their_capture(tmp_path):
    """Beside the features that the node was told; what is no image is not kept, and ends nothing."""
    pytest.importorskip("simplejpeg")
    from qgf_ros.images.compressed import pixels

    node = Node()
    contract = Contract.load(world_folder("planar_arm_camera") / "contract.yaml").heard
    recorder = BagRecorder(node, contract, "/qgf", simulated=False)
    recorder.begin(tmp_path / "bag")
    shown = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    image = Image(height=64, width=64, encoding="rgb8", step=192, data=shown.tobytes())
    image.header.stamp.sec = 77
    torn = Image(height=64, width=64, encoding="rgb8", step=192, data=shown.tobytes()[:-1])
    when = [{"received_timestamp": time.time_ns()}] * TELLS_WHEN
    for said in (image, torn):
        node.heard["top/image_raw"][1](said, *when)
    assert "qgf_encoder/top" in node.heard
    recorder.end()
    with Reader(tmp_path / "bag") as bag:
        ((connection, _, raw),) = bag.messages()
        assert connection.msgtype == "sensor_msgs/msg/CompressedImage"
        assert (connection.topic, len(raw) < shown.size / 2) == ("/top/image_raw/compressed", True)
    found = deserialize_message(raw, CompressedImage)
    assert found.header.stamp.sec == 77
    read = pixels(found, "rgb").astype(int)
    assert np.abs(read - shown).max() <= 4
