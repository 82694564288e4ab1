"""The gate: what leaves it is within limits and rate, finite, and stops when nothing good comes."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import (
    SCALE,
    SECOND,
    START,
    Rig,
    constant,
    contract,
    position_dict,
    twist_dict,
    velocity_dict,
)

from qgf_ros.control.gate import STOP_STREAM, Candidate, Gate
from qgf_ros.control.supervisor import State

T = 50_000_000  # ns
NAMES = ("arm.a", "arm.b")


def candidate(values, now=START, sequence=1, epoch=0, deadline=None, names=NAMES, owner="qgf"):
    deadline = now + 2 * T if deadline is None else deadline
    values = np.array(values, float) if isinstance(values, (list, tuple)) else values
    return Candidate(owner, sequence, epoch, now, now, deadline, names, values)


def velocity_gate(rate=80.0):
    return Gate(contract(velocity_dict(rate=rate)))


def position_gate(rate=2.0, measured=(0.0, 0.0)):
    gate = Gate(contract(position_dict(rate=rate)))
    gate.begin_epoch(0, None if measured is None else np.array(measured))
    return gate


def test_good_candidate_passes_unchanged():
    out = velocity_gate().step(START, candidate([1.0, -0.5]))
    assert (
        out.values.tolist() == [1.0, -0.5]
        and out.admitted
        and not out.limited
        and out.refused is None
    )


def test_fault_067_range_and_rate_limit_and_say_so():
    gate = velocity_gate(rate=10.0)  # 0.5 per period
    out = gate.step(START, candidate([5.0, 0.2]))
    assert out.values.tolist() == [0.5, 0.2] and out.limited and gate.limit_hits == 1
    out = gate.step(START + T, candidate([5.0, -5.0], START + T, 2))
    assert np.allclose(out.values, [1.0, -0.3]) and gate.limit_hits == 2
    for k in range(2, 10):
        out = gate.step(START + k * T, candidate([5.0, -5.0], START + k * T, k + 1))
    assert out.values.tolist() == [2.0, -2.0]


REFUSALS = {
    "EPOCH": {"epoch": 4},
    "SEQUENCE": {"sequence": 0},
    "DEADLINE": {"deadline": START + T - 1},
    "NAMES": {"names": ("arm.b", "arm.a")},
    "NONFINITE": {"values": np.array([np.nan, 99.0])},
    "RANGE": {"values": np.array([0.1, 6.1])},
}


def refusable(gate, **wrong):
    gate.begin_epoch(5, None)
    gate.step(START, candidate([0.1, 0.1], sequence=1, epoch=5))
    fields = {"values": np.array([0.2, 0.2]), "now": START + T, "sequence": 2, "epoch": 5} | wrong
    return gate.step(START + T, candidate(**fields))


@pytest.mark.parametrize("code", REFUSALS)
def test_fault_075_each_check_refuses_and_names_itself(code):
    out = refusable(velocity_gate(), **REFUSALS[code])
    assert out.refused.code == code and not out.admitted
    assert out.values.tolist() == [0, 0], "the refused tick ramps towards zero"


@pytest.mark.parametrize(
    "first,second", [(a, b) for i, a in enumerate(REFUSALS) for b in list(REFUSALS)[i + 1 :]]
)
def test_fault_075_order_of_the_checks(first, second):
    out = refusable(velocity_gate(), **REFUSALS[second] | REFUSALS[first])
    assert out.refused.code == first


def test_fault_075_sequence_is_judged_against_the_last_that_passed():
    gate = velocity_gate()
    gate.step(START, candidate([0.1, 0.1], sequence=7))
    for stale in (7, 6, 0, -1):
        assert gate.step(START, candidate([0.1, 0.1], sequence=stale)).refused.code == "SEQUENCE"
    gate.step(START, candidate([0.1, 0.1], sequence=9, epoch=1))
    gate.step(START, candidate([np.nan, 0.1], sequence=50))
    assert gate.step(START, candidate([0.1, 0.1], sequence=8)).admitted, (
        "a refused one does not count"
    )


def test_fault_075_deadline_itself_is_in_time():
    assert velocity_gate().step(START, candidate([0.1, 0.1], deadline=START)).admitted


def test_fault_075_older_epoch_refused_after_reset_and_newer_before():
    gate = velocity_gate()
    assert gate.step(START, candidate([0.1, 0.1], epoch=1)).refused.code == "EPOCH"
    gate.begin_epoch(1, None)
    assert gate.step(START, candidate([0.1, 0.1], epoch=0)).refused.code == "EPOCH"
    assert gate.step(START, candidate([0.1, 0.1], epoch=1)).admitted


@pytest.mark.parametrize("names,values", [
    (("arm.a",), [0.1]), ((), [0.1]), (NAMES, []), ((), None), (("arm.a", "arm.b", "arm.c"), [0.1, 0.1, 0.1]), (NAMES, [0.1]), (NAMES, [0.1] * 3),
    (NAMES, np.zeros((2, 1))), (NAMES, np.float64(0.1)), (NAMES, None), (("a", "b"), [0.1, 0.1]),
])  # fmt: skip
def test_fault_057_wrong_names_or_shape_refused(names, values):
    assert velocity_gate().step(START, candidate(values, names=names)).refused.code == "NAMES"


@pytest.mark.parametrize("values", [
    np.array([None, None]), np.array(["1", "2"]), np.array([10**400, 1]), np.array([1 + 1j, 0]), np.array([object(), 1.0]),
])  # fmt: skip
def test_fault_057_wrong_dtype_refused_without_an_exception(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = velocity_gate().step(START, candidate(values))
    assert not out.admitted and out.values is None and out.refused


def test_fault_079_another_owner_is_refused():
    """The docstring's first check: two who command must not both be heard in one epoch."""
    gate = velocity_gate()
    gate.step(START, candidate([0.1, 0.1], owner="qgf", sequence=1))
    assert not gate.step(
        START + T, candidate([2.0, 2.0], START + T, owner="stranger", sequence=2)
    ).admitted


