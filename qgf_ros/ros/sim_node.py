"""The node `qgf_sim`: a simulated robot on real topics, with /clock and a real-time factor.

Publishes what the world's contract observes, the reward, success and episode starts; takes the
command topics. Between episodes the world stands still for a moment, commands have no effect, and
the state is already that of the next episode, as when a person sets a real robot up again.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from qgf_ros.control.settings import BY_NAME
from qgf_ros.control.spec import Spec
from qgf_ros.policy.vetting import Interrupted
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import header, make, make_image, ros_time, ros_type
from qgf_ros.ros.lean import LeanNode
from qgf_ros.ros.parameters import Parameters
from qgf_ros.ros.process import SPIN_SLICE, STOPPING, exit_with_parent, run
from qgf_ros.sim.stream import NANOSECONDS, Event, Stream
from qgf_ros.sim.world import WORLDS, Outcome, World, make_world, world_folder
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.base import SchemaError
from qgf_ros.spaces.messages.joints import Others
from qgf_ros.spaces.source import Source

SETTLE = (
    0.4  # s of simulated time between episodes; from 0.5 s on the node takes it for a stuck sensor
)
START = 1_000 * NANOSECONDS  # simulated clocks at 0 mean "not set" to ROS

PARAMETERS = (
    Spec("world", str, "planar_arm", f"Simulated world: {', '.join(WORLDS.own)}."),
    Spec("real_time_factor", float, 1.0, "Simulated seconds per second.", "", 0.05, 100.0),
    Spec("seed", int, 0, "Seed of the first episode; each one after it takes the next.", "", 0, math.inf),
    Spec("episodes", int, 0, "End after so many episodes; 0: go on.", "", 0, math.inf),
    Spec("wait_for_command", bool, True, "Begin the first episode with the first command."),
    Spec("wait_for_reset", bool, False, "Begin each episode with the first other command after a call of ~/reset."),
    Spec("results", str, None, "File that gets one JSON line per episode."),
    BY_NAME["exit_with_parent"],
)  # fmt: skip


class SimNode:
    """Steps a world in a thread of its own, at the real-time factor."""

    def __init__(self) -> None:
        self.node = LeanNode("qgf_sim")
        self.done = threading.Event()
        self.error: Exception | None = None
        self._parameters = Parameters(self.node, lambda values: None, PARAMETERS).values
        if self._parameters["exit_with_parent"]:
            exit_with_parent()
        world = self._parameters["world"]
        self._contract = Contract.load(world_folder(world) / "contract.yaml")
        if self._parameters["results"]:
            _append(self._parameters["results"], "")  # else it is said after an episode
        self._stream = Stream(_made(world), START)
        self._command = np.zeros(len(self._contract.action_names))
        self._commanded = threading.Event()
        self._reset = threading.Event()
        self._stopping = threading.Event()
        if self._parameters["wait_for_reset"]:
            self.node.create_service(Trigger, "~/reset", self._on_reset)
        self._clock = self.node.create_publisher(Clock, "/clock", qos.REPORT)
        sources: dict[str, Source] = {o.name: o for o in self._contract.observations}
        sources |= self._contract.outcome.sources
        self._cameras = {o.name for o in self._contract.cameras}
        self._sources = {
            name: (s, self.node.create_publisher(ros_type(s.type), s.topic, qos.REPORT))
            for name, s in sources.items()
        }
        for spec in self._contract.actions:
            callback = partial(self._on_command, spec, self._contract.action_slices[spec.name])
            self.node.create_subscription(ros_type(spec.type), spec.topic, callback, qos.COMMAND)
        self._thread = threading.Thread(target=self._work, name="qgf-sim", daemon=True)

    def raised(self, error: Exception) -> None:
        """Whatever it is sent: the world goes on."""
        self.node.get_logger().error(f"a callback failed: {error!r}", throttle_duration_sec=1.0)

    def start(self) -> str:
        self._thread.start()
        return "READY"

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._commanded.clear()
        self._reset.set()
        response.success = True
        return response

    def _on_command(self, spec: ActionSpec, part: slice, msg: Any) -> None:
        try:
            values = spec.decode(msg)
        except SchemaError as error:
            sharing = [a for a in self._contract.actions if a.topic == spec.topic]
            if isinstance(error, Others) and len(sharing) > 1:
                return  # of another action on the same topic
            self.node.get_logger().warning(f"command refused: {error}", throttle_duration_sec=1.0)
            return
        if np.isfinite(values).all():
            command = self._command.copy()
            command[part] = values
            # A stop is repeated, and its last word may come after the reset: it begins nothing.
            if not self._parameters["wait_for_reset"] or (command != self._command).any():
                self._commanded.set()
            self._command = command  # one assignment: the other thread sees the old or the new one

    def _work(self) -> None:
        try:
            self._episodes()
        except Exception as error:  # a dead simulation must not look like a robot that stands still
            self.error = error
        self.done.set()

    def _episodes(self) -> None:
        p, stream = self._parameters, self._stream
        self._began, self._origin = time.monotonic(), stream.now
        number = 0
        while not self._stopping.is_set() and (p["episodes"] == 0 or number < p["episodes"]):
            if p["wait_for_reset"] and not self._until_reset():
                return
            seed = p["seed"] + number
            stream.place(seed)
            go = stream.now + (0 if p["wait_for_reset"] else round(SETTLE * NANOSECONDS))
            waits = p["wait_for_reset"] or (number == 0 and p["wait_for_command"])
            while stream.now < go or (waits and not self._commanded.is_set()):
                if not self._pace():
                    return
                self._reset.clear()  # asked again, and it is as it was put: no episode is over by that
                self._say(stream.idle())
            self._say(stream.start())
            while stream.world.outcome is Outcome.RUNNING and not self._reset.is_set():
                if not self._pace():
                    return
                stream.world.command(self._command)
                self._say(stream.advance())
            if stream.world.outcome is not Outcome.RUNNING:
                self._report(seed)
            number += 1

    def _until_reset(self) -> bool:
        """The world stands as it was left; False when stopping."""
        while not self._reset.is_set():
            if not self._pace():
                return False
            self._say(self._stream.idle())
        self._reset.clear()
        return True

    def _pace(self) -> bool:
        """Waits until the next step is due; False when stopping. What was late is not caught up."""
        step = self._stream.world.step_time
        elapsed = (self._stream.now - self._origin) * 1e-9 + step
        wait = self._began + elapsed / self._parameters["real_time_factor"] - time.monotonic()
        if wait < -0.5:
            self._began -= wait
        elif wait > 0:
            time.sleep(wait)
        return not self._stopping.is_set()

    def _say(self, events: list[Event]) -> None:
        """State first, the clock last: who wakes up by the clock finds the state of that time."""
        for event in events:
            source, publisher = self._sources[event.name]
            kind = message_type(source.type)
            label = str(int(event.values[0])) if source.type == "std_msgs/Header" else ""
            stamp = header(event.stamp, label) if kind.stamped else None
            if event.name in self._cameras:
                from qgf_ros.images.messages import message

                publisher.publish(message(make_image, source.type, stamp, event.values))
                continue
            publisher.publish(kind.encode(make, source.fields, source.names, event.values, stamp))
        self._clock.publish(Clock(clock=ros_time(self._stream.now)))

    def _report(self, seed: int) -> None:
        world = self._stream.world
        self.node.get_logger().info(
            f"episode {seed}: {world.outcome.value} after {world.time:.2f} s"
        )
        if self._parameters["results"]:
            line = {"seed": seed, "outcome": world.outcome.value, "seconds": world.time}
            _append(self._parameters["results"], json.dumps(line) + "\n")


def _made(name: str) -> World:
    """The world. Native code takes seconds for some of them; a signal is heard meanwhile, and raises
    Interrupted."""
    pool = ThreadPoolExecutor(1, "qgf-sim-world")
    world = pool.submit(make_world, name)
    while not wait((world,), SPIN_SLICE).done:
        if STOPPING.is_set():
            raise Interrupted("stopped while the world was being made")
    pool.shutdown()
    return world.result()


def _append(path: str, text: str) -> None:
    """Where nobody reads a pipe that lies there, it is an error, and no wait."""
    with open(path, "a", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK, 0o666)) as file:
        file.write(text)


def main() -> int:
    """Entry point of `ros2 run qgf_ros qgf_sim`."""
    return run(SimNode, "qgf_sim")


if __name__ == "__main__":
    sys.exit(main())
