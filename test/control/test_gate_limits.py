"""Acceleration and jerk, the three bands, the explicit hold: what the gate makes of a candidate."""

from dataclasses import replace

import numpy as np
import pytest
from qgf_make import (
    SECOND,
    START,
    Rig,
    constant,
    contract,
    policy_in_memory,
    position_dict,
    twist_dict,
    velocity_dict,
)

from qgf_ros.control.gate import STANDS_AFTER, STOP_STREAM, Candidate, Gate
from qgf_ros.control.limiter import Limiter, at_rest
from qgf_ros.control.supervisor import State
from qgf_ros.files.share import share_folder
from qgf_ros.policy.folder import load_policy
from qgf_ros.spaces.actions import KINDS

T = SECOND // 20
E = 0.05  # s
NAMES = ("arm.a", "arm.b")


def position_contract(rate=2.0, **later):
    value = position_dict(rate=rate)
    for limit in value["actions"][0]["limits"].values():
        limit.update(later)
    return contract(value)


def velocity_contract(rate=10.0, **later):
    value = velocity_dict(rate=rate)
    for limit in value["actions"][0]["limits"].values():
        limit.update(later)
    return contract(value)


class Drive:
    """A gate on a clock of whole periods; remembers what left it, from where it began."""

    def __init__(self, own, start=(0.0, 0.0)):
        self.gate, self.names = Gate(own), own.action_names
        self.gate.begin_epoch(0, np.array(start, float))
        self.rows = [np.where(own.velocity_like, 0.0, np.array(start, float))]
        self.outs, self.tick = [], 0

    def candidate(self, values, **changes):
        now = START + self.tick * T
        values = np.array(values, float)
        fields = {"owner": "qgf", "sequence": self.tick + 1, "epoch": 0, "stamp": now, "execute_at": now,
                  "deadline": now + T, "names": self.names, "values": values}  # fmt: skip
        return Candidate(**fields | changes)

    def send(self, values=None, times=1, wait=1.0, **changes):
        """`values` None: nothing came."""
        for _ in range(times):
            candidate = None if values is None else self.candidate(values, **changes)
            out = self.gate.step(START + round(self.tick * T), candidate)
            self.outs.append(out)
            if out.values is not None:
                self.rows.append(out.values)
            self.tick += wait
        return out

    @property
    def path(self):
        return np.array(self.rows)

    @property
    def rate(self):
        return np.diff(self.path, axis=0) / E

    @property
    def second(self):
        return np.diff(self.rate, axis=0, prepend=0.0) / E


# Acceleration.


def test_fault_067_acceleration_is_kept_and_the_target_not_overshot():
    drive = Drive(position_contract(acceleration=8.0))
    drive.send([1.0, -0.3], times=60)
    assert np.abs(drive.second).max() <= 8.0 + 1e-9 and np.abs(drive.rate).max() <= 2.0 + 1e-9
    assert np.abs(drive.rate[:3, 0]) == pytest.approx([0.4, 0.8, 1.2]), "as fast as is allowed"
    assert drive.path[-1].tolist() == [1.0, -0.3], "and there it stays"
    assert (np.abs(drive.path) <= [1.0, 0.3]).all(), "never beyond"


def test_fault_067_a_candidate_within_all_limits_passes_unchanged():
    drive = Drive(position_contract(acceleration=8.0, jerk=5.0))
    for k in range(60):  # at its edge 1.2 in velocity and acceleration, 2.4 in jerk
        wanted = 0.3 * (2 * k * E - np.sin(2 * k * E)) * np.array([1, -1])
        out = drive.send(wanted)
        assert out.values == pytest.approx(wanted, abs=1e-15) and not out.limited
    assert drive.gate.limit_hits == 0


def test_fault_067_so_does_a_first_step_that_can_be_taken_at_once():
    out = Drive(position_contract(acceleration=8.0)).send([0.015, -0.0199])
    assert out.values.tolist() == [0.015, -0.0199] and not out.limited


def test_fault_067_rounding_leads_nothing_out_of_the_range():
    rng = np.random.default_rng(0)
    high, none = rng.uniform(0.1, 3, 500), np.full(500, np.inf)
    limiter = Limiter(-high, high, 3 * high, rng.uniform(1, 9, 500), none, np.zeros(500, bool))
    motion = at_rest(np.zeros(500))
    for _ in range(200):
        motion = limiter.follow(motion, 2 * high, E * rng.uniform(0.5, 1))
        assert (motion.value <= high).all()


