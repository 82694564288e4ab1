"""When the messages of a bag came, and its /clock: where the recorder stood in wall time beside a
simulated robot, stamps and receipts are of two clocks, and this leads from one to the other."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qgf_ros.bags.types import Channel, Use

CLOCK_TYPE = "rosgraph_msgs/Clock"
APART = (
    1.0  # s: a recorder under use_sim_time receives at the time of /clock, but for the transport
)
# (stamp, receipt) as recorded -> both on the control clock, and which of them are there; (N,) each
Control = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def read_clock(msg: Any) -> int:
    """ns; 0 and less: it has not begun."""
    return int(msg.clock.sec) * 1_000_000_000 + int(msg.clock.nanosec)


class Times:
    """Stamps and receipts of messages, as they come, file after file."""

    def __init__(self) -> None:
        self._times = array("q")  # stamp and receipt in turn
        self._ends: list[int] = []  # of the files

    def __len__(self) -> int:
        return len(self._times) // 2

    def add(self, stamp: int, receipt: int) -> None:
        """ns. Raises TypeError, OverflowError where they are no times, and is then as before."""
        self._times.extend(array("q", (stamp, receipt)))

    def file_ends(self) -> None:
        """What comes from now on is of the next file."""
        self._ends.append(len(self))

    def recorded(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamp and receipt as they were recorded [ns], (N,) each."""
        stamp, receipt = np.array(self._times, np.int64).reshape(-1, 2).T
        return stamp, receipt

    def ordered(self, now: Control | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Stamp and receipt [ns], (N,) each, and the order of messages (M,): by receipt as recorded
        within each file, and files follow one another. now: the control clock where that is not the
        recorder's; what came before it is not in the order."""
        stamp, receipt = self.recorded()
        parts = np.split(np.arange(len(receipt)), self._ends)
        order = np.concatenate([p[np.argsort(receipt[p], kind="stable")] for p in parts])
        if now is not None:
            stamp, receipt, there = now(stamp, receipt)
            order = order[there[order]]
        return stamp, receipt, order


class RecordedClock:
    """Collects the /clock of one bag."""

    def __init__(self) -> None:
        self._times = Times()  # the stamp is the clock's time
        self.said = ""  # why it cannot be used, where that matters

    def uses(self, channel: Channel) -> Sequence[Use]:
        """What takes a channel's messages; nothing where they are none of a clock."""
        return [self.add] if channel.short_type == CLOCK_TYPE else []

    def add(self, msg: Any, receipt: int) -> None:
        if (at := read_clock(msg)) > 0:
            self._times.add(at, receipt)

    def control(self, receipts: Sequence[np.ndarray]) -> Control | None:
        """What was told by /clock when a message came, as a node under use_sim_time would have had
        it. None where the bag has no clock, or was recorded by it already.

        receipts: of all messages that matter, as recorded [ns].
        """
        clock, received = self._times.recorded()
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
