"""A simulated clock that jumps or stands still under a moving robot: it stops, says so, goes on.

Pinned: commands on a clock that stands still; a burst for the time that was skipped; a status that
fell silent with the clock.
"""

import contextlib
import threading
import time

import pytest
import ros_harness as ros

T = ros.PERIOD
NS = 10**9


class SimClock:
    """/clock at 100 Hz. The robot's stamps follow a jump when the node has taken it, as those of a
    simulation do that publishes its clock first."""

    def __init__(self, robot):
        self.robot, self.running = robot, True
        self.stands_at: int | None = None  # ns, said again and again: a simulation that was paused
        self.offset = self.stamps = 1_000_000 * NS - time.monotonic_ns()
        self._publisher = robot.node.create_publisher(ros.Clock, "/clock", 10)
        for topic, make in list(robot.honest.items()):
            robot.honest[topic] = lambda stamp, make=make: make(time.monotonic_ns() + self.stamps)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self):
        while not self._ending.wait(0.01):
            if self.running:
                now = (
                    self.stands_at
                    if self.stands_at is not None
                    else time.monotonic_ns() + self.offset
                )
                self._publisher.publish(ros.Clock(clock=ros.time_msg(now)))

    def jump(self, seconds, proc):
        """Returns the status that tells of it."""
        self.offset += round(seconds * NS)
        told = self.robot.wait_state(ros.HOLD, 5, proc, reason="CLOCK_JUMP")
        self.stamps = self.offset
        return told

    def close(self):
        self._ending.set()
        self._thread.join(timeout=2)


@contextlib.contextmanager
def driven(domain):
    with ros.node_and_robot(domain, use_sim_time=True) as (proc, robot):
        clock = SimClock(robot)
        try:
            robot.drive(proc)
            yield proc, robot, clock
        finally:
            clock.close()


@pytest.mark.parametrize("seconds", [-500.0, 3600.0], ids=["020 back", "021 forward"])
def test_fault_020_021_a_jump_of_the_clock_is_a_hold_and_the_robot_goes_on(domain, seconds):
    with driven(domain) as (proc, robot, clock):
        for _ in range(2):
            candidates, before = len(robot.candidates), robot.statuses[-1].msg.tick
            began = time.monotonic()
            told = clock.jump(seconds, proc)
            robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], 3, "rest", proc)
            robot.wait_state(ros.RUN, 5, proc)
            robot.wait_candidates(20)
            robot.wait(lambda n=before: robot.statuses[-1].msg.tick - n > 25, 3, "ticks", proc)

            during = [c for c in robot.candidates[candidates:]]
            times = [ros.ns(c.msg.execute_at) for c in during]
            jumps = [i for i, (a, b) in enumerate(zip(times, times[1:])) if abs(b - a) > NS]
            assert len(jumps) <= 1
            new = times[jumps[0] + 1 :] if jumps else times
            assert all(b - a >= T * NS for a, b in zip(new, new[1:])), "no tick twice"
            assert all(c.at > told.at for c in during if ros.ns(c.msg.execute_at) in new)
            stamps = [ros.ns(c.msg.header.stamp) for c in during if ros.ns(c.msg.execute_at) in new]
            assert all(abs(at - s) < 0.5 * NS for at, s in zip(new, stamps)), (
                "no state of the old time"
            )
            commands = [c for c in robot.commands if c.at > began]
            span = commands[-1].at - began
            print(f"{len(commands)} commands in {span:.2f} s around a jump of {seconds:g} s")
            assert len(commands) <= span / T * 1.02 + 3, "no burst"


def test_fault_022_a_clock_that_stops_is_a_hold_and_the_status_goes_on(domain):
    with driven(domain) as (proc, robot, clock):
        clock.running, stopped = False, time.monotonic()
        held = robot.wait_state(ros.HOLD, 5, proc)
        assert held.msg.reason == "CLOCK_STOPPED" and "/clock" in held.msg.detail
        print(f"held {held.at - stopped:.3f} s after the clock stopped")
        assert held.at - stopped <= 0.5 + 2 * T + 2 * ros.slack()
        robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], 2, "rest", proc)
        last = robot.candidates[-1].at
        statuses = robot.wait_statuses(10)
        assert 0.7 - 2 * ros.slack() <= statuses[-1].at - statuses[0].at <= 1.2 + 2 * ros.slack(), (
            "at 10 Hz"
        )
        assert {s.msg.state for s in statuses} == {ros.HOLD}
        assert last - stopped <= 2 * T + ros.slack() and robot.candidates[-1].at == last
        clock.offset = clock.stamps = clock.offset - round((time.monotonic() - stopped) * NS)
        clock.running = True
        robot.wait_state(ros.RUN, 5, proc)
        robot.wait_candidates(5)


def test_fault_020_022_a_simulation_that_is_reset_and_paused_is_a_hold_that_hears_the_stop(domain):
    """Time 0 was taken for a clock that has not begun: RUN for ever, and nobody listened."""
    with driven(domain) as (proc, robot, clock):
        clock.stands_at = 0
        robot.wait_state(ros.HOLD, 5, proc)
        robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], 3, "rest", proc)
        robot.estop(True)
        assert robot.wait_state(ros.FAULT, 5, proc).msg.reason == "ESTOP"