def test_fault_067_it_can_always_stop_before_the_range_ends():
    """Straight at the end at full speed, and at each tick a hold instead."""
    for ticks in range(1, 40):
        drive = Drive(position_contract(acceleration=2.0), (1.0, -1.0))
        drive.send([2.0, -2.0], times=ticks)
        drive.send(None, times=60)
        assert np.abs(drive.path).max() <= 2.0
        assert np.abs(drive.second).max() <= 2.0 + 1e-9, "and no braking is harder"


def test_fault_067_the_end_of_the_range_is_reached():
    drive = Drive(position_contract(acceleration=2.0))
    drive.send([2.0, -2.0], times=100)
    assert drive.path[-1] == pytest.approx([2.0, -2.0], abs=1e-9) and drive.path.max() <= 2.0


def test_fault_002_a_position_hold_slows_down_within_its_acceleration_and_stays():
    drive = Drive(position_contract(acceleration=8.0))
    drive.send([2.0, -2.0], times=6)
    assert np.abs(drive.rate[-1]) == pytest.approx(2.0)
    drive.send(None, times=40)
    held = drive.path[7:]
    assert np.abs(drive.rate[6:11, 0]) == pytest.approx([1.6, 1.2, 0.8, 0.4, 0.0])
    assert (held[4:] == held[4]).all(), "chosen once, and kept"
    assert len(held) == pytest.approx(STOP_STREAM / E) and drive.gate.silent


@pytest.mark.parametrize("ticks", [20_000, -20_000])
def test_fault_020_021_a_clock_that_jumps_does_not_stop_the_brakes(ticks):
    drive = Drive(position_contract(acceleration=8.0))
    drive.send([2.0, -2.0], times=6)
    drive.gate.clock_jumped()
    drive.tick += ticks
    drive.send(None, times=5)
    assert np.abs(drive.rate[6:11, 0]) == pytest.approx([1.6, 1.2, 0.8, 0.4, 0.0])


def test_fault_072_the_very_last_word_is_standing_still():
    drive = Drive(velocity_contract(rate=0.4))
    drive.send([1.0, -1.0], times=50)
    assert drive.gate.brake(START + 50 * T).values[0] > 0.5
    output = drive.gate.stop(START + 51 * T)
    assert output.values.tolist() == [0, 0] and drive.gate.at_rest


def test_fault_002_silence_waits_until_a_position_stands():
    drive = Drive(position_contract(acceleration=0.5))
    drive.send([2.0, 2.0], times=30)  # to 0.75: stopping takes 1.5 s
    assert not drive.gate.at_rest
    drive.send(None, times=100)
    assert drive.gate.at_rest and drive.gate.silent
    assert drive.rate[-1].tolist() == [0, 0] and np.abs(drive.second).max() <= 0.5 + 1e-9
    assert len(drive.path) == 1 + 30 + 30


def test_fault_116_a_hold_never_aims_at_what_is_measured():
    drive = Drive(position_contract(acceleration=8.0))
    drive.send([1.0, 1.0], times=4)
    drive.gate.begin_epoch(1, np.array([-1.0, -1.0]))
    before = drive.path[-1]
    drive.send(None, times=10)
    assert (drive.path[-1] > before).all()


def test_fault_116_led_back_into_the_range_within_the_acceleration():
    drive = Drive(position_contract(acceleration=8.0), (2.5, -3.0))
    drive.send([0.0, 2.0], times=80)
    assert np.abs(drive.second).max() <= 8.0 + 1e-9 and np.abs(drive.rate).max() <= 2.0 + 1e-9
    assert (drive.path[1:, 0] <= 2.5).all() and (drive.path[1:, 1] >= -3.0).all(), (
        "never further out"
    )
    assert drive.path[-1] == pytest.approx([0.0, 2.0], abs=1e-9)


def test_fault_116_a_hold_outside_the_range_stays_there():
    drive = Drive(position_contract(acceleration=8.0), (2.5, -3.0))
    drive.send([0.0, 0.0], times=2)
    drive.send(None, times=10)
    assert 2.0 < drive.path[-1][0] < 2.5 and (drive.rate[-3:] == 0).all()


