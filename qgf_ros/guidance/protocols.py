"""What every sampler backend does, stated once.

Shapes: O observation, D = H * A, N candidates. All numbers are normalised, float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

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

    backend: str  # its name, see `Backend`
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


class VelocityField(Protocol):
    """The reference policy: which way actions flow from noise (t = 0) to the data (t = 1).

    Only its values are needed, no gradient: it may be a frozen model of somebody else's, in this
    process or behind a socket. The same inputs give the same answer, or replays are none.
    """

    def __call__(self, obs: np.ndarray, action: np.ndarray, time: float) -> np.ndarray:
        """
        Args:
            obs: (O,) float64, encoded.
            action: (N, D) float64, a_t, not clipped.
            time: t from 0 to 1 - 1/T.

        Returns:
            (N, D), d a_t / dt towards normalised actions.
        """


class Critic(Protocol):
    """E estimates of the return; the policy says how they become one (`returns.aggregation`)."""

    def values(self, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        """obs: (O,), action: (N, D) -> (E, N) [return scale]."""

    def gradients(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `values`, and the gradients of each with respect to the action, (E, N, D)."""


class Backend(Protocol):
    """A kind of sampler. A class without arguments; its library is imported in `make`, not before."""

    name: str  # the node's parameter `backend`
    title: str  # in a sentence: "the native sampler"

    def refuses(self, device: str, precision: str) -> str:
        """Why these, of `DEVICES` and `PRECISIONS`, mean nothing to it; "" if they do."""

    def supports(self, policy: Policy) -> str:
        """Why it cannot sample from the policy's components, in a sentence; "" if it can."""

    def make(self, policy: Policy, device: str, threads: int, precision: str) -> Sampler:
        """A sampler that was called once already, see `warm_up`.

        Raises:
            DeviceUnavailable: the device, or the library, is not there.
            PolicyRefused: the policy lacks what the backend needs.
        """


DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "float16")


def warm_up(sampler: Sampler, policy: Policy, calls: int = 3, guards: Guards = UNGUARDED) -> None:
    """Runs the sampler a few times: the first call allocates and may compile."""
    obs = np.zeros(policy.obs_dim, np.float32)
    noise = np.zeros((1, policy.flat_dim), np.float32)
    for _ in range(calls):
        sampler(obs, noise, 1.0, guards)
