"""The control thread against a clock that is handed in and set, as NTP or a person sets a computer's."""

import threading
import time

import pytest
import ros_harness as ros

try:
    from rclpy.clock import ClockType

    from qgf_ros.ros.control_loop import ControlLoop
except ImportError:
    pass  # conftest.py says so

PERIOD = 5_000_000
HOUR = 3600 * 10**9


class SetClock:
    """System time, but for what it is set by. `now` has what rclpy's Time has."""

    def __init__(self):
        self.clock_type = ClockType.SYSTEM_TIME
        self.offset = 0

    @property
    def nanoseconds(self):
        return time.time_ns() + self.offset

    def now(self):
        return self


class Listener:
    """A running loop, and all that it called."""

    def __init__(self, clock):
        self.clock, self.calls, self.news = clock, [], threading.Condition()
        self.missed = []
        self.takes = 0.0  # s, of the next tick
        self.loop = ControlLoop(
            clock,
            PERIOD,
            tick=self.tick,
            missed=self.missed.append,
            jumped=lambda stood: self.jumped(),
            stalled=lambda now: self.note("stalled"),
        )
        self.loop.start()

    def note(self, what):
        with self.news:
            self.calls.append((what, time.monotonic()))
            self.news.notify_all()

    def tick(self, deadline):
        self.note(deadline)
        takes, self.takes = self.takes, 0.0
        time.sleep(takes)

    def jumped(self):
        self.note("jumped")

    def wait(self, condition, timeout=10.0):
        with self.news:
            assert self.news.wait_for(condition, timeout), self.calls[-5:]

    def wait_ticks(self, count):
        since = len(self.calls)
        self.wait(lambda: len(self.calls) >= since + count)


@pytest.fixture
def listener():
    made = Listener(SetClock())
    made.wait_ticks(5)
    yield made
    made.loop.stop()
    assert made.loop.error is None and not made.loop.is_alive()


@pytest.mark.parametrize("step", [HOUR, -HOUR, 2 * 10**9, -(10**9)])
def test_fault_023_a_step_of_the_system_time_is_a_jump_and_ticking_goes_on(listener, step):
    listener.clock.offset += step
    listener.wait(lambda: any(c[0] == "jumped" for c in listener.calls))
    listener.wait_ticks(10)
    what = [c[0] for c in listener.calls]
    at = what.index("jumped")
    assert "stalled" not in what
    assert what.count("jumped") == 1 or ros.slack() > 0.5, "a thread that gets no turn jumps, too"
    before, after = what[:at], what[at + 1 :]
    assert abs(after[0] - before[-1] - step) < 10**9, "on the new time at once"
    for ticks in (before, after):
        gaps = [b - a for a, b in zip(ticks, ticks[1:])]
        assert all(g >= PERIOD and g % PERIOD == 0 for g in gaps), "no tick twice, no burst"


@pytest.mark.parametrize("step", [3 * PERIOD, -PERIOD, 10**8])
def test_fault_023_a_slew_or_a_small_step_is_no_jump(listener, step):
    listener.clock.offset += step
    listener.wait_ticks(20)
    what = [c[0] for c in listener.calls]
    assert "stalled" not in what and ("jumped" not in what or ros.slack() > 0.5)
    if step > 0 and "jumped" not in what:
        assert all(b - a >= PERIOD for a, b in zip(what, what[1:])), (
            "missed ticks are not caught up"
        )


def test_fault_052_a_tick_that_takes_long_is_counted_and_not_caught_up(listener):
    before = len(listener.calls), sum(listener.missed)
    listener.takes = 10 * PERIOD * 1e-9
    listener.wait(lambda: not listener.takes)
    listener.wait_ticks(5)
    what = [c[0] for c in listener.calls[before[0] :] if c[0] != "jumped"]
    assert max(b - a for a, b in zip(what, what[1:])) >= 10 * PERIOD
    assert sum(listener.missed) - before[1] >= 10, "nine that were skipped, and the long one"
