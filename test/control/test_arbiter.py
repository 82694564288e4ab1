"""Who commands: one owner at a time, the first above all others, and a hold when nobody does.

Pinned: a lower owner that goes on by itself after it was overridden; a restarted process that is
refused for ever because its numbers begin anew; a foreign message that brakes the robot; a slow
simulation that is taken for a dead node.
"""

import math

import numpy as np
import pytest
from qgf_arbiter import HUMAN, NODE, NOWHERE, Scene, T, one
from qgf_make import SECOND, START, contract, position_dict, velocity_dict

from qgf_ros.control.arbiter import STALLED, Moment
from qgf_ros.control.gate import STOP_STREAM, Refused
from qgf_ros.control.measured import MeasuredPositions
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State

# Candidates that stop.


def test_fault_113_nothing_is_sent_before_the_first_candidate():
    scene = Scene()
    for _ in range(100):
        scene.wait(T)
        assert scene.watch() is None
    assert scene.arbiter.state is State.READY


def test_fault_074_the_hold_begins_after_two_periods_and_ends_in_silence():
    scene = Scene()
    assert scene.say(NODE, 1.0) == 1.0
    scene.wait(2 * T - 1)
    assert scene.watch() is None and scene.arbiter.state is State.RUN
    scene.wait(1)
    assert scene.watch() == 0.0
    assert scene.arbiter.state is State.HOLD
    assert scene.arbiter.reason.code == "CANDIDATES_STOPPED"
    scene.wait(T - 1)
    assert scene.watch() is None, "once per period"
    assert scene.until_silent() == [0.0] * (round(STOP_STREAM / 0.05) - 1)
    assert scene.arbiter.owner is None
    assert scene.arbiter.state is State.HOLD, "that somebody died is no end in good order"


def test_fault_074_the_timeout_is_a_parameter():
    scene = Scene(timeout=0.3)
    scene.say(NODE, 1.0)
    scene.wait(299_999_999)
    assert scene.watch() is None
    scene.wait(1)
    assert scene.watch() == 0.0


def test_fault_074_what_is_refused_is_no_sign_of_life():
    scene = Scene()
    scene.say(NODE, 1.0)
    scene.wait(2 * T)
    assert scene.refused(NODE, deadline=scene.now.control - 1) == "DEADLINE"
    assert scene.refused(NODE, owner="/other", topic=NODE) == "OWNER"
    assert scene.watch() == 0.0


def test_fault_074_a_short_gap_is_gone_on_from_within_limits():
    scene = Scene(velocity_dict(rate=10.0))  # 0.5 per period
    for value in (0.5, 1.0, 1.5):
        assert scene.say(NODE, 2.0) == pytest.approx(value)
        scene.wait(T)
    scene.wait(T)
    assert scene.watch() == pytest.approx(1.0)
    scene.wait(T)
    assert scene.say(NODE, 2.0) == pytest.approx(1.5), "the same epoch goes on"
    assert scene.arbiter.state is State.RUN


def test_fault_074_the_watchdog_is_called_in_time():
    scene = Scene()
    assert scene.arbiter.pause(scene.now) == 0.05
    scene.say(NODE, 1.0)
    waited = 0.0
    while scene.watch() is None:
        pause = scene.arbiter.pause(scene.now)
        assert 0 < pause <= 0.05
        waited += pause
        scene.wait(round(pause * 1e9))
    assert waited <= 0.1 + 0.0025
    assert scene.arbiter.pause(scene.now) == 0.05


@pytest.mark.parametrize("speed", [0.1, 0.3, 1.0, 3.0])
def test_a_simulation_at_any_speed_is_no_dead_node(speed):
    scene = Scene(simulated=True)
    for _ in range(10):
        scene.say(NODE, 1.0)
        for _ in range(20):
            scene.wait(round(T / speed / 20), speed)
            assert scene.watch() is None
    scene.wait(round(T / speed) + 1000, speed)
    assert scene.watch() == 0.0


def test_fault_022_a_simulated_clock_that_stands_still_is_a_hold_by_the_steady_one():
    scene = Scene(simulated=True)
    scene.say(NODE, 1.0)
    assert scene.watch() is None
    scene.wait(499_000_000, speed=0.0)
    assert scene.watch() is None
    scene.wait(1_000_000, speed=0.0)
    assert scene.watch() == 0.0
    assert set(scene.until_silent()) == {0.0}


def with_a_clock_that_stands():
    """Driven to 2 at 0.5 a period, on a simulated clock that has stopped since."""
    scene = Scene(velocity_dict(rate=10.0), simulated=True)
    for _ in range(5):
        scene.say(NODE, 2.0)
        scene.wait(T)
        scene.watch()
    return scene


