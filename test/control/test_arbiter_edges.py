"""Where the arbiter's branches end: the last moment of a time-out, numbers that begin anew, clocks that
disagree. Each is a branch that the mutation run once found without a test.
"""

import math

import pytest
from qgf_arbiter import HUMAN, NODE, Scene, T
from qgf_make import SECOND, position_dict, velocity_dict

from qgf_ros.control.arbiter import INTERRUPTED
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State

FAST = 10.0  # per s^2: 0.5 in a period


def driven(**options):
    """At 1.0, at 0.5 a period, with the last word a moment ago."""
    scene = Scene(velocity_dict(rate=FAST), **options)
    scene.say(NODE, 2.0)
    scene.wait(T)
    assert scene.say(NODE, 2.0) == pytest.approx(1.0)
    return scene


# Time-outs.


def test_fault_074_a_timeout_shorter_than_the_clock_counts_is_its_shortest():
    scene = Scene(timeout=1e-10)
    scene.say(NODE, 1.0)
    assert scene.watch() is None, "no time has passed"
    scene.wait(1)
    assert scene.watch() == 0.0


def test_fault_074_how_long_each_owner_is_silent_is_said():
    scene = Scene()
    assert all(map(math.isnan, scene.arbiter.ages(scene.now)))
    scene.say(NODE, 1.0)
    scene.wait(SECOND)
    human, node = scene.arbiter.ages(scene.now)
    assert math.isnan(human) and node == pytest.approx(1.0)


def test_fault_074_the_reason_stays_after_the_silence():
    scene = Scene()
    scene.say(NODE, 1.0)
    scene.until_silent()
    scene.wait(T)
    assert scene.watch() is None
    assert scene.arbiter.state is State.HOLD and scene.arbiter.reason.code == "CANDIDATES_STOPPED"


def test_fault_127_an_error_while_nothing_moves_is_said_for_its_time():
    scene = Scene()
    scene.arbiter.interrupt(Problem("CALLBACK", "", "a bug"), scene.now)
    scene.wait(round(INTERRUPTED * SECOND) - 1)
    assert scene.watch() is None and scene.arbiter.state is State.HOLD
    scene.wait(1)
    assert scene.watch() is None and scene.arbiter.state is State.READY


def test_fault_074_the_watchdog_neither_spins_nor_sleeps_through_a_period():
    scene = Scene(timeout=0.3)
    scene.say(NODE, 1.0)
    assert scene.arbiter.pause(scene.now) == pytest.approx(0.05), "never longer"
    scene.wait(SECOND)
    assert scene.arbiter.pause(scene.now) == pytest.approx(0.05 / 20), "overdue, and still no spin"
    assert scene.watch() == 0.0
    scene.wait(T // 2)
    assert scene.arbiter.pause(scene.now) == pytest.approx(0.025), "the hold's own next step"


@pytest.mark.parametrize("period, pause", [(0.05, 0.005), (0.01, 0.002)])
def test_fault_074_under_a_simulated_clock_it_looks_often_but_does_not_spin(period, pause):
    config = velocity_dict()
    config["time"]["period"] = period
    scene = Scene(config, simulated=True)
    scene.say(NODE, 1.0)
    assert scene.arbiter.pause(scene.now) == pytest.approx(pause)


# Numbers that begin anew.


@pytest.mark.parametrize("epoch, sequence", [(2, 100), (9, 1)], ids=["epoch", "sequence"])
def test_fault_080_a_process_that_began_anew_is_known_by_either_number(epoch, sequence):
    """What it sent first may be lost, and its epochs may go on where its sequence does not."""
    scene = Scene()
    for _ in range(5):
        scene.say(NODE, 1.0, epoch=8)
    scene.until_silent()
    scene.sequence[NODE] = sequence - 1
    assert scene.say(NODE, 0.5, epoch=epoch) == 0.5


def test_fault_080_who_is_refused_and_lives_has_not_begun_anew():
    scene = Scene()
    scene.say(HUMAN, 0.5)
    assert scene.refused(NODE) == "OWNER"
    scene.sequence[NODE] = 0
    assert scene.refused(NODE) == "SEQUENCE"


# Clocks that disagree.


def test_fault_021_a_tick_that_was_used_is_not_used_again():
    scene = driven()
    tick = scene.now.control
    scene.wait(T)
    deadline = tick + 4 * T
    assert scene.say(NODE, 2.0, execute_at=tick - T, deadline=deadline) == pytest.approx(1.0)
    scene.wait(1)
    assert scene.say(NODE, 2.0, execute_at=tick, deadline=deadline) == pytest.approx(1.0)


@pytest.mark.parametrize("hour", [-3600, 3600])
def test_fault_023_a_wall_clock_that_is_set_stops_nobody(hour):
    scene = driven()
    scene.wait(T)
    scene.now = type(scene.now)(scene.now.control + hour * SECOND, scene.now.steady)
    assert scene.watch() is None, "silence is measured on the steady clock"
    assert scene.say(NODE, 2.0) == pytest.approx(1.5)


def test_fault_023_only_a_simulated_clock_can_stop():
    scene = driven(timeout=5.0)
    scene.wait(SECOND, speed=0.0)
    assert scene.say(NODE, 1.0) == pytest.approx(1.0) and scene.arbiter.state is State.RUN


def test_fault_023_a_wall_clock_that_is_set_gives_no_time():
    scene = driven()
    scene.wait(T // 10)
    scene.now = type(scene.now)(scene.now.control + 9 * SECOND // 10, scene.now.steady)
    assert scene.say(NODE, 2.0) == pytest.approx(1.05), "a tenth of a period has passed"


def test_fault_126_in_a_fast_simulation_its_own_time_counts():
    scene = Scene(velocity_dict(rate=FAST), simulated=True)
    for value in (0.5, 1.0, 1.5, 2.0):
        assert scene.say(NODE, 2.0) == pytest.approx(value)
        scene.wait(T // 5, speed=5.0)


def test_fault_020_a_simulated_clock_that_goes_back_a_little_gives_no_time():
    scene = driven(simulated=True)
    scene.now = type(scene.now)(scene.now.control - 3 * SECOND // 10, scene.now.steady + T // 10)
    assert scene.say(NODE, 2.0) == pytest.approx(1.0)


def test_fault_116_a_hold_is_braked_by_the_limits_of_a_position_too():
    scene = Scene(position_dict(rate=2.0), measured=[0.0, 0.0])
    assert scene.say(NODE, 1.0) == pytest.approx(0.1)
    scene.wait(T)
    assert scene.hold(NODE) == pytest.approx(0.1)
    assert scene.arbiter.reason.code == "EXPLICIT_HOLD"
