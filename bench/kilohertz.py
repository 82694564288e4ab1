"""The arm's policy sampled 1000 times a second in the node, beside a control loop at 250 Hz.

    python bench/kilohertz.py [--seconds 120] [--json]

The node (see kilohertz_node.py) runs the networks of the shipped arm policy under a contract of 4 ms
and one action per chunk executed, so each tick asks for a sample; its inference thread takes three
more between two ticks, of the state that came meanwhile, 1000 times a second from another process.
A node as it ships samples once per tick: this shows how much the rest of the process notices of a
sampler that is at work so often. In turns, some seconds each, inference is on and off, where "off"
is an answer from memory to the tick's question and nothing in between.

Jitter of the control thread is how much later than a period after the last due time a tick begins;
on the wire it is how far gaps between commands are from a period, by the middleware's time of
sending. Inference time is that of `~/q_values`; `alone` is the same call of the same sampler again
and again in a process that does nothing else, before and after, and `paced` the same with a sleep
to the next millisecond before each call, in which the processor's caches go to others.

Exit code 8 where less than 99 % of 1000 samples per second were made, the inference time's p50 is
more than 20 % above the sampler's alone, or the control thread's p99 jitter with inference on is
more than 1.2 times that with inference off.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from kilohertz_node import is_on
from loop_robot import ROOT, Robot, Usage, start

from qgf_ros.console import emit, say, table
from qgf_ros.control.chunk import draw_noise
from qgf_ros.control.inference import Request, run_sampler
from qgf_ros.errors import CriterionNotMet, exit_codes
from qgf_ros.files.share import find_policy
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import Policy, load_policy, write_policy

sys.path.insert(0, str(ROOT / "test" / "support"))

import ros_harness as ros

PERIOD, EACH = 0.004, 4  # s, samples per tick
SAMPLES = 1 / PERIOD * EACH  # per second
JOINTS = ("shoulder=-0.1", "elbow=0.8")
POINTS = {"goal": (-0.65, 0.0), "obstacle": (0.0, 0.45)}
COMMANDS = "velocity_controller/commands"
POINTS_RATE = 25  # Hz, of the robot that says them
SETTLE = 0.2  # s after a switch that do not count
CALLS = 2000  # of the sampler alone
RATE_LEAST, INFERENCE_MOST, JITTER_MOST = 0.99, 1.2, 1.2


@dataclass(frozen=True)
class Kilohertz:
    """Measures the node with its sampler at work 1000 times a second."""

    seconds: float = 120.0
    burst: float = 3.0
    """s between two switches of inference."""
    state_rate: int = 1000
    """Hz, of the joints."""
    out: Path | None = None  # JSON file; none: bench/results/kilohertz-DATE.json
    json: bool = False

    def run(self) -> None:
        if ros.MISSING:
            raise CriterionNotMet(ros.MISSING)
        with tempfile.TemporaryDirectory() as scratch:
            policy = arm(Path(scratch) / "arm")
            before, paced = alone(policy), alone(policy, pause=1 / SAMPLES)
            row = measure(policy, Path(scratch) / "times.json", self)
            times = percentiles([*before, *alone(policy)])
            paced_times = percentiles([*paced, *alone(policy, pause=1 / SAMPLES)])
        document = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "sampler": make_sampler(policy).details,
            "seconds": self.seconds,
            "alone_ms": times,
            "alone_paced_ms": paced_times,
            **row,
            "inference_ratio": round(row["inference_ms"]["p50"] / times["p50"], 3),
            "inference_ratio_paced": round(row["inference_ms"]["p50"] / paced_times["p50"], 3),
        }
        flat = [(k, json.dumps(v)) for k, v in document.items()]
        table("Sampling at 1 kHz", ("figure", "value"), flat)
        out = self.out or ROOT / f"bench/results/kilohertz-{time.strftime('%Y-%m-%d')}.json"
        out.write_text(json.dumps(document, indent=1) + "\n")
        say(f"written: {out}")
        if self.json:
            emit(document)
        _judge(document)


def arm(folder: Path) -> Policy:
    """The shipped arm policy, every 4 ms and one action at a time."""
    shipped = load_policy(find_policy("planar_arm"))
    time_ = replace(shipped.contract.time, period=PERIOD, execute_steps=1)
    contract = replace(shipped.contract, time=time_)
    d = replace(shipped.description, contract=contract.to_dict())
    write_policy(folder, d, {d.velocity.file: shipped.velocity, d.critic.file: shipped.critic})
    return load_policy(folder)


def alone(policy: Policy, pause: float = 0.0) -> list[float]:
    """s of each of `CALLS` calls, as the node's thread makes and times them; pause: s from one to the
    next, asleep."""
    sampler, beta = make_sampler(policy), policy.description.beta.default
    rng = np.random.default_rng(0)
    seconds = []
    due = time.monotonic()
    for stamp in range(CALLS):
        due = max(due + pause, now := time.monotonic())
        if pause:
            time.sleep(due - now)
        obs = rng.standard_normal(policy.obs_dim, dtype=np.float32)
        observed = policy.observed(policy.normalizer.unnormalize_obs(obs))
        noise = draw_noise(0, stamp, 1, policy.flat_dim)
        request = Request(observed, noise, 1 / beta, 0, stamp, 0, beta, 0.0)
        seconds.append(run_sampler(sampler, request).seconds)
    return seconds[CALLS // 10 :]


def measure(policy: Policy, file: Path, how: Kilohertz) -> dict[str, Any]:
    """One run of the node, which writes `file`; see the figures in the result."""
    seconds, burst = how.seconds, how.burst
    domain = ros.take_domain()
    with contextlib.ExitStack() as stack:
        stack.callback(ros.free_domain, domain)
        robot = Robot(domain, POINTS_RATE, False, POINTS, COMMANDS, candidates=False)
        stack.callback(robot.close)
        joints = [sys.executable, str(ROOT / "test/support/ros_storm.py"), "joint_states"]
        storm = start(stack, [*joints, str(how.state_rate), *JOINTS], domain)
        script = [sys.executable, str(ROOT / "bench/kilohertz_node.py")]
        command = [*script, str(file), str(burst), str(EACH)]
        node = start(stack, [*command, *ros.ros_args(policy=policy.folder)], domain)
        node.wait_line("qgf: READY")
        robot.enable(node)
        gc.collect()
        gc.freeze()
        time.sleep(2 * burst - time.time() % (2 * burst))
        before, begin = Usage.of(node.process.pid), time.time_ns()
        time.sleep(seconds)
        after, end = Usage.of(node.process.pid), time.time_ns()
        node.stop()
        storm.stop()
        statuses = [s.msg for s in robot.statuses if begin <= s.sent < end]
        said = json.loads(storm.out[-1])
    if wrong := {m.detail for m in statuses if m.state != ros.RUN}:
        raise CriterionNotMet(f"the node did not go on moving: {'; '.join(sorted(wrong))}")

    def counts(now: int, on: bool) -> bool:
        settled = is_on(now, burst) == is_on(now - round(SETTLE * 1e9), burst) == on
        return begin <= now < end and settled

    times = json.loads(file.read_text())
    ticks, between = times["ticks"], times["between"]
    sent = [c.sent for c in robot.commands]
    q_values = [(ros.ns(q.msg.header.stamp), q.msg.inference_ms * 1e-3) for q in robot.q_values]
    late = [(t, (t - due) * 1e-9 - PERIOD) for (due, _), (_, t) in zip(ticks, ticks[1:])]
    off = [(b, abs((b - a) * 1e-9 - PERIOD)) for a, b in zip(sent, sent[1:])]
    result: dict[str, Any] = {}
    for name, jitter in (("control_jitter_ms", late), ("wire_jitter_ms", off)):
        by = {k: percentiles([j for t, j in jitter if counts(t, k == "on")]) for k in ("on", "off")}
        result[name] = by | {"ratio_p99": round(by["on"]["p99"] / by["off"]["p99"], 3)}
    asked = [ms for t, ms in q_values if counts(t, True)]
    extra = [s for t, s in between if counts(t, True)]
    seconds_on = 1e-3 * sum(counts(t, True) for t in range(begin, end, 1_000_000))
    return result | {
        "inference_ms": percentiles(asked),
        "inference_between_ms": percentiles(extra),
        "samples_per_second": round((len(asked) + len(extra)) / seconds_on, 1),
        "ticks_per_second": round(sum(begin <= t < end for _, t in ticks) / (end - begin) * 1e9, 1),
        "states_per_second": round(said["published"] / said["seconds"], 1),
        "cpu_percent": round(100 * (after.cpu - before.cpu) / ((end - begin) * 1e-9), 1),
        "overruns": statuses[-1].overruns - statuses[0].overruns,
    }


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """s to ms."""
    p50, p99 = np.percentile(list(seconds), [50, 99]) * 1e3
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4)}


def _judge(document: dict[str, Any]) -> None:
    ratio, jitter = document["inference_ratio"], document["control_jitter_ms"]["ratio_p99"]
    wrong = []
    if document["samples_per_second"] < RATE_LEAST * SAMPLES:
        wrong.append(f"{document['samples_per_second']:g} samples per second, wanted {SAMPLES:g}")
    if ratio > INFERENCE_MOST:
        wrong.append(f"inference took {ratio} times as long as alone, wanted {INFERENCE_MOST}")
    if jitter > JITTER_MOST:
        wrong.append(f"p99 jitter was {jitter} times that without, wanted {JITTER_MOST}")
    if wrong:
        raise CriterionNotMet("; ".join(wrong))


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Kilohertz, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
