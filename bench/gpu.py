"""One guided sample on a GPU: every way that we have to draw it, JAX, and what bounds them.

    python bench/gpu.py [--json] [--hidden 1024 1024 1024 1024] [--seconds 5]

Float32 without TF32, obs 37, chunk 5x5, T = 10, two critics with min, w = 1, one candidate, random
weights. A call takes numbers from the host's memory and gives them back there. The contestants take
turns in short bursts; before anything is timed their actions are compared with the reference on the
CPU. One that cannot run here is named, with the reason. Our samplers give the unguided row and the
diagnostics too; eager PyTorch and JAX draw the guided action alone.

What bounds a sample, both measured on the card:
    launch  the kernels of a sample, times what a kernel that does next to nothing takes in a graph
    memory  the bytes of weights that a sample reads, by the bandwidth of a copy within 1 GiB, and
            within as much as the weights, which may stay in the card's cache
Without a GPU this ends with code 6.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else JAX takes most of the card

import numpy as np
import torch
import tyro
from sampler_backends import WEIGHT, Case, Sizes, policy_of
from torch.autograd import DeviceType

from qgf_ros.console import emit, say, table
from qgf_ros.errors import CriterionNotMet, DeviceUnavailable, exit_codes
from qgf_ros.guidance.backends.torch import GUIDED, TorchSampler
from qgf_ros.policy.folder import Policy

BURST = 50  # calls
TOLERANCE = 1e-5  # of normalised action, times (1 + w)
CHAIN = 1000  # kernels in the graph whose time is divided by their number
GIB = 2**30

Run = Callable[[], np.ndarray]  # samples once -> the actions (N, D)


@dataclass(frozen=True)
class Gpu:
    """Times a sample on the GPU, by every backend, in turns."""

    hidden: tuple[int, ...] = (1024,) * 4
    candidates: int = 1
    seconds: float = 5.0
    """Of each contestant."""
    json: bool = False

    def run(self) -> None:
        if not torch.cuda.is_available():
            raise DeviceUnavailable(
                f"PyTorch {torch.__version__} sees no GPU; run this where there is one, with CUDA "
                "builds of torch, onnxruntime and jax"
            )
        case = Case(Sizes(self.hidden), self.candidates, "guided")
        runs, absent = prepare(case, "cuda")
        compare(case, runs)
        rows = [
            {"backend": name, "net": case.sizes.net, "candidates": self.candidates, **figures}
            for name, figures in measure(runs, self.seconds).items()
        ]
        document = {
            "device": torch.cuda.get_device_name(),
            "host": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "rows": rows,
            "absent": absent,
            "bounds": bounds(case),
        }
        if self.json:
            emit(document)
            return
        columns = ("backend", "p50_ms", "p99_ms", "calls")
        table(f"{case.sizes.net}, N = {self.candidates}, {document['device']}", columns,
              [[row[c] for c in columns] for row in rows])  # fmt: skip
        table("Bounds", ("of", "value"), [[k, v] for k, v in document["bounds"].items()])
        for name, why in absent.items():
            say(f"{name} was left out: {why}")


def prepare(case: Case, device: str) -> tuple[dict[str, Run], dict[str, str]]:
    """The contestants that run here, and why the others do not."""
    policy = policy_of(case.sizes)
    ours = partial(_ours, case)
    make: dict[str, Callable[[], Run]] = {
        "torch_graph": lambda: ours(TorchSampler(policy, device)),
        "torch_graph_fused": lambda: ours(TorchSampler(policy, device, fused=True)),
        "torch_launch": lambda: ours(TorchSampler(policy, device, cuda_graph=False)),
        "torch_eager": lambda: eager(case, device),
        "onnx_graph": lambda: ours(onnx(case, device, cuda_graph=True)),
        "onnx_launch": lambda: ours(onnx(case, device, cuda_graph=False)),
        "jax": lambda: jax(case, device),
    }
    runs, absent = {}, {}
    for name, build in make.items():
        try:
            run = build()
            run()
        except Exception as error:  # whatever a library raises, the others are measured
            absent[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        else:
            runs[name] = run
    return runs, absent


def _ours(case: Case, sampler: Any) -> Run:
    return lambda: sampler(case.obs, case.noise, case.weight).action


def eager(case: Case, device: str) -> Run:
    """`training.sampling` with autograd."""
    from training.export.parity import networks
    from training.sampling import sample

    policy = policy_of(case.sizes)
    nets = [net.to(device) for net in networks(policy)]
    times = torch.from_numpy(policy.velocity["time_embedding"]).to(device)

    def run() -> np.ndarray:
        obs, noise = (torch.from_numpy(x).to(device) for x in (case.obs, case.noise))
        rows = obs.expand(len(noise), -1)
        how = {"steps": case.sizes.steps, "times": times}
        return sample(*nets, rows, noise, case.weight, **how).action.cpu().numpy()

    return run


def onnx(case: Case, device: str, cuda_graph: bool) -> Any:
    from qgf_ros.guidance.backends.onnx import OnnxSampler

    policy = replace(policy_of(case.sizes), onnx=_exported(case.sizes))
    sampler = OnnxSampler(policy, device, cuda_graph=cuda_graph)
    if sampler.note:
        raise DeviceUnavailable(sampler.note)
    return sampler


@lru_cache(maxsize=1)
def _exported(sizes: Sizes) -> bytes:
    from training.export.explicit import GuidedSampler, export_onnx
    from training.export.parity import networks

    policy = policy_of(sizes)
    times = torch.from_numpy(policy.velocity["time_embedding"])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sampler.onnx"
        export_onnx(GuidedSampler(*networks(policy), sizes.steps, "min", times), path)
        return path.read_bytes()


def jax(case: Case, device: str) -> Run:
    """See `sampler_jax.py`."""
    import jax as library
    import sampler_jax

    if device == "cuda" and library.default_backend() != "gpu":
        raise DeviceUnavailable(f"jax runs on {library.default_backend()}")
    library.config.update("jax_default_matmul_precision", "highest")  # else TF32
    build = sampler_jax.sampler(policy_of(case.sizes), True, False, True)
    return lambda: np.asarray(build(case.obs, case.noise, case.weight)())


def compare(case: Case, runs: dict[str, Run]) -> None:
    """The same noise must give the same actions. Raises CriterionNotMet."""
    want = eager(case, "cpu")()
    for name, run in runs.items():
        error = float(np.abs(run() - want).max())
        if not error <= 2 * TOLERANCE * (1 + WEIGHT):  # both are float32
            raise CriterionNotMet(f"{name} differs from the reference by {error:.2g}")


def measure(runs: dict[str, Run], seconds: float) -> dict[str, dict[str, float]]:
    """Quantiles of the time of a call; each contestant has so many seconds, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    while min(map(sum, times.values())) < seconds:
        for name, run in runs.items():
            if sum(times[name]) >= seconds:
                continue
            for i in range(BURST):
                began = time.perf_counter()
                run()
                if i >= BURST // 10:  # the others have had the caches
                    times[name].append(time.perf_counter() - began)
    return {
        name: {
            "p50_ms": round(float(np.quantile(t, 0.5)) * 1e3, 4),
            "p99_ms": round(float(np.quantile(t, 0.99)) * 1e3, 4),
            "calls": len(t),
        }
        for name, t in times.items()
    }