def test_fault_113_nothing_before_the_first_admitted_candidate():
    gate = velocity_gate()
    for k in range(100):
        assert gate.step(START + k * T, None).values is None
        assert gate.step(START + k * T, candidate([np.nan, 0])).values is None
    gate.begin_epoch(1, None)
    assert gate.step(START + T, None).values is None


def test_fault_116_a_new_epoch_goes_on_braking_where_the_old_one_was():
    gate = velocity_gate(rate=10.0)
    for k in range(3):
        gate.step(START + k * T, candidate([1.5, -1.5], START + k * T, k))
    gate.begin_epoch(1, np.array([9.0, 9.0]))
    sent = [gate.step(START + k * T, None).values for k in range(3, 40)]
    assert np.allclose(sent[:3], [[1.0, -1.0], [0.5, -0.5], [0.0, 0.0]])
    assert sent[-1] is None, "and then falls silent"
    out = gate.step(START + 40 * T, candidate([2.0, 2.0], START + 40 * T, epoch=1))
    assert np.allclose(out.values, 0.5), "after the silence from zero"


def test_fault_072_a_tighter_scale_does_not_lengthen_the_braking():
    gate = velocity_gate(rate=10.0)
    for k in range(5):
        gate.step(START + k * T, candidate([2.0, 2.0], START + k * T, k))
    gate.scale = 0.01
    assert np.allclose(gate.step(START + 5 * T, None).values, 1.5)


def test_fault_079_a_later_owner_is_heard_in_the_next_epoch():
    gate = velocity_gate()
    gate.step(START, candidate([0.1, 0.1], owner="a"))
    assert gate.step(START, candidate([0.1, 0.1], owner="b", sequence=2)).refused.code == "OWNER"
    gate.begin_epoch(1, None)
    assert gate.step(START, candidate([0.1, 0.1], owner="b", epoch=1)).admitted


def test_fault_002_hold_ramps_velocity_to_zero_within_the_rate_then_falls_silent():
    gate = velocity_gate(rate=10.0)
    now = START
    for k in range(8):
        now = START + k * T
        gate.step(now, candidate([2.0, -1.0], now, k))
    sent, last = [], np.array([2.0, -1.0])
    for k in range(1, 60):
        out = gate.step(now + k * T, None)
        assert not out.admitted
        if out.values is None:
            break
        assert (np.abs(out.values - last) <= 0.5 + 1e-12).all()
        assert (np.abs(out.values) <= np.abs(last) + 1e-12).all(), "never away from zero"
        sent.append((k, out.values))
        last = out.values
    assert gate.at_rest and last.tolist() == [0, 0]
    assert sent[3][1].tolist() == [0, 0], "2.0 at 0.5 per period takes four"
    assert sent[-1][0] == round(STOP_STREAM * SECOND / T) == 20, "then silence"
    assert all(gate.step(now + k * T, None).values is None for k in range(60, 90))


