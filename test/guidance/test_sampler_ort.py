"""ONNX Runtime: which provider a session ends on, and that it is said. No GPU is needed for most."""

import dataclasses

import numpy as np
import pytest

from qgf_ros.errors import DeviceUnavailable, PolicyRefused
from qgf_ros.files.share import find_policy
from qgf_ros.guidance.block import Block
from qgf_ros.policy.folder import load_policy

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnxruntime

from qgf_ros.guidance.backends import onnx as ort
from qgf_ros.guidance.backends.onnx import OnnxSampler

AVAILABLE = onnxruntime.get_available_providers()
GPU = ort.CUDA in AVAILABLE
CONTROL_FLOW = (
    "This session cannot use the graph capture feature as requested by the user as the model has "
    "control flow nodes which can't be supported by CUDAExecutionProvider"
)


@pytest.fixture(scope="module")
def policy():
    return load_policy(find_policy("planar_arm"))


class Sessions:
    """`InferenceSession` of a CUDA build: real ones on the CPU, which say what they are told to."""

    def __init__(self, monkeypatch, answer):
        """answer: (CUDA's options) -> the providers of such a session, or what it raises."""
        self.answer, self.asked, self.real = answer, [], onnxruntime.InferenceSession
        monkeypatch.setattr(onnxruntime, "InferenceSession", self)
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: [ort.CUDA, "CPUExecutionProvider"]
        )
        monkeypatch.setattr(ort, "_Call", lambda *_: lambda *_: None)  # nothing can run on CUDA

    def __call__(self, model, options, providers, enable_fallback):
        self.asked.append(providers)
        assert enable_fallback == 0, "else the Python class falls back by itself"
        session = self.real(model, options, ["CPUExecutionProvider"])
        if isinstance(providers[0], tuple):
            providers = self.answer(providers[0][1])
            if isinstance(providers, Exception):
                raise providers
            session.get_providers = lambda: providers
        return session


def with_cuda(options):
    return [ort.CUDA, "CPUExecutionProvider"]


def test_on_cuda_a_graph_is_asked_for_and_no_tf32(policy, monkeypatch):
    sessions = Sessions(monkeypatch, with_cuda)
    sampler = OnnxSampler(policy, "auto")
    assert (sampler.device, sampler.details, sampler.note) == ("cuda", "float32, CUDA graph", "")
    ((name, options), last), *more = sessions.asked
    assert name == ort.CUDA and last == "CPUExecutionProvider" and not more
    assert options["use_tf32"] == "0" and options["enable_cuda_graph"] == "1"


def test_fault_061_a_card_that_cannot_sample_is_not_available(policy, monkeypatch):
    Sessions(monkeypatch, with_cuda)

    def fails(*_):
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(ort, "_Call", fails)
    with pytest.raises(DeviceUnavailable, match="could not sample on it: CUDA failure 2"):
        OnnxSampler(policy, "cuda")


def test_a_model_that_cannot_be_captured_runs_without_a_graph_and_says_so(policy, monkeypatch):
    refuses = lambda o: RuntimeError(CONTROL_FLOW) if "enable_cuda_graph" in o else with_cuda(o)  # noqa: E731
    Sessions(monkeypatch, refuses)
    sampler = OnnxSampler(policy, "cuda")
    assert (sampler.device, sampler.details) == ("cuda", "float32")
    assert sampler.note.startswith("no CUDA graph") and "control flow" in sampler.note


@pytest.mark.parametrize("answer", [["CPUExecutionProvider"], RuntimeError("CUDA failure 35")])
def test_fault_061_a_cuda_build_without_a_gpu_is_not_silent(policy, monkeypatch, answer):
    Sessions(monkeypatch, lambda _: answer)
    with pytest.raises(DeviceUnavailable, match="cuda"):
        OnnxSampler(policy, "cuda")
    sampler = OnnxSampler(policy, "auto")
    assert sampler.device == "cpu" and sampler.note.startswith("not on CUDA")


def test_a_damaged_model_is_not_the_gpus_fault(policy, monkeypatch):
    Sessions(monkeypatch, with_cuda)
    damaged = dataclasses.replace(policy, onnx=policy.onnx[:1000])
    with pytest.raises(PolicyRefused, match="sampler.onnx"):
        OnnxSampler(damaged, "cuda")


@pytest.mark.skipif(GPU, reason="this is a CUDA build of ONNX Runtime")
def test_fault_061_a_cpu_build_refuses_cuda(policy):
    with pytest.raises(DeviceUnavailable, match="CPUExecutionProvider"):
        OnnxSampler(policy, "cuda")
    sampler = OnnxSampler(policy, "auto")
    assert (sampler.device, sampler.details, sampler.note) == ("cpu", "float32", "")


def test_a_policy_without_a_sampler_and_one_of_another_version_are_refused(policy):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    with pytest.raises(PolicyRefused, match="qgf export"):
        OnnxSampler(dataclasses.replace(policy, onnx=None))
    model = onnx.load_model_from_string(policy.onnx)
    model.graph.input[1].name = "nois"
    for node in model.graph.node:
        node.input[:] = ["nois" if name == "noise" else name for name in node.input]
    with pytest.raises(PolicyRefused, match="not a sampler of this version"):
        OnnxSampler(dataclasses.replace(policy, onnx=model.SerializeToString()))


def test_a_block_has_its_arrays_apart_and_aligned():
    layout = {"a": ((3,), np.float32), "b": ((), np.float32), "c": ((2, 5), np.bool_)}
    block = Block(layout)
    raw = np.zeros(block.nbytes, np.uint8)
    views = block.views(raw)
    for i, (name, (shape, kind)) in enumerate(layout.items(), 1):
        assert views[name].shape == shape and views[name].dtype == kind
        assert block.offset(name) % 256 == 0 and block.names == set(layout)
        views[name][...] = i
    assert views["a"].tolist() == [1, 1, 1] and views["b"] == 2 and views["c"].all()


@pytest.mark.skipif(not GPU, reason=f"ONNX Runtime offers {', '.join(AVAILABLE)} here, no CUDA")
def test_on_cuda_it_is_the_sampler_of_the_cpu(policy):
    cuda, cpu = OnnxSampler(policy, "cuda"), OnnxSampler(policy, "cpu")
    assert cuda.details == "float32, CUDA graph" and cuda.note == ""
    rng = np.random.default_rng(0)
    for count in (1, 3, 1):
        for weight in (0.0, 3.0, 30.0):
            obs = rng.standard_normal(policy.obs_dim).astype(np.float32)
            noise = rng.standard_normal((count, policy.flat_dim)).astype(np.float32)
            gap = np.abs(cuda(obs, noise, weight).action - cpu(obs, noise, weight).action)
            assert gap.max() <= 2e-5 * (1 + weight)
