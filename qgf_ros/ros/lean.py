"""Nodes that cost less to wait for.

rclpy makes two event handlers for each publisher and subscription, which log that a peer has another
QoS or another type, and for each message it goes over all of them in Python: in the node `qgf` that
took more of the interpreter, and longer of its lock, than the messages did. Peers that cannot be
understood are told by `peers.unheard`, and by the peers themselves.
"""

from __future__ import annotations

from typing import Any

from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node


class _Lean:
    """Before a node class: only those event handlers that are asked for."""

    def create_publisher(self, msg_type: Any, topic: str, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("event_callbacks", PublisherEventCallbacks(use_default_callbacks=False))
        return super().create_publisher(msg_type, topic, *args, **kwargs)  # type: ignore[misc]

    def create_subscription(self, msg_type: Any, topic: str, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault(
            "event_callbacks", SubscriptionEventCallbacks(use_default_callbacks=False)
        )
        return super().create_subscription(msg_type, topic, *args, **kwargs)  # type: ignore[misc]


class LeanNode(_Lean, Node):
    """A node."""


class LeanLifecycleNode(_Lean, LifecycleNode):
    """A node with a life cycle."""
