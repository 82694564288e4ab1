"""The control core on a virtual clock, with a sampler of ours: what is sent, when, and when not."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qgf_make import (
    SCALE,
    SECOND,
    START,
    FakeSampler,
    LateInference,
    Rig,
    constant,
    contract,
    description,
    policy_in_memory,
    position_dict,
    sample_of,
    velocity_dict,
)

from qgf_ros.control.chunk import Chunk, draw_noise
from qgf_ros.control.core import MAX_REUSE
from qgf_ros.control.inference import ThreadInference
from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import State
from qgf_ros.policy.description import Sanity

T = SECOND // 20


def holds(rig):
    """Codes of the HOLDs and FAULTs that were entered, in order."""
    out, before = [], State.WAITING
    for tick in rig.ticks:
        if tick.state in (State.HOLD, State.FAULT) and tick.state is not before:
            out.append((tick.state.name, tick.reason.code_text))
        before = tick.state
    return out


def within_rate(rig, rate=None):
    """Nothing that reached the robot jumped: the change since the last thing sent, per period."""
    rate = rate or rig.contract.limits[2][0]
    for a, b in zip(rig.sent, rig.sent[1:]):
        assert (np.abs(b.values - a.values) <= rate * rig.period * 1e-9 + 1e-9).all(), (a, b)


# Before the first command.


def test_fault_001_nothing_is_sent_before_the_first_complete_state():
    rig = Rig()
    rig.step(60, skip=("joints", "goal"))
    assert not rig.sent and rig.ticks[-1].state is State.WAITING
    assert rig.ticks[-1].reason.code_text == "STATE_MISSING:joint_states,goal"
    assert not rig.sampler.calls


def test_fault_003_two_of_three_is_not_complete():
    rig = Rig()
    rig.step(60, skip=("goal",))
    assert not rig.sent and rig.ticks[-1].reason.code_text == "STATE_MISSING:goal"


def test_fault_113_nothing_is_sent_before_enable():
    rig = Rig(enabled=False)
    rig.step(60)
    assert not rig.sent and rig.ticks[-1].state is State.READY and not rig.sampler.calls
    assert rig.core.enable(True) == ""
    assert rig.step().state is State.RUN and rig.sent[0].admitted


def test_stale_state_is_not_complete():
    rig = Rig(enabled=False)
    rig.step()
    rig.core.enable(True)
    rig.now += SECOND
    rig.step(5, skip=("goal",))
    assert not rig.sent


# The time law.


def ramp(call, honest):
    """Action i of chunk c is (c + i/100): readable in what is sent."""
    steps = honest.action.shape[1] // 2
    row = np.repeat(call * 0.1 + np.arange(steps) / 100, 2).astype(np.float32)
    return sample_of(row[None])


@pytest.mark.parametrize("execute", [1, 2, 3, 5])
def test_action_i_is_executed_i_periods_after_its_chunk(execute):
    rig = Rig(contract(execute=execute), plan=ramp)
    rig.step(12)
    expected = [(k // execute) * 0.1 + (k % execute) / 100 for k in range(12)]
    assert np.allclose(rig.log[:, 1], expected, atol=1e-6) and np.allclose(
        rig.log[:, 2], expected, atol=1e-6
    )
    assert len(rig.sampler.calls) == -(-12 // execute)


def test_index_is_the_nearest_period():
    chunk = Chunk(START, np.zeros((5, 1)), 0, 1)
    for k in range(-2, 8):
        for jitter in (0, T // 2 - 1, -T // 2):
            assert chunk.index(START + k * T + jitter, T) == k
    assert chunk.index(START + T // 2, T) == 1


def test_jittered_and_skipped_ticks_keep_the_law():
    rig = Rig(plan=ramp)
    seen = []
    for at in (0.0, 1.1, 1.9, 4.2, 5.0, 6.0):
        rig.now = START + round(at * T)
        seen.append(rig.step().candidate.values[0])
    assert np.allclose(seen, [0.0, 0.01, 0.02, 0.04, 0.1, 0.11], atol=1e-6)


@pytest.mark.parametrize("delay,expected", [
    # execute 3 of 5: the next chunk is asked for at tick 3; while it is late the old one goes on
    (0, [0, 1, 2, 10, 11, 12, 20]),
    (1, [None, 1, 2, 3, 11, 12, 13]),
    (2, [None, None, 2, 3, 4, 12, 13]),
])  # fmt: skip
def test_late_chunk_is_entered_at_the_index_that_is_due(delay, expected):
    rig = Rig(contract(execute=3), plan=ramp, inference=lambda s: LateInference(s, lambda i: delay))
    got = []
    for _ in expected:
        rig.step()
        got.append(
            None
            if rig.ticks[-1].candidate is None
            else round(rig.ticks[-1].candidate.values[0] * 100)
        )
    assert got == expected, got


def test_request_carries_normalised_state_tick_and_age():
    own = contract()
    policy = policy_in_memory(own, normalizer={
        "obs_mean": (1.0,) * 5, "obs_std": (2.0,) * 5, "action_center": (0.5, 0.0), "action_half_range": (0.25, 0.0)})  # fmt: skip
    rig = Rig(own, plan=constant([1.0, -1.0]), policy=policy)
    rig.state = {"joints": np.array([1.0, 3.0, 5.0, -1.0]), "goal": np.array([0.0])}
    rig.step()
    request = rig.inference.requests[0]
    obs = request.observed.encoded
    assert obs.tolist() == [0, 1, 2, -1, -0.5] and obs.dtype == np.float32
    assert (request.start, request.stamp, request.age) == (START, START, 0)
    assert rig.sent[0].values.tolist() == [0.75, 0.0], (
        "in robot units again; a constant stays constant"
    )


# Late and missing samples.


def test_fault_051_one_late_sample_reuses_the_last_action_and_no_tick_is_lost():
    late = {1: 2}
    rig = Rig(plan=ramp, inference=lambda s: LateInference(s, lambda i: late.get(i, 0)))
    rig.step(12)
    assert [t.state for t in rig.ticks] == [State.RUN] * 12
    assert len(rig.sent) == 12
    values = np.round(rig.log[:, 1] * 100).astype(int).tolist()
    assert values == [0, 1, 2, 3, 4, 4, 4, 12, 13, 14, 20, 21]
    assert rig.core.overruns == 2


def test_fault_052_sustained_overrun_ends_in_hold_after_max_reuse():
    rig = Rig(plan=ramp, inference=lambda s: LateInference(s, lambda i: 0 if i == 0 else None))
    rig.step(9)
    states = [t.state for t in rig.ticks]
    assert states == [State.RUN] * 7 + [State.HOLD] * 2 and MAX_REUSE == 2
    assert rig.ticks[7].reason.code == "OVERRUN"
    assert [s.admitted for s in rig.sent] == [True] * 7 + [False] * 2
    assert rig.sent[-1].values.tolist() == [0, 0]
    assert len(rig.inference.requests) == 2, "no queue of requests"


def test_fault_052_after_relief_no_burst_and_no_stale_chunk():
    stuck = LateInference
    rig = Rig(plan=ramp, inference=lambda s: stuck(s, lambda i: 9 if i == 1 else 0))
    for _ in range(60):
        before = len(rig.sent)
        rig.step()
        assert len(rig.sent) <= before + 1
        sampled = rig.ticks[-1].sampled
        assert sampled is None or rig.now - rig.period - sampled.chunk.start < 5 * T, (
            "a chunk from before the hold"
        )
    assert rig.ticks[-1].state is State.RUN


def test_a_result_from_before_the_hold_does_not_shift_all_later_ones():
    """The thread hands over the old epoch's result first. Whoever then takes results without looking
    whose they are asks twice, and from then on every second chunk is one that was asked for long before."""
    rig = Rig(plan=ramp, inference=lambda s: LateInference(s, lambda i: 13 if i == 1 else 1))
    rig.step(80)
    lags = [
        (START + k * T - t.sampled.chunk.start) // T
        for k, t in enumerate(rig.ticks)
        if k >= 40 and t.sampled
    ]
    assert lags and max(lags) == 1, lags


def test_a_sampler_that_hangs_latches_a_fault():
    rig = Rig(inference=lambda s: LateInference(s, lambda i: 0 if i == 0 else None))
    rig.step(80)
    assert rig.ticks[-1].state is State.FAULT
    assert rig.sent[-1].values.tolist() == [0, 0]


def test_fault_053_a_hang_is_named_as_such_within_a_second():
    rig = Rig(inference=lambda s: LateInference(s, lambda i: 0 if i == 0 else None))
    rig.step(5 + 3 + 20)
    assert rig.ticks[-1].state is State.FAULT and rig.ticks[-1].reason.code == "INFER_HUNG"


def test_fault_053_an_outage_of_state_with_a_request_open_is_no_hang():
    """The sampler answers in time, but nobody asks for the answer while the robot holds for its state."""
    rig = Rig(inference=lambda s: LateInference(s, lambda i: 1))
    rig.step(9)
    rig.step(40, skip=("joints",))  # asked at tick 10, stale at tick 11
    assert rig.inference.requests[-1].start == START + 10 * T
    assert (
        rig.ticks[-1].state is State.HOLD
        and rig.ticks[-1].reason.code_text == "STATE_STALE:joint_states"
    )
    rig.step(20)
    assert rig.ticks[-1].state is State.RUN


def test_fault_053_disabled_with_a_request_open_is_no_hang():
    rig = Rig(inference=lambda s: LateInference(s, lambda i: 1))
    rig.step(6)
    rig.core.enable(False)  # asked at tick 5
    rig.step(60)
    assert rig.ticks[-1].state is State.READY


def test_fault_053_a_sampler_that_came_back_runs_again_after_a_reset():
    """Hung for three seconds, then well: reset and enable must not find the old request and latch again."""
    rig = Rig(inference=lambda s: LateInference(s, lambda i: 60 if i == 1 else 0))
    rig.step(80)
    assert rig.ticks[-1].state is State.FAULT and rig.ticks[-1].reason.code == "INFER_HUNG"
    rig.core.reset()
    rig.step()
    assert rig.core.enable(True) == ""
    rig.step(15)
    assert rig.ticks[-1].state is State.RUN and rig.sent[-1].admitted


def test_a_sample_asked_for_before_a_reset_is_never_executed():
    """It would still be in time by the time law: only its epoch says that it is void."""
    rig = Rig(plan=ramp, inference=lambda s: LateInference(s, lambda i: 2 if i == 1 else 1))
    rig.step(6)  # asked at tick 5
    rig.core.reset()
    rig.step()
    assert rig.core.enable(True) == ""
    rig.step(10)
    epochs = [(t.sampled.chunk.epoch, t.candidate.epoch) for t in rig.ticks[6:] if t.sampled]
    assert epochs and all(chunk == candidate for chunk, candidate in epochs)
    assert all(t.sampled.chunk.start > START + 5 * T for t in rig.ticks[6:] if t.sampled)


def test_fault_053_a_sampler_that_still_hangs_after_a_reset_moves_nothing():
    rig = Rig(inference=lambda s: LateInference(s, lambda i: 0 if i == 0 else None))
    rig.step(80)
    rig.core.reset()
    rig.step()
    assert rig.core.enable(True) == ""
    before = sum(s.admitted for s in rig.sent)
    rig.step(80)
    assert rig.ticks[-1].state is State.FAULT and sum(s.admitted for s in rig.sent) == before


def test_fault_021_clock_jumps_forward_with_a_request_open():
    rig = Rig(inference=lambda s: LateInference(s, lambda i: 1))
    rig.step(6)
    rig.now += 3600 * SECOND
    rig.step()
    assert rig.ticks[-1].state is not State.FAULT
    rig.step(40)
    assert rig.ticks[-1].state is State.RUN


def test_fault_022_clock_stands_still_brakes_and_resumes():
    rig = Rig(contract(velocity_dict(rate=10.0)), plan=constant([1.0, 1.0]))
    rig.step(7)
    last = rig.sent[-1].values
    for _ in range(6):
        tick = rig.core.clock_stopped(rig.now)
        assert (
            tick.state is State.HOLD
            and tick.reason.code == "CLOCK_STOPPED"
            and not tick.output.admitted
        )
        assert (np.abs(tick.output.values - last) <= 0.5 + 1e-9).all()
        last = tick.output.values
    assert last.tolist() == [0, 0]
    rig.step(15)
    assert rig.ticks[-1].state is State.RUN


def test_fault_072_last_words_brake_and_disable():
    rig = Rig(contract(velocity_dict(rate=10.0)), plan=constant([1.0, 1.0]))
    rig.step(7)
    outputs = [rig.core.halt(rig.now) for _ in range(4)]
    assert not any(o.admitted for o in outputs) and outputs[-1].values.tolist() == [0, 0]
    rig.step(3)
    assert not rig.sent[-1].admitted and rig.ticks[-1].state is not State.RUN


def test_stopping_stream_is_not_cut_by_a_recovery_without_a_sample():
    """HOLD with a slow ramp, ten healthy ticks, RUN again, and no sample comes: the robot must not be
    left moving at the speed of that moment, with nobody sending."""
    own = contract(velocity_dict(rate=1.0))
    rig = Rig(
        own,
        plan=constant([1.0, 1.0]),
        inference=lambda s: LateInference(s, lambda i: 0 if i < 6 else None),
    )
    rig.step(28)
    assert rig.sent[-1].values[0] > 0.9
    rig.step(200)
    assert np.allclose(rig.sent[-1].values, 0), rig.sent[-1]


@pytest.mark.parametrize("build,rate", [(velocity_dict, 1.0), (position_dict, 2.0)])
def test_fault_116_resuming_does_not_jump_from_what_was_last_sent(build, rate):
    """A lagging arm: it is commanded 0.8 and still measured at 0. After a short HOLD the first command
    is limited from the last SENT one; seeding from the measured position moves the command 0.8 at once."""
    rig = Rig(contract(build(rate=rate)), plan=constant([0.8, 0.8]))
    rig.step(30)
    assert rig.sent[-1].values[0] == pytest.approx(0.8)
    rig.step(5, skip=("joints",))
    assert rig.ticks[-1].state is State.HOLD
    rig.step(15)
    assert rig.ticks[-1].state is State.RUN
    within_rate(rig)


def test_fault_116_reset_and_enable_in_motion_do_not_jump():
    rig = Rig(contract(velocity_dict(rate=1.0)), plan=constant([1.0, 1.0]))
    rig.step(25)
    rig.core.reset()
    rig.step()
    assert rig.core.enable(True) == ""
    rig.step(10)
    within_rate(rig)


def test_fault_116_disable_in_motion_stops_and_resumes():
    rig = Rig(contract(velocity_dict(rate=10.0)), plan=constant([1.0, 1.0]))
    rig.step(10)
    rig.core.enable(False)
    assert rig.step().state is State.HOLD and rig.ticks[-1].reason.code == "DISABLED"
    rig.step(40)
    assert rig.ticks[-1].state is State.READY and rig.sent[-1].values.tolist() == [0, 0]
    quiet = len(rig.sent)
    rig.step(20)
    assert len(rig.sent) == quiet
    rig.core.enable(True)
    assert rig.step().state is State.RUN
    rig.step(5)
    within_rate(rig)


# State that stops or is wrong.


@pytest.mark.parametrize("row,topic,limit", [(2, "joints", 0.15), (4, "goal", 0.5)])
def test_fault_002_004_state_stops(row, topic, limit):
    rig = Rig(contract(velocity_dict(rate=10.0)), plan=constant([1.0, -1.0]))
    rig.step(10)
    last_state = rig.now - T
    rig.step(60, skip=(topic,))
    policy = [s for s in rig.sent if s.admitted]
    assert policy[-1].at <= last_state + (limit + 1e-6) * SECOND + 2 * T
    assert holds(rig) == [
        ("HOLD", f"STATE_STALE:{ {'joints': 'joint_states', 'goal': 'goal'}[topic] }")
    ]
    after = [s for s in rig.sent if s.at > policy[-1].at]
    assert after and after[0].at - policy[-1].at == T, "on the wire in the next tick"
    stopped = [s for s in after if not s.values.any()]
    assert stopped[0].at - policy[-1].at <= 2 * T + T, "1.0 at 10 per second"
    assert after[-1].at - policy[-1].at <= SECOND + T and not after[-1].values.any()
    within_rate(rig)


def test_fault_002_recovery_after_ten_healthy_ticks():
    rig = Rig(plan=constant([1.0, 1.0]))
    rig.step(5)
    rig.step(10, skip=("joints",))
    states = []
    for _ in range(12):
        states.append(rig.step().state)
    assert states == [State.HOLD] * 9 + [State.RUN] * 3


def test_fault_002_commands_of_the_old_epoch_are_void_after_a_hold():
    rig = Rig(plan=ramp)
    rig.step(2)
    rig.step(5, skip=("joints",))
    rig.step(12)
    epochs = [t.candidate.epoch for t in rig.ticks if t.candidate]
    assert epochs[-1] == epochs[0] + 1
    first = next(t for t in rig.ticks if t.candidate and t.candidate.epoch == epochs[-1])
    assert first.sampled is not None, "a chunk of its own, not the rest of the old one"


def test_fault_007_one_nan_is_no_glitch_and_for_ever_is_a_hold():
    clean, dirty = Rig(), Rig()
    for rig in (clean, dirty):
        rig.step(7)
    clean.step()
    dirty.state["joints"][1] = np.nan
    dirty.step()
    dirty.state["joints"][1] = 0.0
    clean.step(5), dirty.step(5)
    assert np.array_equal(clean.log, dirty.log) and dirty.core.assembler.dropped == 1
    dirty.state["joints"][1] = np.inf
    dirty.step(20)
    assert dirty.ticks[-1].state is State.HOLD
    assert all(np.isfinite(s.values).all() for s in dirty.sent)
    assert all(np.isfinite(obs).all() for obs, _, _ in dirty.sampler.calls)


@pytest.mark.parametrize("row", [10, 11, 12])
def test_fault_010_011_012_schema_error_stops_within_a_tick(row):
    rig = Rig()
    rig.step(7)
    admitted = sum(s.admitted for s in rig.sent)
    for _ in range(10):
        rig.core.assembler.reject("joints", "STATE_SCHEMA", "joints ['b'] are missing")
        rig.step(skip=("joints",))
        assert (
            rig.ticks[-1].state is State.HOLD
            and rig.ticks[-1].reason.code_text == "STATE_SCHEMA:joint_states"
        )
    assert sum(s.admitted for s in rig.sent) == admitted


def test_fault_017_future_state_is_a_hold():
    rig = Rig()
    rig.step(7)
    for _ in range(3):
        rig.core.assembler.push("joints", rig.now + 10 * SECOND, rig.now, np.zeros(4))
        rig.step(skip=("joints",))
        assert (
            rig.ticks[-1].reason.code_text == "STATE_FUTURE:joint_states"
            and rig.ticks[-1].candidate is None
        )


def test_fault_021_clock_jumps_forward_an_hour():
    rig = Rig()
    rig.step(7)
    rig.now += 3600 * SECOND
    rig.step(skip=("joints", "goal"))
    assert rig.ticks[-1].state is State.HOLD
    rig.step(12)
    assert rig.ticks[-1].state is State.RUN
    assert all(b.at - a.at >= T for a, b in zip(rig.sent, rig.sent[1:])), "no burst"
    within_rate(rig)


def test_fault_020_clock_jumps_back():
    """The node notices and says so; ten healthy ticks later the robot runs again, on new state alone."""
    rig = Rig(plan=ramp)
    rig.step(7)
    rig.now -= 500 * SECOND
    rig.core.clock_jumped()
    rig.step(10)
    assert all(t.state is State.HOLD and t.candidate is None for t in rig.ticks[7:16])
    rig.step(3)
    assert rig.ticks[-1].state is State.RUN
    assert all(s.at <= START - 480 * SECOND for s in rig.sent[7:])
    within_rate(rig)


def test_fault_020_hold_after_a_jump_back_falls_silent_after_a_second():
    rig = Rig(plan=constant([1.0, 1.0]))
    rig.step(7)
    rig.now -= 500 * SECOND
    rig.core.clock_jumped()
    before = len(rig.sent)
    rig.step(100, skip=("joints",))
    assert rig.sent[-1].values.tolist() == [0, 0]
    assert len(rig.sent) - before <= 22


def test_fault_114_estop_latches_within_a_tick_until_reset_and_enable():
    rig = Rig(contract(velocity_dict(rate=20.0)), plan=constant([1.0, 1.0]))
    rig.step(7)
    rig.core.estop()
    tick = rig.step()
    assert tick.state is State.FAULT and tick.reason.code == "ESTOP" and tick.candidate is None
    assert rig.sent[-1].values.tolist() == [0, 0] and not rig.sent[-1].admitted
    rig.step(40)
    assert rig.core.enable(True) != "" and rig.step().state is State.FAULT
    rig.core.reset()
    assert rig.step().state is State.READY
    assert rig.core.enable(True) == "" and rig.step().state is State.RUN


def test_fault_114_estop_pressed_before_the_first_state():
    rig = Rig()
    rig.core.estop()
    rig.step(30)
    assert rig.ticks[-1].state is State.FAULT and not rig.sent


# What the sampler returns.


def once(at, bad):
    return lambda call, honest: bad(honest) if call == at else honest


def nan_action(honest):
    action = honest.action.copy()
    action[:, 3] = np.nan
    return sample_of(action, unguided=action)


def test_fault_055_nan_once_is_dropped_held_and_sampled_again():
    rig = Rig(contract(velocity_dict(rate=80.0)), plan=once(1, nan_action))
    rig.step(40)
    assert holds(rig) == [("HOLD", "ACTION_NONFINITE")]
    assert rig.ticks[5].state is State.HOLD and rig.ticks[5].candidate is None
    assert all(np.isfinite(s.values).all() for s in rig.sent)
    assert rig.ticks[-1].state is State.RUN


def test_fault_056_nan_always_is_a_fault_after_three():
    rig = Rig(plan=lambda call, honest: nan_action(honest) if call else honest)
    rig.step(60)
    assert rig.ticks[-1].state is State.FAULT and rig.ticks[-1].reason.code == "ACTION_NONFINITE"
    assert len(rig.sampler.calls) == 4, "one good, three bad"
    assert not any(s.admitted for s in rig.sent[5:]) and rig.sent[-1].values.tolist() == [0, 0]


def test_fault_056_within_five_periods():
    rig = Rig(plan=lambda call, honest: nan_action(honest) if call else honest)
    rig.step(10)
    assert rig.ticks[-1].state is State.FAULT


@pytest.mark.parametrize("horizon,execute", [(5, 2), (5, 4)])
@pytest.mark.parametrize("bad", ["nan", "raise"])
def test_fault_055_058_no_policy_action_in_the_tick_that_holds(horizon, execute, bad):
    """A chunk that still has actions left is no excuse: in HOLD no policy action is sent."""

    def fail(honest):
        if bad == "raise":
            raise RuntimeError("device lost")
        return nan_action(honest)

    rig = Rig(contract(execute=execute), plan=once(1, fail))
    rig.step(12)
    assert any(t.state is State.HOLD for t in rig.ticks)
    for tick in rig.ticks:
        if tick.state is not State.RUN:
            assert not tick.output.admitted, tick


WRONG = {
    "one number more": lambda s: sample_of(np.zeros((1, 11), np.float32)),
    "one number less": lambda s: sample_of(np.zeros((1, 9), np.float32)),
    "flat": lambda s: sample_of(np.zeros((1, 10), np.float32), action=np.zeros(10, np.float32)),
    "three axes": lambda s: sample_of(np.zeros((1, 5, 2), np.float32)),
    "nothing": lambda s: None,
    "empty": lambda s: sample_of(np.zeros((0, 10), np.float32)),
    "q of another size": lambda s: sample_of(s.action, q=np.zeros(2, np.float32)),
    "q a number": lambda s: sample_of(s.action, q=np.float32(0)),
    "no q": lambda s: sample_of(s.action, q=None),
    "complex": lambda s: sample_of(s.action.astype(np.complex64)),
    "text": lambda s: sample_of(s.action.astype(str)),
    "objects": lambda s: sample_of(np.full((1, 10), None)),
    "an array": lambda s: s.action,
    "wrong and insane": lambda s: sample_of(
        np.zeros((1, 11), np.float32), np.zeros((1, 10), np.float32), q=np.array([1e30])
    ),
}


ESCAPES = (
    "three axes",
    "q a number",
    "no q",
    "complex",
    "text",
    "objects",
    "an array",
    "wrong and insane",
)


@pytest.mark.parametrize("what", [w for w in WRONG if w not in ESCAPES])
def test_fault_057_what_is_no_sample_is_never_sent(what):
    no_sample(what)


@pytest.mark.parametrize("what", ESCAPES)
@pytest.mark.filterwarnings("error")
def test_fault_057_what_is_no_sample_never_escapes_the_tick(what):
    no_sample(what)


def no_sample(what):
    rig = Rig(plan=lambda call, honest: WRONG[what](honest) if call else honest)
    rig.step(12)  # an exception out of tick ends the control thread
    assert not any(s.admitted for s in rig.sent[5:])
    assert rig.ticks[5].state in (State.HOLD, State.FAULT)


@pytest.mark.parametrize("what", ["one number more", "nothing"])
def test_fault_057_what_is_no_sample_is_a_fault(what):
    """faults.md: FAULT(ACTION_SCHEMA); a sampler of another shape does not heal in ten ticks."""
    rig = Rig(plan=lambda call, honest: WRONG[what](honest) if call else honest)
    rig.step(6)
    assert rig.ticks[5].state is State.FAULT and rig.ticks[5].reason.code == "ACTION_SCHEMA"


def test_fault_058_exception_is_caught_named_and_three_are_a_fault():
    def fail(call, honest):
        if call:
            raise ZeroDivisionError("in the sampler")
        return honest

    rig = Rig(plan=fail)
    rig.step(60)
    assert holds(rig) == [("HOLD", "INFERENCE"), ("FAULT", "INFERENCE")]
    assert "ZeroDivisionError" in rig.ticks[5].reason.detail and len(rig.sampler.calls) == 4


def test_fault_058_exception_once_recovers():
    def fail(honest):
        raise MemoryError

    rig = Rig(plan=once(1, fail))
    rig.step(30)
    assert holds(rig) == [("HOLD", "INFERENCE")] and rig.ticks[-1].state is State.RUN


INSANE = {
    "q nan": {"q": [np.nan]}, "q inf": {"q": [np.inf]}, "q high": {"q": [10.1]}, "q low": {"q": [-10.1]},
    "gradient nan": {"gradient_norm": [np.nan]}, "gradient high": {"gradient_norm": [1e30]}, "gradient inf": {"gradient_norm": [np.inf]},
    "q both nan": {"q": [np.nan], "q_unguided": [np.nan]},
}  # fmt: skip


@pytest.mark.parametrize("what", INSANE)
def test_fault_059_060_insane_critic_gives_the_unguided_action_bit_for_bit(what):
    def plan(_, honest):
        wrong = {k: np.array(v, np.float32) for k, v in INSANE[what].items()}
        return sample_of(np.ones_like(honest.action), honest.action_unguided, **wrong)

    sick, unguided = Rig(plan=plan), Rig(beta=math.inf)
    sick.step(20), unguided.step(20)
    assert np.array_equal(sick.log, unguided.log)
    assert all("q_invalid" in t.sampled.guards for t in sick.ticks if t.sampled)
    assert all(t.state is State.RUN for t in sick.ticks)


@pytest.mark.parametrize("edge", [{"q": [10.0]}, {"q": [-10.0]}, {"gradient_norm": [1000.0]}])
def test_fault_059_at_the_bound_is_still_sane(edge):
    def plan(_, honest):
        return sample_of(
            np.full_like(honest.action, 0.5),
            honest.action_unguided,
            **{k: np.array(v, np.float32) for k, v in edge.items()},
        )

    rig = Rig(plan=plan)
    rig.step(3)
    assert all((s.values == 0.5).all() for s in rig.sent) and rig.ticks[0].sampled.guards == ()


def test_fault_059_without_bounds_a_nan_q_still_gives_the_unguided_action():
    """A policy of an uninformative critic has infinite bounds (training/learn/fit.py)."""
    own = contract()
    policy = policy_in_memory(own, sanity=Sanity(-math.inf, math.inf, math.inf))

    def plan(_, honest):
        nan = np.array([np.nan], np.float32)
        return sample_of(honest.action_unguided, honest.action_unguided, q=nan, q_unguided=nan)

    rig = Rig(own, plan=plan, policy=policy)
    rig.step(10)
    assert all(t.state is State.RUN for t in rig.ticks)


def candidates(q, q_unguided):
    """Two candidates: the first is at 0.1 guided and 0.2 unguided, the second 0.3 and 0.4."""

    def plan(_, honest):
        action = np.stack([np.full(10, 0.1), np.full(10, 0.3)]).astype(np.float32)
        return sample_of(
            action,
            action + np.float32(0.1),
            q=np.array(q, np.float32),
            q_unguided=np.array(q_unguided, np.float32),
        )

    rig = Rig(plan=plan, num_candidates=2)
    rig.step()
    return float(rig.sent[0].values[0])


def test_best_of_n_takes_the_best():
    assert candidates([1.0, 2.0], [0.0, 0.0]) == pytest.approx(0.3)
    assert candidates([2.0, 1.0], [0.0, 0.0]) == pytest.approx(0.1)


def test_fault_059_insane_candidate_competes_only_with_its_unguided_q():
    assert candidates([99.0, 1.0], [0.5, 0.0]) == pytest.approx(0.3)
    assert candidates([99.0, 1.0], [1.5, 0.0]) == pytest.approx(0.2)


def test_fault_059_insane_q_has_no_say_by_its_unguided_q_either():
    assert candidates([1e30, 1.0], [1e30, 0.0]) == pytest.approx(0.3)


def test_fault_055_one_non_finite_candidate_of_two_is_left_out():
    def plan(_, honest):
        action = np.stack([np.full(10, np.nan), np.full(10, 0.3)]).astype(np.float32)
        return sample_of(action, action, q=np.array([5.0, 0.0], np.float32))

    rig = Rig(plan=plan, num_candidates=2)
    rig.step()
    assert rig.sent[0].values.tolist() == pytest.approx([0.3, 0.3])


# Beta.


@pytest.mark.parametrize("beta,weight", [(math.inf, 0.0), (0.1, 10.0), (1.0, 1.0), (2, 0.5)])
def test_fault_026_weight_is_one_over_beta_and_zero_at_infinity(beta, weight):
    rig = Rig(beta=beta)
    rig.step()
    assert rig.sampler.calls[0][2] == weight
    assert rig.ticks[0].sampled.beta == beta


def test_beta_defaults_to_the_policys():
    rig = Rig()
    rig.step()
    assert rig.ticks[0].sampled.beta == 0.1


def test_fault_030_beta_is_read_once_per_sample():
    rig = Rig()
    for k in range(20):
        rig.set(beta=0.1 + k / 100)
        rig.step()
        if rig.ticks[-1].sampled:
            assert rig.ticks[-1].sampled.beta == 0.1 + k / 100
            assert rig.sampler.calls[-1][2] == 1 / (0.1 + k / 100)


@pytest.mark.parametrize("beta", [1e-12, 5e-324, 0.00999])
def test_fault_027_beta_below_the_floor_is_clamped_where_it_is_used(beta):
    """beta.min is 0.01 here; rows 27 and 35: every consumer clamps, whatever let it through."""
    rig = Rig(beta=beta)
    rig.step(12)
    assert all(t.sampled.beta >= 0.01 for t in rig.ticks if t.sampled)
    assert all(w <= 100 for _, _, w in rig.sampler.calls)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_fault_024_025_beta_that_is_none_never_reaches_the_sampler(beta):
    try:
        rig = Rig(beta=beta)
    except ValueError:
        return
    rig.step(7)
    assert all(math.isfinite(w) and 0 <= w <= 100 for _, _, w in rig.sampler.calls)


# Determinism.


def run_with(seed, states, **core):
    rig = Rig(seed=seed, **core)
    for vector in states:
        rig.state = {"joints": vector[:4], "goal": vector[4:]}
        rig.step()
    return rig


STATES = np.random.default_rng(5).normal(size=(40, 5))


def test_fault_065_same_seed_and_log_give_the_same_commands():
    a, b, c = run_with(7, STATES), run_with(7, STATES), run_with(8, STATES)
    assert a.log.tobytes() == b.log.tobytes() and len(a.log) == 40
    assert a.log.tobytes() != c.log.tobytes()


def test_fault_065_sampler_does_not_see_what_the_core_did_before():
    """Noise belongs to the observation's stamp: a replay that begins later samples the same."""
    whole, part = Rig(seed=3), Rig(seed=3)
    whole.step(20)
    part.now = START + 10 * T
    part.step(10)
    assert np.array_equal(whole.log[10:], part.log)


