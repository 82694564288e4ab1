"""When the next chunk is asked for, and how it takes over from the last one.

Action i of chunk c is readable as c + i / 100, so that what is executed says where it comes from.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from qgf_make import (
    SCALE,
    SECOND,
    START,
    LateInference,
    Rig,
    contract,
    description,
    policy_in_memory,
    position_dict,
    sample_of,
)

from qgf_ros.control.chunk import blend
from qgf_ros.control.inference import Result
from qgf_ros.control.supervisor import State

T = SECOND // 20


def ramp(call, honest):
    steps = honest.action.shape[1] // 2
    return sample_of(np.repeat(call * 0.1 + np.arange(steps) / 100, 2).astype(np.float32)[None])


def late(delay):
    return lambda sampler: LateInference(sampler, lambda i: delay)


def executed(rig):
    """Hundredths of what was commanded, None where nothing was."""
    return [t.candidate and round(t.candidate.values[0] * 100) for t in rig.ticks]


class Slow(LateInference):
    """Says that it took as long as it did."""

    def poll(self, timeout):
        result = super().poll(timeout)
        seconds = self.delays(0) * 0.05 - 0.001
        return result and Result(result.request, result.sample, result.error, seconds)


def slow(delay):
    return lambda sampler: Slow(sampler, lambda i: delay)


# The seam.


@settings(max_examples=100 * SCALE, deadline=None)
@given(
    old=st.integers(0, 6).flatmap(lambda n: arrays(np.float64, (n, 2), elements=st.floats(-9, 9))),
    new=st.integers(0, 6).flatmap(lambda n: arrays(np.float64, (n, 2), elements=st.floats(-9, 9))),
    steps=st.integers(0, 8),
)
def test_a_blend_lies_between_the_chunks_and_ends_on_the_new_one(old, new, steps):
    got = blend(old, new, steps)
    count = min(steps, len(old), len(new))
    assert got.shape == new.shape and np.array_equal(got[count:], new[count:])
    low, high = np.minimum(old[:count], new[:count]), np.maximum(old[:count], new[:count])
    assert (got[:count] >= low - 1e-9).all() and (got[:count] <= high + 1e-9).all()


def test_a_blend_goes_in_equal_steps():
    got = blend(np.zeros((5, 1)), np.ones((5, 1)), 3)
    assert got[:, 0] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert blend(np.zeros((1, 1)), np.ones((5, 1)), 3)[:, 0] == pytest.approx([0.5, 1, 1, 1, 1])


def test_without_blending_the_new_chunk_counts_at_once():
    rig = Rig(contract(execute=3), plan=ramp)
    rig.step(7)
    assert executed(rig) == [0, 1, 2, 10, 11, 12, 20]


def test_blending_lets_the_old_chunk_fade_where_it_still_has_actions():
    rig = Rig(contract(execute=3), plan=ramp, blend_steps=2)
    rig.step(6)
    # Old 3, 4 hundredths, new 10, 11: a third, then two thirds of the way.
    assert [t.candidate.values[0] * 100 for t in rig.ticks] == pytest.approx(
        [0, 1, 2, 3 + 7 / 3, 4 + 14 / 3, 12], abs=1e-5
    )


def test_a_whole_chunk_leaves_nothing_to_blend_with():
    rig = Rig(contract(execute=5), plan=ramp, blend_steps=3)
    rig.step(7)
    assert executed(rig) == [0, 1, 2, 3, 4, 10, 11]


def test_seam_jump_is_a_share_of_the_commands_range():
    """The range is -2 to 2. At the seam the old chunk says 0.03 and the new one 0.10; blending does
    not make the published jump smaller, for it is the chunks' disagreement."""
    for blending in (0, 2):
        rig = Rig(contract(execute=3), plan=ramp, blend_steps=blending)
        rig.step(4)
        first, second = [t.sampled for t in rig.ticks if t.sampled]
        assert math.isnan(first.seam_jump)
        assert second.seam_jump == pytest.approx(0.07 / 4, abs=1e-6)


