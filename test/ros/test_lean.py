"""What the executor goes over for each message is no more than what the node asked for, and a service
answers whatever its callback is.

Pinned: a callback that awaits, wrapped in one that does not, which is never run.
"""

import pytest
import ros_harness as ros
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from qgf_ros.errors import UsageError
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


@pytest.mark.parametrize("told", (True, False))
@pytest.mark.parametrize("fails", (True, False))
def test_a_service_that_awaits_answers_as_any_other_does(domain, told, fails):
    """told: whether the node wants to hear of failures; else the executor does."""
    context = Context()
    context.init(args=[], domain_id=domain)
    node, executor = LeanNode("awaiting", context=context), SingleThreadedExecutor(context=context)
    executor.add_node(node)
    failures, waited = [], Future(executor=executor)
    node.failed = failures.append if told else None

    async def answer(request, response):
        response.message = await waited
        if fails:
            raise ValueError("no")
        response.success = True
        return response

    try:
        node.create_service(ros.Trigger, "it", answer, callback_group=ReentrantCallbackGroup())
        client = node.create_client(ros.Trigger, "it")
        assert client.wait_for_service(10.0)
        asked = client.call_async(ros.Trigger.Request())
        node.create_timer(0.05, lambda: waited.set_result("later"))
        if fails and not told:
            with pytest.raises(ValueError, match="no"):
                executor.spin_until_future_complete(asked, 10.0)
            return
        executor.spin_until_future_complete(asked, 10.0)
        said = asked.result()
        expected = (False, "ValueError: no") if fails else (True, "later")
        assert (said.success, said.message) == expected
        assert [str(e) for e in failures] == ["no"] * fails
    finally:
        executor.shutdown(timeout_sec=2.0)
        node.destroy_node()
        context.try_shutdown()


@pytest.mark.parametrize("topic", ["a" * 400, "not a name", "taken"], ids=["long", "odd", "taken"])
@pytest.mark.parametrize("make", ["create_publisher", "create_subscription"])
def test_a_topic_that_cannot_be_had_is_a_usage_error(make, topic):
    """What a contract names: too long, no name, or one of the node's own with another type."""
    context = Context()
    context.init(args=[])
    try:
        node = LeanNode("topics", context=context)
        node.create_publisher(ros.Clock, "taken", 1)
        arguments = (1,) if make == "create_publisher" else (print, 1)
        with pytest.raises(UsageError, match=f"topic '{topic[:40]}"):
            getattr(node, make)(ros.Bool, topic, *arguments)
    finally:
        context.try_shutdown()
