"""The sampler in JAX, jitted: as the authors wrote theirs, and as fast as we could make it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qgf_ros.policy.folder import Policy
from training.learn.models import LAYER_NORM_EPS

Layers = list[dict[str, jax.Array]]


def sampler(
    policy: Policy, guided: bool, best: bool, tuned: bool
) -> Callable[[np.ndarray, np.ndarray, float], Callable[[], jax.Array]]:
    """-> of obs (O,), noise (N, D) and w, a function that samples: (N, D), or with `best` the (1, D)
    with the largest Q.

    As the authors do it, `lax.scan` runs over the steps, `vmap` over the critic's members, and the
    smallest member's gradient is `jax.grad` of the minimum. Tuned: the members one by one, and for
    one candidate the reverse pass of the smallest alone (`lax.switch`). What lost to both: steps
    unrolled, weights as constants, the observation's share of the first layers taken out.
    """
    steps = policy.description.flow.denoise_steps
    times = jnp.asarray(policy.velocity["time_embedding"])
    params = {"velocity": unstack(policy.velocity)[0]}
    params["critic"] = unstack(policy.critic) if tuned else stack(policy.critic)

    def members_q(critic: Any, obs: jax.Array, a: jax.Array) -> jax.Array:
        """-> (E, N)"""
        x = jnp.concatenate([obs, a], -1)
        if tuned:
            return jnp.stack([mlp(member, x)[:, 0] for member in critic])
        return jax.vmap(mlp, (0, None))(critic, x)[..., 0]

    def gradient(critic: Any, obs: jax.Array, a: jax.Array) -> jax.Array:
        if not (tuned and len(a) == 1):
            return jax.grad(lambda a: members_q(critic, obs, a).min(0).sum())(a)
        pairs = [
            jax.vjp(lambda a, m=m: mlp(m, jnp.concatenate([obs, a], -1))[0, 0], a) for m in critic
        ]
        smallest = jnp.argmin(jnp.stack([q for q, _ in pairs]))
        return jax.lax.switch(smallest, [lambda b=back: b(jnp.float32(1))[0] for _, back in pairs])

    @jax.jit
    def run(params: dict[str, Any], obs: jax.Array, noise: jax.Array, w: float) -> jax.Array:
        obs = jnp.broadcast_to(obs, (len(noise), len(obs)))

        def step(a: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
            time = jnp.broadcast_to(times[k], (len(a), times.shape[1]))
            v = mlp(params["velocity"], jnp.concatenate([obs, a, time], -1))
            if not guided:
                return a + v / steps, None
            g = gradient(params["critic"], obs, jnp.clip(a + (1 - k / steps) * v, -1, 1))
            return a + (v + w * g) / steps, None

        action = jnp.clip(jax.lax.scan(step, noise, jnp.arange(steps))[0], -1, 1)
        if not best:
            return action
        q = members_q(params["critic"], obs, action).min(0)
        return action[jnp.argmax(q)][None]

    def bound(obs: np.ndarray, noise: np.ndarray, w: float) -> Callable[[], jax.Array]:
        given = jnp.asarray(obs), jnp.asarray(noise), jnp.float32(w)
        return lambda: run(params, *given).block_until_ready()

    return bound


def mlp(layers: Layers, x: jax.Array) -> jax.Array:
    for i, p in enumerate(layers):
        x = x @ p["weight"] + p["bias"]
        if "scale" in p:
            x = x - x.mean(-1, keepdims=True)
            x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + LAYER_NORM_EPS)
            x = x * p["scale"] + p["shift"]
        if i < len(layers) - 1:
            x = jax.nn.gelu(x, approximate=True)
    return x


def stack(tensors: dict[str, np.ndarray]) -> Layers:
    """The layers of all members at once: arrays (E, ...)."""
    layers = []
    for i in range(sum(name.endswith("bias") and name.startswith("layers") for name in tensors)):
        names = {"weight": f"layers.{i}.weight", "bias": f"layers.{i}.bias"}
        names |= {"scale": f"norms.{i}.weight", "shift": f"norms.{i}.bias"}
        layers.append({k: jnp.asarray(tensors[n]) for k, n in names.items() if n in tensors})
    return layers


def unstack(tensors: dict[str, np.ndarray]) -> list[Layers]:
    """Each member's layers."""
    layers = stack(tensors)
    members = len(layers[0]["weight"])
    return [[{k: p[e] for k, p in layer.items()} for layer in layers] for e in range(members)]