def test_seam_jump_without_an_old_action_is_from_the_last_executed_one():
    rig = Rig(contract(execute=5), plan=ramp)
    rig.step(6)
    assert rig.ticks[5].sampled.seam_jump == pytest.approx((0.10 - 0.04) / 4, abs=1e-6)


def test_a_new_epoch_has_no_seam():
    rig = Rig(plan=ramp)
    rig.step(7)
    rig.step(5, skip=("joints",))
    rig.step(12)
    jumps = [t.sampled.seam_jump for t in rig.ticks if t.sampled]
    epochs = [t.sampled.chunk.epoch for t in rig.ticks if t.sampled]
    first = epochs.index(epochs[-1])
    assert math.isnan(jumps[first]) and not math.isnan(jumps[1])


# Real-time chunking.


def test_real_time_chunking_asks_early_and_holds_what_is_executed_meanwhile():
    """Sampling takes one tick. Asked at the action before the last of those that are executed, the
    answer is there in time: no tick is lost, and the held action is the one that was promised."""
    rig = Rig(contract(execute=4), plan=ramp, inference=late(1), real_time_chunking=True)
    rig.step(20)
    assert [round((r.start - START) / T) for r in rig.inference.requests] == [0, 3, 6, 9, 12, 15, 18]  # fmt: skip
    assert executed(rig) == [None, 1, 2, 3, 11, 12, 13, 21, 22, 23, 31, 32, 33, 41, 42, 43, 51, 52, 53, 61]  # fmt: skip
    assert rig.core.overruns == 1, "the first sample of an epoch cannot come early"


def test_real_time_chunking_passes_the_committed_actions_normalised():
    rig = Rig(contract(execute=4), plan=ramp, inference=slow(2), real_time_chunking=True)
    rig.step(15)
    first, second, *rest = rig.inference.requests
    assert first.committed is None, "nothing is under way before the first chunk"
    # The first answer took two ticks, so two actions are committed from then on.
    assert second.committed.shape == (2, 2) and second.committed.dtype == np.float32
    assert second.committed[:, 0] == pytest.approx([0.02, 0.03])
    # The old chunk's start is two ticks before; the new one has its actions 0 and 1 where the old
    # one had 2 and 3.
    assert second.start == START + 2 * T
    assert all(r.committed.shape == (2, 2) for r in rest)
    assert rig.core.overruns == 2


def test_committed_actions_are_relative_to_the_newer_observation():
    """A relative action is an offset to the position measured when ITS chunk is sampled. Passed on
    as the old offset, it would be another place for an arm that has moved."""
    own = contract(position_dict(rate=100.0, execute=4))
    plain = description(own).normalizer
    policy = policy_in_memory(
        own, normalizer=plain | {"action_reference": tuple(own.measured_positions)}
    )
    rig = Rig(own, plan=ramp, policy=policy, inference=late(1), real_time_chunking=True)
    rig.state["joints"] = np.array([0.5, 0.1, 0, 0])
    rig.step(3)
    rig.state["joints"] = np.array([0.52, 0.1, 0, 0])
    rig.step(2)
    request = rig.inference.requests[1]
    assert request.start == START + 3 * T and request.committed.dtype == np.float32
    assert request.committed[0] == pytest.approx([0.53 - 0.52, 0.13 - 0.1], abs=1e-6)
    assert rig.ticks[3].candidate.values == pytest.approx([0.53, 0.13], abs=1e-6)
    assert rig.ticks[4].candidate.values == pytest.approx([0.52 + 0.11, 0.1 + 0.11], abs=1e-6)