def test_fault_075_after_a_pause_it_starts_from_rest():
    """What followed the last command stands by now: no step at the speed of then."""
    drive = Drive(position_contract(acceleration=8.0))
    drive.send([2.0, 2.0], times=5)
    drive.tick += STANDS_AFTER
    drive.send([2.0, 2.0])
    assert drive.rate[-2][0] == pytest.approx(2.0) and drive.rate[-1][0] == pytest.approx(0.4)
    drive.tick += STANDS_AFTER - 1
    drive.send([2.0, 2.0])
    assert drive.rate[-1][0] == pytest.approx(0.8), "a tick that was late is no pause"


def test_fault_021_a_clock_that_stands_allows_nothing():
    drive = Drive(position_contract(acceleration=8.0))
    drive.send([2.0, 2.0], times=3)
    assert drive.send([2.0, 2.0], wait=0).admitted
    assert drive.send([2.0, 2.0], wait=0, sequence=50).admitted
    assert drive.path[-1].tolist() == drive.path[-2].tolist()
    drive.tick += 1
    drive.send([2.0, 2.0], sequence=60)
    assert drive.rate[-1][0] == pytest.approx(2.0), "and then it goes on as it was moving"


def test_fault_067_it_never_runs_away_from_a_target_that_jumped_nearer():
    drive = Drive(position_contract(acceleration=8.0))
    drive.send([1.9, -1.9])
    before = drive.path[-1]
    drive.send([0.6, -0.6], times=3)
    assert (np.diff(np.abs(drive.path[1:]), axis=0) > 0).all() and np.abs(before).max() < 0.6


def test_fault_022_a_hold_on_a_clock_that_stands_changes_nothing():
    value = position_dict()
    value["actions"][0]["limits"]["a"] |= {"acceleration": 8.0}
    drive = Drive(contract(value))
    drive.send([1.0, 1.0], times=4)
    drive.tick -= 1
    out = drive.send(None, times=3, wait=0)
    assert (out.values == drive.path[4]).all() and not drive.gate.at_rest


def test_fault_072_brake_needs_no_clock():
    drive = Drive(position_contract(acceleration=8.0))
    drive.send([2.0, 2.0], times=5)
    rows = [drive.gate.brake(START).values for _ in range(8)]
    assert np.diff(rows, axis=0)[:4, 0] == pytest.approx(np.array([1.2, 0.8, 0.4, 0.0]) * E)
    assert drive.gate.at_rest


# Jerk.


def test_fault_067_jerk_is_kept_on_the_way_and_never_in_a_hold():
    drive = Drive(position_contract(acceleration=8.0, jerk=40.0))
    drive.send([1.0, -1.0], times=60)
    third = np.diff(drive.second, axis=0, prepend=0.0) / E
    assert np.abs(third).max() <= 40.0 * (1 + 1e-6)
    assert np.abs(drive.second[:4, 0]) == pytest.approx([2, 4, 6, 8]), "as soon as is allowed"
    assert drive.path[-1] == pytest.approx([1.0, -1.0], abs=1e-3)
    assert np.abs(drive.path).max() <= 1.01
    drive = Drive(position_contract(acceleration=8.0, jerk=40.0))
    drive.send([2.0, 2.0], times=12)
    drive.send(None, times=2)
    assert drive.second[-2:, 0] == pytest.approx([-8.0, -8.0]), "it brakes with all it has, at once"


def test_fault_067_jerk_is_kept_where_the_rate_ends_too():
    drive = Drive(position_contract(acceleration=8.0, jerk=40.0), (-2.0, 2.0))
    drive.send([0.9, -0.9], times=60)
    assert np.abs(drive.rate).max() == pytest.approx(2.0, abs=0.05), "at full speed on the way"
    third = np.diff(drive.second, axis=0, prepend=0.0) / E
    assert np.abs(third).max() <= 40.0 * (1 + 1e-6)


def test_fault_067_jerk_yields_to_the_end_of_the_range():
    drive = Drive(position_contract(acceleration=8.0, jerk=1.0), (1.9, -1.9))
    drive.send([2.0, -2.0], times=100)
    assert np.abs(drive.path).max() <= 2.0 and np.abs(drive.second).max() <= 8.0 + 1e-9