def test_fault_002_hold_goes_on_until_the_robot_stands():
    """A slow ramp needs longer than the stop stream: who falls silent at speed leaves a robot moving,
    because a velocity controller keeps its last command."""
    gate = velocity_gate(rate=1.0)  # 2 s from full speed
    now = START
    for k in range(41):
        now = START + k * T
        gate.step(now, candidate([2.0, -2.0], now, k))
    last = None
    for k in range(1, 200):
        out = gate.step(now + k * T, None)
        if out.values is not None:
            last = out.values
    assert np.allclose(last, 0), last


def test_fault_002_hold_keeps_the_last_sent_position_and_not_the_measured():
    gate = position_gate()
    for k in range(3):
        gate.step(START + k * T, candidate([0.3, -0.3], START + k * T, k))
    held = [gate.step(START + k * T, None).values for k in range(3, 20)]
    assert all(np.array_equal(h, held[0]) for h in held)
    assert np.allclose(held[0], [0.3, -0.3])


def test_fault_055_refused_candidates_hold_and_fall_silent_too():
    gate = velocity_gate()
    gate.step(START, candidate([1.0, 1.0]))
    outs = [
        gate.step(START + k * T, candidate([np.nan, 1.0], START + k * T, k)) for k in range(2, 40)
    ]
    assert all(str(o.refused) == "NONFINITE: NaN or Inf" and not o.admitted for o in outs)
    assert outs[0].values.tolist() == [0, 0] and outs[-1].values is None


def test_fault_116_first_position_is_limited_from_the_measured():
    out = position_gate(measured=(0.5, -0.5)).step(START, candidate([1.0, 1.0]))
    assert np.allclose(out.values, [0.6, -0.4])


def test_fault_116_measured_outside_the_range_is_led_back_not_jumped():
    gate = position_gate(measured=(3.0, -2.05))
    seen = []
    for k in range(30):
        seen.append(gate.step(START + k * T, candidate([0.0, 0.0], START + k * T, k)).values)
    steps = np.abs(np.diff([np.array([3.0, -2.05]), *seen], axis=0))
    assert (steps <= 0.1 + 1e-9).all() and (np.abs(seen[-1]) < 1.0).all()


def test_fault_116_velocity_starts_from_zero_whatever_is_measured():
    gate = velocity_gate(rate=10.0)
    gate.begin_epoch(0, np.array([1.5, 1.5]))
    assert gate.step(START, candidate([2.0, 2.0])).values.tolist() == [0.5, 0.5]


def test_fault_075_rate_counts_the_time_that_passed_but_never_more_than_a_period():
    gate = velocity_gate(rate=10.0)
    gate.step(START, candidate([0.0, 0.0], sequence=0))
    early = gate.step(START + T // 5, candidate([2.0, 2.0], START + T // 5, 1)).values
    assert np.allclose(early, 0.1), "a fifth of a period, a fifth of the change"
    late = gate.step(START + 40 * T, candidate([2.0, 2.0], START + 40 * T, 2)).values
    assert np.allclose(late, 0.6), "after a pause one period's worth"
    assert np.allclose(
        gate.step(START + 40 * T, candidate([2.0, 2.0], START + 40 * T, 3)).values, 0.6
    )
    back = gate.step(START, candidate([2.0, 2.0], START, 4)).values
    assert np.allclose(back, 0.6), "a clock that goes back allows nothing"


def test_fault_067_output_is_the_callers_own():
    gate = velocity_gate(rate=10.0)
    out = gate.step(START, candidate([0.5, 0.5]))
    out.values[:] = 99.0
    assert (gate.step(START + T, candidate([2.0, 2.0], START + T, 2)).values <= 1.0 + 1e-12).all()


def test_fault_067_scale_tightens_range_and_rate():
    gate = velocity_gate(rate=10.0)
    gate.scale = 0.5
    for k in range(20):
        out = gate.step(START + k * T, candidate([2.0, -2.0], START + k * T, k)).values
        assert k > 0 or np.allclose(out, [0.25, -0.25])
    assert np.allclose(out, [1.0, -1.0])


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.0001, np.nan])
def test_fault_034_a_scale_that_loosens_or_stops_is_refused(scale):
    gate = velocity_gate()
    gate.scale = 0.5
    with pytest.raises(ValueError, match="limits_scale is .*; allowed: above 0, at most 1"):
        gate.scale = scale
    assert gate.scale == 0.5


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_fault_067_scale_that_is_no_scale_sends_nothing_mad(scale):
    """`scale` is set from a live parameter; whatever it holds, finite numbers within limits leave."""
    gate = velocity_gate(rate=10.0)
    gate.step(START, candidate([0.5, 0.5], sequence=0))
    try:
        gate.scale = scale
    except ValueError:
        return
    with np.errstate(all="ignore"):
        for k in range(1, 4):
            out = gate.step(START + k * T, candidate([50.0, 50.0], START + k * T, k))
            assert out.values is None or (
                np.isfinite(out.values).all() and (np.abs(out.values) <= 2).all()
            ), out