def test_committed_actions_beyond_the_range_are_passed_as_they_are():
    """They are executed as they are: a sampler that saw them clipped would follow another motion."""
    own = contract(position_dict(rate=100.0, execute=4))
    plain = description(own).normalizer
    policy = policy_in_memory(
        own, normalizer=plain | {"action_reference": tuple(own.measured_positions)}
    )
    rig = Rig(own, plan=ramp, policy=policy, inference=late(1), real_time_chunking=True)
    rig.step(3)
    rig.state["joints"] = np.array([-1.5, 0.0, 0, 0])
    rig.step()
    assert rig.inference.requests[1].committed[0] == pytest.approx([1.53, 0.03], abs=1e-6)


def test_what_was_committed_is_executed_to_the_bit_whatever_the_sampler_made_of_it():
    """Inline the answer is there in the tick of the request: the committed action comes from it."""
    early = Rig(contract(execute=4), plan=ramp, real_time_chunking=True)
    plain = Rig(contract(execute=4), plan=ramp)
    early.step(4), plain.step(4)
    assert early.ticks[3].sampled is not None, "adopted a tick before it takes over"
    assert early.log.tobytes() == plain.log.tobytes()
    early.step()
    assert early.ticks[4].candidate.values[0] == pytest.approx(0.11)


def test_seam_of_real_time_chunking_is_where_its_own_actions_begin():
    rig = Rig(contract(execute=4), plan=ramp, real_time_chunking=True)
    rig.step(4)
    sampled = rig.ticks[3].sampled
    # Committed 0.03; then the new chunk's 0.11 where the old one had 0.04.
    assert sampled.seam_jump == pytest.approx((0.11 - 0.04) / 4, abs=1e-6)


def test_a_chunk_that_is_executed_whole_has_no_reserve_but_works():
    rig = Rig(contract(execute=5), plan=ramp, inference=late(1), real_time_chunking=True)
    rig.step(30)
    assert all(t.candidate is not None for t in rig.ticks[1:]) and rig.core.overruns == 1
    assert [t.state for t in rig.ticks] == [State.RUN] * 30


@pytest.mark.parametrize("delay", [1, 2, 3, 4])
@pytest.mark.parametrize("execute", [1, 3, 5, 8])
def test_real_time_chunking_loses_no_tick_while_half_a_chunk_is_enough(delay, execute):
    own = contract(horizon=8, execute=execute)
    rig = Rig(own, plan=ramp, inference=slow(delay), real_time_chunking=True, enabled=False)
    rig.step()
    rig.core.enable(True)
    rig.step(40)
    lost = [k for k, t in enumerate(rig.ticks[1:]) if t.candidate is None]
    assert lost == list(range(delay)) and rig.core.overruns == delay, "until the first answer"
    assert all(t.state is State.RUN for t in rig.ticks[1:])


def test_fault_052_a_first_sample_that_is_older_than_its_chunk_is_a_hold():
    rig = Rig(contract(horizon=8, execute=8), inference=late(None))
    rig.step(8)
    assert [t.state for t in rig.ticks] == [State.RUN] * 7 + [State.HOLD] and not rig.sent
    assert rig.ticks[-1].reason.code == "OVERRUN"


def test_fault_065_the_same_tick_table_gives_the_same_commands_with_early_requests():
    states = np.random.default_rng(5).normal(size=(40, 5))

    def run():
        rig = Rig(contract(execute=3), real_time_chunking=True, blend_steps=2, seed=3)
        for vector in states:
            rig.state = {"joints": vector[:4], "goal": vector[4:]}
            rig.step()
        return rig.log

    a, b = run(), run()
    assert a.tobytes() == b.tobytes() and len(a) == 40


def test_fault_051_a_single_overrun_is_a_warning():
    delays = {1: 2}
    rig = Rig(plan=ramp, inference=lambda s: LateInference(s, lambda i: delays.get(i, 0)))

    def warned():
        return "OVERRUN" in [p.code for p in rig.core.notices.current(rig.now)]

    rig.step(5)
    assert not warned()
    rig.step(2)
    assert warned() and rig.ticks[-1].state is State.RUN
    rig.step(25)
    assert not warned()
