"""Another policy in the middle of the motion: no tick is lost, nothing jumps, nothing is mixed up."""

import dataclasses
import threading

import numpy as np
import pytest
from qgf_make import (
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
    velocity_dict,
)

from qgf_ros.control.exchange import check_exchange
from qgf_ros.control.inference import Request, ThreadInference
from qgf_ros.control.supervisor import State
from qgf_ros.errors import PolicyRefused
from qgf_ros.policy.description import Beta, Support

T = SECOND // 20


def another(own, **changes):
    return dataclasses.replace(policy_in_memory(own, **changes), sha256="1" * 64)


def test_fault_047_the_new_policy_takes_over_between_two_ticks_and_no_tick_is_lost():
    rig = Rig(plan=constant([0.5, 0.5]))
    rig.step(7)
    rig.swap(another(rig.contract), FakeSampler(constant([-0.5, -0.5])))
    rig.step(7)
    assert rig.core.policy.sha256 == "1" * 64
    assert rig.log[:, 1].tolist() == [0.5] * 7 + [-0.5] * 7
    assert all(t.state is State.RUN and t.output.admitted for t in rig.ticks)
    assert len({t.candidate.epoch for t in rig.ticks}) == 1, "the gate goes on as it was"


def test_fault_047_the_old_chunk_goes_on_until_the_first_sample_of_the_new_policy():
    rig = Rig(plan=constant([0.5, 0.5]), inference=lambda s: LateInference(s, lambda i: 2))
    rig.step(4)  # the first chunk began at tick 2 and lasts until tick 4
    rig.swap(another(rig.contract), FakeSampler(constant([-0.5, -0.5])))
    rig.step(4)
    assert [s.values[0] for s in rig.sent] == [0.5, 0.5, 0.5, 0.5, -0.5, -0.5]
    assert rig.core.overruns == 3, "two before the first chunk, and one where the old one was over"


def test_fault_047_what_the_old_sampler_was_asked_is_never_executed():
    """Its answer is of the same epoch, but of another policy, in the numbers of another normaliser."""
    old = LateInference(FakeSampler(constant([0.5, 0.5])), lambda i: 1)
    rig = Rig(plan=constant([0.5, 0.5]), inference=lambda s: old)
    rig.step(6)  # asked at tick 5
    own = rig.contract
    scaled = description(own).normalizer | {"action_half_range": (0.1, 0.1)}
    rig.swap(another(own, normalizer=scaled), FakeSampler(constant([1.0, 1.0])))
    rig.step(6)
    assert {round(s.values[0], 6) for s in rig.sent} == {0.5, 0.1}


@pytest.mark.parametrize("build,rate", [(velocity_dict, 1.0), (position_dict, 2.0)])
def test_fault_047_the_change_at_the_swap_is_limited_from_what_was_last_sent(build, rate):
    rig = Rig(contract(build(rate=rate)), plan=constant([0.8, 0.8]))
    rig.step(30)
    rig.swap(another(rig.contract), FakeSampler(constant([-0.8, -0.8])))
    rig.step(40)
    change = np.abs(np.diff(rig.log[:, 1:], axis=0)).max()
    assert change <= rate * 0.05 + 1e-9 and rig.sent[-1].values[0] == pytest.approx(-0.8)


