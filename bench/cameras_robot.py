"""The robot of bench/cameras.py: state and cameras as processes of their own, `qgf_encoder`, the node.

    python bench/cameras_robot.py POLICY SECONDS

Prints one line of JSON: how long from the capture of the newest image to the command that saw it, how many
state ticks were served, how even they were, and the CPU of each process as shares of a core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PointStamped
from qgf_ros.msg import Status, Tick
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool

from qgf_ros.control.supervisor import State
from qgf_ros.files.share import find_policy
from qgf_ros.policy.folder import load_policy
from qgf_ros.ros.conversions import nanoseconds, ros_time

SETTLE = 3.0  # s
HZ = os.sysconf("SC_CLK_TCK")


def camera(topic: str) -> None:
    """In a process of its own: noise at 30 Hz, raw and reliable."""
    rclpy.init()
    node = rclpy.create_node("camera_" + topic.replace("/", "_"))
    publisher = node.create_publisher(Image, topic, QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE))
    rng = np.random.default_rng(0)
    pictures = [array("B", rng.integers(0, 256, 640 * 480 * 3, dtype=np.uint8).tobytes()) for _ in range(4)]
    due, count = time.monotonic(), 0
    while rclpy.ok():
        msg = Image(height=480, width=640, encoding="rgb8", step=640 * 3, data=pictures[count % 4])
        msg.header.stamp = ros_time(time.time_ns())
        publisher.publish(msg)
        count += 1
        due += 1 / 30
        time.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    policy, seconds = sys.argv[1], float(sys.argv[2])
    loaded = load_policy(find_policy(policy))
    cameras = [o.topic for o in loaded.contract.recorded.cameras]
    started: dict[str, subprocess.Popen[bytes]] = {}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for topic in cameras:
        started[topic] = subprocess.Popen([sys.executable, __file__, "camera", topic], **quiet)
    arguments = ["--ros-args", "-p", f"policy:={policy}"]
    for name in ["node", *(["encoder_node"] if cameras else [])]:
        started[name] = subprocess.Popen([sys.executable, "-m", f"qgf_ros.ros.{name}", *arguments], **quiet)
    try:
        print(json.dumps(measure(loaded, started, seconds)))
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def measure(policy: Any, started: dict[str, subprocess.Popen[bytes]], seconds: float) -> dict[str, Any]:
    rclpy.init()
    node = rclpy.create_node("bench_robot")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    states = node.create_publisher(JointState, "joint_states", QoSProfile(depth=1))
    points = {t: node.create_publisher(PointStamped, t, QoSProfile(depth=1)) for t in ("goal", "obstacle")}
    ticks: list[tuple[float, Tick]] = []
    status: list[Status] = []
    node.create_subscription(Tick, "qgf/ticks", lambda m: ticks.append((time.time(), m)), QoSProfile(depth=100))
    node.create_subscription(Status, "qgf/status", status.append, QoSProfile(depth=10))
    enable = node.create_client(SetBool, "qgf/enable")

    def speak() -> None:
        stamp = ros_time(time.time_ns())
        state = JointState(name=["shoulder", "elbow"], position=[0.0, 0.8], velocity=[0.01, 0.01])
        state.header.stamp = stamp
        states.publish(state)
        for topic, publisher in points.items():
            point = PointStamped()
            point.header.stamp, point.point.x = stamp, -0.6 if topic == "goal" else 0.4
            publisher.publish(point)

    node.create_timer(0.01, speak)
    until = time.monotonic() + 60
    while not (status and status[-1].state in (State.READY, State.RUN)):
        executor.spin_once(timeout_sec=0.1)
        if time.monotonic() > until:
            raise SystemExit(f"never ready: {status[-1] if status else 'no status'}")
    enable.call_async(SetBool.Request(data=True))
    spin(executor, SETTLE)
    ticks.clear()
    before, began = {n: used(p) for n, p in started.items()}, time.monotonic()
    spin(executor, seconds)
    lasted = time.monotonic() - began
    found: dict[str, Any] = {
        f"CPU of {name}": round((used(process) - before[name]) / lasted, 3)
        for name, process in started.items()
    }
    run = [(at, tick) for at, tick in ticks if tick.state == State.RUN]
    period = policy.contract.time.period
    found["ticks served"] = round(len(run) / (lasted / period), 4)
    at = np.array([nanoseconds(tick.header.stamp) for _, tick in run]) * 1e-9
    heard = np.array([when for when, _ in run])
    steps = np.diff(heard) - np.diff(at)
    found["jitter of ticks, p99 [ms]"] = round(1e3 * float(np.quantile(np.abs(steps), 0.99)), 2)
    topics = [o.topic for o in policy.contract.observations]
    seen = [topics.index(o.topic) for o in policy.contract.observations if o.type == "qgf_ros/Features"]
    if seen:
        ages = [when - nanoseconds(tick.stamps[k]) * 1e-9 for when, tick in run for k in seen if len(tick.stamps) > k]
        found["capture to command, p50 [ms]"], found["capture to command, p99 [ms]"] = (
            round(1e3 * float(q), 1) for q in np.quantile(ages, (0.5, 0.99))
        )
    rclpy.try_shutdown()
    return found


def spin(executor: SingleThreadedExecutor, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        executor.spin_once(timeout_sec=0.05)


def used(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / HZ


if __name__ == "__main__":
    camera(sys.argv[2]) if sys.argv[1] == "camera" else main()
