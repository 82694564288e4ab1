"""A thread that ticks on absolute deadlines of the node's clock, real or simulated.

Executor timers drift and pile up under load; this does neither: a late tick is late, and missed
ones are skipped, never caught up in a burst.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.clock import Clock, ClockType, JumpThreshold, ROSClock
from rclpy.duration import Duration

JUMPED_BACK_PERIODS = 2


class ControlLoop(threading.Thread):
    """Calls `tick(deadline)` [ns] once per period until `stop`; `jumped()` when time went back."""

    def __init__(
        self, clock: Clock, period: int, tick: Callable[[int], None], jumped: Callable[[], None]
    ) -> None:
        super().__init__(name="qgf-control", daemon=True)
        self._clock = clock
        self._period = period
        self._tick = tick
        self._jumped = jumped
        self._changed = threading.Condition()
        self._stopping = False
        self.error: Exception | None = None
        self._jump_handle = None
        if clock.clock_type == ClockType.ROS_TIME:
            # Simulated time moves in jumps: each wakes the thread, which otherwise would have to poll.
            threshold = JumpThreshold(
                min_forward=Duration(nanoseconds=1),
                min_backward=Duration(nanoseconds=-1),
                on_clock_change=True,
            )
            self._jump_handle = clock.create_jump_callback(
                threshold, post_callback=lambda jump: self._wake()
            )

    def stop(self) -> None:
        """Ends the thread after the tick in progress."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self.is_alive():
            self.join(timeout=2.0)
        if self._jump_handle is not None:
            self._jump_handle.unregister()
            self._jump_handle = None

    def run(self) -> None:
        try:
            deadline = 0
            while self._wait(deadline):
                now = self._clock.now().nanoseconds
                if deadline == 0 or deadline - now > JUMPED_BACK_PERIODS * self._period:
                    if deadline:
                        self._jumped()
                    deadline = -(-now // self._period) * self._period
                    continue
                self._tick(deadline)
                deadline += self._period
                behind = self._clock.now().nanoseconds - deadline
                if behind > self._period:
                    deadline += behind // self._period * self._period
        except Exception as error:  # the owner has to stop the robot and end the process
            self.error = error

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _wait(self, deadline: int) -> bool:
        """True at `deadline`, or earlier when the clock jumped back; False when stopping."""
        with self._changed:
            while not self._stopping:
                now = self._clock.now().nanoseconds
                if now > 0 and (
                    now >= deadline or deadline - now > JUMPED_BACK_PERIODS * self._period
                ):
                    return True
                if isinstance(self._clock, ROSClock) and self._clock.ros_time_is_active:
                    self._changed.wait()
                else:
                    self._changed.wait((deadline - now) * 1e-9)
            return False