@settings(max_examples=50 * SCALE, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    stamp=st.integers(0, 2**62),
    n=st.integers(1, 8),
    more=st.integers(1, 8),
    d=st.integers(1, 40),
)
def test_noise_is_a_function_of_seed_and_stamp_and_its_first_rows_do_not_depend_on_n(
    seed, stamp, n, more, d
):
    few, many = draw_noise(seed, stamp, n, d), draw_noise(seed, stamp, n + more, d)
    assert few.dtype == np.float32 and few.shape == (n, d)
    assert np.array_equal(few, many[:n]) and np.array_equal(few, draw_noise(seed, stamp, n, d))
    assert not np.array_equal(few, draw_noise(seed, stamp + 1, n, d))
    assert not np.array_equal(few, draw_noise(seed + 1, stamp, n, d))


def test_noise_is_standard_normal():
    noise = draw_noise(0, START, 200, 500)
    assert abs(noise.mean()) < 4 / math.sqrt(1e5) and abs(noise.std() - 1) < 4 / math.sqrt(2e5)


def test_first_candidate_of_best_of_n_is_the_single_one():
    one, many = Rig(seed=1), Rig(seed=1, num_candidates=4)
    one.step(), many.step()
    assert np.array_equal(one.sampler.calls[0][1], many.sampler.calls[0][1][:1])


