"""The measured lead of commands over states, on motions whose lead is known."""

import numpy as np
import pytest
from qgf_make import START

from training.pipeline.delay import measured_lead
from training.pipeline.streams import Stream

PERIOD = 0.05


def stream(seconds, values):
    stamp = START + np.round(np.asarray(seconds) * 1e9).astype(np.int64)
    values = np.asarray(values, float)
    return Stream(stamp, stamp, values if values.ndim == 2 else values[:, None])


def motion(t):
    """Two joints that move, one that stands, and one that drifts at one speed."""
    t = np.asarray(t)
    return np.stack(
        [
            np.sin(2 * t) + 0.3 * np.sin(5.3 * t + 1),
            np.cos(1.3 * t) + 0.2 * np.sin(7 * t),
            0 * t,
            t,
        ],
        axis=1,
    )


def recorded(lead, noise=1e-3, seed=0, keep=lambda t: t >= 0):
    """Commands at 20 Hz; states at about 100 Hz that follow them `lead` seconds later."""
    rng = np.random.default_rng(seed)
    told = np.arange(0, 30, PERIOD)
    seen = np.sort(np.arange(0, 30, 0.01) + rng.uniform(0, 0.004, 3000))
    told, seen = told[keep(told)], seen[keep(seen)]
    state = motion(seen - lead) + noise * rng.normal(size=(len(seen), 4))
    return stream(told, motion(told)), stream(seen, state)


@pytest.mark.parametrize("lead", [-0.07, 0.0, 0.013, 0.1, 0.25, 0.6])
def test_lead_is_found_below_a_tenth_of_a_period(lead):
    seconds, correlation = measured_lead(*recorded(lead), PERIOD)
    assert np.abs(seconds[:2] - lead).max() < 0.1 * PERIOD
    assert (correlation[:2] > 0.95).all()


def test_nothing_is_said_of_a_joint_that_stood_or_drifted():
    """A drift alone makes a state like its command at any lag."""
    seconds, correlation = measured_lead(*recorded(0.1), PERIOD)
    assert np.isnan(seconds[2]) and np.isnan(correlation[2])
    assert not correlation[3] > 0.2


@pytest.mark.parametrize("speed", [1.0, 3.0, 6.0])
def test_first_order_lag_is_its_phase(speed):
    """A joint that closes in on a sine with time constant tau is late by atan(w tau) / w."""
    tau, step = 0.1, 0.001
    t = np.arange(0, 40, step)
    told, state = np.sin(speed * t), np.zeros(len(t))
    for k in range(1, len(t)):
        state[k] = state[k - 1] + step / tau * (told[k - 1] - state[k - 1])
    seconds, correlation = measured_lead(
        stream(t[::50], told[::50]), stream(t[1000::10], state[1000::10]), PERIOD
    )
    assert seconds[0] == pytest.approx(np.arctan(speed * tau) / speed, abs=2e-3)
    assert correlation[0] > 0.99


def test_another_joint_is_no_answer():
    told, seen = recorded(0.1)
    _, correlation = measured_lead(
        stream((told.stamp - START) * 1e-9, told.values[:, :1]),
        Stream(seen.stamp, seen.receipt, seen.values[:, 1:2]),
        PERIOD,
    )
    assert not correlation[0] > 0.7


@pytest.mark.parametrize("lost", ["states", "both"])
def test_fault_105_a_gap_does_not_count(lost):
    """Through ten seconds without messages nothing is compared: what is left still says the lead."""
    told, seen = recorded(0.1, keep=lambda t: (t < 10) | (t > 20))
    told = recorded(0.1)[0] if lost == "states" else told
    seconds, correlation = measured_lead(told, seen, PERIOD)
    assert np.abs(seconds[:2] - 0.1).max() < 0.1 * PERIOD and (correlation[:2] > 0.95).all()


def test_fault_096_nan_and_shuffled_arrival_change_nothing():
    told, seen = recorded(0.1)
    expected = measured_lead(told, seen, PERIOD)
    order = np.random.default_rng(2).permutation(len(seen))
    mixed = Stream(seen.stamp[order], seen.receipt[order], seen.values[order])
    assert np.array_equal(expected, measured_lead(told, mixed, PERIOD), equal_nan=True)
    seen.values[::100, 0] = np.nan
    assert np.allclose(expected[0][:2], measured_lead(told, seen, PERIOD)[0][:2], atol=2e-3)


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_too_little_is_nan(count):
    few = stream(0.05 * np.arange(count), np.zeros((count, 2)))
    seconds, correlation = measured_lead(few, few, PERIOD)
    assert np.isnan(seconds).all() and np.isnan(correlation).all() and len(seconds) == 2


def test_numbers_that_are_all_nan_or_at_one_stamp_are_no_crash():
    bad = stream(0.05 * np.arange(100), np.full((100, 1), np.nan))
    assert np.isnan(measured_lead(bad, bad, PERIOD)[0]).all()
    once = stream(np.zeros(100), np.arange(100.0))
    assert np.isnan(measured_lead(once, once, PERIOD)[0]).all()


def test_streams_of_other_joints_are_refused():
    told, seen = recorded(0.1)
    with pytest.raises(ValueError, match="4 columns and state 1"):
        measured_lead(told, Stream(seen.stamp, seen.receipt, seen.values[:, :1]), PERIOD)
