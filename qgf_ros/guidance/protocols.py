"""What every sampler backend does, stated once.

Shapes: O observation, D = H * A, N candidates. All numbers are normalised, float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from qgf_ros.errors import DeviceUnavailable, PolicyRefused, QgfError, UsageError
from qgf_ros.policy.folder import Policy


@dataclass(frozen=True)
class Sample:
    """N candidates for one observation, each guided and unguided from the same noise."""

    action: np.ndarray  # (N, D) in [-1, 1]
    q: np.ndarray  # (N,) aggregated Q of `action` [return scale]
    action_unguided: np.ndarray  # (N, D)
    q_unguided: np.ndarray  # (N,)
    q_std: np.ndarray  # (N,) standard deviation of the members' Q at `action`
    gradient_norm: np.ndarray  # (N,) mean over steps of |grad Q|_2
    guidance_ratio: np.ndarray  # (N,) w * mean |grad Q| / mean |velocity|
    # (N,) which guards took something away, the sum of 2^i of `REPORTED`; None: not known
    acted: np.ndarray | None = None


FIELDS = tuple(Sample.__dataclass_fields__)
REPORTED = ("support", "disagreement", "ratio_cap")


@dataclass(frozen=True)
class Guards:
    """What of the critic's gradient reaches the action; as written here, all of it.

    Ours, not the paper's; the reference is `training.guards`, where each is explained.
    """

    skip_first: int = 0  # denoising steps from t = 0 on without guidance
    last: int = 0  # guidance in the last so many steps only; 0: in all
    disagreement: float = math.inf  # largest std of the members' Q at a_hat [return scale]
    only: tuple[str, ...] = ()  # "<action>.<name>" of the numbers that are guided; none: all are
    support: bool = False  # never further out than the data, by the policy's box
    ratio_cap: float = math.inf  # largest w |grad Q| / |velocity| of a step
    keep_best: bool = False  # the unguided sample where the guided one's Q is not larger


UNGUARDED = Guards()


class Sampler(Protocol):
    """Draws candidates. Not thread-safe: one thread calls it."""

    backend: str  # of `BACKENDS`
    device: str  # what the session really reports: "cpu" or "cuda"
    details: str  # precision, and what else there is to say: "float32, avx512"
    note: str  # why this is not what `auto` would rather have had, in a sentence; "": it is

    def __call__(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Guards = UNGUARDED,
        committed: np.ndarray | None = None,
    ) -> Sample:
        """
        Args:
            obs: (O,).
            noise: (N, D) ~ N(0, I).
            weight: w = 1 / beta >= 0, where 0 is unguided.
            guards: of guided rows alone. `keep_best` is not for samplers: see `control.chunk.choose`.
            committed: (k, A) normalised, the chunk's first k actions, 0 < k < H: they are going to
                be executed anyway and are held fixed while the others are sampled to follow them,
                in guided and unguided rows; the sample has them as they are given, not clipped.
        """


BACKENDS = ("auto", "native", "onnx", "torch")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "float16")
CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"
HALF_TOLERANCE = 0.04  # of a normalised action: 2 % of its range; see `training.export.half`


def make_sampler(
    policy: Policy,
    backend: str = "auto",
    device: str = "auto",
    threads: int = 1,
    precision: str = "float32",
) -> Sampler:
    """Builds and warms up the sampler.

    `auto` is ONNX Runtime on CUDA where it can sample there, else the native sampler on the
    CPU; where that one cannot be had, ONNX Runtime on the CPU, with the reason in `note`.

    Args:
        threads: of ONNX Runtime and PyTorch; the native sampler has one.
        precision: of the weights; float16 is the native sampler's alone.

    Raises:
        UsageError: an unknown name, or names that do not go together.
        DeviceUnavailable: what was asked for is not there: CUDA, or a backend's library.
        PolicyRefused: the policy lacks what the backend needs, is not to be run in float16, or the
            sampler does not answer as the policy's weights do, see `reference`.
    """
    from qgf_ros.guidance.reference import check_answers

    _check_names(backend, device, precision)
    sampler = unchecked_sampler(policy, backend, device, threads, precision)
    check_answers(policy, sampler, half=precision == "float16")
    return sampler


def unchecked_sampler(
    policy: Policy, backend: str, device: str, threads: int, precision: str
) -> Sampler:
    """As `make_sampler`, without the comparison with the policy's weights."""
    if backend == "torch":
        return _torch(policy, device, threads)
    if backend == "onnx" or device == "cuda":
        return _onnx(policy, device, threads)
    if backend == "native":
        return _native(policy, precision)
    note = ""
    if on_onnx(backend, device, precision):
        try:
            return _onnx(policy, "cuda", threads)
        except (DeviceUnavailable, PolicyRefused) as error:
            note = f"the installed ONNX Runtime is a CUDA build, but: {error}"
    if precision == "float16":
        return _native(policy, precision)  # ONNX Runtime cannot take over
    try:
        sampler = _native(policy, precision)
    except (DeviceUnavailable, PolicyRefused) as error:
        note = "; ".join(filter(None, (note, f"{error}; ONNX Runtime takes over")))
        try:
            sampler = _onnx(policy, "cpu", threads)
        except QgfError as second:
            raise type(second)(f"{error}; and {second}") from None
    sampler.note = note
    return sampler


