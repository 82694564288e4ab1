"""Q of actions that nobody sampled, the recorded ones: the policy's critic in numpy."""

from __future__ import annotations

import numpy as np

from qgf_ros.policy.description import parse_aggregation
from qgf_ros.policy.folder import Policy

LAYER_NORM_EPS = 1e-6
SQRT_2_PI = np.float32(np.sqrt(2 / np.pi))


class NumpyCritic:
    """The policy's target critic, many rows at a time. `training.learn.models.MLP` is its reference."""

    def __init__(self, policy: Policy) -> None:
        d, tensors = policy.description, policy.critic
        self._layers = [
            (
                tensors[f"layers.{i}.weight"],
                tensors[f"layers.{i}.bias"][:, None],
                tensors[f"norms.{i}.weight"][:, None] if i < len(d.critic.hidden) else None,
                tensors[f"norms.{i}.bias"][:, None] if i < len(d.critic.hidden) else None,
            )
            for i in range(len(d.critic.hidden) + 1)
        ]
        self._sigmoid = d.critic.output == "sigmoid"
        self._how, self._below = parse_aggregation(d.returns.aggregation)

    def __call__(self, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        """obs: (B, O), action: (B, D), both normalised -> (B,) aggregated Q [return scale]."""
        x = np.concatenate([obs, action], axis=1).astype(np.float32)[None]
        for weight, bias, scale, shift in self._layers:
            x = x @ weight + bias
            if scale is not None:
                centred = x - x.mean(axis=-1, keepdims=True)
                variance = np.square(centred).mean(axis=-1, keepdims=True)
                x = centred / np.sqrt(variance + LAYER_NORM_EPS) * scale + shift
                x *= 0.5 + 0.5 * np.tanh(SQRT_2_PI * (x + 0.044715 * x * x * x))
        q = x[..., 0].astype(np.float64)
        if self._sigmoid:
            q = 1 / (1 + np.exp(-q))
        if self._how == "min":
            return np.asarray(q.min(axis=0))
        return np.asarray(q.mean(axis=0) - self._below * q.std(axis=0))