def test_fault_067_jerk_of_a_velocity():
    drive = Drive(velocity_contract(rate=10.0, jerk=50.0))
    drive.send([2.0, -2.0], times=40)
    assert drive.rate[:3, 0] == pytest.approx([2.5, 5.0, 7.5])
    assert np.abs(drive.second).max() <= 50.0 + 1e-6 and np.abs(drive.path).max() <= 2.0
    assert drive.path[-1] == pytest.approx([2.0, -2.0])
    drive.send(None)
    assert drive.rate[-1] == pytest.approx([-10.0, 10.0]), "a stop takes no account of it"
    drive.send([2.0, -2.0])
    assert drive.rate[-1] == pytest.approx([2.5, -2.5]), "and begins anew after it"


def test_fault_067_no_limits_make_it_swing_about_its_target():
    """From rest to a step: with any acceleration and jerk it comes to stand on it."""
    to_rate, to_second, step = (
        a.ravel()
        for a in np.meshgrid(
            [1, 2, 3.3, 10, 30], [0, 0.3, 1, 1.5, 2, 2.7, 4, 7], [0.01, 0.1, 0.5, 2]
        )
    )  # ticks to full rate, ticks to full acceleration, distance
    one, second = np.ones(len(step)), 1 / (to_rate * E)
    with np.errstate(divide="ignore"):
        third = second / (to_second * E)
    limiter = Limiter(-9 * one, 9 * one, one, second, third, np.zeros(len(step), bool))
    motion, beyond = at_rest(0 * one), 0 * one
    for _ in range(300):
        motion = limiter.follow(motion, step, E)
        beyond = np.maximum(beyond, motion.value - step)
    assert np.abs(motion.value - step).max() < 1e-6 and np.abs(motion.rate).max() < 1e-6
    assert beyond[to_second == 0].max() <= 1e-12, "not beyond it without a limit of jerk"
    assert beyond.max() <= E, "and by a tick's way at most with one"


# `limits_scale`.


def test_fault_067_scale_tightens_acceleration_of_commands_but_not_braking():
    drive = Drive(position_contract(acceleration=8.0))
    drive.gate.scale = 0.5
    drive.send([2.0, -2.0], times=6)
    assert np.abs(drive.rate[:, 0]) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    drive.send(None, times=3)
    assert drive.rate[-3:, 0] == pytest.approx([0.6, 0.2, 0.0])


def test_fault_067_scale_tightened_at_speed_keeps_the_range_and_the_acceleration():
    for ticks in range(5, 30):
        drive = Drive(position_contract(acceleration=2.0), (1.0, -1.0))
        drive.send([2.0, -2.0], times=ticks)
        drive.gate.scale = 0.1
        drive.send([2.0, -2.0], times=40)
        assert np.abs(drive.path).max() <= 2.0 and np.abs(drive.second).max() <= 2.0 + 1e-9
        assert np.abs(drive.rate[-1]).max() <= 0.2 + 1e-9


# Without the later limits.


def test_fault_067_without_the_later_limits_nothing_else_is_limited():
    """The rule of a rate alone, step by step; a hold stays where it was sent."""
    rng = np.random.default_rng(0)
    drive = Drive(position_contract(rate=2.0), (0.5, -0.5))
    want = np.array([0.5, -0.5])
    for _ in range(300):
        wanted = rng.uniform(-4, 4, 2) if rng.random() < 0.9 else None
        out = drive.send(wanted)
        if wanted is not None:
            want = np.clip(np.clip(wanted, -2, 2), want - 2.0 * E, want + 2.0 * E)
        assert out.values.tolist() == want.tolist()


def test_fault_067_one_limited_number_leaves_the_others_alone():
    value = position_dict()
    value["actions"][0]["limits"]["a"] |= {"acceleration": 8.0}
    drive = Drive(contract(value))
    drive.send([2.0, 2.0], times=2)
    assert drive.rate == pytest.approx(np.array([[0.4, 2.0], [0.8, 2.0]]))
    drive.send(None)
    assert drive.rate[-1] == pytest.approx([0.4, 0.0])


# Rows 28 and 29, the gate's side.


