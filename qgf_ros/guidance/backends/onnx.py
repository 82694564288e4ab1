"""ONNX Runtime: the portable backend, and the one for CUDA. Runs the policy's sampler.onnx.

On CUDA all steps are one CUDA graph per number of candidates (`enable_cuda_graph`): inputs and
outputs lie in two blocks of device memory that never move, so that a call is one copy in, one
launch and one copy out, and w, the guards and committed actions change without a new capture. ONNX
Runtime captures at the second run of a `gpu_graph_id`, in each thread anew, so that the first two
samples of another thread take longer. It refuses a session whose model has control flow, or of
which a node that computes is not on the GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

from qgf_ros.errors import DeviceUnavailable, PolicyRefused
from qgf_ros.guidance.backends.onnx_graph import check_graph
from qgf_ros.guidance.block import SamplerInputs, inputs, outputs
from qgf_ros.guidance.protocols import UNGUARDED, Guards, Sample, warm_up
from qgf_ros.policy.folder import Policy
from qgf_ros.policy.manifest import SAMPLER

CUDA = "CUDAExecutionProvider"
# TF32, which is on by default, rounds to 10 bits: a hundred times the tolerance.
CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0"}


class OnnxSampler:
    """A session on the exported T-step sampler."""

    backend = "onnx"

    def __init__(
        self, policy: Policy, device: str = "auto", threads: int = 1, cuda_graph: bool = True
    ) -> None:
        """cuda_graph: False launches the kernels one by one, for comparison."""
        self.note = ""
        self._policy, self._calls = policy, dict[int, _Call]()
        self._session, graph = self._open(device, threads, cuda_graph)
        self.device = "cuda" if CUDA in self._session.get_providers() else "cpu"
        self.details = "float32, CUDA graph" if graph else "float32"
        if {i.name for i in self._session.get_inputs()} != inputs(policy, 1).names:
            raise PolicyRefused(
                f"{policy.folder / SAMPLER} is not a sampler of this version; run `qgf export`"
            )
        try:
            warm_up(self, policy)
        except Exception as error:  # as above; a card that is full, or too old for a kernel
            if self.device == "cpu":
                raise
            raise DeviceUnavailable(
                f"ONNX Runtime found a GPU and could not sample on it: {' '.join(str(error).split())[:300]}; "
                "use device cpu"
            ) from None

    def _open(self, device: str, threads: int, cuda_graph: bool) -> tuple[Any, bool]:
        """A session and whether it has a CUDA graph; what was wanted and not to be had is in `note`."""
        available = onnxruntime.get_available_providers()
        if device != "cpu" and CUDA in available:
            for graph in (True, False) if cuda_graph else (False,):
                options = CUDA_OPTIONS | ({"enable_cuda_graph": "1"} if graph else {})
                try:
                    session = self._opened(threads, [(CUDA, options)])
                except PolicyRefused as error:
                    self.note = f"{'no CUDA graph' if graph else 'not on CUDA'}: {error}"
                    continue
                # Without a GPU the CUDA build falls back in silence, so the session is asked.
                if CUDA in session.get_providers():
                    return session, graph
                self.note = "not on CUDA: ONNX Runtime offers it, but found no GPU that it can use"
                break
        session = self._opened(threads, [])  # where this fails too, the file is to blame
        if device == "cuda":
            raise DeviceUnavailable(
                f"device cuda was asked for, but ONNX Runtime offers {', '.join(available)}"
                f"{' and is ' + self.note if self.note else ''}; use device auto or cpu, or install "
                "the [gpu] extra on a machine with a GPU"
            )
        return session, False

    def _opened(self, threads: int, providers: list[Any]) -> Any:
        policy = self._policy
        if policy.onnx is None:
            raise PolicyRefused(
                f"{policy.folder} has no {SAMPLER}; make it with `qgf export {policy.folder}`"
            )
        if not policy.graph_checked:
            check_graph(policy.onnx, str(policy.folder / SAMPLER))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            # Left to itself, the Python class tries again on the CPU, also in the middle of a run.
            return onnxruntime.InferenceSession(
                policy.onnx, options, [*providers, "CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise PolicyRefused(
                f"{policy.folder / SAMPLER}: {' '.join(str(error).split())[:300]}"
            ) from None

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
            self._calls[count] = _Call(self._session, self._policy, count, self.device)
        given = guards if weight > 0 else UNGUARDED
        return self._calls[count](obs, noise, weight, given, committed)


class _Call:
    """What one number of candidates needs: bound buffers, and on CUDA a graph of its own."""

    def __init__(self, session: Any, policy: Policy, count: int, device: str) -> None:
        self._session, self._binding = session, session.io_binding()
        asked, self._answered = inputs(policy, count, obs_rows=count), outputs(policy, count)
        self._asked = np.zeros(asked.nbytes, np.uint8)
        views = asked.views(self._asked)
        self._inputs = SamplerInputs(policy, views)
        self._in, self._out = (_memory(block.nbytes, device) for block in (asked, self._answered))
        for name, view in views.items():
            address = self._in.data_ptr() + asked.offset(name)
            self._binding.bind_input(name, device, 0, view.dtype.type, view.shape, address)
        empty = self._answered.views(np.zeros(self._answered.nbytes, np.uint8))
        for name, view in empty.items():
            address = self._out.data_ptr() + self._answered.offset(name)
            self._binding.bind_output(name, device, 0, view.dtype.type, view.shape, address)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(count))
        for _ in range(2):  # the second is the one that is captured
            self._run()

    def __call__(self, *asked: Any) -> Sample:
        """asked: as in `base.Sampler`."""
        self._inputs.write(*asked)
        self._run()
        # Copied, because on the CPU that is the buffer itself, which the next call overwrites.
        return Sample(**self._answered.views(np.array(self._out.numpy())))

    def _run(self) -> None:
        self._in.update_inplace(self._asked)
        self._session.run_with_iobinding(self._binding, self._options)


def _memory(size: int, device: str) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type([size], np.uint8, device, 0)
