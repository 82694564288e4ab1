"""What a trial hears, as it stood on the wire, into one bag per episode."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy.subscription
from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message

from qgf_ros.bags.writer import RawBag, store_of
from qgf_ros.errors import UsageError
from qgf_ros.ros.conversions import make_image, ros_type
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages import TYPES
from qgf_ros.spaces.observations.image import TYPES as IMAGES
from qgf_ros.spaces.observations.source import ObservationSource

STEP = 10**9  # ns, the longest of /clock; what is stamped later than that has no stamp of its clock
QUEUE = 1000  # messages: of 1 kHz a second
NEWEST = 2  # images that wait: a megabyte each
TELLS_WHEN = hasattr(rclpy.subscription, "MessageInfo")  # Humble's rclpy does not
OF_THE_NODE = {
    "ticks": "Tick",
    "chunk": "JointTrajectory",
    "status": "Status",
    "q_values": "QValues",
}


class AdaptiveSubscription:
    """A subscription that asks for what the topic's publishers offer, as a recorder does. `heard` is
    given a message, and when it was received [ns of system time]."""

    def __init__(
        self,
        node: Node,
        type_name: str,
        topic: str,
        heard: Callable[[Any, int], None],
        raw: bool,
        latched: bool = False,
        depth: int = QUEUE,
    ) -> None:
        """latched: whether what was said before counts, where it was latched. depth: messages that wait."""
        self._depth = depth
        self._node, self._type, self._topic = node, type_name, topic
        self._raw, self._latched = raw, latched
        self._callback: Callable[..., None] = lambda msg: heard(msg, time.time_ns())
        if TELLS_WHEN:
            self._callback = lambda msg, info: heard(
                msg, info["received_timestamp"] or time.time_ns()
            )
        self._profile: QoSProfile | None = None
        self._subscription: Any = None
        self.look()

    def look(self) -> None:
        """To be called now and then: publishers come and go."""
        offered = [i.qos_profile for i in self._node.get_publishers_info_by_topic(self._topic)]
        reliable = offered and all(o.reliability == ReliabilityPolicy.RELIABLE for o in offered)
        before = offered and all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offered)
        latched = self._latched and before
        profile = QoSProfile(
            depth=self._depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        if self._subscription is not None and (not offered or profile == self._profile):
            return
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._profile = profile
        self._subscription = self._node.create_subscription(
            ros_type(self._type), self._topic, self._callback, profile, raw=self._raw
        )


@dataclass(frozen=True)
class Stream:
    """A topic, its name in the bag, and what it is for."""

    topic: str
    name: str
    type: str
    observed: bool = False
    judges: bool = False  # says how an episode ended, and nothing else
    stamped: bool = False  # begins with a std_msgs/Header
    camera: ObservationSource | None = None  # whose raw images are compressed before they are kept


def streams(contract: Contract, node: str) -> list[Stream]:
    """All that a trial records: what the contract names, once each, and what `node` says of itself."""
    found: dict[str, Stream] = {}
    observed = {o.topic for o in contract.observations}
    outcome = contract.outcome
    others = [*contract.observations, *contract.actions, outcome.reward, outcome.episode_start]
    told = {source.topic for source in others if source is not None}
    for source in [*contract.observations, *contract.actions, *outcome.sources.values()]:
        stamped = source.type in TYPES and TYPES[source.type].stamped
        seen = source.topic in observed
        topic = source.topic
        found[topic] = Stream(
            topic, f"/{topic.strip('/')}", source.type, seen, topic not in told, stamped
        )
    for camera in contract.recorded.cameras:
        raw, packed = IMAGES
        topic, name = camera.topic, f"/{camera.topic.strip('/')}"
        if camera.type == raw:
            name += "/compressed"
        own = camera if camera.type == raw else None
        found[topic] = Stream(topic, name, packed, observed=True, stamped=True, camera=own)
    for name, kind in OF_THE_NODE.items():
        package = "trajectory_msgs" if kind == "JointTrajectory" else "qgf_ros"
        topic = f"{node}/{name}"
        found[topic] = Stream(topic, topic, f"{package}/{kind}", stamped=True)
    return list(found.values())


class BagRecorder:
    """Hears all along, and keeps what comes between `begin` and `cut`; `end` writes it. Nothing waits
    for a disk while the robot moves, and a thread that comes late receives nothing later: when a
    message was received is what the middleware says."""

    def __init__(self, node: Node, contract: Contract, of: str, simulated: bool) -> None:
        """of: the node's full name. simulated: it lives by /clock."""
        self._streams = streams(contract, of)
        start = contract.outcome.episode_start
        self._start = start.topic if start is not None else ""
        self._store = store_of({s.type for s in self._streams}, _definition)
        self._clock = node.get_clock()
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._began = self._until = 0  # ns of system time
        self._start_at = 0  # ns on the node's clock
        self._starts = 0  # of this bag
        self._heard: list[tuple[int, Stream, bytes]] = []  # system time of receipt [ns]
        self._times: list[tuple[int, int]] | None = [] if simulated else None  # system time, /clock
        self._last: dict[str, bytes] = {}
        self._subscriptions = [
            AdaptiveSubscription(
                node, s.type, s.topic, partial(self._hear, s), raw=True, latched=s.observed
            )
            if s.camera is None
            else AdaptiveSubscription(
                node, s.camera.type, s.topic, partial(self._see, s), raw=False, depth=NEWEST
            )
            for s in self._streams
        ]
        if simulated:
            self._subscriptions.append(
                AdaptiveSubscription(node, "rosgraph_msgs/Clock", "/clock", self._tick, raw=False)
            )

    def begin(self, path: Path) -> None:
        """A new bag. It begins with the newest of what is observed: the node knows it too."""
        for subscription in self._subscriptions:
            subscription.look()
        with self._lock:
            self._path, self._began, self._until = path, time.time_ns(), 2**63 - 1
            self._starts = 0
            self._start_at = self._clock.now().nanoseconds
            seen = [s for s in self._streams if s.observed and s.topic in self._last]
            self._heard = [(self._began, s, self._last[s.topic]) for s in seen]
            if self._times is not None:
                del self._times[:-1]

    def unheard(self) -> list[str]:
        """Observed topics of which nothing was ever heard."""
        return [s.topic for s in self._streams if s.observed and s.topic not in self._last]

    def seconds(self) -> float:
        """Since the episode's begin: its `episode_start`, or the bag's first message."""
        return max((self._clock.now().nanoseconds - self._start_at) * 1e-9, 1e-3)

    @property
    def began_anew(self) -> bool:
        """A second `episode_start` came; the bag ends before it, for a bag has one label."""
        return self._starts > 1

    def cut(self) -> None:
        """What is received from now on is no part of the bag."""
        self._until = min(self._until, time.time_ns())

    def end(self, judged: bool = False) -> None:
        """Writes the bag, if one was begun. Raises OSError.

        judged: the outcome topics ended the episode. Else what they say is left out: training takes
        from them when it ended, whatever a label says of how.
        """
        self.cut()
        with self._lock:
            path, heard, self._path, self._heard = self._path, self._heard, None, []
            times = np.array(self._times or [(0, 0)], np.int64)
        if path is None:
            return
        bag = RawBag(path, {s.name: s.type for s in self._streams}, self._store)
        try:
            for at, stream, raw in sorted(heard, key=lambda row: row[0]):
                if at >= self._until:
                    break
                if stream.judges and not judged:
                    continue
                receipt = at
                if self._times is not None:
                    # /clock goes in steps: what is stamped with the next one came after this one.
                    step = int(np.searchsorted(times[:, 0], at, "right")) - 1
                    receipt = int(times[max(step, 0), 1])
                    if stream.stamped and receipt < (stamp := _stamp(raw)) <= receipt + STEP:
                        receipt = stamp
                bag.write(stream.name, receipt, raw)
        finally:
            bag.close()

    def _hear(self, stream: Stream, raw: bytes, at: int) -> None:
        with self._lock:
            if stream.observed:
                self._last[stream.topic] = raw
            if self._path is not None and at >= self._began:
                self._heard.append((at, stream, raw))
                if stream.topic == self._start:
                    self._starts += 1
                    if self.began_anew:
                        self._until = min(self._until, at)
                    else:
                        self._start_at = self._clock.now().nanoseconds

    def _see(self, stream: Stream, msg: Any, at: int) -> None:
        """A raw image, which is a megabyte, as a JPEG, or a depth as a PNG. What cannot be read is not kept."""
        from qgf_ros.images.messages import message, pixels
        from qgf_ros.images.raw import BadImage

        assert stream.camera is not None
        try:
            packed = message(make_image, stream.type, msg.header, pixels(stream.camera, msg))
        except BadImage:
            return
        self._hear(stream, serialize_message(packed), at)

    def _tick(self, msg: Any, at: int) -> None:
        with self._lock:
            assert self._times is not None
            self._times.append((at, max(0, msg.clock.sec * 10**9 + msg.clock.nanosec)))
            if self._path is None:
                del self._times[:-1]


def _stamp(raw: bytes) -> int:
    """ns of the header that a message begins with: CDR puts it behind its own 4 bytes. 0 where it is
    too short to have one: whoever publishes, and whatever, ends no trial."""
    if len(raw) < 12:
        return 0
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds) * 10**9 + int(nanoseconds)


def _definition(type_name: str) -> str:
    """The text of an installed interface."""
    package, name = type_name.split("/")
    path = Path(get_package_share_directory(package)) / "msg" / f"{name}.msg"
    try:
        return path.read_text()
    except OSError as error:
        raise UsageError(
            f"{type_name} cannot be recorded: {path} is not there ({error.strerror}); install the "
            "package whole, or use --no-record"
        ) from None
