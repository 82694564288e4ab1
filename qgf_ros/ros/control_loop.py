"""A thread that ticks on absolute deadlines of the node's clock, real or simulated.

Executor timers drift and pile up under load; this does neither: a late tick is late, and missed
ones are skipped, never caught up in a burst.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable

from rclpy.clock import Clock, ClockType, JumpThreshold, ROSClock
from rclpy.duration import Duration

JUMPED_BACK_PERIODS = 2  # a deadline further ahead than this: the clock went back
JUMPED_AHEAD = 1.0  # s past a deadline: the clock went ahead, or the process stood still
STALLED = 0.5  # s of steady time without a step of a simulated clock: it has stopped


class _Woken(enum.Enum):
    DUE = 1
    JUMPED = 2
    STALLED = 3
    STOPPING = 4


class ControlLoop(threading.Thread):
    """Calls `tick(deadline)` [ns] once per period until `stop`.

    `missed(count)` after ticks that were skipped or ended more than a period after their time.
    `jumped(stood)` when the clock went back, or ahead by more than a second: a simulation began anew, the
    system's time was set, or (stood) the process was stopped. `stalled(now)` once per period of steady
    time while a simulated clock stands still, which can only stop the robot, never move it. `failed()`
    when the thread has ended by an error.
    """

    def __init__(
        self,
        clock: Clock,
        period: int,
        *,
        tick: Callable[[int], None],
        missed: Callable[[int], None],
        jumped: Callable[[bool], None],
        stalled: Callable[[int], None],
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name="qgf-control", daemon=True)
        self._clock = clock
        self._period = period
        self._tick = tick
        self._missed = missed
        self._jumped = jumped
        self._stalled = stalled
        self._failed = failed
        self._changed = threading.Condition()
        self._stopping = False
        self.error: Exception | None = None
        self._jump_handle = None
        if clock.clock_type == ClockType.ROS_TIME:
            # Simulated time moves in jumps: each wakes the thread, which would have to poll else.
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
            self._run()
        except Exception as error:  # the owner has to stop the robot and end the process
            self.error = error
            self._failed()

    def _run(self) -> None:
        # A simulated clock at 0 has not begun. Once it has, 0 is a time like any other: it went back.
        deadline = self._next_deadline() if self._wait(1, None) is not _Woken.STOPPING else 0
        patience, rested = STALLED, time.monotonic()
        while (woken := self._wait(deadline, patience)) is not _Woken.STOPPING:
            patience = STALLED
            if woken is _Woken.STALLED:
                self._stalled(self._clock.now().nanoseconds)
                patience = self._period * 1e-9  # said once, the hold goes on at the control rate
            elif woken is _Woken.JUMPED or self._late(deadline) > JUMPED_AHEAD * 1e9:
                self._jumped(time.monotonic() - rested > JUMPED_AHEAD / 2)
                deadline = self._next_deadline()
            else:
                # Missed ticks are skipped, before the tick too: the thread may have woken up late.
                missed = max(self._late(deadline), 0) // self._period
                deadline += missed * self._period
                self._tick(deadline)
                missed += self._late(deadline) > self._period
                if missed:
                    self._missed(missed)
                deadline += self._period
            rested = time.monotonic()

    def _late(self, deadline: int) -> int:
        return self._clock.now().nanoseconds - deadline

    def _next_deadline(self) -> int:
        """Ticks lie on whole multiples of the period."""
        return -(-self._clock.now().nanoseconds // self._period) * self._period

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _wait(self, deadline: int, patience: float | None) -> _Woken:
        """Until `deadline` [ns] of the clock, or until a simulated one has not moved for `patience`
        [s of steady time; None: for ever]."""
        with self._changed:
            while not self._stopping:
                now = self._clock.now().nanoseconds
                if now < deadline - JUMPED_BACK_PERIODS * self._period:
                    return _Woken.JUMPED
                if now >= deadline:
                    return _Woken.DUE
                if not (isinstance(self._clock, ROSClock) and self._clock.ros_time_is_active):
                    self._changed.wait((deadline - now) * 1e-9)
                elif not self._changed.wait(patience):
                    return _Woken.STALLED
            return _Woken.STOPPING