# Everything at once.


@settings(max_examples=60 * SCALE, deadline=None)
@given(
    kind=st.sampled_from([velocity_dict, position_dict]),
    rate=st.sampled_from([1.0, 10.0, 80.0]),
    execute=st.integers(1, 5),
    plans=st.lists(st.sampled_from(["good", "good", "good", "nan", "raise", "huge"]), min_size=1, max_size=8),
    delays=st.lists(st.sampled_from([0, 0, 0, 1, 3, 20]), min_size=1, max_size=6),
    events=st.lists(
        st.sampled_from(["ok"] * 12 + ["lost", "nan", "schema", "future", "estop", "reset", "enable", "disable", "late tick", "ten"]),
        min_size=10, max_size=60,
    ),
)  # fmt: skip
def test_nothing_leaves_but_finite_numbers_within_limits_while_running_or_stopping(
    kind, rate, execute, plans, delays, events
):
    def plan(call, honest):
        what = plans[call % len(plans)]
        if what == "raise":
            raise RuntimeError(what)
        return (
            nan_action(honest)
            if what == "nan"
            else sample_of(honest.action * (1e30 if what == "huge" else 1))
        )

    rig = Rig(
        contract(kind(rate=rate, execute=execute)),
        plan=plan,
        inference=lambda s: LateInference(s, lambda i: delays[i % len(delays)]),
    )
    for event in events:
        skip = ("joints",) if event == "lost" else ()
        if event == "nan":
            rig.core.assembler.push("joints", rig.now, rig.now, np.full(4, np.nan))
        elif event == "schema":
            rig.core.assembler.reject("joints", "STATE_SCHEMA", "x")
            skip = ("joints",)
        elif event == "future":
            rig.core.assembler.push("joints", rig.now + SECOND, rig.now, np.zeros(4))
            skip = ("joints",)
        elif event in ("estop", "reset"):
            getattr(rig.core, event)()
        elif event in ("enable", "disable"):
            rig.core.enable(event == "enable")
        elif event == "late tick":
            rig.now += 2 * T
        rig.step(10 if event == "ten" else 1, skip=skip)
    for tick in rig.ticks:
        values = tick.output.values
        if values is not None:
            assert np.isfinite(values).all() and (np.abs(values) <= 2).all()
        if tick.output.admitted:
            assert (
                tick.candidate is not None and tick.candidate.deadline >= tick.candidate.execute_at
            )
    sequences = [t.candidate.sequence for t in rig.ticks if t.candidate]
    assert sequences == sorted(set(sequences))


