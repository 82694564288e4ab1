"""Who else is on the wire: somebody who commands the same robot, a second node of this name, and
peers that cannot be understood.

What is said here about others can only stop the robot. Whether somebody commands is judged by the
messages that arrive, never by the graph, in which the dead live on for 20 s.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import Status, ros_type
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.base import SchemaError
from qgf_ros.spaces.messages.joints import Joints

INFINITE = Duration(nanoseconds=2**63 - 1)  # as DDS has it
ON_THEIR_WAY = 2.0  # s: what was sent longer ago and has not come back was lost
ROW, ROW_GAP = 3, 0.5  # statuses of one live node: so many, s between two; they come at 10 Hz
QUIET = 1.0  # s after the last foreign command, before the robot may be commanded again


class OwnMessages:
    """Tells own messages from others' on a topic that this node also hears: each thing sent comes
    back once at most, and what was not sent is foreign."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, Any]] = deque(maxlen=1024)  # steady time and content
        self._lock = threading.Lock()

    def sent(self, content: Any) -> None:
        """Called before it is published."""
        now = time.monotonic()
        with self._lock:
            self._sent.append((now, content))
            while now - self._sent[0][0] > ON_THEIR_WAY:
                self._sent.popleft()

    def is_foreign(self, content: Any) -> bool:
        with self._lock:
            for at, (_, ours) in enumerate(self._sent):
                if ours == content:
                    del self._sent[at]
                    return False
            return True


class ForeignCommands:
    """Listens on the robot's command topics for messages that this node did not send.

    Only while there is another publisher to listen to, which is looked up: to hear all of one's own
    commands takes 0.36 ms of CPU each, and no message comes from one that is not in the graph.
    """

    def __init__(self, node: Node, contract: Contract) -> None:
        self._node = node
        self._echoes: list[tuple[slice, OwnMessages]] = []
        self._on_topic: dict[str, list[tuple[ActionSpec, OwnMessages]]] = {}
        for spec in contract.actions:
            echo = OwnMessages()
            self._echoes.append((contract.action_slices[spec.name], echo))
            self._on_topic.setdefault(spec.topic, []).append((spec, echo))
        self._last = -QUIET  # steady time
        self._problem = Problem("COMMAND_CONFLICT", "", "")
        self._subscriptions: dict[str, Any] = {}
        self.look()

    def look(self) -> None:
        """To be called about ten times a second."""
        for topic, actions in self._on_topic.items():
            others = self._node.count_publishers(topic) > 1
            if others and topic not in self._subscriptions:
                kind, take = ros_type(actions[0][0].type), partial(self._on_message, topic)
                self._subscriptions[topic] = self._node.create_subscription(
                    kind, topic, take, qos.ALL
                )
            elif not others and topic in self._subscriptions:
                self._node.destroy_subscription(self._subscriptions.pop(topic))

    def sent(self, values: np.ndarray) -> None:
        """These numbers (A,) go out now, in the contract's order."""
        for part, echo in self._echoes:
            echo.sent(_content(values[part]))

    def problem(self) -> Problem | None:
        """Set until 1 s after the last foreign command."""
        return self._problem if time.monotonic() - self._last < QUIET else None

    def destroy(self) -> None:
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)

    def _on_message(self, topic: str, msg: Any) -> None:
        if not all(_is_foreign(spec, echo, msg) for spec, echo in self._on_topic[topic]):
            return
        if self.problem() is None:  # once: a look at the graph takes longer than the message
            infos = self._node.get_publishers_info_by_topic(topic)
            others = sorted({_name(i) for i in infos} - {self._node.get_fully_qualified_name()})
            who = ", ".join(others) or "another node of this name"
            self._problem = Problem(
                "COMMAND_CONFLICT",
                topic,
                f"{who} commands on {topic} too; stop it, or lead both through qgf_gate",
            )
        self._last = time.monotonic()