def test_fault_067_second_look_at_finite_catches_what_the_limits_made():
    """As if a limit itself had become NaN: the last check before sending is not the first one again."""
    gate = velocity_gate(rate=10.0)
    gate.step(START, candidate([0.4, 0.4], sequence=0))
    gate._limiter = dataclasses.replace(gate._limiter, low=np.full(2, np.nan))
    out = gate.step(START + T, candidate([2.0, 2.0], START + T, 1))
    assert not out.admitted and out.refused.code == "NONFINITE" and out.values.tolist() == [0, 0]


def test_fault_067_masked_and_other_subclasses():
    masked = np.ma.masked_array([np.nan, 0.5], mask=[True, False])
    out = velocity_gate().step(START, candidate(masked))
    assert out.values is None
    matrix = np.asmatrix([[0.1, 0.2]])
    assert velocity_gate().step(START, candidate(matrix)).values is None


NUMBERS = st.one_of(
    st.floats(width=64),
    st.sampled_from(
        [
            np.nan,
            np.inf,
            -np.inf,
            1e308,
            -1e308,
            5e-324,
            -5e-324,
            -0.0,
            2.0,
            -2.0,
            np.nextafter(2, 3),
        ]
    ),
)


@settings(max_examples=300 * SCALE, deadline=None)
@given(
    kind=st.sampled_from(["velocity", "position"]),
    rate=st.floats(1e-3, 1e6),
    start=st.floats(-1, 1),
    steps=st.lists(
        st.tuples(NUMBERS, NUMBERS, st.integers(-(10**8), 10**9), st.integers(-2, 5)),
        min_size=1,
        max_size=15,
    ),
)
def test_fault_067_nothing_outside_limits_leaves_whatever_comes(kind, rate, start, steps):
    """hypothesis finds the corner; test_gate_fuzz.py gives the numbers."""
    own = contract((velocity_dict if kind == "velocity" else position_dict)(rate=rate))
    gate = Gate(own)
    gate.begin_epoch(0, np.array([start, start]))
    check_envelope(gate, 0.0 if kind == "velocity" else start, rate, own.time.period, steps)


def check_envelope(gate, start, rate, period, steps):
    now, last, previous, sequence = START, np.full(2, start), None, 0
    for x, y, wait, ahead in steps:
        now += wait
        sequence += ahead
        out = gate.step(now, candidate(np.array([x, y]), now, sequence))
        if out.values is None:
            continue
        elapsed = period if previous is None else min(max((now - previous) * 1e-9, 0.0), period)
        bound = rate * elapsed
        assert np.isfinite(out.values).all()
        assert (np.abs(out.values) <= 2.0).all()
        assert (np.abs(out.values - last) <= bound * (1 + 1e-9) + 4e-16 * np.abs(last)).all(), (
            out.values,
            last,
            bound,
        )
        last, previous = out.values, now


# A twist and a gripper: two actions, one gate.

TWIST_NAMES = contract(twist_dict()).action_names
MEASURED = np.array([np.nan, np.nan, np.nan, 0.2])  # as the core says it: twists are not measured


def twist_gate(rate=2.0):
    gate = Gate(contract(twist_dict(rate)))
    gate.begin_epoch(0, MEASURED)
    return gate


def test_fault_116_gripper_begins_where_it_is_measured_and_the_twist_at_rest():
    out = twist_gate().step(START, candidate([0.5, -0.5, 1.0, 1.0], names=TWIST_NAMES))
    assert out.values == pytest.approx([0.1, -0.1, 0.1, 0.3]) and out.limited


