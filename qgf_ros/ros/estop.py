"""The emergency stop's topic: who presses it, and whether somebody is there to press it.

A publisher that ends in order is missed at once. One that is killed stays in the graph for about
20 s, unless it offers a liveliness lease of at most LEASE: then it is missed within its lease.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from std_msgs.msg import Bool

from qgf_ros.control.reasons import Problem
from qgf_ros.ros import qos

UNHEARD = Problem(
    "ESTOP_MISSING", "nobody has spoken on ~/estop, and estop_required is set; start its publisher"
)
LOST = Problem(
    "ESTOP_LOST", "the publisher of ~/estop is gone; start it again, and let it publish false"
)


class EmergencyStop:
    """Listens on ~/estop. `pressed()` is called for each true that arrives: to say it again must
    not be less than to say it."""

    def __init__(self, node: Node, pressed: Callable[[], None], required: bool) -> None:
        self.required = required
        self.is_pressed = False
        self.lost = False  # until it is heard again
        self._node = node
        self._pressed = pressed
        self._heard = False
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
        ways = [(qos.LATCHED, silent), (qos.REPORT, silent)]
        if required:
            ways.append((qos.LEASED, leased))
        for profile, events in ways:
            node.create_subscription(
                Bool, "~/estop", self._on_message, profile, event_callbacks=events
            )

    def look(self) -> None:
        """To be called about ten times a second."""
        present = self._node.count_publishers("~/estop") > 0
        if self._heard and self._present and not present:
            self.lost = True
        self._present = present

    def problem(self) -> Problem | None:
        """Why the robot may not move, where an emergency stop is required."""
        if not self.required:
            return None
        return LOST if self.lost else None if self._heard else UNHEARD

    def _on_message(self, msg: Bool) -> None:
        self._heard, self.lost = True, False
        if msg.data:
            self.is_pressed = True
            self._pressed()
        elif self._node.count_publishers("~/estop") <= 1:  # one's false releases no other's true
            self.is_pressed = False

    def _on_liveliness(self, event: Any) -> None:
        if self._leased > 0 and event.alive_count == 0:
            self.lost = True
        self._leased = event.alive_count
