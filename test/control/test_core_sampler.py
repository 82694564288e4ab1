"""A sampler that cannot be relied upon: a critic out of its mind, a lost device, too slow."""

import math
import threading

import numpy as np
import pytest
from qgf_make import (
    SECOND,
    FakeSampler,
    LateInference,
    Rig,
    constant,
    contract,
    policy_in_memory,
    sample_of,
)

from qgf_ros.control.inference import Result, is_device_loss
from qgf_ros.control.sampling import time_sampler
from qgf_ros.control.supervisor import State
from qgf_ros.errors import PolicyRefused

T = SECOND // 20


def codes(rig):
    """Warnings but for FROZEN: the rig's state does not move."""
    return [p.code for p in rig.core.notices.current(rig.now) if p.code != "FROZEN"]


# Rows 59 and 60.


def invalid(honest, what="q"):
    value = np.array([np.nan if what == "q" else 1e30], np.float32)
    wrong = {what: value}
    return sample_of(np.ones_like(honest.action), honest.action_unguided, **wrong)


@pytest.mark.parametrize("what", ["q", "gradient_norm"])
def test_fault_059_060_an_invalid_sample_is_unguided_and_a_warning(what):
    rig = Rig(plan=lambda call, honest: invalid(honest, what) if call == 1 else honest)
    plain = Rig(beta=math.inf)
    rig.step(5), plain.step(10)
    assert codes(rig) == []
    rig.step(5)
    assert np.array_equal(rig.log[5:], plain.log[5:]) and codes(rig) == ["Q_INVALID"]
    assert "q_invalid" in rig.ticks[5].sampled.guards
    assert all(t.state is State.RUN for t in rig.ticks)
    rig.step(25)
    assert codes(rig) == []


@pytest.mark.parametrize("what", ["q", "gradient_norm"])
def test_fault_059_060_ten_in_a_row_are_a_hold_and_valid_ones_end_it(what):
    rig = Rig(
        contract(execute=1),
        plan=lambda call, honest: invalid(honest, what) if 3 <= call < 40 else honest,
    )
    rig.step(12)
    assert all(t.state is State.RUN for t in rig.ticks), "nine"
    rig.step()
    assert rig.ticks[-1].state is State.HOLD and rig.ticks[-1].reason.code == "Q_INVALID"
    rig.step(20)
    assert rig.ticks[-1].state is State.HOLD and not rig.ticks[-1].output.admitted
    assert len(rig.sampler.calls) == 33, "it is asked again in every tick"
    rig.step(20)
    assert rig.ticks[-1].state is State.RUN


def test_fault_059_one_valid_sample_begins_the_count_anew():
    rig = Rig(
        contract(execute=1), plan=lambda call, honest: honest if call % 9 == 0 else invalid(honest)
    )
    rig.step(60)
    assert all(t.state is State.RUN for t in rig.ticks)


def test_fault_059_an_unguided_policy_does_not_stop_for_its_critic():
    rig = Rig(contract(execute=1), plan=lambda call, honest: invalid(honest), beta=math.inf)
    rig.step(60)
    assert all(t.state is State.RUN for t in rig.ticks)


# Row 62.


class OutOfMemoryError(RuntimeError):
    """Named as torch.cuda's is."""


LOSSES = [
    RuntimeError("CUDA error: device-side assert triggered"),
    OutOfMemoryError("tried to allocate 2 GiB"),
    RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError(
        "void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of size 4096"
    ),
]


class OnCuda(FakeSampler):
    device = "cuda"


class Builds:
    """Makes samplers, when it is let."""

    def __init__(self, *made):
        self.made, self.asked = list(made), []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, policy, device):
        self.asked.append(device)
        self.go.wait(30)
        made = self.made.pop(0)
        if isinstance(made, Exception):
            raise made
        return made


def losing(error, *at):
    def plan(call, honest):
        if call in at:
            raise error
        return honest

    return plan


