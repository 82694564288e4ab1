"""The robot's command topics. Whoever decides, here is the one place that publishes on them."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.duration import Duration
from rclpy.node import Node

from qgf_ros.control.gate import Gate, Output
from qgf_ros.errors import UsageError
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import action_message, ros_type
from qgf_ros.spaces.contract import Contract

LAST_WORDS = 4.0  # s for the final ramp: `ros2 launch` loses patience after 5
DELIVERY = Duration(seconds=0.2)  # patience for a last message to arrive


def bring_to_rest(
    gate: Gate,
    brake: Callable[[], Output],
    stop: Callable[[], Output],
    send: Callable[[Output], None],
    period: float,
) -> None:
    """The last words of a process: brakes step by step, and if that takes too long, stops.

    Args:
        brake, stop: of the gate, with whatever else its owner has to do.
        period: s between two steps.
    """
    give_up = time.monotonic() + LAST_WORDS
    while (output := brake()).values is not None:
        send(output)
        if gate.at_rest:
            return
        if time.monotonic() >= give_up:
            send(stop())
            return
        time.sleep(period)


class RobotCommands:
    """A publisher for each command topic of the contract, fed with nothing but what a gate put out.
    Actions that share a topic are sent one after the other, a message each."""

    def __init__(self, node: Node, contract: Contract) -> None:
        """Raises UsageError where the remap rules lead a command back into the state."""
        _check_remaps(node, contract)
        self._node = node
        self._contract = contract
        types = {a.topic: ros_type(a.type) for a in contract.actions}
        by_topic = {t: node.create_publisher(kind, t, qos.COMMAND) for t, kind in types.items()}
        self._publishers = tuple(by_topic.values())  # one per topic, however many actions share it
        self._by_action = [by_topic[a.topic] for a in contract.actions]

    def send(self, output: Output, now: int) -> None:
        """Publishes `output.values` (A,), stamped `now` [ns, control clock]. None: nothing."""
        if output.values is None:
            return
        for spec, publisher in zip(self._contract.actions, self._by_action):
            values = output.values[self._contract.action_slices[spec.name]]
            publisher.publish(action_message(spec, values, now, self._contract.time.period))

    def deliver(self) -> None:
        """Waits for the last words to arrive: what is destroyed at once may never do."""
        for publisher in self._publishers:
            publisher.wait_for_all_acked(DELIVERY)

    def shared_topics(self) -> list[str]:
        """Topics on which somebody else publishes too. By the graph, where the dead live for a
        while: good for a warning, and for nothing else."""
        topics = dict.fromkeys(a.topic for a in self._contract.actions)
        names = [self._node.resolve_topic_name(topic) for topic in topics]
        return [name for name in names if self._node.count_publishers(name) > 1]

    def destroy(self) -> None:
        """Takes the publishers down."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)


def _check_remaps(node: Node, contract: Contract) -> None:
    observed = {node.resolve_topic_name(o.topic) for o in contract.observations}
    commanded = [node.resolve_topic_name(t) for t in {a.topic for a in contract.actions}]
    loops = sorted(observed & set(commanded))
    if loops or len(set(commanded)) < len(commanded):
        raise UsageError(
            f"after remapping, {', '.join(loops or commanded)} is observed and commanded, or commanded "
            "twice; change the remap rules"
        )
