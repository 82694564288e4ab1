"""Which sampler a robot gets: what was asked for, or an error that says why not; by default the best
that can be had, with a word on what would have been better."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qgf_nets import policy_of

from qgf_ros.errors import DeviceUnavailable, PolicyRefused, UsageError
from qgf_ros.files.share import share_folder
from qgf_ros.guidance.backends import native
from qgf_ros.guidance.backends.table import HALF_TOLERANCE
from qgf_ros.guidance.registry import ONNX, make_sampler
from qgf_ros.policy.description import Export
from qgf_ros.policy.folder import load_policy

ARM = share_folder() / "config" / "policies" / "planar_arm"


@pytest.fixture(scope="module")
def arm():
    return load_policy(ARM)


def measured(policy, **errors):
    export = Export(0.1, 10, 0, "1.0", **errors)
    return dataclasses.replace(
        policy, description=dataclasses.replace(policy.description, export=export)
    )


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "libqgf_sampler.so")
    native._library.cache_clear()
    yield tmp_path / "libqgf_sampler.so"
    native._library.cache_clear()


@pytest.fixture
def no_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "qgf_ros.guidance.backends.onnx", raising=False)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_by_default_the_cpus_is_native(arm, device):
    sampler = make_sampler(arm, device=device)
    if device == "auto" and sampler.device == "cuda":
        pytest.skip("this machine has a GPU and ONNX Runtime for it")
    assert (sampler.backend, sampler.device, sampler.note) == ("native", "cpu", "")
    assert sampler.details == f"float32, {native.isas()[0]}"


def test_each_backend_by_name(arm):
    assert make_sampler(arm, "native", "cpu").backend == "native"
    sampler = make_sampler(arm, "onnx", "cpu")
    assert (sampler.backend, sampler.device, sampler.note) == ("onnx", "cpu", "")


ALONE = """
import sys
from pathlib import Path
import numpy as np
from qgf_ros.policy.folder import load_policy
from qgf_ros.guidance.registry import make_sampler
policy = load_policy(sys.argv[1])
sampler = make_sampler(policy)
sampler(np.zeros(policy.obs_dim), np.zeros((1, policy.flat_dim)), 1.0)
print(sampler.backend, [m for m in ("onnxruntime", "torch", "training") if m in sys.modules])
"""


@pytest.mark.parametrize("absent", [True, False])
def test_a_robot_without_onnxruntime_and_torch_samples(tmp_path, absent):
    """And where they are, the native sampler does not wait for their import."""
    if not absent and ONNX.has_cuda():
        pytest.skip("here a GPU is looked for, with ONNX Runtime")
    for name in ("onnxruntime", "torch", "training") if absent else ():
        (tmp_path / f"{name}.py").write_text("raise ImportError('not on this robot')\n")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, ARM],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert ran.stdout == "native []\n"


def test_a_policy_that_was_never_exported_is_no_matter_to_the_native_sampler(arm):
    bare = dataclasses.replace(arm, onnx=None)
    assert make_sampler(bare, device="cpu").backend == "native"
    with pytest.raises(PolicyRefused, match="qgf export"):
        make_sampler(bare, "onnx", "cpu")


def test_where_the_library_is_missing_onnx_takes_over_and_says_why(arm, no_library):
    sampler = make_sampler(arm, device="cpu")
    assert (sampler.backend, sampler.device) == ("onnx", "cpu")
    assert "libqgf_sampler.so is not there" in sampler.note and "ONNX Runtime" in sampler.note
    with pytest.raises(DeviceUnavailable, match="libqgf_sampler.so is not there"):
        make_sampler(arm, "native")


def test_a_file_that_is_no_library_is_named_too(arm, no_library):
    no_library.write_bytes(b"no library")
    assert "cannot be loaded" in make_sampler(arm, device="cpu").note


def test_a_library_of_another_version_is_not_called(arm, monkeypatch, no_library):
    monkeypatch.undo()  # the real library
    native._library.cache_clear()
    monkeypatch.setattr(native, "ABI", 99)
    assert "version 1" in make_sampler(arm, device="cpu").note


def test_where_neither_can_be_had_the_error_names_both(arm, no_library, no_onnxruntime):
    with pytest.raises(DeviceUnavailable, match="libqgf_sampler.so.*onnxruntime is not installed"):
        make_sampler(arm, device="cpu")
    no_sampler = dataclasses.replace(arm, onnx=None)
    with pytest.raises(DeviceUnavailable):
        make_sampler(no_sampler)


def test_a_network_beyond_its_limits_is_left_to_onnx():
    deep = policy_of(velocity=(4,) * 17)
    with pytest.raises(PolicyRefused, match="nets: the native sampler does not take it"):
        make_sampler(deep, "native")
    with pytest.raises(PolicyRefused, match="does not take it.*; and .*sampler.onnx"):
        make_sampler(deep)


@pytest.mark.parametrize(
    "names, said",
    [
        (dict(backend="tensorrt"), "auto, native, onnx, torch, numpy"),
        (dict(device="tpu"), "auto, cpu, cuda"),
        (dict(precision="int8"), "float32, float16"),
        (dict(backend="native", device="cuda"), "on the CPU"),
        (dict(backend="onnx", precision="float16"), "native"),
        (dict(backend="torch", precision="float16"), "native"),
        (dict(device="cuda", precision="float16"), "native"),
    ],
    ids=str,
)
def test_names_that_mean_nothing_are_refused(arm, names, said):
    with pytest.raises(UsageError, match=said):
        make_sampler(arm, **names)


@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_cuda_is_never_another_device(arm, backend):
    try:
        assert make_sampler(arm, backend, "cuda").device == "cuda"
    except DeviceUnavailable as error:
        assert "cuda" in str(error)


@pytest.mark.parametrize("backend", ["auto", "native"])
def test_half_precision_runs_where_it_was_measured(arm, backend):
    sampler = make_sampler(
        measured(arm, half_error=0.5 * HALF_TOLERANCE), backend, precision="float16"
    )
    assert sampler.details.startswith("float16, ")
    full = make_sampler(arm, "native")
    obs, noise = np.zeros(arm.obs_dim), np.zeros((1, arm.flat_dim))
    difference = np.abs(sampler(obs, noise, 0.0).action - full(obs, noise, 0.0).action).max()
    assert 0 < difference < HALF_TOLERANCE
    assert sampler.weight_bytes < 0.6 * full.weight_bytes


@pytest.mark.parametrize(
    "errors, said",
    [
        ({}, "never measured.*qgf export"),
        ({"half_error": 2 * HALF_TOLERANCE}, "change its normalised actions by 0.08"),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ["auto", "native"])
def test_half_precision_that_was_not_measured_or_is_too_far_off_is_refused(
    arm, backend, errors, said
):
    with pytest.raises(PolicyRefused, match=said):
        make_sampler(measured(arm, **errors), backend, precision="float16")


def test_half_precision_does_not_become_full_in_silence(arm, no_library):
    with pytest.raises(DeviceUnavailable, match="not there"):
        make_sampler(measured(arm, half_error=0.01), precision="float16")


def test_a_cuda_build_without_a_gpu_leaves_the_cpu_to_the_native_sampler_and_says_why(
    arm, monkeypatch
):
    def no_gpu(policy, device, threads, precision):
        assert device == "cuda"
        raise DeviceUnavailable("it found no GPU")

    monkeypatch.setattr(ONNX, "has_cuda", lambda: True)
    monkeypatch.setattr(ONNX, "make", no_gpu)
    sampler = make_sampler(arm)
    assert (sampler.backend, sampler.device) == ("native", "cpu")
    assert "it found no GPU" in sampler.note
    assert make_sampler(arm, device="cpu").note == "", "nobody wanted one"


def test_the_binding_has_the_headers_numbers_and_fields():
    header = (Path(__file__).resolve().parents[2] / "src" / "qgf_sampler.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    constants = dict(re.findall(r"#define (QGF_\w+) (\d+)", text))
    assert int(constants["QGF_ABI"]) == native.ABI
    assert int(constants["QGF_MAX_CANDIDATES"]) == native.MAX_CANDIDATES
    structs = {"shape": native._Shape, "layer": native._Layer, "request": native._Request,
               "result": native._Result}  # fmt: skip
    for name, ours in structs.items():
        body = re.search(r"typedef struct \{([^{}]*)\} qgf_" + name + ";", text)[1]
        fields = [
            f for line in body.split(";") for f in re.findall(r"(\w+)\s*(?:,|$)", line.strip())
        ]
        assert fields == [field for field, *_ in ours._fields_], name