def rig_on_cuda(plan, build):
    rig = Rig(plan=plan, build=build)
    rig.sampler.device = "cuda"
    return rig


def wait_for_build(rig):
    for thread in threading.enumerate():
        if thread.name == "qgf-rebuild":
            thread.join(30)


@pytest.mark.parametrize("error", LOSSES, ids=lambda e: type(e).__name__)
def test_fault_062_a_lost_device_is_a_hold_and_one_rebuild_that_resumes(error):
    build = Builds(OnCuda(constant([0.2, 0.2])))
    build.go.clear()
    rig = rig_on_cuda(losing(error, 1), build)
    rig.step(6)
    assert rig.ticks[5].state is State.HOLD and rig.ticks[5].reason.code == "DEVICE"
    assert not rig.ticks[5].output.admitted and type(error).__name__ in rig.ticks[5].reason.detail
    rig.step(40)
    assert rig.ticks[-1].state is State.HOLD, "however long the build takes"
    assert len(rig.sampler.calls) == 2, "the lost one is not called again"
    build.go.set()
    wait_for_build(rig)
    rig.step(12)
    assert rig.ticks[-1].state is State.RUN and rig.sent[-1].values[0] == pytest.approx(0.2)
    assert build.asked == ["cuda"]


def test_fault_062_a_second_loss_within_a_minute_is_a_fault():
    build = Builds(OnCuda(losing(LOSSES[0], 5)))
    rig = rig_on_cuda(losing(LOSSES[0], 1), build)
    rig.step(6)
    wait_for_build(rig)
    rig.step(60)
    assert rig.ticks[-1].state is State.FAULT and rig.ticks[-1].reason.code == "DEVICE"
    assert build.asked == ["cuda"] and "again" in rig.ticks[-1].reason.detail


def test_fault_062_a_second_loss_after_a_minute_is_made_good_again():
    build = Builds(OnCuda(losing(LOSSES[0], 255)), OnCuda())
    rig = rig_on_cuda(losing(LOSSES[0], 1), build)
    rig.step(6)
    wait_for_build(rig)
    rig.step(1290)
    wait_for_build(rig)
    rig.step(20)
    assert build.asked == ["cuda", "cuda"] and rig.ticks[-1].state is State.RUN


@pytest.mark.parametrize("made", [FakeSampler(), RuntimeError("no CUDA-capable device")], ids=["cpu", "none"])  # fmt: skip
def test_fault_061_062_never_a_silent_fall_back_to_another_device(made):
    rig = rig_on_cuda(losing(LOSSES[0], 1), Builds(made))
    rig.step(6)
    wait_for_build(rig)
    admitted = sum(s.admitted for s in rig.sent)
    rig.step(40)
    assert rig.ticks[-1].state is State.FAULT and rig.ticks[-1].reason.code == "DEVICE"
    assert sum(s.admitted for s in rig.sent) == admitted
    print(rig.ticks[-1].reason.detail)


def test_fault_062_without_a_way_to_build_it_is_a_fault():
    rig = Rig(plan=losing(LOSSES[0], 1))
    rig.step(6)
    assert rig.ticks[-1].state is State.FAULT and rig.ticks[-1].reason.code == "DEVICE"


def test_fault_062_a_reset_and_enable_do_not_run_on_a_device_that_is_being_made_again():
    build = Builds(OnCuda())
    build.go.clear()
    rig = rig_on_cuda(losing(LOSSES[0], 1), build)
    rig.step(6)
    rig.core.reset()
    rig.step(3)
    assert rig.ticks[-1].state is State.WAITING and rig.ticks[-1].reason.code == "DEVICE"
    assert "DEVICE" in rig.core.enable(True) or "made again" in rig.core.enable(True)
    build.go.set()
    wait_for_build(rig)
    rig.step(3)
    assert rig.ticks[-1].state is State.READY and rig.core.enable(True) == ""


