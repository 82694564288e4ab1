"""The components of the kind mlp in plain numpy and float64, for the reference and for numpy's backend.

Shapes: N rows, O observation, D = H * A, E members, W width of a hidden layer, T steps.
"""

from __future__ import annotations

import math

import numpy as np

EPS = 1e-6  # of the layer norms
GELU_A = 2 * math.sqrt(2 / math.pi)  # tanh form, see `explicit_nets`
GELU_B = 0.044715 * GELU_A
Tape = list[tuple[np.ndarray, ...]]  # what the way back needs of each hidden layer


class MlpVelocity:
    """A flow's network, see `protocols.VelocityField`."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        """tensors: a policy's, with the T time embeddings."""
        self._net = Ensemble(tensors)
        self._times = tensors["time_embedding"].astype(np.float64)

    def __call__(self, obs: np.ndarray, action: np.ndarray, time: float) -> np.ndarray:
        embedded = self._times[round(time * len(self._times))]
        return self._net.run(np.concatenate(_rows(action, obs, action, embedded), 1))[0][0]


class MlpCritic:
    """An ensemble of networks, see `protocols.Critic`."""

    def __init__(self, tensors: dict[str, np.ndarray], bounded: bool) -> None:
        """bounded: the output goes through a sigmoid."""
        self._net, self._bounded = Ensemble(tensors), bounded

    def values(self, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        return self._run(obs, action)[0][..., 0]

    def gradients(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, tape = self._run(obs, action)
        slope = q * (1 - q) if self._bounded else np.ones_like(q)
        return q[..., 0], self._net.back(slope, tape)[..., len(obs) :]

    def _run(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, Tape]:
        raw, tape = self._net.run(np.concatenate(_rows(action, obs, action), 1))
        return sigmoid(raw) if self._bounded else raw, tape


class Ensemble:
    """E MLPs of one architecture, with the reverse pass written out."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self._tensors = {name: t.astype(np.float64) for name, t in tensors.items()}
        self._layers = sum(name.startswith("layers.") for name in tensors) // 2

    def run(self, x: np.ndarray) -> tuple[np.ndarray, Tape]:
        """x: (N, in) -> (E, N, out)."""
        tensors, tape = self._tensors, Tape()
        for i in range(self._layers):
            weight, bias = (tensors[f"layers.{i}.{n}"] for n in ("weight", "bias"))
            x = x @ weight + bias[:, None]
            if i == self._layers - 1:
                break
            normed = f"norms.{i}.weight" in tensors
            unit, inverse, scale = x, np.ones(1), np.ones(1)
            if normed:
                centred = x - x.mean(-1, keepdims=True)
                inverse = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
                unit = centred * inverse
                scale = tensors[f"norms.{i}.weight"][:, None]
                x = unit * scale + tensors[f"norms.{i}.bias"][:, None]
            gate = sigmoid(x * (GELU_A + GELU_B * x**2))
            slope = gate * (1 + x * (1 - gate) * (GELU_A + 3 * GELU_B * x**2))
            tape.append((weight, unit, inverse, slope * scale, np.array(normed)))
            x = x * gate
        tape.append((weight,))
        return x, tape

    def back(self, g: np.ndarray, tape: Tape) -> np.ndarray:
        """g: (E, N, out), d something / d output -> (E, N, in)."""
        g = g @ tape[-1][0].swapaxes(1, 2)
        for weight, unit, inverse, slope, normed in reversed(tape[:-1]):
            g = g * slope
            if normed:
                g = inverse * (
                    g - g.mean(-1, keepdims=True) - unit * (g * unit).mean(-1, keepdims=True)
                )
            g = g @ weight.swapaxes(1, 2)
        return g


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def _rows(like: np.ndarray, *parts: np.ndarray) -> list[np.ndarray]:
    """Each part with as many rows as `like`."""
    return [np.broadcast_to(p, (len(like), p.shape[-1])) for p in parts]
