"""The /clock of a bag: when the recorder stood in wall time beside a simulated robot, stamps and
receipts are of two clocks, and this is what leads from one to the other."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qgf_ros.bags.damage import Damage, Losses
from qgf_ros.bags.types import Channel, Take, take_with, typestore

CLOCK_TYPE = "rosgraph_msgs/Clock"
APART = (
    1.0  # s: a recorder under use_sim_time receives at the time of /clock, but for the transport
)
# (stamp, receipt) as recorded -> both on the control clock, and which of them are there; (N,) each
Control = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


class RecordedClock:
    """Collects the /clock of one bag."""

    def __init__(self) -> None:
        self._times = array("q")  # receipt and clock in turn
        self.said = ""  # why it cannot be used, where that matters

    def take(self, channel: Channel, losses: Losses) -> Take | None:
        try:
            return take_with(channel, typestore(channel, losses), [self.add], losses)
        except Damage:
            return None

    def add(self, msg: Any, receipt: int) -> None:
        at = int(msg.clock.sec) * 1_000_000_000 + int(msg.clock.nanosec)
        if at > 0:  # before that it has not begun
            self._times.extend(array("q", (receipt, at)))

    def control(self, receipts: Sequence[np.ndarray]) -> Control | None:
        """What was told by /clock when a message came, as a node under use_sim_time would have had
        it. None where the bag has no clock, or was recorded by it already.

        receipts: of all messages that matter, as recorded [ns].
        """
        received, clock = np.array(self._times, np.int64).reshape(-1, 2).T
        if not len(clock) or not any(map(len, receipts)):
            return None
        order = np.argsort(received, kind="stable")
        received, clock = received[order], clock[order]
        if abs(float(np.median(received - clock))) <= APART * 1e9:
            return None
        if (np.diff(clock) < 0).any():
            self.said = (
                "/clock goes back: receipts stay in wall time (record each run of a simulator in a "
                "bag of its own)"
            )
            return None

        def control(
            stamp: np.ndarray, receipt: np.ndarray
        ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            at = np.searchsorted(received, receipt, side="right") - 1
            now = clock[np.maximum(at, 0)]
            return np.where(stamp == receipt, now, stamp), now, at >= 0

        return control
