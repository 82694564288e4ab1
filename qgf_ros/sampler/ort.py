"""ONNX Runtime: the portable backend, and the one for CUDA. Runs the policy's sampler.onnx."""

from __future__ import annotations

import numpy as np
import onnxruntime

from qgf_ros.errors import DeviceUnavailable, PolicyRefused
from qgf_ros.policy import SAMPLER, Policy
from qgf_ros.sampler.base import UNGUARDED, Guards, Sample, warm_up
from qgf_ros.sampler.guards import guard_inputs

GUARDS = {"guide", "low", "high", "disagreement", "ratio_cap"}
INPUTS = {"obs", "noise", "w", "fixed", "committed"} | GUARDS


class OnnxSampler:
    """A session on the exported T-step sampler."""

    backend = "onnx"
    details = "float32"
    note = ""

    def __init__(self, policy: Policy, device: str = "auto", threads: int = 1) -> None:
        if policy.onnx is None:
            raise PolicyRefused(
                f"{policy.folder} has no {SAMPLER}; make it with `qgf export {policy.folder}`"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        wanted = ["CPUExecutionProvider"]
        if device != "cpu" and "CUDAExecutionProvider" in available:
            wanted.insert(0, "CUDAExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(policy.onnx, options, providers=wanted)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise PolicyRefused(
                f"{policy.folder / SAMPLER}: {' '.join(str(error).split())[:300]}"
            ) from None
        # Without a GPU the CUDA build falls back in silence, so the session is asked.
        self.device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        if device == "cuda" and self.device != "cuda":
            raise DeviceUnavailable(
                f"device cuda was asked for, but ONNX Runtime offers {', '.join(available)}; "
                "use device auto or cpu, or install the [gpu] extra on a machine with a GPU"
            )
        if {i.name for i in self._session.get_inputs()} != INPUTS:
            raise PolicyRefused(
                f"{policy.folder / SAMPLER} is not a sampler of this version; run `qgf export`"
            )
        self._outputs = list(Sample.__dataclass_fields__)
        self._policy = policy
        self._free = {
            "fixed": np.zeros(policy.flat_dim, bool),
            "committed": np.zeros(policy.flat_dim, np.float32),
        }
        # Of the guards that were last asked for: they change seldom, and are many numbers.
        self._off = guard_inputs(UNGUARDED, policy)
        self._guards, self._guarded = UNGUARDED, self._off
        for guards in (Guards(ratio_cap=1.0), UNGUARDED):  # the graph's other branch too
            warm_up(self, policy, guards=guards)

    def __call__(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Guards = UNGUARDED,
        committed: np.ndarray | None = None,
    ) -> Sample:
        count = len(noise)
        feed = {
            "obs": np.broadcast_to(obs, (count, len(obs))).astype(np.float32),
            "noise": np.ascontiguousarray(noise, np.float32),
            "w": np.full(count, weight, np.float32),
            **(self._inputs(guards) if weight > 0 else self._off),
            **self._held(committed),
        }
        return Sample(*self._session.run(self._outputs, feed))

    def _inputs(self, guards: Guards) -> dict[str, np.ndarray]:
        if guards is not self._guards:
            self._guards, self._guarded = guards, guard_inputs(guards, self._policy)
        return self._guarded

    def _held(self, committed: np.ndarray | None) -> dict[str, np.ndarray]:
        if committed is None:
            return self._free
        values = np.zeros(self._policy.flat_dim, np.float32)
        values[: committed.size] = committed.ravel()
        return {"fixed": np.arange(len(values)) < committed.size, "committed": values}
