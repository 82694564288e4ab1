"""What the executor goes over for each message is no more than what the node asked for."""

import ros_harness as ros
from rclpy.context import Context
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node

from qgf_ros.ros.gate_node import GateNode
from qgf_ros.ros.lean import LeanLifecycleNode, LeanNode
from qgf_ros.ros.node import QgfNode


def handlers(kind, **more):
    """Of a publisher and a subscription."""
    context = Context()
    context.init(args=[])
    try:
        node = kind("handlers", context=context)
        publisher = node.create_publisher(ros.Bool, "topic", 1)
        subscription = node.create_subscription(ros.Bool, "topic", print, 1, **more)
        return len(publisher.event_handlers), len(subscription.event_handlers)
    finally:
        context.try_shutdown()


def test_only_those_event_handlers_are_made_that_are_asked_for():
    assert handlers(LeanNode) == handlers(LeanLifecycleNode) == (0, 0)
    asked = SubscriptionEventCallbacks(liveliness=print, use_default_callbacks=False)
    assert handlers(LeanNode, event_callbacks=asked) == (0, 1)
    assert min(handlers(Node)) > 0  # or there is nothing to spare


def test_the_nodes_that_have_a_rate_to_keep_are_lean():
    assert issubclass(QgfNode, LeanLifecycleNode) and issubclass(GateNode, LeanNode)