def _is_foreign(spec: ActionSpec, echo: OwnMessages, msg: Any) -> bool:
    """Whether a message on an action's topic is not one that this node sent for that action."""
    kind, content = message_type(spec.type), b""  # of a form that this node never sends for it
    if not isinstance(kind, Joints) or set(kind.joints(msg)) == set(spec.names):
        with contextlib.suppress(SchemaError):
            content = _content(spec.decode(msg))
    return echo.is_foreign(content)


def _content(values: np.ndarray) -> bytes:
    """As float32, since some command types carry no more."""
    return np.asarray(values, dtype=np.float32).tobytes()


class DuplicateNode:
    """Listens on ~/status for a second live node of this name. `found` is given its ticks so far, and
    whether that is sure: anybody may publish there, and a message alone ends no node. It is sure after
    ROW of them that go on from each other, where the graph has another publisher of this name too."""

    def __init__(self, node: Node, found: Callable[[int, bool], None]) -> None:
        self._node = node
        self._echo = OwnMessages()
        self._found = found
        self._row = 0  # foreign messages that went on from the one before
        self._last = (-ROW_GAP, 0, 0)  # of the newest: steady time, stamp [ns], ticks
        node.create_subscription(Status, "~/status", self._on_status, qos.REPORT)

    def sent(self, status: Status) -> None:
        self._echo.sent(_key(status))

    def _on_status(self, msg: Status) -> None:
        # The last word of one that is just ending is no sign of life.
        if not self._echo.is_foreign(_key(msg)) or msg.state == State.SHUTDOWN:
            return
        now, stamp = time.monotonic(), msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec
        at, before, ticks = self._last
        goes_on = now - at < ROW_GAP and stamp > before and msg.tick >= ticks
        self._row = self._row + 1 if goes_on else 1
        self._last = now, stamp, msg.tick
        self._found(msg.tick, self._row >= ROW and self._is_named())

    def _is_named(self) -> bool:
        own = self._node.get_fully_qualified_name()
        infos = self._node.get_publishers_info_by_topic("~/status")
        return sum(_name(info) == own for info in infos) > 1


def _key(status: Status) -> tuple[int, int, int, int]:
    return status.header.stamp.sec, status.header.stamp.nanosec, status.state, status.tick


@dataclass(frozen=True)
class Endpoint:
    """A topic as this node uses it; `profiles` of all its subscriptions to it, or its publisher."""

    topic: str
    type: str
    profiles: tuple[QoSProfile, ...]
    publishes: bool = False


def unheard(node: Node, endpoints: Iterable[Endpoint]) -> list[Problem]:
    """Peers on these topics that DDS does not connect: another message type, or an incompatible QoS.

    By the graph, about 30 us per topic: once or twice a second, and only to be reported.
    """
    problems = []
    for end in endpoints:
        look = (
            node.get_subscriptions_info_by_topic
            if end.publishes
            else node.get_publishers_info_by_topic
        )
        does = "subscribes to" if end.publishes else "publishes"
        for info in look(end.topic):
            kind = info.topic_type.replace("/msg/", "/")
            if kind != end.type:
                problems.append(
                    Problem(
                        "TYPE_MISMATCH",
                        end.topic,
                        f"{_name(info)} {does} {end.topic} as {kind}; here it is {end.type}",
                    )
                )
                continue
            theirs = info.qos_profile
            ours = [_effective(profile) for profile in end.profiles]
            pairs = [(p, theirs) if end.publishes else (theirs, p) for p in ours]
            verdicts = [qos_check_compatible(*pair) for pair in pairs]
            if all(verdict == QoSCompatibility.ERROR for verdict, _ in verdicts):
                text = verdicts[-1][1].replace("ERROR: ", "").strip(";").replace(";", ", ")
                problems.append(
                    Problem(
                        "QOS_INCOMPATIBLE",
                        end.topic,
                        f"{_name(info)} {does} {end.topic} and is not connected: {text}",
                    )
                )
    return problems


def _effective(profile: QoSProfile) -> QoSProfile:
    """With the durations that DDS puts where none is given, as the graph shows the others'."""
    return QoSProfile(
        depth=profile.depth,
        reliability=profile.reliability,
        durability=profile.durability,
        deadline=INFINITE,
        liveliness_lease_duration=INFINITE,
    )


def _name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"
