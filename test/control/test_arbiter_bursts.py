"""Bursts of candidates: what may change is what time has passed, whatever moment they are meant for.

Pinned: three periods of change within two nanoseconds, since each candidate was meant for a later
tick; limits that are eaten by the jitter of an honest owner's transport.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import SCALE, START, contract, velocity_dict

from qgf_ros.control.arbiter import Arbiter, Moment
from qgf_ros.control.gate import Candidate, Refused

T = 50_000_000  # ns
RATE = 10.0  # per s: 0.5 in a period
STEADY = 7_000_000_000


class Owner:
    """Sends candidates to an arbiter of its own, and writes down what went out and when."""

    def __init__(self, simulated=False):
        config = velocity_dict(rate=RATE)
        self.arbiter = Arbiter(contract(config), ("/qgf",), simulated=simulated)
        self.now = Moment(START, STEADY)
        self.sequence = 0
        self.sent = []  # (steady ns, value)

    def wait(self, ns, speed=1.0):
        self.now = Moment(self.now.control + round(ns * speed), self.now.steady + ns)

    def say(self, value, ahead=0, epoch=1, hold=False):
        """Offers a candidate to be executed `ahead` ns from now. Returns what went out."""
        self.sequence += 1
        at = self.now.control + ahead
        names, values = ((), np.empty(0)) if hold else (("arm.a", "arm.b"), np.full(2, value))
        c = Candidate("/qgf", self.sequence, epoch, at, at, at + 4 * T, names, values)
        return self._out(self.arbiter.offer("/qgf", c, self.now, np.full(2, np.nan)))

    def watch(self):
        return self._out(self.arbiter.watch(self.now))

    def _out(self, output):
        if output is None or output.values is None:
            return None
        self.sent.append((self.now.steady, float(output.values[0])))
        return float(output.values[0])


def test_fault_126_a_burst_that_is_meant_for_later_moves_no_more_than_one():
    owner = Owner()
    for k in range(3):
        assert owner.say(2.0, ahead=k * T) == pytest.approx(0.5), "0.5 is a period's change"
        owner.wait(1)
    owner.wait(3 * T)
    assert owner.say(2.0) == pytest.approx(1.0), "its ticks and the clock have gone on"


@pytest.mark.parametrize("ahead", [0, 1, T, 2 * T])
def test_fault_126_after_a_hold_a_burst_goes_on_from_what_the_hold_has_used(ahead):
    owner = Owner()
    for _ in range(4):
        owner.say(2.0)
        owner.wait(T)
    owner.wait(T)
    braked = owner.watch()
    assert braked == pytest.approx(1.5)
    assert owner.say(2.0, ahead) <= braked + RATE * T * 1e-9 + 1e-9, (
        "a hold leaves what it had not used"
    )
    for _ in range(5):
        assert owner.say(2.0, ahead) <= braked + RATE * T * 1e-9 + 1e-9


def test_fault_126_a_burst_brakes_no_harder_than_the_contract_says():
    owner = Owner()
    for _ in range(4):
        last = owner.say(2.0)
        owner.wait(T)
    for k in range(3):
        value = owner.say(0.0, ahead=k * T, hold=True)
    assert value == pytest.approx(last - 0.5)


@settings(max_examples=60 * SCALE, deadline=None)
@given(jitter=st.lists(st.integers(0, T - 1), min_size=3, max_size=40), seed=st.integers(0, 99))
def test_fault_126_an_honest_owner_loses_nothing_to_its_transports_jitter(jitter, seed):
    """To the last bit, as long as its first candidate was not the slowest of all."""
    rng = np.random.default_rng(seed)
    wanted = rng.uniform(-4, 4, len(jitter))
    straight, late = Owner(), Owner()
    for k, (value, by) in enumerate(zip(wanted, [0, *jitter[1:]])):
        straight.now = Moment(START + k * T, STEADY + k * T)
        late.now = Moment(START + k * T + by, STEADY + k * T + by)
        assert straight.say(value) == late.say(value, ahead=-by)


def test_fault_126_a_first_candidate_that_was_slow_costs_its_lateness_once():
    owner, by = Owner(), 20_000_000
    owner.wait(by)
    values = [owner.say(2.0, ahead=-by)]
    owner.wait(T - by)
    for _ in range(3):
        values.append(owner.say(2.0))
        owner.wait(T)
    behind = RATE * by * 1e-9
    assert values == pytest.approx([0.5, 1.0 - behind, 1.5 - behind, 2.0 - behind])


DEEDS = st.lists(
    st.tuples(
        st.integers(0, 2) | st.integers(0, T // 3) | st.integers(0, 3 * T),  # ns until then
        st.sampled_from(["say", "say", "say", "hold", "watch", "epoch"]),
        st.floats(-4, 4),
        st.integers(-2 * T, 2 * T),
    ),
    min_size=2,
    max_size=60,
)


@settings(max_examples=150 * SCALE, deadline=None)
@given(deeds=DEEDS, simulated=st.booleans())
def test_fault_126_whatever_is_offered_no_more_changes_than_what_has_passed_and_a_period(
    deeds, simulated
):
    owner, epoch = Owner(simulated), 1
    for pause, deed, value, ahead in deeds:
        owner.wait(pause)
        epoch += deed == "epoch"
        try:
            if deed == "watch":
                owner.watch()
            else:
                owner.say(value, ahead, epoch, hold=deed == "hold")
        except Refused:
            pass
    for i, (at, before) in enumerate(owner.sent):
        for then, after in owner.sent[i:]:
            assert abs(after - before) <= RATE * (then - at + T) * 1e-9 + 1e-9


@settings(max_examples=60 * SCALE, deadline=None)
@given(burst=st.lists(st.integers(-2 * T, 2 * T), min_size=2, max_size=20))
def test_fault_126_out_of_rest_all_of_a_burst_is_one_period(burst):
    owner = Owner()
    for ahead in burst:
        owner.say(4.0, ahead)
        owner.wait(1)
    assert max(value for _, value in owner.sent) <= 0.5 + RATE * len(burst) * 1e-9 + 1e-12


def test_fault_126_a_simulated_clock_that_is_set_gives_no_more_than_has_passed_on_the_steady_one():
    owner = Owner(simulated=True)
    for _ in range(3):
        last = owner.say(2.0)
        owner.wait(T)
    for leap in (5, -300, 300):
        owner.now = Moment(owner.now.control + leap * 1_000_000_000, owner.now.steady + 1)
        value = owner.say(-4.0)
        assert math.isfinite(value)
    assert value >= last - RATE * (2 * T + 3) * 1e-9
