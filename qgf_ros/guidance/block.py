"""What `explicit.GuidedSampler` is asked and answers, each in one piece of memory.

A GPU is then told all of it in one copy, and a captured graph finds it where it was captured.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qgf_ros.guidance.guards import guard_inputs
from qgf_ros.guidance.protocols import FIELDS, UNGUARDED, Guards
from qgf_ros.policy.folder import Policy

ALIGNMENT = 256  # bytes, of every array; what CUDA gives its own


class Block:
    """Named arrays, one behind the other in a buffer."""

    def __init__(self, layout: dict[str, tuple[tuple[int, ...], type]], align: int = ALIGNMENT):
        """layout: name -> shape, and numpy type of the elements; align: bytes."""
        self._layout, self._at, end = layout, {}, 0
        for name, (shape, kind) in layout.items():
            self._at[name] = end
            end += -(-math.prod(shape) * np.dtype(kind).itemsize // align) * align
        self.nbytes, self.names = end, set(layout)

    def offset(self, name: str) -> int:
        """Of that array, in bytes."""
        return self._at[name]

    def views(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays in `raw`, which has `nbytes` bytes."""
        return {
            name: np.ndarray(shape, kind, raw, self._at[name])
            for name, (shape, kind) in self._layout.items()
        }


def inputs(policy: Policy, count: int, obs_rows: int | None = None) -> Block:
    """`explicit.INPUTS` for so many candidates; obs_rows: how often it has the observation in it,
    None for one without a row axis."""
    obs, flat, steps = policy.obs_dim, policy.flat_dim, policy.description.flow.denoise_steps
    return Block(
        {
            "obs": ((obs,) if obs_rows is None else (obs_rows, obs), np.float32),
            "noise": ((count, flat), np.float32),
            "w": ((count,), np.float32),
            "guide": ((steps, flat), np.bool_),
            "low": ((flat,), np.float32),
            "high": ((flat,), np.float32),
            "disagreement": ((), np.float32),
            "ratio_cap": ((), np.float32),
            "fixed": ((flat,), np.bool_),
            "committed": ((flat,), np.float32),
        }
    )


def outputs(policy: Policy, count: int, align: int = ALIGNMENT) -> Block:
    """The fields of a `Sample` of so many candidates."""
    wide = {"action", "action_unguided"}
    return Block(
        {
            name: ((count, policy.flat_dim) if name in wide else (count,), np.float32)
            for name in FIELDS
        },
        align,
    )


class SamplerInputs:
    """Writes what a sampler is asked into the arrays of `inputs`."""

    def __init__(self, policy: Policy, arrays: dict[str, np.ndarray]) -> None:
        self._policy, self._arrays = policy, arrays
        self._guards, self._held = UNGUARDED, 0
        self._set(guard_inputs(UNGUARDED, policy))

    def write(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Guards,
        committed: np.ndarray | None,
    ) -> None:
        """As in `base.Sampler`. Raises ValueError on a wrong shape, which would be broadcast."""
        if obs.shape != (self._policy.obs_dim,) or noise.shape != self._arrays["noise"].shape:
            raise ValueError(
                f"obs has shape {obs.shape} and noise {noise.shape}; "
                f"needed: ({self._policy.obs_dim},) and (N, {self._policy.flat_dim})"
            )
        self._set({"obs": obs, "noise": noise, "w": weight})
        if guards is not self._guards:  # they change seldom, and are many numbers
            self._set(guard_inputs(guards, self._policy))
            self._guards = guards
        held = 0 if committed is None else committed.size
        if held or self._held:
            self._arrays["fixed"][...] = np.arange(self._policy.flat_dim) < held
            self._arrays["committed"][...] = 0
            if committed is not None:
                self._arrays["committed"][:held] = committed.ravel()
            self._held = held

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self._arrays[name][...] = value
