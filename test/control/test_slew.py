"""The guidance weight on its way, and the warning where guidance drives into the limits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE, SECOND, START, Rig, constant, contract, position_dict

from qgf_ros.control.saturation import SaturationWatch
from qgf_ros.control.slew import BetaSlew

FLOOR = 0.01  # of qgf_make's policy
T = SECOND // 20


def weights(slew, targets, seconds, step=SECOND // 10):
    now = START
    for target in targets:
        yield 1 / slew(now, target, FLOOR, seconds)
        now += step


def test_the_first_target_applies_at_once():
    assert BetaSlew()(START, 0.05, FLOOR, 0.5) == 0.05


def test_fault_029_from_infinity_to_the_floor_takes_the_whole_time():
    got = list(weights(BetaSlew(), [math.inf] + [FLOOR] * 7, 0.5))
    assert got == pytest.approx([0, 20, 40, 60, 80, 100, 100, 100])


def test_fault_029_and_back_again_ends_unguided():
    got = list(weights(BetaSlew(), [FLOOR] + [math.inf] * 6, 0.5))
    assert got == pytest.approx([100, 80, 60, 40, 20, 0, 0]) and got[-1] == 0


def test_zero_is_at_once_and_the_value_is_the_one_that_was_set():
    slew = BetaSlew()
    for target in (math.inf, 0.014, 0.3, FLOOR):
        assert slew(START, target, FLOOR, 0.0) == target


def test_fault_020_029_a_clock_that_goes_back_moves_nothing():
    slew = BetaSlew()
    slew(START, 1.0, FLOOR, 0.5)
    assert slew(START - SECOND, FLOOR, FLOOR, 0.5) == 1.0


def test_fault_029_118_a_floor_that_was_raised_holds_at_once():
    """Another policy's floor is higher than the beta in effect: no sample goes below it, however
    slowly the weight moves."""
    slew = BetaSlew()
    slew(START, FLOOR, FLOOR, 60.0)
    now = START + SECOND // 10
    assert slew(now, math.inf, 10 * FLOOR, 60.0) == 10 * FLOOR
    assert 10 * FLOOR < slew(now + SECOND // 10, math.inf, 10 * FLOOR, 60.0) < math.inf


def test_fault_029_what_was_forgotten_is_not_slewed_from():
    slew = BetaSlew()
    slew(START, math.inf, FLOOR, 0.5)
    slew.forget()
    assert slew(START + 1, FLOOR, FLOOR, 0.5) == FLOOR


@settings(max_examples=200 * SCALE, deadline=None)
@given(
    st.lists(st.sampled_from([FLOOR, 0.02, 0.3, 5.0, 1e6, math.inf]), min_size=2, max_size=20),
    st.floats(0.01, 60.0),
)
def test_fault_029_no_step_is_larger_than_its_share(targets, seconds):
    slew, before, now = BetaSlew(), None, START
    for target in targets:
        beta = slew(now, target, FLOOR, seconds)
        assert beta >= FLOOR
        if before is not None:
            assert abs(1 / beta - before) <= 0.25 / seconds / FLOOR * (1 + 1e-9)
        before, now = 1 / beta, now + SECOND // 4


def test_fault_029_the_core_slews_while_it_runs_and_says_so():
    rig = Rig(beta=math.inf)
    rig.set(slew=0.5)
    rig.step(6)
    rig.set(beta=FLOOR)
    rig.step(20)
    betas = [t.sampled.beta for t in rig.ticks if t.sampled]
    asked = [weight for _, _, weight in rig.sampler.calls]
    assert [1 / b for b in betas] == pytest.approx(asked)
    assert asked == pytest.approx([0, 0, 50, 100, 100, 100])  # a chunk every 0.25 s
    assert rig.core.beta == FLOOR


def test_an_epoch_that_begins_from_rest_begins_at_the_target():
    rig = Rig(beta=math.inf)
    rig.set(slew=60.0)
    rig.step(6)
    rig.core.enable(False)
    rig.step(40)
    rig.set(beta=FLOOR)
    assert rig.core.beta == FLOOR, "nothing moves: it is what will hold"
    rig.core.enable(True)
    rig.step(20)
    assert rig.ticks[-1].state.name == "RUN"
    assert rig.sampler.calls[-1][2] == 1 / FLOOR


# Saturation.


def test_fault_028_the_watch_counts_the_last_second():
    watch = SaturationWatch(0.05)
    said = [watch(START + k * T, k % 5 == 0) for k in range(40)]
    assert not any(said), "20 % is allowed"
    said = [watch(START + (40 + k) * T, True) for k in range(20)]
    assert said.index(True) <= 5 and all(said[5:])
    said = [watch(START + (60 + k) * T, False) for k in range(40)]
    assert said[0] and not said[20]


def test_fault_020_028_a_clock_that_goes_back_forgets_what_it_counted():
    """Hits that lie in the future would count for ever, or until the clock is there again."""
    watch = SaturationWatch(0.05)
    for k in range(10):
        watch(START + k * T, True)
    assert watch(START + 10 * T, False)
    assert not watch(START - 100 * T, False)
    said = [watch(START - (99 - k) * T, True) for k in range(5)]
    assert said == [False] * 4 + [True], "it counts anew from there"


def codes(rig):
    return {problem.code for problem in rig.core.notices.current(rig.now)}


@pytest.mark.parametrize("beta, warned", [(0.1, True), (math.inf, False)])
def test_fault_028_a_guided_robot_at_its_limits_is_said(beta, warned):
    swing = lambda k, honest: constant([(-1.0) ** k] * 2)(k, honest)  # noqa: E731
    rig = Rig(contract(position_dict(rate=0.5)), plan=swing, beta=beta)
    rig.step(30)
    assert np.mean([t.output.limited for t in rig.ticks]) > 0.5
    assert ("GUIDANCE_SATURATED" in codes(rig)) is warned


def test_fault_028_within_the_limits_nothing_is_said():
    rig = Rig(plan=constant([0.1, 0.1]))
    rig.step(60)
    assert not codes(rig) & {"GUIDANCE_SATURATED"}
