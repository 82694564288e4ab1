"""The PyTorch backend: the reference's numbers on a CPU, and on CUDA those of the CPU."""

import dataclasses

import numpy as np
import pytest
from qgf_make import contract, description, policy_in_memory, tensors

from qgf_ros.errors import DeviceUnavailable
from qgf_ros.guidance.protocols import Guards
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.description import Network, Returns, Support

pytest.importorskip("torch", reason="torch is not installed")

import torch

from qgf_ros.guidance.backends.torch import TorchSampler
from training.export import parity as parity_module
from training.reference_sampler import ReferenceSampler

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="PyTorch sees no CUDA device here")
EVERY = Guards(
    skip_first=1,
    disagreement=0.02,
    only=contract().action_names[:1],
    support=True,
    ratio_cap=0.02,
)
WEIGHTS = (0.0, 3.0, 30.0)


def tiny(aggregation="min", output="linear", members=2, seed=0):
    own = contract()
    critic = Network("critic.safetensors", (32, 32), members, output=output)
    changes = {
        "returns": Returns("time_to_success", 0.99, 1.0, aggregation),
        "support": Support((-0.05,) * 10, (0.05,) * 10),
        "critic": critic,
    }
    weights = tensors(own, description(own, **changes), seed)
    velocity, critic = (weights[f"{name}.safetensors"] for name in ("velocity", "critic"))
    return dataclasses.replace(policy_in_memory(own, **changes), velocity=velocity, critic=critic)


def asked(policy, count, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, policy.flat_dim))
    committed = rng.uniform(-1, 1, (2, policy.action_dim))
    return (
        rng.standard_normal(policy.obs_dim).astype(np.float32),
        noise.astype(np.float32),
        committed.astype(np.float32),
    )


def assert_close(got, want, **tolerance):
    for field in dataclasses.fields(want):
        if (theirs := getattr(want, field.name)) is not None:
            ours = getattr(got, field.name)
            np.testing.assert_allclose(ours, theirs, err_msg=field.name, **tolerance)


CRITICS = [
    ("min", "linear", 2),
    ("min", "sigmoid", 5),
    ("min", "linear", 1),
    ("mean", "sigmoid", 2),
    ("mean-1std", "linear", 3),
    ("mean-1std", "sigmoid", 2),
]


@pytest.mark.parametrize(("aggregation", "output", "members"), CRITICS)
def test_it_is_within_the_tolerance_of_the_reference_in_float64(
    aggregation, output, members, monkeypatch
):
    """Several w and batch sizes, each guard, committed actions; ties left out and counted."""
    monkeypatch.setattr(parity_module, "ROUNDS", 1)
    policy = tiny(aggregation, output, members)
    (result,) = parity_module.parity(policy, TorchSampler(policy))
    assert result.largest_error <= 1 and result.samples > 50


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("guards", [Guards(), EVERY], ids=["unguarded", "guarded"])
def test_all_that_it_says_is_what_the_reference_says(guards, weight):
    policy = tiny("mean-1std", members=3)
    reference, sampler = ReferenceSampler(policy), TorchSampler(policy)
    obs, noise, committed = asked(policy, 3)
    for held in (None, committed):
        given = (obs, noise, weight, guards, held)
        assert_close(sampler(*given), reference(*given), atol=2e-5, rtol=1e-4)


def test_it_says_which_guards_took_hold():
    policy = tiny()
    sampler, (obs, noise, _) = TorchSampler(policy), asked(policy, 4)
    for bit, guards in enumerate((Guards(support=True), Guards(disagreement=1e-9), Guards(ratio_cap=1e-9))):  # fmt: skip
        assert np.all(sampler(obs, noise, 3.0, guards).acted == 2**bit)
    assert not sampler(obs, noise, 3.0).acted.any()


def test_members_that_agree_guide_as_one():
    policy = tiny("min", members=2)
    critic = {name: np.stack([t[0], t[0]]) for name, t in policy.critic.items()}
    single = {name: t[:1] for name, t in policy.critic.items()}
    twins = dataclasses.replace(policy, critic=critic)
    one = dataclasses.replace(tiny("min", members=1), critic=single)
    given = asked(policy, 2)[:2]
    both, alone = TorchSampler(twins)(*given, 3.0), TorchSampler(one)(*given, 3.0)
    np.testing.assert_allclose(both.action, alone.action, atol=1e-6)


def test_what_is_set_for_the_process_is_as_it_was():
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(2)
        torch.set_float32_matmul_precision("high")
        policy = tiny()
        TorchSampler(policy, "cpu", threads=1)(*asked(policy, 1)[:2], 1.0)
        assert torch.get_num_threads() == 2 and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@pytest.mark.skipif(GPU, reason="there is a CUDA device")
def test_fault_061_cuda_without_a_gpu_is_refused_and_auto_is_the_cpu():
    with pytest.raises(DeviceUnavailable, match="sees no GPU"):
        TorchSampler(tiny(), "cuda")
    sampler = make_sampler(tiny(), "torch", "auto")
    assert (sampler.backend, sampler.device, sampler.details) == ("torch", "cpu", "float32")


def test_a_gpu_that_is_there_and_fails_is_unavailable(monkeypatch):
    """A driver too old, or a card that another process has filled: known when it is first used."""

    def fails(*_):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", fails)
    with pytest.raises(DeviceUnavailable, match="out of memory"):
        TorchSampler(tiny(), "cuda")


# On a GPU.


@needs_gpu
@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize(("aggregation", "output", "members"), CRITICS[:2])
def test_on_cuda_it_is_within_the_tolerance_too(aggregation, output, members, cuda_graph):
    policy = tiny(aggregation, output, members)
    sampler = TorchSampler(policy, "cuda", cuda_graph=cuda_graph)
    assert sampler.device == "cuda" and ("graph" in sampler.details) == cuda_graph
    (result,) = parity_module.parity(policy, sampler)
    assert result.largest_error <= 1


@needs_gpu
def test_on_cuda_nothing_is_captured_again():
    policy = tiny()
    sampler = TorchSampler(policy, "cuda")
    fresh = TorchSampler(policy, "cpu")
    obs, noise, committed = asked(policy, 1)
    captured = sampler._calls[1]._graphs
    graphs = [id(graph) for graph in captured]
    for weight in WEIGHTS:
        for guards in (Guards(), EVERY, Guards(last=2)):
            for held in (None, committed):
                given = (obs, noise, weight, guards, held)
                assert_close(sampler(*given), fresh(*given), atol=2e-5, rtol=1e-4)
    assert [id(graph) for graph in captured] == graphs and list(sampler._calls) == [1]


@needs_gpu
def test_on_cuda_it_is_called_from_another_thread_than_it_was_made_in():
    from concurrent.futures import ThreadPoolExecutor

    policy = tiny()
    sampler, given = TorchSampler(policy, "cuda"), asked(policy, 1)[:2]
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(sampler, *given, 3.0).result()
    assert np.array_equal(there.action, sampler(*given, 3.0).action)