@pytest.mark.parametrize("error", [ValueError("shape"), RuntimeError("broken"), ZeroDivisionError()])  # fmt: skip
def test_other_errors_are_not_the_devices(error):
    assert not is_device_loss(error)


# Row 63.


class Taking(LateInference):
    """Answers at once, and says how long it took."""

    def __init__(self, sampler, seconds):
        super().__init__(sampler, lambda i: 0)
        self.seconds = seconds

    def poll(self, timeout):
        result = super().poll(timeout)
        return result and Result(result.request, result.sample, result.error, self.seconds)


def test_fault_063_too_slow_a_sampler_is_not_started_until_it_is_fast():
    """Five actions of 50 ms: there are 250 ms for a sample."""
    rig = Rig(inference=lambda s: Taking(s, 0.3), timed=[0.001] * 9 + [0.26])
    rig.step(30)
    assert not rig.sent and {t.state for t in rig.ticks} == {State.WAITING}
    reason = rig.ticks[-1].reason
    assert reason.code == "SAMPLER_SLOW" and "300.0 ms" in reason.detail and "250.0 ms" in reason.detail  # fmt: skip
    rig.inference.seconds = 0.2
    rig.step(9)
    assert rig.ticks[-1].state is State.WAITING and not rig.sent
    rig.step(2)
    assert rig.ticks[-1].state is State.RUN and rig.sent[0].admitted


def test_fault_063_enable_is_refused_while_the_sampler_is_too_slow():
    rig = Rig(inference=lambda s: Taking(s, 0.3), timed=[0.3] * 10, enabled=False)
    rig.step(2)
    assert "ms" in rig.core.enable(True) and not rig.core.supervisor.enabled


def test_fault_063_a_slow_first_call_is_not_counted():
    rig = Rig()
    calls = []

    def plan(call, honest):
        calls.append(call)
        return honest

    seconds = time_sampler(rig.policy, FakeSampler(plan), 3)
    assert len(seconds) == 10 and len(calls) == 11


@pytest.mark.parametrize(
    "bad", [lambda s: None, lambda s: sample_of(np.full_like(s.action, np.nan)), lambda s: 1 / 0]
)
def test_fault_042_048_a_first_sample_that_is_none_is_refused(bad):
    policy = policy_in_memory(contract())
    with pytest.raises(PolicyRefused):
        time_sampler(policy, FakeSampler(lambda call, honest: bad(honest)))


def test_fault_052_a_sampler_that_is_still_late_keeps_the_robot_in_hold():
    """Else it would be a HOLD every half a second, and soon a FAULT, although the delay passes."""
    delays = {k: 4 for k in range(1, 12)}

    class Late(LateInference):
        def poll(self, timeout):
            result = super().poll(timeout)
            seconds = self.delays(self._begun - 1) * 0.05
            return result and Result(result.request, result.sample, result.error, seconds)

    rig = Rig(inference=lambda s: Late(s, lambda i: delays.get(i, 0)))
    rig.step(40)
    assert rig.ticks[-1].state is State.HOLD and "200.0 ms" in rig.ticks[-1].reason.detail
    rig.step(40)
    assert rig.ticks[-1].state is State.RUN
    states = [t.state for t in rig.ticks]
    assert sum(b is State.HOLD and a is State.RUN for a, b in zip(states, states[1:])) == 1


# Row 117.


def test_fault_117_another_owner_in_command_holds_until_enable():
    rig = Rig(plan=constant([0.5, 0.5]))
    rig.step(7)
    rig.core.takeover("/teleop")
    rig.step()
    assert rig.ticks[-1].state is State.HOLD and rig.ticks[-1].reason.code == "TAKEOVER"
    assert "/teleop" in rig.ticks[-1].reason.detail and not rig.ticks[-1].output.admitted
    rig.step(60)
    assert rig.ticks[-1].state is State.READY and not rig.sent[-1].admitted
    assert rig.core.enable(True) == "" and rig.step().state is State.RUN
