"""ONNX Runtime: the portable backend, and the one for CUDA. Runs the policy's sampler.onnx."""

from __future__ import annotations

import numpy as np
import onnxruntime

from qgf_ros.errors import DeviceUnavailable, PolicyRefused
from qgf_ros.policy import SAMPLER, Policy
from qgf_ros.sampler.base import UNGUARDED, Guards, Sample, warm_up

INPUTS = {"obs", "noise", "w"}


class OnnxSampler:
    """A session on the exported T-step sampler."""

    backend = "onnx"

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
        warm_up(self, policy)

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
        }
        return Sample(*self._session.run(self._outputs, feed))
