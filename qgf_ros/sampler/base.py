"""What every sampler backend does, stated once.

Shapes: O observation, D = H * A, N candidates. All numbers are normalised, float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qgf_ros.errors import DeviceUnavailable, UsageError
from qgf_ros.policy import Policy


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

    backend: str  # "onnx", ...
    device: str  # what the session really reports: "cpu" or "cuda"

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


BACKENDS = ("auto", "onnx")
DEVICES = ("auto", "cpu", "cuda")


def make_sampler(
    policy: Policy, backend: str = "auto", device: str = "auto", threads: int = 1
) -> Sampler:
    """Builds and warms up the sampler.

    Raises:
        UsageError: an unknown backend or device.
        DeviceUnavailable: `cuda` was asked for and no session on it can be had.
        PolicyRefused: the policy lacks what the backend needs.
    """
    if backend not in BACKENDS or device not in DEVICES:
        raise UsageError(
            f"backend {backend!r}, device {device!r}; allowed: {', '.join(BACKENDS)} and {', '.join(DEVICES)}"
        )
    try:
        from qgf_ros.sampler.ort import OnnxSampler
    except ImportError:
        raise DeviceUnavailable("onnxruntime is not installed; pip install onnxruntime") from None
    return OnnxSampler(policy, device, threads)


def warm_up(sampler: Sampler, policy: Policy, calls: int = 3, guards: Guards = UNGUARDED) -> None:
    """Runs the sampler a few times: the first call allocates and may compile."""
    obs = np.zeros(policy.obs_dim, np.float32)
    noise = np.zeros((1, policy.flat_dim), np.float32)
    for _ in range(calls):
        sampler(obs, noise, 1.0, guards)
