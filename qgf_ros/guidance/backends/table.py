"""The backends that come with the package: what each takes, where it runs, and how it is made.

A backend states its own limits. Its library is imported when a sampler is made, not before.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from qgf_ros.errors import DeviceUnavailable, PolicyRefused
from qgf_ros.guidance.protocols import Sampler, warm_up
from qgf_ros.policy.folder import Policy

CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"
HALF_TOLERANCE = 0.04  # of a normalised action: 2 % of its range; see `training.export.half`


class Native:
    """C++, float32 or float16 weights, on the CPU."""

    name, title = "native", "the native sampler"

    def refuses(self, device: str, precision: str) -> str:
        if device == "cuda":
            return "backend native runs on the CPU; use device auto or cpu, or backend auto"
        return ""

    def supports(self, policy: Policy) -> str:
        return only_networks(policy, self.title)

    def make(self, policy: Policy, device: str, threads: int, precision: str) -> Sampler:
        from qgf_ros.guidance.backends.native import NativeSampler

        if precision == "float16":
            check_half(policy)
        return NativeSampler(policy, precision)


class Onnx:
    """ONNX Runtime on the policy's sampler.onnx, on CPU or CUDA."""

    name, title = "onnx", "ONNX Runtime"

    def refuses(self, device: str, precision: str) -> str:
        return full_precision_alone(self.name, device, precision)

    def supports(self, policy: Policy) -> str:
        return only_networks(policy, self.title)

    def make(self, policy: Policy, device: str, threads: int, precision: str) -> Sampler:
        try:
            from qgf_ros.guidance.backends.onnx import OnnxSampler
        except ImportError as error:
            raise DeviceUnavailable(
                f"onnxruntime is not installed, or cannot be loaded ({error}); pip install onnxruntime"
            ) from None
        return OnnxSampler(policy, device, threads)

    def has_cuda(self) -> bool:
        """Whether the installed ONNX Runtime is a CUDA build, without the time its import takes."""
        found = find_spec("onnxruntime")
        if found is None or found.origin is None:
            return False
        return Path(found.origin).with_name("capi").joinpath(CUDA_PROVIDER).exists()


class Torch:
    """PyTorch on CPU or CUDA."""

    name, title = "torch", "PyTorch"

    def refuses(self, device: str, precision: str) -> str:
        return full_precision_alone(self.name, device, precision)

    def supports(self, policy: Policy) -> str:
        return only_networks(policy, self.title)

    def make(self, policy: Policy, device: str, threads: int, precision: str) -> Sampler:
        try:
            from qgf_ros.guidance.backends.torch import TorchSampler
        except ImportError as error:
            raise DeviceUnavailable(
                f"torch is not installed, or cannot be loaded ({error}); pip install torch"
            ) from None
        return TorchSampler(policy, device, threads)


class Numpy:
    """numpy in float64, of any components: slow, and the one for a velocity field of somebody else's."""

    name, title = "numpy", "numpy"

    def refuses(self, device: str, precision: str) -> str:
        if device == "cuda":
            return "backend numpy runs on the CPU; use device auto or cpu"
        return full_precision_alone(self.name, device, precision)

    def supports(self, policy: Policy) -> str:
        return ""

    def make(self, policy: Policy, device: str, threads: int, precision: str) -> Sampler:
        from qgf_ros.guidance.sampling import NumpySampler

        sampler = NumpySampler(policy)
        try:
            warm_up(sampler, policy, calls=1)
        except Exception as error:  # whatever a component of another package raises
            raise PolicyRefused(
                f"{policy.folder}: a first sample of its components failed: {type(error).__name__}: {error}"
            ) from None
        return sampler


def only_networks(policy: Policy, title: str) -> str:
    """Why a backend that knows networks of the kind mlp alone does not take this policy; "": it does."""
    kind = policy.description.velocity.kind
    return "" if kind == "mlp" else f"{title} knows no velocity field of the kind {kind}, only mlp"


def full_precision_alone(name: str, device: str, precision: str) -> str:
    """Why a backend of float32 weights is not asked for others; "": it is not."""
    if precision == "float32":
        return ""
    return (
        f"precision {precision} with backend {name} and device {device}: half-precision weights are "
        "the native sampler's, on the CPU; use backend native, or precision float32"
    )


def check_half(policy: Policy) -> None:
    """Raises PolicyRefused where float16 weights change the actions too much, or nobody knows."""
    export = policy.description.export
    error = export.half_error if export is not None else None
    if error is None:
        raise PolicyRefused(
            f"{policy.folder}: what half-precision weights change in its actions was never measured; "
            "run `qgf export` on it where the native sampler is installed, or use precision float32"
        )
    if not 0 <= error <= HALF_TOLERANCE:
        raise PolicyRefused(
            f"{policy.folder}: half-precision weights change its normalised actions by {error:.3g}; "
            f"allowed: {HALF_TOLERANCE:g}; use precision float32"
        )
