"""A camera as a process of its own: noise of 64 x 64 pixels, 20 times a second, until it is ended.

python camera_process.py TOPIC
"""

from __future__ import annotations

import signal
import sys
import time
from array import array
from random import Random
from types import FrameType

import rclpy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

SIDE, EVERY = 64, 0.05


def main(topic: str) -> None:
    ended = False

    def end(_: int, __: FrameType | None) -> None:
        nonlocal ended
        ended = True

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, end)
    node = rclpy.create_node("camera_of_the_test")
    publisher = node.create_publisher(Image, topic, 1)
    data = array("B", Random(3).randbytes(3 * SIDE * SIDE))
    while not ended:
        msg = Image(height=SIDE, width=SIDE, encoding="rgb8", step=3 * SIDE, data=data)
        msg.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(msg)
        time.sleep(EVERY)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
