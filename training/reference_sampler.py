"""The reference sampler as a backend of the control core: every estimator and guard in closed loop.

For evaluation in simulation and for the benchmark; a robot runs one of `qgf_ros.guidance`, which know
estimator `qgf` and the guards of `qgf_ros.guidance.protocols`, and agree with this one there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgf_ros.errors import UsageError
from qgf_ros.guidance import protocols as base
from qgf_ros.guidance.protocols import Sample, warm_up
from qgf_ros.policy.folder import Policy
from training import sampling
from training.export.parity import networks
from training.guards import Guards
from training.learn.grad_step import SIZE, grad_step


class ReferenceSampler:
    """`training.sampling` of a loaded policy, as a `qgf_ros.guidance.protocols.Sampler`."""

    backend = "reference"
    device = "cpu"
    details = "float32"
    note = ""

    def __init__(
        self,
        policy: Policy,
        estimator: str = "qgf",
        guards: Guards | None = None,
        grad_steps: int = 0,
        grad_size: float = SIZE,
        threads: int = 1,
    ) -> None:
        """estimator: a name of `training.estimators`; guards: None for none. They hold where a call
        brings none of its own.

        grad_steps: above 0 the sampler is GradStep with as many steps of `grad_size`: it has no
        guards, and a weight above 0 only switches it on. threads: torch's, while sampling.
        Raises UsageError where these do not fit each other or the policy.
        """
        if grad_steps and (estimator != "qgf" or guards not in (None, Guards())):
            raise UsageError(
                f"grad_steps is {grad_steps} with estimator {estimator!r} and guards {guards}; "
                "GradStep guides no flow: leave estimator and guards as they are by default"
            )
        if threads < 1:
            raise UsageError(f"threads is {threads}; it must be at least 1")
        d = policy.description
        velocity, critic = networks(policy)
        flow: dict[str, Any] = {
            "steps": d.flow.denoise_steps,
            "aggregation": d.returns.aggregation,
            "times": torch.from_numpy(policy.velocity["time_embedding"]),
        }
        climb: dict[str, Any] = {"grad_steps": grad_steps, "size": grad_size}

        def draw(
            obs: Tensor,
            noise: Tensor,
            weight: float,
            given: Guards | None,
            committed: Tensor | None,
        ) -> sampling.Sample:
            """obs: (N, O); noise: (N, D); committed: (m,)."""
            if grad_steps and weight > 0:
                if given or committed is not None:
                    raise UsageError("GradStep has no guards, and holds no committed actions")
                return grad_step(velocity, critic, obs, noise, **climb, **flow)
            how: dict[str, Any] = {"guards": given or guards, "committed": committed, **flow}
            return sampling.sample(velocity, critic, obs, noise, weight, estimator=estimator, **how)

        self._draw, self._critic, self._policy = draw, critic, policy
        self._threads = threads
        try:
            warm_up(self, policy, calls=1)
        except ValueError as error:  # a wrong name or size is found here, not on the first tick
            raise UsageError(f"{policy.folder}: {error}") from None

    def __call__(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: base.Guards = base.UNGUARDED,
        committed: np.ndarray | None = None,
    ) -> Sample:
        rows = torch.from_numpy(np.broadcast_to(obs, (len(noise), len(obs))).astype(np.float32))
        start = torch.from_numpy(np.ascontiguousarray(noise, np.float32))
        given = None if guards == base.UNGUARDED else Guards.of(guards, self._policy)
        held = (
            None if committed is None else torch.from_numpy(np.ravel(committed).astype(np.float32))
        )
        with _threads(self._threads), torch.no_grad():
            unguided = self._draw(rows, start, 0.0, None, held)
            guided = unguided if weight == 0 else self._draw(rows, start, weight, given, held)
            q_std = self._critic(rows, guided.action).std(dim=0, unbiased=False)
        return Sample(
            action=guided.action.numpy(),
            q=guided.q.numpy(),
            action_unguided=unguided.action.numpy(),
            q_unguided=unguided.q.numpy(),
            q_std=q_std.numpy(),
            gradient_norm=guided.gradient_norm.numpy(),
            guidance_ratio=guided.guidance_ratio.numpy(),
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch's threads for a while: they are the process's, and a training run may be beside us."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
