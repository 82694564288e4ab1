"""The guided sampler in numpy, of a velocity field and a critic of any kind.

The published algorithm (`training.sampling`, estimator `qgf`) and the guards of `training.guards`, a step
after another in float64: slow, and right. What the other backends are compared with, and the one for
components that they do not know. Shapes: N candidates, D = H * A, E members, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ros.errors import PolicyRefused
from qgf_ros.guidance.guards import guard_inputs
from qgf_ros.guidance.mlp import MlpCritic, MlpVelocity
from qgf_ros.guidance.protocols import (
    REPORTED,
    UNGUARDED,
    Critic,
    Guards,
    Sample,
    VelocityField,
)
from qgf_ros.policy.components import VELOCITY_FIELDS, make_component
from qgf_ros.policy.description import Network, parse_aggregation
from qgf_ros.policy.folder import Policy

TIE = 1e-4  # of Q, relative: members closer than this may swap


@dataclass(frozen=True)
class Walk:
    """One way from noise to actions."""

    action: np.ndarray  # (N, D) float64
    speed: np.ndarray  # (N,) mean over steps of |velocity|_2
    gradient_norm: np.ndarray  # (N,) mean over steps of the guarded gradient's
    acted: np.ndarray  # (N, guards of `REPORTED`) bool, which took something away
    tied: np.ndarray  # (N,) bool, whether another member could have guided as well


class NumpySampler:
    """A policy's components, composed; see `protocols.Sampler`."""

    backend, device, details = "numpy", "cpu", "float64"

    def __init__(
        self, policy: Policy, velocity: VelocityField | None = None, critic: Critic | None = None
    ) -> None:
        """velocity, critic: others than the policy's own.

        Raises PolicyRefused where a component cannot be made.
        """
        self.note = ""
        d = policy.description
        self._policy = policy
        self._velocity = velocity or _velocity(policy)
        self._critic = critic or MlpCritic(policy.critic, d.critic.output == "sigmoid")

    def __call__(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Guards = UNGUARDED,
        committed: np.ndarray | None = None,
    ) -> Sample:
        """As `protocols.Sampler`. Raises ValueError on a wrong shape or weight, or where a component
        answers with another shape than it is to."""
        free = self.walk(obs, noise, 0.0, UNGUARDED, committed)
        led = free if weight == 0 else self.walk(obs, noise, weight, guards, committed)
        q, q_std = self.values(obs, led.action)
        floats = (
            led.action,
            q,
            free.action,
            self.values(obs, free.action)[0],
            q_std,
            led.gradient_norm,
            weight * led.gradient_norm / np.maximum(led.speed, np.finfo(np.float32).tiny),
            led.acted @ (1 << np.arange(len(REPORTED))),
        )
        return Sample(*(f.astype(np.float32) for f in floats))

    def values(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Aggregated Q of actions (N, D) in one state (O,), and the members' standard deviation; (N,) each."""
        members = self._critic.values(obs.astype(np.float64), action)
        return aggregate(members, self._policy.description.returns.aggregation), members.std(0)

    def walk(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Guards = UNGUARDED,
        committed: np.ndarray | None = None,
    ) -> Walk:
        """All steps, with one weight; arguments as of a call."""
        policy, count = self._policy, len(noise)
        self._check(obs, noise, weight, committed)
        steps, how = policy.description.flow.denoise_steps, policy.description.returns.aggregation
        limits = guard_inputs(guards, policy)
        obs, a = obs.astype(np.float64), noise.astype(np.float64)
        held = 0 if committed is None else committed.size
        goal = (
            a[:, :0]
            if committed is None
            else np.tile(committed.astype(np.float64).ravel(), (count, 1))
        )
        line = goal - a[:, :held]
        speed, norm = np.zeros(count), np.zeros(count)
        acted, tied = np.zeros((count, len(REPORTED)), bool), np.zeros(count, bool)
        for k in range(steps):
            v = _shaped(self._velocity(obs, a, k / steps), a.shape, "the velocity field")
            v = np.concatenate([line, v[:, held:]], 1)
            speed += np.linalg.norm(v, axis=1) / steps
            drift = v
            if weight > 0 and limits["guide"][k].any():
                a_hat = np.clip(a + (1 - k / steps) * v, -1, 1)
                q, gradients = self._critic.gradients(obs, a_hat)
                g, close = aggregate_gradient(q, gradients, how)
                g = np.where(limits["guide"][k], g, 0.0)
                g[:, :held] = 0.0
                g, took = _limited(g, q, a_hat, v, weight, limits)
                drift, tied, acted = v + weight * g, tied | close, acted | took
                norm += np.linalg.norm(g, axis=1) / steps
            a = a + drift / steps
        action = np.concatenate([goal, np.clip(a[:, held:], -1, 1)], 1)
        return Walk(action, speed, norm, acted, tied)

    def _check(
        self, obs: np.ndarray, noise: np.ndarray, weight: float, committed: np.ndarray | None
    ) -> None:
        policy = self._policy
        if obs.shape != (policy.obs_dim,) or noise.shape != (len(noise), policy.flat_dim):
            raise ValueError(
                f"obs has shape {obs.shape} and noise {noise.shape}; "
                f"needed: ({policy.obs_dim},) and (N, {policy.flat_dim})"
            )
        if not 0 <= weight < np.inf:
            raise ValueError(f"weight is {weight}; w = 1/beta must be finite and at least 0")
        most = policy.horizon - 1
        if committed is not None and (
            committed.shape != (len(committed), policy.action_dim) or not 0 < len(committed) <= most
        ):
            raise ValueError(
                f"committed has shape {committed.shape}; needed: (k, {policy.action_dim}) with k from "
                f"1 to {most}"
            )


def aggregate(q: np.ndarray, how: str) -> np.ndarray:
    """(E, N) -> (N,), as the policy's `returns.aggregation` says."""
    kind, k = parse_aggregation(how)
    return np.asarray(q.min(0) if kind == "min" else q.mean(0) - k * q.std(0))


def aggregate_gradient(
    q: np.ndarray, gradients: np.ndarray, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of `aggregate`, (N, D), and (N,) whether another member's Q is as good.

    q: (E, N); gradients: (E, N, D).
    """
    kind, k = parse_aggregation(how)
    members, tied = len(q), np.zeros(q.shape[1], bool)
    if kind == "min":
        share = (np.arange(members)[:, None] == q.argmin(0)) * 1.0
        if members > 1:
            first, second = np.sort(q, 0)[:2]
            tied = second - first <= TIE * np.maximum(1e-3, abs(first))
    else:
        std = q.std(0)
        share = (1 - k * (q - q.mean(0)) / np.where(std > 0, std, 1)) / members
        tied = (k > 0) & (std <= TIE * np.maximum(1e-3, abs(q.mean(0))))
    return (share[..., None] * gradients).sum(0), tied


def _limited(
    g: np.ndarray,
    q: np.ndarray,
    a_hat: np.ndarray,
    v: np.ndarray,
    weight: float,
    limits: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """What disagreement, support and ratio_cap leave of g (N, D), one after another; (N, guards) which
    of `REPORTED` took something away."""
    most = float(limits["disagreement"])
    agreed = np.where((q.std(0) <= most)[:, None] | np.isinf(most), g, 0.0)
    inside = np.minimum(agreed, np.where(a_hat < limits["high"], np.inf, 0.0))
    inside = np.maximum(inside, np.where(a_hat > limits["low"], -np.inf, 0.0))
    push = weight * np.linalg.norm(inside, axis=1, keepdims=True)
    cap, speed = float(limits["ratio_cap"]), np.linalg.norm(v, axis=1, keepdims=True)
    limit = np.full_like(speed, np.inf) if np.isinf(cap) else cap * speed
    capped = inside * np.divide(limit, push, out=np.ones_like(push), where=push > limit)
    changed = {
        name: (before != after).any(1)
        for name, before, after in (
            ("disagreement", g, agreed),
            ("support", agreed, inside),
            ("ratio_cap", inside, capped),
        )
    }
    return capped, np.stack([changed[name] for name in REPORTED], 1)


def _velocity(policy: Policy) -> VelocityField:
    component = policy.description.velocity
    if isinstance(component, Network):
        return MlpVelocity(policy.velocity)
    made: VelocityField = make_component(VELOCITY_FIELDS, policy, component)
    if not callable(made):
        raise PolicyRefused(
            f"{policy.folder}: the velocity field {component.kind} is a {type(made).__name__}, which "
            "cannot be called with an observation, actions and a time"
        )
    return made


def _shaped(value: np.ndarray, shape: tuple[int, ...], who: str) -> np.ndarray:
    if np.shape(value) != shape:
        raise ValueError(f"{who} answers with shape {np.shape(value)}; needed: {shape}")
    return np.asarray(value, np.float64)