@pytest.mark.parametrize("later", [{}, {"acceleration": 8.0}, {"acceleration": 8.0, "jerk": 40.0}])
def test_fault_029_a_step_of_what_is_asked_is_no_step_of_what_is_sent(later):
    """As when beta falls from infinity to its floor: from one end to the other between two ticks."""
    drive = Drive(position_contract(rate=2.0, **later))
    drive.send([0.05, -0.05], times=10)
    drive.send([2.0, -2.0], times=40)
    assert (np.abs(np.diff(drive.path, axis=0)) <= 2.0 * E + 1e-12).all()
    assert drive.outs[10].limited and drive.path[-1] == pytest.approx([2.0, -2.0], abs=1e-2)
    assert not later or np.abs(drive.second).max() <= 8.0 + 1e-9


def test_fault_028_saturated_actions_stay_inside_and_are_counted():
    rig = Rig(contract(velocity_dict(rate=10.0)), constant([1.0, -1.0]))
    rig.policy.normalizer.action_half_range[:] = 2.5  # what data was: wider than the limits
    rig.core.gate.expect([-2.5, -2.5], [2.5, 2.5])
    rig.step(40)
    numbers = np.array([s.values for s in rig.sent])
    assert np.abs(numbers).max() == 2.0 and len(numbers) == 40
    assert all(t.output.limited for t in rig.ticks) and rig.core.gate.limit_hits == 40
    assert (np.abs(np.diff(numbers, axis=0)) <= 10.0 * E + 1e-12).all()


# The bands.


@pytest.mark.parametrize("make", [position_dict, velocity_dict])
def test_fault_067_inside_passes_near_is_clamped_and_far_is_refused(make):
    for value, band in ((1.5, "pass"), (2.0, "pass"), (-2.1, "clamp"), (6.0, "clamp"), (-6.001, "refuse"), (1e30, "refuse")):  # fmt: skip
        drive = Drive(contract(make(rate=80.0)))
        drive.send([0.1, 0.1])
        out = drive.send([0.1, value])
        assert out.admitted == (band != "refuse") and out.limited == (band == "clamp")
        if band == "refuse":
            assert out.refused.code == "RANGE" and "arm.b = " in out.refused.detail
            assert "limits -2 to 2" in out.refused.detail
            assert drive.gate.limit_hits == 0
        else:
            assert out.values == pytest.approx([0.1, np.clip(value, -2, 2)])


def test_fault_055_an_absurd_number_holds_the_robot():
    drive = Drive(velocity_contract(rate=10.0))
    drive.send([1.0, 1.0], times=3)
    out = drive.send([1.0, 57.3])
    assert not out.admitted and out.values == pytest.approx([0.5, 0.5])


def test_fault_028_what_a_policy_may_ask_for_is_clamped_however_narrow_the_limits_are():
    """Limits narrowed for a first try must slow a robot down, not stop it for a fault."""
    drive = Drive(position_contract(rate=80.0))
    drive.gate.expect(np.array([-50.0, -1.0]), np.array([50.0, 1.0]))
    assert drive.send([50.0, -1.0]).values.tolist() == [2.0, -1.0]
    assert drive.send([150.0, 0.0]).admitted, "and a width of that beyond"
    assert drive.send([151.0, 0.0]).refused.code == "RANGE"
    assert drive.send([0.0, 7.0]).refused.code == "RANGE", "the other number's band is its own"
    for edge in (-5.9, 5.9):
        assert drive.send([0.0, edge]).admitted, "and what the limits allow is expected too"


@pytest.mark.parametrize("relative", [False, True])
def test_fault_028_no_action_of_a_policy_is_absurd(relative):
    """Through the core: data a hundred times as wide as the limits, wherever the robot is measured."""
    own = position_contract(rate=2.0)
    spread = {"action_center": (150.0, 0.0), "action_half_range": (200.0, 200.0)}
    policy = policy_in_memory(own, normalizer={
        "obs_mean": (0.0,) * 5, "obs_std": (1.0,) * 5, **spread,
        "action_reference": (0.0, 1.0) if relative else (-1.0, -1.0),
    })  # fmt: skip
    for edge in (-1, 1):
        rig = Rig(own, constant([edge, edge]), policy=policy)
        rig.state["joints"] = np.array([2.5, -2.5, 0.0, 0.0])
        rig.step(10)
        assert rig.ticks[-1].state is State.RUN
        assert all(t.output.admitted and not t.output.refused for t in rig.ticks)