def test_fault_047_a_policy_of_longer_chunks_brings_its_own_time():
    rig = Rig(contract(horizon=5, execute=5), plan=constant([0.5, 0.5]))
    rig.step(3)
    rig.swap(another(contract(horizon=8, execute=4)), FakeSampler(constant([0.1, 0.1])))
    rig.step(9)
    starts = [t.sampled.chunk.start for t in rig.ticks if t.sampled]
    assert [(s - START) // T for s in starts] == [0, 3, 7, 11]
    assert rig.ticks[3].sampled.chunk.actions.shape == (8, 2)


def test_fault_049_a_swap_in_hold_recovers_with_the_new_sampler():
    def broken(call, honest):
        if call:
            raise RuntimeError("broken")
        return honest

    rig = Rig(plan=broken)
    rig.step(6)
    assert rig.ticks[-1].state is State.HOLD and rig.ticks[-1].reason.code == "INFERENCE"
    rig.swap(another(rig.contract), FakeSampler(constant([0.2, 0.2])))
    rig.step(12)
    assert rig.ticks[-1].state is State.RUN and rig.sent[-1].values[0] == pytest.approx(0.2)


def test_a_swap_does_not_release_a_fault():
    rig = Rig()
    rig.step(6)
    rig.core.estop()
    rig.step()
    rig.swap(another(rig.contract), FakeSampler())
    rig.step(20)
    assert rig.ticks[-1].state is State.FAULT and not rig.sent[-1].admitted


def test_fault_118_the_new_beta_counts_from_the_first_sample_of_the_new_policy():
    rig = Rig(beta=0.05)
    rig.step(6)
    new = another(rig.contract, beta=Beta(2.0, 1.0))
    rig.swap(new, FakeSampler(), beta=2.0)
    rig.step(6)
    betas = [t.sampled.beta for t in rig.ticks if t.sampled]
    assert betas == [0.05, 0.05, 2.0, 2.0]


# Whether it fits.

DIFFERENT = {
    "topic": (("actions", 0, "topic"), "other_commands"),
    "observed topic": (("observations", 1, "topic"), "other_goal"),
    "limit": (("actions", 0, "limits", "a", "max"), 3.0),
    "rate": (("actions", 0, "limits", "b", "rate"), 90.0),
    "order": (("actions", 0, "names"), ["b", "a"]),
    "unit": (("actions", 0, "units"), "deg/s"),
    "age": (("observations", 0, "max_age"), 1.0),
    "period": (("time", "period"), 0.1),
    "robot": (("robot",), "another_arm"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_fault_048_what_node_and_robot_agreed_on_may_not_change(what):
    value, (path, new) = velocity_dict(), DIFFERENT[what]
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    with pytest.raises(PolicyRefused) as refused:
        check_exchange(policy_in_memory(contract(value)), contract())
    said = str(refused.value)
    print(said)
    first = new[0] if isinstance(new, list) else new
    assert str(first) in said and ("robot has" in said or "this one is" in said)


def test_a_swap_brings_the_new_policys_box_of_states():
    rig = Rig()
    rig.step(3)
    box = Support((-0.1,) * 5, (0.1,) * 5)
    rig.state["joints"] = np.array([0.0, 9.0, 0.0, 0.0])  # within fifteen standard deviations
    rig.step(3)
    assert rig.ticks[-1].state is State.RUN
    rig.swap(another(rig.contract, states=box), FakeSampler())
    rig.step()
    assert rig.ticks[-1].reason.code == "STATE_OOD"


def test_a_policy_of_other_chunks_may_take_over():
    check_exchange(policy_in_memory(contract(horizon=8, execute=4)), contract())


# The mailbox.


def request(number):
    return Request(policy_in_memory(contract()).observed(np.zeros(5)), np.zeros((1, 10), np.float32), 1.0, number, 0, 1, 1.0, 0.0)  # fmt: skip


def test_fault_053_a_hung_sampler_does_not_block_the_one_that_replaces_it():
    release = threading.Event()

    def hang(call, honest):
        release.wait(60)
        return honest

    inference = ThreadInference(FakeSampler(hang))
    inference.submit(request(1))
    inference.swap(FakeSampler(constant([0.5, 0.5])))
    inference.submit(request(2))
    result = inference.poll(30.0)
    assert result is not None and result.request.start == 2 and result.sample is not None
    release.set()
    assert inference.poll(0.05) is None, "the old answer is nobody's"
    inference.close()


def test_a_hundred_swaps_leave_one_thread():
    before = threading.active_count()
    inference = ThreadInference(FakeSampler())
    for number in range(100):
        inference.swap(FakeSampler())
        inference.submit(request(number))
        assert inference.poll(30.0).request.start == number
    inference.close()
    for thread in threading.enumerate():
        if thread.name == "qgf-inference":
            thread.join(10)
    assert threading.active_count() == before
