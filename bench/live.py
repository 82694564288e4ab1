"""Plays a bag's states into the live node at their own rate and measures what comes out.

    python bench/live.py BAG --policy POLICY [--seconds 10] [--out FOLDER] [--json]

Starts the node as a process of its own, publishes the bag's observations with fresh stamps,
enables, and records commands (a bag) and Q values. Open loop: the robot in the bag does not react,
so this shows rate, latency and timing, and says nothing about success.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from qgf_ros.console import console, emit, table
from qgf_ros.errors import QgfError, exit_codes
from qgf_ros.policy.folder import load_policy
from training.pipeline.readers.rosbag2 import Rosbag2Reader
from training.pipeline.writers.bag import BagWriter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "support"))

import ros_harness as ros  # noqa: E402

WARM_UP = 1.0  # s after enabling that are not counted
PATIENCE = 20.0  # s for the node to start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--beta", type=float)
    parser.add_argument(
        "--out", type=Path, help="folder for commands (bag) and q_values.jsonl; must be new"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ |= {
        "ROS_DOMAIN_ID": str(ros.take_domain()),  # held until this process ends
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    with exit_codes():
        document = measure(arguments)
        rows = [(k, f"{v:.3f}" if isinstance(v, float) else v) for k, v in document.items()]
        table("Live node", ("figure", "value"), rows)
        if arguments.json:
            emit(document)
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from std_srvs.srv import SetBool

    from qgf_ros.ros import qos
    from qgf_ros.ros.conversions import Command, QValues, ros_type

    policy = load_policy(arguments.policy)
    recording = Rosbag2Reader().read(arguments.bag, ".", policy.contract)
    parameters = {"policy": arguments.policy.resolve()}
    if arguments.beta is not None:
        parameters["beta"] = arguments.beta
    options = [a for k, v in parameters.items() for a in ("-p", f"{k}:={v}")]
    node_process = subprocess.Popen(
        [sys.executable, "-m", "qgf_ros.ros.node", "--ros-args", *options], stdout=sys.stderr
    )
    rclpy.init()
    node = rclpy.create_node("qgf_live_bench")
    commands: list[tuple[int, Command]] = []
    sent: list[tuple[int, np.ndarray]] = []
    values: list[tuple[int, QValues]] = []
    now = lambda: time.time_ns()  # noqa: E731  the node's clock, without use_sim_time
    node.create_subscription(
        Command, "/qgf/command", lambda m: commands.append((now(), m)), qos.REPORT
    )
    node.create_subscription(
        QValues, "/qgf/q_values", lambda m: values.append((now(), m)), qos.REPORT
    )
    action = policy.contract.actions[0]
    decode = _decoder(action)
    node.create_subscription(
        ros_type(action.type), action.topic, lambda m: sent.append((now(), decode(m))), qos.REPORT
    )
    enable = node.create_client(SetBool, "/qgf/enable")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    stop = threading.Event()
    player = threading.Thread(
        target=_play, args=(node, policy.contract, recording, stop), daemon=True
    )
    try:
        if not enable.wait_for_service(PATIENCE):
            raise QgfError("the node did not start in time")
        player.start()
        limit = time.monotonic() + PATIENCE
        while True:  # refused until the node has seen a complete state
            answer = enable.call(SetBool.Request(data=True), timeout_sec=5.0)
            if answer is not None and answer.success:
                break
            if time.monotonic() > limit:
                raise QgfError(f"enable was refused: {answer}")
            time.sleep(0.05)
        limit = time.monotonic() + PATIENCE
        while not commands and time.monotonic() < limit:
            time.sleep(0.05)
        time.sleep(WARM_UP)
        begin = now()
        time.sleep(arguments.seconds)
        end = now()
    finally:
        stop.set()
        node_process.send_signal(signal.SIGINT)
        try:
            code = node_process.wait(5.0)
        except subprocess.TimeoutExpired:
            node_process.kill()
            code = -9
        executor.shutdown()
        rclpy.try_shutdown()
    if arguments.out:
        _write(arguments.out, policy, sent, values)
    return _figures(policy, commands, sent, values, begin, end) | {"node_exit_code": code}


def _play(node, contract, recording, stop: threading.Event) -> None:
    """Publishes the observations over and over, at the bag's own times, stamped when they are sent."""
    from qgf_ros.ros import qos
    from qgf_ros.ros.conversions import header, make, ros_type
    from qgf_ros.spaces.messages import message_type

    sources = {o.name: o for o in contract.observations}
    publishers = {
        n: node.create_publisher(ros_type(s.type), s.topic, qos.REPORT) for n, s in sources.items()
    }
    rows = sorted(
        (
            (int(t), name, v)
            for name in sources
            for t, v in zip(recording.streams[name].receipt, recording.streams[name].values)
        ),
        key=lambda row: row[:2],
    )
    while not stop.is_set():
        origin, began = rows[0][0], time.monotonic()
        for at, name, numbers in rows:
            wait = began + (at - origin) * 1e-9 - time.monotonic()
            if stop.wait(max(wait, 0)):
                return
            source, kind = sources[name], message_type(sources[name].type)
            stamp = header(time.time_ns()) if kind.stamped else None
            publishers[name].publish(kind.encode(make, source.fields, source.names, numbers, stamp))


