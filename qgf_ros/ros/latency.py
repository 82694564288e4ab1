"""What `qgf latency` listens with: a node that publishes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from qgf_ros.ros import qos
from qgf_ros.ros.conversions import nanoseconds, ros_type
from qgf_ros.ros.lean import LeanNode
from qgf_ros.watch.latency import Heard

QUEUE = 200  # features between two looks, at most
LOOK = 0.1  # s
DISCOVERY = 5.0  # s within which publishers of features are found
FEATURES = "qgf_ros/Features"


def listen(cameras: Sequence[Heard], policy: str, seconds: float) -> float:
    """Fills `cameras` for so long, from when each has a publisher, or none was found for `DISCOVERY`.

    Args:
        policy: sha256 of the one whose features count; "": all count.

    Returns:
        s that were listened.

    Raises UsageError where a topic is none, and KeyboardInterrupt by a signal.
    """
    context = Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = LeanNode(
        f"qgf_latency_{os.getpid()}", context=context, enable_rosout=False, start_parameter_services=False
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    profile = QoSProfile(depth=QUEUE, reliability=qos.REPORT.reliability)
    begun = False

    def callback_of(camera: Heard) -> Callable[[Any, Any], None]:
        def take(msg: Any, info: Any) -> None:
            # The middleware's own time: how soon Python wakes up here says nothing of the robot. Not all say it.
            receipt = info["received_timestamp"] or time.time_ns()
            if begun:
                camera.take(msg, receipt, nanoseconds(msg.header.stamp), policy)

        return take

    try:
        for camera in cameras:
            node.create_subscription(ros_type(FEATURES), camera.topic, callback_of(camera), profile)
        _spin(executor, DISCOVERY, lambda: all(node.count_publishers(c.topic) for c in cameras))
        # What a late listener is sent of the past does not count, nor what waits from before this.
        _spin(executor, LOOK, lambda: False)
        begun, began = True, time.monotonic()
        _spin(executor, seconds, lambda: False)
        return time.monotonic() - began
    finally:
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
        context.try_shutdown()


def _spin(executor: SingleThreadedExecutor, seconds: float, done: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not done() and (left := until - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=min(left, LOOK))