def on_onnx(backend: str, device: str, precision: str) -> bool:
    """Whether the sampler is ONNX Runtime's, or that one is tried first."""
    if backend == "auto" and device == "auto" and precision == "float32":
        return _onnx_has_cuda()
    return backend == "onnx" or (device == "cuda" and backend != "torch")


def _check_names(backend: str, device: str, precision: str) -> None:
    given = {"backend": backend, "device": device, "precision": precision}
    for (name, value), allowed in zip(given.items(), (BACKENDS, DEVICES, PRECISIONS)):
        if value not in allowed:
            raise UsageError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    if backend == "native" and device == "cuda":
        raise UsageError("backend native runs on the CPU; use device auto or cpu, or backend auto")
    if precision == "float16" and (backend in ("onnx", "torch") or device == "cuda"):
        raise UsageError(
            f"precision float16 with backend {backend} and device {device}: half-precision weights "
            "are the native sampler's, on the CPU; use backend native, or precision float32"
        )


def _native(policy: Policy, precision: str) -> Sampler:
    from qgf_ros.guidance.backends.native import NativeSampler

    if precision == "float16":
        _check_half(policy)
    return NativeSampler(policy, precision)


def _check_half(policy: Policy) -> None:
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


def _onnx(policy: Policy, device: str, threads: int) -> Sampler:
    try:
        from qgf_ros.guidance.backends.onnx import OnnxSampler
    except ImportError as error:
        raise DeviceUnavailable(
            f"onnxruntime is not installed, or cannot be loaded ({error}); pip install onnxruntime"
        ) from None
    return OnnxSampler(policy, device, threads)


def _onnx_has_cuda() -> bool:
    """Whether the installed ONNX Runtime is a CUDA build, without the time that its import takes."""
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        return False
    return Path(found.origin).with_name("capi").joinpath(CUDA_PROVIDER).exists()


def _torch(policy: Policy, device: str, threads: int) -> Sampler:
    try:
        from qgf_ros.guidance.backends.torch import TorchSampler
    except ImportError as error:
        raise DeviceUnavailable(
            f"torch is not installed, or cannot be loaded ({error}); pip install torch"
        ) from None
    return TorchSampler(policy, device, threads)


def warm_up(sampler: Sampler, policy: Policy, calls: int = 3, guards: Guards = UNGUARDED) -> None:
    """Runs the sampler a few times: the first call allocates and may compile."""
    obs = np.zeros(policy.obs_dim, np.float32)
    noise = np.zeros((1, policy.flat_dim), np.float32)
    for _ in range(calls):
        sampler(obs, noise, 1.0, guards)