def bounds(case: Case) -> dict[str, float]:
    """What no sampler of this structure, and no sampler at all, can be faster than."""
    policy = policy_of(case.sizes)
    count = kernels(TorchSampler(policy, "cuda", cuda_graph=False), case)
    launch = launch_us()
    size = weight_bytes(policy)
    far, near = copy_bandwidth(GIB), copy_bandwidth(size["once"])
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return {
        "kernels": count,
        "launch_us": round(launch, 3),
        "launch_ms": round(count * launch / 1e3, 4),
        "weight_mb": round(size["once"] / 1e6, 1),
        "cache_mb": round(cache / 1e6, 1),
        "read_mb": round(size["sample"] / 1e6, 1),
        "memory_gb_s": round(far / 1e9),
        "memory_ms": round(size["sample"] / far * 1e3, 4),
        "cached_gb_s": round(near / 1e9),
        "cached_ms": round(size["sample"] / near * 1e3, 4),
    }


def weight_bytes(policy: Policy) -> dict[str, int]:
    """Of both networks, and what a guided sample reads of them: in each step the flow once, the
    members forward, and with min the smallest one backward."""
    flow, critic = (
        sum(t.nbytes for name, t in of.items() if name.startswith("layers"))
        for of in (policy.velocity, policy.critic)
    )
    members, steps = policy.description.critic.members, policy.description.flow.denoise_steps
    return {"once": flow + critic, "sample": steps * (flow + critic + critic // members)}


def kernels(sampler: TorchSampler, case: Case) -> int:
    """How many a guided sample launches."""
    _ours(case, sampler)()
    kind = torch.profiler.ProfilerActivity.CUDA
    with torch.inference_mode(), torch.profiler.profile(activities=[kind]) as profile:
        sampler._calls[case.candidates]._run(GUIDED)
        torch.cuda.synchronize()
    found = [e for e in profile.events() if e.device_type == DeviceType.CUDA]
    return sum(not e.name.startswith(("Memcpy", "Memset")) for e in found)


def launch_us() -> float:
    """Of one kernel in a graph, each waiting for the one before it."""
    x = torch.zeros(1, device="cuda")
    x.add_(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CHAIN):
            x.add_(1)
    return fastest(graph.replay) / CHAIN * 1e6


def copy_bandwidth(size: int) -> float:
    """Bytes per second, read and written, where one half of so many is copied to the other."""
    source, target = torch.empty(2, size // 2, dtype=torch.uint8, device="cuda")
    return size / fastest(lambda: target.copy_(source))


def fastest(work: Callable[[], Any], rounds: int = 50) -> float:
    """Seconds, on the GPU's own clock."""
    found = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return min(found)


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Gpu, description=__doc__).run()
