"""Joint states from a process of its own, until SIGTERM; at `inf` Hz as fast as it can.

    python ros_storm.py TOPIC RATE NAME=POSITION...

Stamps are honest and the joints sway a little. Says READY when somebody listens, and in the end one
line of JSON: how many were published in how many seconds.
"""

import json
import math
import signal
import sys
import threading
import time


def main(topic: str, rate: str, *joints: str) -> None:
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import JointState

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("storm", start_parameter_services=False)
    publisher = node.create_publisher(JointState, topic, qos_profile_sensor_data)
    pairs = [joint.split("=") for joint in joints]
    rest = [float(position) for _, position in pairs]
    msg = JointState(name=[name for name, _ in pairs], velocity=[0.0] * len(pairs))
    while publisher.get_subscription_count() == 0 and not stop.is_set():
        time.sleep(0.005)
    print("storm: READY", flush=True)
    pause = 1 / float(rate)
    count, began = 0, time.monotonic()
    due = began
    while not stop.is_set():
        now = time.time_ns()
        msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(now, 1_000_000_000)
        sway = 0.05 * math.sin(now * 1e-9)
        msg.position = [at + sway for at in rest]
        publisher.publish(msg)
        count += 1
        if pause:  # absolute, as a driver is; late is late
            due = max(due + pause, time.monotonic() - pause)
            stop.wait(max(0.0, due - time.monotonic()))
    print(json.dumps({"published": count, "seconds": time.monotonic() - began}), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