@pytest.mark.parametrize("name", ["planar_arm", "ur5e_cube"])
def test_fault_028_no_action_of_a_shipped_policy_is_absurd(name):
    policy = load_policy(share_folder() / "config" / "policies" / name)
    own = policy.contract
    low, high = own.limits[:2]
    for ends in policy.normalizer.action_bounds(low, high):
        gate = Gate(own)  # which was not told what to expect
        gate.begin_epoch(0, (low + high) / 2)
        candidate = Candidate("qgf", 1, 0, START, START, START, own.action_names, ends)
        assert gate.step(START, candidate).refused is None


def test_fault_116_a_position_that_was_never_measured_is_not_sent():
    gate = Gate(position_contract())
    gate.begin_epoch(0, np.array([0.0, np.nan]))
    out = gate.step(START, Candidate("qgf", 1, 0, START, START, START, NAMES, np.zeros(2)))
    assert out.values is None and str(out.refused).startswith("START: where arm.b is")


# The explicit hold.


def test_fault_074_an_explicit_hold_is_obeyed_and_is_no_refusal():
    drive = Drive(velocity_contract(rate=10.0))
    drive.send([1.0, -1.0], times=3)
    out = drive.send([], names=())
    assert not out.admitted and out.refused is None and out.values == pytest.approx([0.5, -0.5])
    out = drive.send([], names=())
    assert out.values == pytest.approx([0.0, 0.0])
    assert drive.send([1.0, -1.0]).admitted, "until its owner commands again"


@pytest.mark.parametrize("code,changes", [
    ("OWNER", {"owner": "stranger"}), ("EPOCH", {"epoch": 3}), ("SEQUENCE", {"sequence": 1}),
    ("DEADLINE", {"deadline": START}),
])  # fmt: skip
def test_fault_079_an_explicit_hold_must_be_its_owners_and_fresh(code, changes):
    drive = Drive(velocity_contract())
    drive.send([1.0, -1.0], times=3)
    assert drive.send([], names=(), **changes).refused.code == code


def test_fault_075_an_explicit_hold_makes_older_candidates_stale():
    drive = Drive(velocity_contract())
    drive.send([1.0, -1.0], times=3)
    drive.send([], names=(), sequence=9)
    assert drive.send([1.0, -1.0], sequence=8).refused.code == "SEQUENCE"


# The table.


def test_fault_067_each_action_has_its_row():
    twist, grip = contract(twist_dict()).actions
    rows = [contract(position_dict()).actions[0], contract(velocity_dict()).actions[0], twist, grip]
    roller = replace(grip, fields=(), representation="velocity", on_hold="")
    told = ["joint_position", "joint_velocity", "twist", "gripper", "gripper_velocity"]
    assert [a.kind.name for a in [*rows, roller]] == told and set(told) <= {k.name for k in KINDS}
    holds = {"absolute": "hold_last_sent", "velocity": "ramp_to_zero"}
    assert all(a.kind.hold == a.on_hold == holds[a.representation] for a in [*rows, roller])


def test_fault_067_numbers_without_a_limit_of_acceleration_stand_once_they_are_not_commanded():
    """They keep no rate, so that a hold of them ends at once."""
    two, free = np.ones(2), np.full(2, np.inf)
    limiter = Limiter(-two, two, two, free, free, np.zeros(2, bool))
    last = at_rest(np.zeros(2))
    last = limiter.follow(last, np.array([0.5, 0.5]), 0.1)
    assert last.value.tolist() == [0.1, 0.1] and last.rate.tolist() == [0.0, 0.0]
    assert not limiter.moves(last)
    mixed = Limiter(-two, two, two, np.array([np.inf, 100.0]), free, np.zeros(2, bool))
    last = mixed.follow(at_rest(np.zeros(2)), np.array([0.5, 0.5]), 0.1)
    assert last.rate[0] == 0.0 and last.rate[1] > 0


@pytest.mark.parametrize("start", [0.999, 1.5])
def test_fault_067_rounding_leads_nothing_out_of_the_range_or_further_out(start):
    """Whatever a step makes of it: inside it stays inside, outside it goes back."""
    one, far = np.ones(1), np.full(1, 100.0)
    limiter = Limiter(-one, one, far, far, np.full(1, np.inf), np.zeros(1, bool))
    last = at_rest(np.full(1, start))._replace(rate=np.full(1, 3.0))
    assert limiter.hold(last, 0.01).value[0] <= max(1.0, start)