def test_fault_002_hold_ramps_the_twist_to_zero_and_keeps_the_gripper_where_it_was_sent():
    gate = twist_gate()
    for k in range(4):
        now = START + k * T
        out = gate.step(now, candidate([0.3, 0.0, -1.0, 0.9], now, k + 1, names=TWIST_NAMES))
    assert out.values == pytest.approx([0.3, 0, -0.4, 0.6]), "the gripper is on its way"
    rows = [gate.step(START + k * T, None).values for k in range(4, 9)]
    assert np.array(rows)[:, :3] == pytest.approx(
        np.array([[0.2, 0, -0.3], [0.1, 0, -0.2], [0, 0, -0.1], [0, 0, 0], [0, 0, 0]]), abs=1e-12
    )
    assert [r[3] for r in rows] == pytest.approx([0.6] * 5), "neither opened nor closed any further"
    stream = 5
    while gate.step(START + (stream + 4) * T, None).values is not None:
        stream += 1
    assert stream == pytest.approx(STOP_STREAM * SECOND / T)


def test_fault_055_a_refused_twist_holds_the_gripper_too():
    gate = twist_gate()
    gate.step(START, candidate([0.1, 0, 0, 0.2], names=TWIST_NAMES))
    out = gate.step(START + T, candidate([np.nan, 0, 0, 1.0], START + T, 2, names=TWIST_NAMES))
    assert str(out.refused) == "NONFINITE: NaN or Inf" and out.values == pytest.approx(
        [0, 0, 0, 0.2]
    )


def test_scale_tightens_the_twist_but_not_where_the_gripper_may_go():
    gate = twist_gate(rate=80.0)
    gate.scale = 0.5
    out = gate.step(START, candidate([0.5, -0.5, 1.0, 1.0], names=TWIST_NAMES))
    assert out.values == pytest.approx([0.25, -0.25, 0.5, 1.0])


def running_rig(wish=(0.4, -0.4, 0.8, 0.9)):
    """A core that commands a twist at full tilt and a gripper that closes, seven periods on."""
    rig = Rig(contract(twist_dict()), constant(wish))
    rig.state["gripper"] = np.array([0.1])
    rig.step(7)
    assert rig.ticks[-1].state is State.RUN
    assert rig.sent[0].values == pytest.approx([0.1, -0.1, 0.1, 0.2])
    assert rig.sent[-1].values == pytest.approx([0.4, -0.4, 0.7, 0.8]), "and closing"
    return rig


STOPS = {
    "disable": (lambda rig: rig.core.enable(False), "DISABLED"),
    "estop": (lambda rig: rig.core.estop(), "ESTOP"),
    "stale": (lambda rig: None, "STATE_STALE:tool/pose"),
    "zero quaternion": (
        lambda rig: rig.state.update(tool=np.zeros(6)),
        "STATE_NONFINITE:tool/pose",
    ),
}


@pytest.mark.parametrize("how", STOPS)
def test_fault_002_every_stop_ramps_the_twist_and_keeps_the_gripper(how):
    rig = running_rig()
    stop, code = STOPS[how]
    stop(rig)
    skip = ("tool",) if how == "stale" else ()
    for _ in range(5):
        rig.step(1, skip)
        if rig.ticks[-1].state in (State.HOLD, State.FAULT):
            break
    assert rig.ticks[-1].reason.code_text == code
    first = next(i for i, s in enumerate(rig.sent) if not s.admitted)
    before = rig.sent[first - 1].values
    rig.step(30, skip)
    held = np.array([s.values for s in rig.sent[first:]])
    assert not any(s.admitted for s in rig.sent[first:])
    change = np.abs(np.diff(np.vstack([before, held]), axis=0))
    assert change[:, :3].max() <= 2.0 * 0.05 + 1e-12, "within the rate"
    assert (np.diff(np.abs(np.vstack([before, held])[:, :3]), axis=0) <= 1e-12).all(), "only slower"
    assert held[-1, :3].tolist() == [0, 0, 0] and (held[:, 3] == before[3]).all()
    assert len(held) == round(STOP_STREAM * SECOND / T), "then silence"


def test_fault_116_after_a_silence_the_gripper_begins_where_it_is_now():
    rig = running_rig()
    rig.core.enable(False)
    rig.step(40)
    count = len(rig.sent)
    rig.state["gripper"] = np.array([0.5])  # opened by hand meanwhile
    rig.step(1)
    assert rig.core.enable(True) == ""
    rig.step(1)
    assert rig.sent[count].values == pytest.approx([0.1, -0.1, 0.1, 0.6])
