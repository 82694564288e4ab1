"""PyTorch: on CUDA the whole sample is one CUDA graph, for each number of candidates.

Everything that changes from call to call, w, the guards and committed actions among it, is device
memory that the graph reads, so that nothing is captured again: a call is one copy in, one launch
and one copy out. What a sample may leave out is left out by graphs of their own, captured together:
w = 0 needs no gradient, and most robots run without the guards that limit it.

On a CPU the same module runs operation by operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from qgf_ros.errors import DeviceUnavailable
from qgf_ros.guidance.backends.explicit import INPUTS, GuidedSampler
from qgf_ros.guidance.block import Block, SamplerInputs, inputs, outputs
from qgf_ros.guidance.protocols import UNGUARDED, Guards, Sample, warm_up
from qgf_ros.policy.folder import Policy

# What a sample has: no gradient, one, and guards that limit it.
UNGUIDED, GUIDED, LIMITED = range(3)
WARM_UPS = 3  # on the capture's stream: cuBLAS takes its workspace, and chooses its kernels


class TorchSampler:
    """The policy's networks in PyTorch, float32 without TF32."""

    backend = "torch"
    note = ""

    def __init__(
        self,
        policy: Policy,
        device: str = "auto",
        threads: int = 1,
        cuda_graph: bool = True,
        fused: bool = False,
    ) -> None:
        """
        Args:
            threads: of PyTorch while it samples, on the CPU.
            cuda_graph: False launches the kernels one by one, for comparison.
            fused: a step goes through `torch.compile`, which makes one kernel of what lies between
                two matrix products. It takes a C compiler and many seconds; for measuring, until
                it is known what it brings.

        Raises:
            DeviceUnavailable: `cuda` was asked for and PyTorch cannot use one.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise DeviceUnavailable(
                f"device cuda was asked for, but PyTorch {torch.__version__} sees no GPU; use device "
                "auto or cpu, or install a CUDA build of torch on a machine with a GPU"
            )
        self.device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        self._graph = cuda_graph and self.device == "cuda"
        self.details = "float32, CUDA graph" if self._graph else "float32"
        self._threads, self._policy, self._calls = threads, policy, dict[int, _Call]()
        try:
            self._module = module_of(policy).to(self.device)
            if fused:
                self._module.step = torch.compile(self._module.step, dynamic=False)  # type: ignore[method-assign]
            warm_up(self, policy)
        except RuntimeError as error:
            if self.device == "cpu":
                raise
            raise DeviceUnavailable(f"the GPU cannot be used: {error}") from error

    @torch.inference_mode()
    def __call__(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Guards = UNGUARDED,
        committed: np.ndarray | None = None,
    ) -> Sample:
        count = len(noise)
        if count not in self._calls:
            call = _Call(self._module, self._policy, count, self.device, self._threads)
            if self._graph:
                call.capture()
            self._calls[count] = call
        return self._calls[count](obs, noise, weight, guards, committed)


class _Call:
    """What one number of candidates needs: its memory, and on CUDA its graphs."""

    def __init__(
        self, module: GuidedSampler, policy: Policy, count: int, device: str, threads: int
    ) -> None:
        self._module, self._graphs = module, list[torch.cuda.CUDAGraph]()
        self._threads = threads
        asked, self._answered = inputs(policy, count), outputs(policy, count, align=1)
        pinned = device == "cuda"
        self._host = [
            torch.zeros(block.nbytes, dtype=torch.uint8, pin_memory=pinned)
            for block in (asked, self._answered)
        ]
        self._inputs = SamplerInputs(policy, asked.views(self._host[0].numpy()))
        self._in, self._out = (torch.empty_like(t, device=device) for t in self._host)
        self._given = _tensors(asked, self._in)
        self._stream = torch.cuda.Stream() if device == "cuda" else None
        if self._stream is not None:  # the weights have arrived
            self._stream.wait_stream(torch.cuda.current_stream())

    def __call__(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Guards,
        committed: np.ndarray | None,
    ) -> Sample:
        self._inputs.write(obs, noise, weight, guards, committed)
        limited = guards.support or min(guards.disagreement, guards.ratio_cap) < np.inf
        kind = UNGUIDED if weight == 0 else LIMITED if limited else GUIDED
        with torch.cuda.stream(self._stream):  # without one, nothing
            self._in.copy_(self._host[0], non_blocking=True)
            self._graphs[kind].replay() if self._graphs else self._run(kind)
            self._host[1].copy_(self._out, non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()
        return Sample(**self._answered.views(self._host[1].numpy().copy()))

    def capture(self) -> None:
        """All kinds, so that none is captured while a robot waits for it."""
        for kind in (UNGUIDED, GUIDED, LIMITED):
            with torch.cuda.stream(self._stream):
                self._in.copy_(self._host[0], non_blocking=True)
                for _ in range(WARM_UPS):
                    self._run(kind)
            graph = torch.cuda.CUDAGraph()
            # By thread: another sampler may be at work in this process, until this one is ready.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._run(kind)
            self._graphs.append(graph)

    def _run(self, kind: int) -> None:
        given = self._given
        with _exactly(self._threads):
            if kind == UNGUIDED:
                few = [given[name] for name in ("obs", "noise", "fixed", "committed")]
                fields = self._module.unguided(*few)
            else:
                fields = self._module(*(given[k] for k in INPUTS), limited=kind == LIMITED)
            torch.cat([field.flatten() for field in fields], out=self._out.view(torch.float32))


def module_of(policy: Policy) -> GuidedSampler:
    """The sampler of the policy's own tensors."""
    d = policy.description
    velocity = {name: torch.tensor(value) for name, value in policy.velocity.items()}
    critic = {name: torch.tensor(value) for name, value in policy.critic.items()}
    times, bounded = velocity.pop("time_embedding"), d.critic.output == "sigmoid"
    return GuidedSampler(velocity, critic, times, d.returns.aggregation, bounded)


def _tensors(block: Block, raw: Tensor) -> dict[str, Tensor]:
    """The arrays of `block` in `raw`, which is on the device."""
    found = {}
    for name, like in block.views(np.empty(block.nbytes, np.uint8)).items():
        part = raw[block.offset(name) :][: like.nbytes]
        found[name] = part.view(torch.from_numpy(like.reshape(-1)[:0]).dtype).view(like.shape)
    return found


@contextmanager
def _exactly(threads: int) -> Iterator[None]:
    """float32 in full, and that many threads of the CPU: both are the process's, and not ours."""
    precision, before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(before)
