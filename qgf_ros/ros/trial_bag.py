"""What a trial hears, as it stood on the wire, into one bag per episode."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from qgf_ros.bags.writer import RawBag, store_of
from qgf_ros.contract import Contract
from qgf_ros.errors import UsageError
from qgf_ros.messages import TYPES
from qgf_ros.ros.conversions import ros_type

QUEUE = 1000  # messages: of 1 kHz a second
OF_THE_NODE = {
    "ticks": "Tick",
    "chunk": "JointTrajectory",
    "status": "Status",
    "q_values": "QValues",
}


class Ear:
    """A subscription that asks for what the topic's publishers offer, as a recorder does."""

    def __init__(
        self, node: Node, type_name: str, topic: str, heard: Callable[[Any], None], raw: bool
    ) -> None:
        self._node, self._type, self._topic = node, type_name, topic
        self._heard, self._raw = heard, raw
        self._profile: QoSProfile | None = None
        self._subscription: Any = None
        self.look()

    def look(self) -> None:
        """To be called now and then: publishers come and go."""
        offered = [i.qos_profile for i in self._node.get_publishers_info_by_topic(self._topic)]
        reliable = offered and all(o.reliability == ReliabilityPolicy.RELIABLE for o in offered)
        latched = offered and all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offered)
        profile = QoSProfile(
            depth=QUEUE,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        if self._subscription is not None and (not offered or profile == self._profile):
            return
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._profile = profile
        self._subscription = self._node.create_subscription(
            ros_type(self._type), self._topic, self._heard, profile, raw=self._raw
        )


@dataclass(frozen=True)
class Stream:
    """A topic, its name in the bag, and what it is for."""

    topic: str
    name: str
    type: str
    observed: bool = False
    stamped: bool = False  # begins with a std_msgs/Header


def streams(contract: Contract, node: str) -> list[Stream]:
    """All that a trial records: what the contract names, once each, and what `node` says of itself."""
    found: dict[str, Stream] = {}
    observed = {o.topic for o in contract.observations}
    for source in [*contract.observations, *contract.actions, *contract.outcome.sources.values()]:
        stamped = source.type in TYPES and TYPES[source.type].stamped
        seen = source.topic in observed
        topic = source.topic
        found[topic] = Stream(topic, f"/{topic.strip('/')}", source.type, seen, stamped)
    for name, kind in OF_THE_NODE.items():
        package = "trajectory_msgs" if kind == "JointTrajectory" else "qgf_ros"
        topic = f"{node}/{name}"
        found[topic] = Stream(topic, topic, f"{package}/{kind}", stamped=True)
    return list(found.values())


class BagRecorder:
    """Hears all along; writes between `begin` and `end`. The executor's thread writes."""

    def __init__(self, node: Node, contract: Contract, of: str, simulated: bool) -> None:
        """of: the node's full name. simulated: the clock goes in steps, and a stamp is newer than
        the clock that it is received by."""
        self._clock, self._simulated = node.get_clock(), simulated
        self._streams = streams(contract, of)
        start = contract.outcome.episode_start
        self._start = f"/{start.topic.strip('/')}" if start is not None else ""
        self._store = store_of({s.type for s in self._streams}, _definition)
        self._lock = threading.Lock()
        self._bag: RawBag | None = None
        self._began = 0
        self._error: Exception | None = None
        self._last: dict[str, bytes] = {}
        self._ears = [
            Ear(node, s.type, s.topic, partial(self._hear, s), raw=True) for s in self._streams
        ]

    def look(self) -> None:
        for ear in self._ears:
            ear.look()

    def begin(self, path: Path) -> None:
        """A new bag. It begins with the newest of what is observed: the node knows it too."""
        self.look()
        with self._lock:
            self._bag = RawBag(path, {s.name: s.type for s in self._streams}, self._store)
            self._began = self._clock.now().nanoseconds
            for s in self._streams:
                if s.observed and s.name in self._last:
                    self._bag.write(s.name, self._began, self._last[s.name])

    def unheard(self) -> list[str]:
        """Observed topics of which nothing was ever heard."""
        return [s.topic for s in self._streams if s.observed and s.name not in self._last]

    def seconds(self) -> float:
        """Since the episode's begin: its `episode_start`, or the bag's first message."""
        return max((self._clock.now().nanoseconds - self._began) * 1e-9, 1e-3)

    def end(self) -> None:
        """Closes the bag, if one is open. Raises OSError, also of what could not be written before."""
        with self._lock:
            bag, self._bag = self._bag, None
            error, self._error = self._error, None
            if bag is not None:
                bag.close()
        if error is not None:
            raise error

    def _hear(self, stream: Stream, raw: bytes) -> None:
        receipt = self._clock.now().nanoseconds
        if self._simulated and stream.stamped:
            receipt = max(receipt, _stamp(raw))
        with self._lock:
            if stream.observed:
                self._last[stream.name] = raw
            if self._bag is None:
                return
            if stream.name == self._start:
                self._began = receipt
            try:
                self._bag.write(stream.name, receipt, raw)
            except OSError as error:  # said when the episode is over: the robot stops as ever
                self._error = error


def _stamp(raw: bytes) -> int:
    """ns of the header that a message begins with: CDR puts it behind its own 4 bytes."""
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