def test_fault_022_holds_brake_though_the_clock_stands_still_whoever_asks_for_them():
    """The robot may be moving on: /clock is a process of its own, and it may have died alone."""
    scene, sent = with_a_clock_that_stands(), []
    for _ in range(60):
        scene.wait(T, speed=0.0)
        sent.append(scene.hold(NODE))
        scene.watch()
    went_on = sent.count(sent[0])
    assert went_on * T <= STALLED * SECOND, "no longer than it takes to see that it stands"
    assert sent[went_on:][:4] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert sent[-1] is None and scene.arbiter.gate.silent
    assert scene.arbiter.state is State.READY, "an end in good order"


def test_fault_022_holds_faster_than_the_period_brake_no_harder_on_a_clock_that_stands():
    scene, sent = with_a_clock_that_stands(), []
    scene.wait(round(STALLED * SECOND), speed=0.0)
    for _ in range(45):
        scene.wait(T // 10, speed=0.0)
        sent.append(scene.hold(NODE) or 0.0)  # silent once it has stood
    fell = [a - b for a, b in zip([2.0, *sent], sent)]
    assert sent[-1] == 0.0 and fell[0] <= 0.5 + 1e-9
    passed = 0.05 * np.arange(len(fell))
    assert (np.cumsum(fell[1:]) <= passed[1:] + 0.5 + 1e-9).all(), "what has passed, and a period"


def test_fault_022_nothing_else_passes_while_the_clock_stands():
    """The deadline of a candidate lies on the clock that stands: it would never be over."""
    scene, sent = with_a_clock_that_stands(), []
    scene.wait(round(STALLED * SECOND), speed=0.0)
    for _ in range(6):
        sent.append(scene.say(NODE, 2.0))
        scene.wait(T, speed=0.0)
    assert sent[-1] == 0.0 and scene.arbiter.state is State.HOLD
    assert scene.arbiter.reason.code == "CLOCK_STOPPED" and scene.arbiter.refused == 6
    scene.until_silent_by(lambda: scene.wait(T, speed=0.0))
    assert scene.refused(NODE, 2.0) == "CLOCK_STOPPED", "and nothing begins"
    scene.hold(NODE)
    scene.wait(T)
    assert scene.say(NODE, 2.0) == pytest.approx(0.5), "the clock goes on, and the robot too"
    assert scene.arbiter.state is State.RUN


def test_fault_022_an_emergency_stop_brakes_on_a_clock_that_stands():
    scene = with_a_clock_that_stands()
    scene.wait(round(STALLED * SECOND), speed=0.0)
    sent = [one(scene.arbiter.emergency_stop(Problem("ESTOP", "", "pressed"), scene.now))]
    for _ in range(4):
        scene.wait(T, speed=0.0)
        sent.append(scene.watch())
    assert sent[0] <= 1.5 and sent[-1] == 0.0


def test_fault_020_a_simulated_clock_that_went_back_is_a_hold():
    scene = Scene(simulated=True)
    scene.say(NODE, 1.0)
    scene.now = Moment(scene.now.control - 500 * SECOND, scene.now.steady + T // 10)
    assert scene.watch() == 0.0
    scene.wait(T)
    assert scene.say(NODE, 1.0) == 1.0


# What is refused.


@pytest.mark.parametrize(
    "changes, code",
    [
        ({"deadline": START - 1}, "DEADLINE"),
        ({"execute_at": START + 200_000_000, "deadline": START + SECOND}, "FUTURE"),
        ({"owner": "/somebody"}, "OWNER"),
        ({"epoch": 0}, "EPOCH"),
        ({"sequence": 1}, "SEQUENCE"),
        ({"sequence": 0}, "SEQUENCE"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_fault_079_what_has_no_say_changes_nothing(changes, code):
    scene = Scene()
    scene.say(NODE, 1.0)
    scene.wait(T)
    assert scene.refused(NODE, 2.0, topic=NODE, **changes) == code
    assert scene.watch() is None and scene.arbiter.state is State.RUN
    assert scene.say(NODE, 1.5) == 1.5


@pytest.mark.parametrize(
    "changes, code",
    [
        ({"values": np.array([1.0, math.nan])}, "NONFINITE"),
        ({"names": ("arm.b", "arm.a")}, "NAMES"),
        ({"values": np.ones(3)}, "NAMES"),
        ({"values": np.ones(0)}, "NAMES"),
        ({"names": ()}, "NAMES"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_fault_127_what_the_owner_in_command_says_wrongly_is_a_hold_at_once(changes, code):
    scene = Scene()
    scene.say(NODE, 1.0)
    scene.wait(T)
    assert scene.say(NODE, 1.0, **changes) == 0.0
    assert scene.arbiter.reason.code == code and scene.arbiter.state is State.HOLD
    scene.wait(T)
    assert scene.say(NODE, 1.0) == 1.0, "and a good one is gone on from"


def test_fault_127_nonsense_while_nothing_moves_moves_nothing():
    scene = Scene()
    assert scene.say(NODE, math.nan) is None
    assert scene.until_silent() == []


def test_fault_075_what_was_held_up_is_void_by_its_deadline():
    """A process that was stopped for 2 s: what it had sent meanwhile arrives in a burst."""
    scene = Scene()
    scene.say(NODE, 1.0)
    old = [scene.candidate(NODE, 2.0, deadline=scene.now.control + k * T) for k in range(10)]
    scene.until_silent()
    scene.wait(SECOND)
    for c in old:
        with pytest.raises(Refused, match="DEADLINE"):
            scene.arbiter.offer(NODE, c, scene.now, NOWHERE)
    assert scene.arbiter.gate.silent


def test_fault_021_a_burst_is_limited_by_the_time_that_has_really_passed():
    """Whatever `execute_at` claims: at most two periods more than have passed on the gate's clock."""
    rng = np.random.default_rng(0)
    scene = Scene(velocity_dict(rate=1.0))
    began, top = scene.now, 0.0
    for _ in range(500):
        scene.wait(int(rng.integers(0, T // 10)))
        ahead = int(rng.integers(-3 * T, 2 * T))
        at = scene.now.control + ahead
        deadline = scene.now.control + 10 * T
        top = max(top, scene.say(NODE, 2.0, execute_at=at, deadline=deadline))
        passed = (scene.now.steady - began.steady) * 1e-9
        assert top <= 1.0 * (passed + 5 * 0.05) + 1e-9
    assert top > 0.5


def test_fault_021_a_grid_that_goes_back_and_forth_gains_no_time():
    scene = Scene(velocity_dict(rate=1.0))
    began, top = scene.now, 0.0
    for number in range(500):
        scene.wait(T // 50)
        at = scene.now.control + (2 * T if number % 2 else -2 * T)
        deadline = scene.now.control + 10 * T
        top = max(top, scene.say(NODE, 2.0, execute_at=at, deadline=deadline))
        passed = (scene.now.steady - began.steady) * 1e-9
        assert top <= 1.0 * (passed + 5 * 0.05) + 1e-9


@pytest.mark.parametrize("speed", [0.3, 5.0])
def test_fault_074_under_a_simulated_clock_the_hold_brakes_by_that_clock(speed):
    scene = Scene(velocity_dict(rate=1.0), simulated=True)
    for _ in range(60):
        scene.wait(round(T / speed), speed)
        scene.say(NODE, 1.0)
        scene.watch()
    began, value = scene.now.control, 1.0
    while value > 0:
        scene.wait(round(T / speed / 10), speed)
        value = scene.watch() or value if not scene.arbiter.gate.at_rest else 0.0
        assert scene.now.control - began < 3 * SECOND
    took = (scene.now.control - began) * 1e-9
    assert took == pytest.approx(1.0 + 2 * 0.05, abs=0.12), "1 s at its rate, after the timeout"


def test_fault_021_the_jitter_of_transport_is_not_taken_for_the_robots():
    """Limits see the owner's grid of ticks: a constant ramp arrives unchanged."""
    rng = np.random.default_rng(1)
    scene = Scene(velocity_dict(rate=2.0))  # 0.1 per period
    for k in range(1, 20):
        tick = START + k * T
        scene.now = Moment(tick + int(rng.integers(0, 40_000_000)), scene.now.steady + T)
        sent = scene.say(NODE, 0.1 * k, execute_at=tick, deadline=tick + 2 * T)
        assert sent == pytest.approx(0.1 * k)
    assert scene.arbiter.gate.limit_hits == 0


# An explicit hold.


def test_fault_116_an_explicit_hold_acts_at_once_and_ends_in_good_order():
    scene = Scene(velocity_dict(rate=10.0))
    for _ in range(4):
        scene.say(NODE, 2.0)
        scene.wait(T)
    sent = []
    while not scene.arbiter.gate.silent:
        assert scene.watch() is None, "the owner has the word"
        sent.append(scene.hold(NODE))
        assert scene.arbiter.state is State.HOLD or scene.arbiter.gate.silent
        scene.wait(T)
    assert sent[:5] == pytest.approx([1.5, 1.0, 0.5, 0.0, 0.0]) and sent[-1] is None
    assert scene.arbiter.state is State.READY and scene.arbiter.reason is None


def test_fault_074_the_hold_goes_on_where_the_owner_asked_for_it_and_died():
    scene = Scene(velocity_dict(rate=10.0))
    for _ in range(4):
        scene.say(NODE, 2.0)
        scene.wait(T)
    assert scene.hold(NODE) == pytest.approx(1.5)
    scene.wait(T)
    assert scene.watch() is None
    assert scene.until_silent()[:4] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert scene.arbiter.state is State.READY


def test_fault_113_an_explicit_hold_of_a_silent_robot_sends_nothing():
    scene = Scene(position_dict())  # and needs no measured position either
    assert scene.hold(NODE) is None
    assert scene.arbiter.state is State.READY


# Owners.


def test_fault_079_of_two_owners_one_alone_passes():
    scene = Scene()
    passed = []
    for _ in range(50):
        passed.append(scene.say(HUMAN, 0.5))
        scene.wait(T // 3)
        assert scene.refused(NODE, -0.5) == "OWNER"
        scene.wait(T - T // 3)
        assert scene.watch() is None
    assert set(passed) == {0.5}


def test_fault_117_a_human_takes_over_at_once_without_a_bump():
    scene = Scene(velocity_dict(rate=10.0))
    for _ in range(4):
        sent = scene.say(NODE, 2.0, epoch=7)
        scene.wait(T)
    assert sent == pytest.approx(2.0)
    assert scene.say(HUMAN, -2.0, epoch=1) == pytest.approx(1.5)
    assert scene.arbiter.owner == HUMAN
    assert scene.refused(NODE, 2.0, epoch=7) == "OWNER"


def overridden(scene, node_epoch=7):
    """The node moved, a human took over, and is silent since."""
    scene.say(NODE, 1.0, epoch=node_epoch)
    scene.wait(T)
    scene.say(HUMAN, 0.5)
    scene.wait(2 * T)
    assert scene.watch() == 0.0


@pytest.mark.parametrize("later", [0, 2 * SECOND], ids=["in the hold", "after the silence"])
def test_fault_117_after_a_takeover_only_a_new_epoch_moves_the_robot(later):
    scene = Scene()
    overridden(scene)
    for _ in range(later // T):
        scene.wait(T)
        scene.watch()
    for _ in range(5):
        assert scene.refused(NODE, epoch=7) == "EPOCH"
        scene.wait(T)
        scene.watch()
    scene.wait(T)
    assert scene.say(NODE, 1.0, epoch=8) == 1.0


def test_fault_117_an_epoch_that_began_while_another_commanded_is_void_too():
    scene = Scene()
    scene.say(HUMAN, 0.5)
    assert scene.refused(NODE, epoch=3) == "OWNER"
    scene.wait(2 * T)
    scene.watch()
    assert scene.refused(NODE, epoch=3) == "EPOCH"
    scene.wait(T)
    assert scene.say(NODE, 1.0, epoch=4) == 1.0


def test_fault_117_a_node_that_slept_through_the_takeover_does_not_go_on():
    """Stopped before the human came, awake after they left: its epoch is as old as before."""
    scene = Scene()
    scene.say(NODE, 1.0, epoch=7)
    scene.until_silent()
    scene.say(HUMAN, 0.5)
    scene.until_silent()
    assert scene.refused(NODE, epoch=7) == "EPOCH"
    assert scene.say(NODE, 1.0, epoch=8) == 1.0


def test_fault_117_a_first_owner_comes_back_at_any_time():
    """A joystick need not count epochs."""
    scene = Scene()
    scene.say(HUMAN, 0.5)
    scene.wait(2 * T)
    assert scene.watch() == 0.0
    scene.wait(T)
    assert scene.say(NODE, 1.0) == 1.0
    scene.wait(T)
    assert scene.say(HUMAN, 0.25) == 0.25


def test_fault_079_a_hold_of_a_first_owner_stops_the_others():
    scene = Scene()
    scene.say(NODE, 1.0)
    scene.wait(T)
    assert scene.hold(HUMAN) == 0.0
    assert scene.refused(NODE) == "OWNER"


def test_fault_079_a_hold_of_a_lower_owner_stops_nobody():
    scene = Scene()
    scene.say(HUMAN, 0.5)
    with pytest.raises(Refused, match="OWNER"):
        scene.hold(NODE)
    assert scene.watch() is None and scene.arbiter.state is State.RUN


# Processes that begin anew.


def test_fault_080_a_restarted_owner_passes_once_the_gate_is_silent():
    scene = Scene()
    for _ in range(20):
        scene.say(NODE, 1.0, epoch=5)
        scene.wait(T)
    scene.wait(T)
    assert scene.watch() == 0.0
    scene.sequence[NODE] = 0
    assert scene.refused(NODE, epoch=2) == "EPOCH", "while what it was sent is not over"
    scene.until_silent()
    assert scene.say(NODE, 1.0, epoch=2) == 1.0


def test_fault_080_numbers_that_go_back_in_a_live_stream_are_refused():
    """Two processes under one name: the one that was there first stays."""
    scene = Scene()
    for _ in range(20):
        scene.say(NODE, 1.0, epoch=5)
        other = scene.candidate(NODE, -1.0, epoch=2, sequence=1)
        with pytest.raises(Refused, match="EPOCH"):
            scene.arbiter.offer(NODE, other, scene.now, NOWHERE)
        scene.wait(T)
        assert scene.watch() is None


def test_fault_080_a_restart_behind_a_human_is_known_as_one_and_waits_for_enable():
    scene = Scene()
    for _ in range(20):
        scene.say(NODE, 1.0, epoch=5)
        scene.wait(T)
    for _ in range(10):
        scene.say(HUMAN, 0.5)
        scene.wait(T)
    scene.sequence[NODE] = 0
    scene.say(HUMAN, 0.5)
    assert scene.refused(NODE, epoch=2) == "OWNER"
    scene.wait(2 * T)
    scene.watch()
    assert scene.refused(NODE, epoch=2) == "EPOCH"
    scene.wait(T)
    assert scene.say(NODE, 1.0, epoch=3) == 1.0


# Positions.


def test_fault_113_positions_begin_where_they_are_measured():
    scene = Scene(position_dict(rate=2.0), measured=[0.3, 0.3])  # 0.1 per period
    assert scene.say(NODE, 1.0) == pytest.approx(0.4)
    scene.until_silent()
    scene.measured = np.array([-0.5, -0.5])
    assert scene.say(NODE, 1.0, epoch=2) == pytest.approx(-0.4), "it was moved by hand"


def test_fault_113_positions_that_nobody_measures_are_not_guessed():
    scene = Scene(position_dict(), measured=[0.3, math.nan])
    assert scene.refused(NODE) == "STATE_MISSING"
    assert scene.arbiter.gate.silent and scene.arbiter.owner is None
    scene.measured = np.array([0.3, 0.3])
    assert scene.say(NODE, 0.3) == 0.3


def test_fault_117_a_takeover_goes_on_from_what_was_sent_not_from_what_is_measured():
    scene = Scene(position_dict(rate=2.0), measured=[0.0, 0.0])
    for _ in range(5):
        sent = scene.say(NODE, 1.0)
        scene.wait(T)
    scene.measured = np.array([math.nan, math.nan])
    assert scene.say(HUMAN, 1.0) == pytest.approx(sent + 0.1)


def test_measured_positions_are_young_and_finite_or_unknown():
    measured = MeasuredPositions(contract(position_dict()))
    (source,) = measured.sources
    limit = round(contract(position_dict()).max_age(source) * 1e9)
    assert np.isnan(measured.at(START)).all()
    good = np.arange(1.0, 1.0 + len(source.labels))
    measured.push(source, START, START, good)
    known = measured.at(START + limit - 1_000_000)
    assert np.isfinite(known).all()
    assert np.isnan(measured.at(START + limit + 1_000_000)).all(), "too old"
    assert np.isnan(measured.at(START - 200_000_000)).all(), "from the future"
    bad = good.copy()
    bad[int(np.flatnonzero(good == known[0])[0])] = math.inf
    measured.push(source, START, START, bad)
    assert math.isnan(measured.at(START)[0]) and measured.at(START)[1] == known[1]


def test_who_commands_by_velocity_needs_no_state():
    measured = MeasuredPositions(contract(velocity_dict()))
    assert measured.sources == []
    assert np.isnan(measured.at(START)).all()


def test_fault_132_a_stamp_ahead_makes_no_measured_position_younger():
    measured = MeasuredPositions(contract(position_dict()))
    (source,) = measured.sources
    limit = round(contract(position_dict()).max_age(source) * 1e9)
    good = np.arange(1.0, 1.0 + len(source.labels))
    measured.push(source, START + 90_000_000, START, good)
    assert np.isfinite(measured.at(START + limit - 1)).all()
    assert np.isnan(measured.at(START + limit + 1)).all()
    measured.push(source, START + SECOND, START + 1, good)
    assert np.isnan(measured.at(START + SECOND)).all(), "of another clock"
