"""The emergency stop's topic: who presses it, and whether somebody is there to press it.

Each sample counts: the queue holds what comes while this process does not run, and is emptied before
anything is decided that hangs on it. What comes faster than the system's own buffers hold (a few
hundred messages of all topics) is lost with the process: see PROCESS_STALLED in graph_monitor.py.

A publisher that ends in order is missed at once. One that is killed stays in the graph for about
20 s, unless it offers a liveliness lease of at most LEASE: then it is missed within its lease. One
that speaks at a rate is missed after `timeout`, whatever the graph says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from std_msgs.msg import Bool

from qgf_ros.control.reasons import Problem
from qgf_ros.ros import qos


class EmergencyStop:
    """Listens on a topic. `pressed()` is called for each true that arrives: to say it again must
    not be less than to say it. All methods are for the executor's thread but `problem`."""

    def __init__(
        self,
        node: Node,
        pressed: Callable[[], None],
        required: bool,
        topic: str = "~/estop",
        timeout: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            required: somebody has to be there who has spoken.
            timeout: s without a sample after which it is lost; 0: never. Then somebody is required.
            clock: steady time [s].
        """
        self.required = required or timeout > 0
        self.topic = topic
        self.is_pressed = False
        self.lost: Problem | None = None  # until it is heard again
        self.heard = False
        self._timeout = timeout
        self._clock = clock
        self._node = node
        self._pressed = pressed
        self._at = 0.0  # steady time of the last sample
        self._present = False  # as far as the graph knows
        self._leased = 0  # publishers with a lease that are alive
        # Several times: a latched stop is heard by a late node only if it asks for it, and who asks
        # for it does not hear a publisher that does not latch; nor does who asks for a lease hear
        # one that offers none. Hearing a stop twice does no harm. (Each of them makes a publisher
        # that it does not hear log a warning, so the last one only where somebody relies on it.)
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)
        leased = SubscriptionEventCallbacks(
            liveliness=self._on_liveliness, use_default_callbacks=False
        )
        ways = [(qos.ESTOP_LATCHED, silent), (qos.ESTOP, silent)]
        if required:
            ways.append((qos.ESTOP_LEASED, leased))
        self._subscriptions = [
            node.create_subscription(Bool, topic, self._on_message, profile, event_callbacks=events)
            for profile, events in ways
        ]

    @property
    def blocks(self) -> bool:
        """Pressed, or gone although somebody relies on it."""
        return self.is_pressed or (self.required and self.lost is not None)

    def drain(self) -> None:
        """Hears all that has come. The executor takes one message a turn, after others of other
        topics. Raises what went wrong with one of them, after the rest."""
        failed = None
        for subscription in self._subscriptions:
            while (msg := _take(subscription)) is not None:
                try:
                    self._on_message(msg)
                except Exception as error:
                    failed = error
        if failed is not None:
            raise failed

    def look(self) -> None:
        """To be called about ten times a second, after `drain`."""
        present = self._node.count_publishers(self.topic) > 0
        if self.heard and self._present and not present:
            self._lose(
                f"the publisher of {self.topic} is gone; start it again, and let it publish false"
            )
        self._present = present
        silence = self._clock() - self._at
        if self.heard and 0 < self._timeout < silence:
            self._lose(
                f"nothing on {self.topic} for {silence:.2f} s, allowed {self._timeout:g} s "
                "(estop_timeout); let its publisher go on with false"
            )

    def problem(self) -> Problem | None:
        """Why the robot may not move, where an emergency stop is required."""
        if not self.required:
            return None
        if not self.heard:
            return Problem(
                "ESTOP_MISSING",
                "",
                f"nobody has spoken on {self.topic}, and estop_required or estop_timeout is set; "
                "start its publisher",
            )
        return self.lost

    def _on_message(self, msg: Bool) -> None:
        self.heard, self.lost, self._at = True, None, self._clock()
        if msg.data:
            self.is_pressed = True
            self._pressed()
        elif self._node.count_publishers(self.topic) <= 1:  # one's false releases no other's true
            self.is_pressed = False

    def _on_liveliness(self, event: Any) -> None:
        if self._leased > 0 and event.alive_count == 0:
            self._lose(
                f"the publisher of {self.topic} is dead; start it again, and let it publish false"
            )
        self._leased = event.alive_count

    def _lose(self, why: str) -> None:
        if self.lost is None:
            self.lost = Problem("ESTOP_LOST", "", why)


def _take(subscription: Any) -> Any:
    """The oldest message that waits, None: none does. As rclpy's executors take it."""
    with subscription.handle:
        taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
    return None if taken is None else taken[0]
