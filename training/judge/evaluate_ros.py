"""Success over real ROS topics: simulator and node as separate processes."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from qgf_ros.console import say
from qgf_ros.errors import QgfError, UsageError
from qgf_ros.policy.folder import load_policy
from qgf_ros.sim.episode import EpisodeResult
from qgf_ros.sim.world import Outcome
from training.judge.evaluate import Evaluation, Variant, summarize

NAMES = ("simulator", "node", "encoder")
EPISODE_PATIENCE = 30.0  # s of simulated time per episode, settling included
START_PATIENCE = 30.0  # s for both processes to start and find each other
END_PATIENCE = 5.0  # s between SIGINT and SIGKILL


def evaluate_ros(
    policy: Path,
    world: str,
    variant: Variant,
    episodes: int,
    first_seed: int,
    real_time_factor: float = 3.0,
) -> Evaluation:
    """Runs qgf_sim and qgf_node on a ROS domain of their own until `episodes` have ended.

    Raises:
        UsageError: rclpy or the compiled messages are not there.
        QgfError: a process failed or took too long; its output is in the message.
    """
    check_ros()
    # A domain of our own and no network: the user's robots must not hear this.
    env = os.environ | {
        "ROS_DOMAIN_ID": str(random.randint(1, 101)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.jsonl"
        sim = {
            "world": world,
            "episodes": episodes,
            "seed": first_seed,
            "real_time_factor": float(real_time_factor),
            "results": str(results),
        }
        node = {
            "policy": str(policy.resolve()),
            "beta": ".inf" if variant.beta == float("inf") else variant.beta,
            "num_candidates": variant.num_candidates,
            "enable_on_start": True,
            "use_sim_time": True,
        }
        encoder = {"policy": node["policy"], "use_sim_time": True}
        wanted: list[tuple[str, Mapping[str, object]]] = [("sim_node", sim), ("node", node)]
        if load_policy(policy).cameras:
            wanted.append(("encoder_node", encoder))
        processes = [
            _start(f"qgf_ros.ros.{name}", given, env, Path(scratch) / f"{name}.log")
            for name, given in wanted
        ]
        limit = START_PATIENCE + episodes * EPISODE_PATIENCE / real_time_factor
        try:
            _wait(processes, limit, scratch)
        finally:
            _end(processes)
        lines = [json.loads(line) for line in results.read_text().splitlines()]
    done = [
        EpisodeResult(line["seed"], Outcome(line["outcome"]), line["seconds"]) for line in lines
    ]
    return summarize(variant, done, load_policy(policy).contract.time.period)


def check_ros() -> None:
    """Raises UsageError where the node cannot run, saying what is missing."""
    for module in ("rclpy", "qgf_ros.msg"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"{module} is not there: source ROS 2 and the colcon build (`make build` does both), "
                "or leave ROS out with --ros-episodes 0"
            )


def _start(
    module: str, parameters: Mapping[str, object], env: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    arguments = [a for name, value in parameters.items() for a in ("-p", f"{name}:={value}")]
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", module, "--ros-args", *arguments],
            env=env,
            stdout=out,
            stderr=out,
        )


def _wait(processes: list[subprocess.Popen[bytes]], limit: float, scratch: str) -> None:
    """Until the simulator has ended by itself; another one ending first is a failure."""
    sim, *others = processes
    deadline = time.monotonic() + limit
    while sim.poll() is None:
        if any(p.poll() is not None for p in others) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if sim.returncode != 0:
        for log in sorted(Path(scratch).glob("*.log")):
            say(f"--- {log.name}\n{log.read_text()[-1500:]}")
        ends = ", ".join(f"{name}: {p.poll()}" for name, p in zip(NAMES, processes))
        raise QgfError(f"the evaluation over ROS ended early ({ends}); logs above")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(2)
    for process in processes:
        try:
            process.wait(END_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