def test_fault_067_what_reaches_the_robot_never_jumps_and_ends_at_rest():
    """300 ticks of random trouble at a rate of 1 per second: across every hold, reset, recovery and
    late sample the velocity that was last sent changes within the rate, and silence comes at zero."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        own = contract(velocity_dict(rate=1.0))
        rig = Rig(
            own,
            plan=constant([1.0, -1.0]),
            inference=lambda s, rng=rng: LateInference(
                s, lambda i: int(rng.choice([0, 0, 0, 1, 4]))
            ),
        )
        for _ in range(300):
            what = rng.choice(
                ["ok", "lost", "reset", "disable", "enable"], p=[0.8, 0.08, 0.02, 0.03, 0.07]
            )
            if what == "reset":
                rig.core.reset()
            elif what in ("enable", "disable"):
                rig.core.enable(what == "enable")
            rig.step(5 if what == "lost" else 1, skip=("joints",) if what == "lost" else ())
        within_rate(rig)
        rig.step(200, skip=("joints",))
        assert np.allclose(rig.sent[-1].values, 0)


def test_thread_inference_gives_what_inline_gives():
    """The real mailbox, waited for: same requests, same commands."""
    inline, threaded = Rig(seed=2), Rig(seed=2, inference=ThreadInference, wait=1000.0)
    inline.step(15), threaded.step(15)
    threaded.inference.close()
    assert np.array_equal(inline.log, threaded.log)


def test_thread_inference_survives_a_raising_sampler():
    def fail(call, honest):
        if call == 0:
            raise RuntimeError("first")
        return honest

    inference = ThreadInference(FakeSampler(fail))
    rig = Rig()
    rig.step()
    request = rig.inference.requests[0]
    inference.submit(request)
    first = inference.poll(10.0)
    inference.submit(request)
    second = inference.poll(10.0)
    inference.close()
    assert (
        first.sample is None and first.error == "RuntimeError: first" and second.sample is not None
    )
    assert inference.poll(0.0) is None


def test_problem_of_the_first_tick_is_reported_with_it():
    rig = Rig()
    tick = rig.step(skip=("goal",))
    assert isinstance(tick.reason, Problem) and tick.output.values is None and tick.seconds >= 0


def test_fault_084_nothing_of_an_earlier_activation_is_sent_or_remembered():
    """Deactivated in motion, moved by hand, activated again: no old command goes out, and the first
    new one begins where the robot is measured."""
    rig = Rig(contract(position_dict(rate=2.0)), plan=constant([0.8, 0.8]))
    rig.step(30)
    assert rig.sent[-1].values[0] == pytest.approx(0.8)
    rig.core.activate(False)
    before = len(rig.sent)
    rig.step(20)
    assert len(rig.sent) == before and rig.ticks[-1].state is State.READY
    assert rig.core.enable(True) == ""
    rig.step(2)
    measured = 0.0  # where the rig's joints stand
    assert abs(rig.sent[before].values[0] - measured) <= 2.0 * rig.period * 1e-9 + 1e-9


def test_relative_actions_begin_at_the_measured_position_by_name():
    own = contract(position_dict(rate=100.0))
    plain = description(own).normalizer
    reference = own.measured_positions
    assert [own.observation_names[i] for i in reference] == [
        "joints.position.a",
        "joints.position.b",
    ]
    policy = policy_in_memory(own, normalizer=plain | {"action_reference": tuple(reference)})
    rig = Rig(own, constant([0.25, -0.5]), policy=policy)
    rig.state["joints"] = np.array([0.4, 0.1, 7.0, 7.0])
    rig.step()
    assert rig.sent[-1].values == pytest.approx([0.65, -0.4])


def test_what_the_gate_refuses_of_our_own_is_a_hold_with_its_reason():
    rig = Rig()
    assert rig.step(5).state is State.RUN
    rig.core.gate.begin_epoch(99, None)  # not by the core: its next candidate is of another epoch
    result = rig.step()
    assert result.state is State.HOLD and not result.output.admitted
    assert result.reason.code == "EPOCH" and "own command" in result.reason.detail