def _decoder(action):
    from qgf_ros.spaces.messages import message_type

    return lambda msg: message_type(action.type).decode(msg, action.fields, action.names)


def _figures(policy, commands, sent, values, begin: int, end: int) -> dict[str, object]:
    inside = [(t, m) for t, m in commands if begin <= t < end]
    arrivals = np.array([t for t, _ in sent if begin <= t < end])
    samples = [m for t, m in values if begin <= t < end]
    ns = lambda stamp: stamp.sec * 10**9 + stamp.nanosec  # noqa: E731
    from_state = np.array([t - ns(m.header.stamp) for t, m in inside]) * 1e-6
    from_tick = np.array([t - ns(m.execute_at) for t, m in inside]) * 1e-6
    inference = np.array([m.inference_ms for m in samples])
    sequences = np.array([m.sequence for m in samples])
    numbers = np.array([v for _, v in sent])
    low, high, _ = policy.contract.limits
    expected = len(arrivals) / policy.contract.time.execute_steps
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "policy": policy.sha256[:12],
        "commands": len(arrivals),
        "rate_hz": float((len(arrivals) - 1) / ((arrivals[-1] - arrivals[0]) * 1e-9))
        if len(arrivals) > 1
        else 0.0,
        "largest_gap_ms": float(np.diff(arrivals).max() * 1e-6)
        if len(arrivals) > 1
        else float("nan"),
        "state_to_command_p50_ms": float(np.percentile(from_state, 50)),
        "state_to_command_p99_ms": float(np.percentile(from_state, 99)),
        "tick_to_command_p50_ms": float(np.percentile(from_tick, 50)),
        "tick_to_command_p99_ms": float(np.percentile(from_tick, 99)),
        "inference_p50_ms": float(np.percentile(inference, 50)),
        "inference_p99_ms": float(np.percentile(inference, 99)),
        "q_values": len(samples),
        "q_values_expected": round(expected, 1),
        "q_values_lost": int((np.diff(sequences) - 1).sum()),
        "outside_limits": int(((numbers < low - 1e-9) | (numbers > high + 1e-9)).any(axis=1).sum()),
        "beta": samples[-1].beta if samples else float("nan"),
        "guidance_ratio_mean": float(np.mean([m.guidance_ratio for m in samples])),
    }


def _write(out: Path, policy, sent, values) -> None:
    action = policy.contract.actions[0]
    with BagWriter(out, {action.name: action}) as bag:
        for at, numbers in sent:
            bag.write(action.name, at, at, numbers)
    lines = [
        {"received": at, "sequence": m.sequence, "beta": m.beta, "q_sampled": m.q_sampled, "q_unguided": m.q_unguided,
         "inference_ms": m.inference_ms, "guidance_ratio": m.guidance_ratio}
        for at, m in values
    ]  # fmt: skip
    (out / "q_values.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    console.print(f"recorded: {out}")


if __name__ == "__main__":
    sys.exit(main())
