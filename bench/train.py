"""One training update of flow, critic and value, timed beside plain PyTorch and jitted JAX.

    python bench/train.py [--seconds 80] [--out FILE]

Three contestants do the same IQL update (the same first weights, batches, noise and times; the
first losses are compared before anything is timed): `qgf_ros` is `iql.Learner.update`, `pytorch`
what most people would write with `nn.Sequential` and three optimisers, `jax` one jitted function
with donated buffers (`pip install jax`; left out where it is missing). They take turns in blocks
of a few updates on one core of one process, so that whatever else the machine does hits all alike;
what is reported are medians and quartiles over the rounds of the time per update and of its ratio
to that of `qgf_ros` in the same round.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORE = max(os.sched_getaffinity(0))
os.sched_setaffinity(0, {CORE})  # before the libraries count the cores
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgf_ros.console import say, table
from qgf_ros.errors import CriterionNotMet, exit_codes
from training.learn.critics.batch import ChunkBatch
from training.learn.critics.iql import IQLConfig, Learner
from training.learn.models import LAYER_NORM_EPS, Critic, Value, VelocityField, time_embedding

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = None

NETS = {"3x256": (256,) * 3, "4x512": (512,) * 4}
BATCHES = 8  # used in turn, so that no contestant finds its batch in the cache
BLOCK = 10  # updates of one contestant's turn
TARGETS = {"pytorch": 1.3, "jax": 1 / 1.2}  # least time of the contestant over ours

CONFIG = IQLConfig(discount=0.99, horizon=5)
OBS, ACTION = 37, 25  # O, and D of 5 actions of 5 numbers: the sizes of docs/benchmark.md's peers
MEMBERS, BATCH = 2, 256

Update = Callable[[int], tuple[Any, Any, Any]]  # of that batch -> losses of flow, critic, value


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=80.0, help="measured, for each size")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine, rows = describe_machine(), {}
    with exit_codes():
        for name, hidden in NETS.items():
            contestants = build(hidden)
            compare_losses(contestants)
            rows[name] = figures(measure(contestants, arguments.seconds))
            table(
                f"{name}, ms per update and its multiple of ours: median [quartiles]",
                ("contestant", "wall", "processor", "times ours", "target"),
                [_row(contestant, figure) for contestant, figure in rows[name].items()],
            )
        if jax is None:
            say("jax is not installed; it was left out")
        if arguments.out:
            document = {
                "date": datetime.date.today().isoformat(),
                "machine": machine | {"load_after": os.getloadavg()[0]},
                "versions": versions(),
                "update": {
                    "batch": BATCH,
                    "obs": OBS,
                    "action": ACTION,
                    "members": MEMBERS,
                    "threads": 1,
                },
                "block": BLOCK,
                "targets": TARGETS,
                "nets": rows,
            }
            arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    return 0


# The contestants. Each starts from the same weights and trains its own copy.


def build(hidden: tuple[int, ...]) -> dict[str, Update]:
    torch.manual_seed(0)
    nets = (
        VelocityField(OBS, ACTION, hidden),
        Critic(OBS, ACTION, hidden, MEMBERS),
        Value(OBS, hidden),
    )
    data = [batch() for _ in range(BATCHES)]
    made = {"pytorch": plain_pytorch(nets, data)}  # each copies the weights before ours trains them
    if jax is not None:
        made["jax"] = jitted_jax(nets, data)
    return {"qgf_ros": ours(nets, data)} | made


def batch() -> tuple[ChunkBatch, Tensor, Tensor]:
    """-> batch, noise (B, D), time (B,)."""
    obs, next_obs = torch.randn(2, BATCH, OBS)
    action = torch.rand(BATCH, ACTION) * 2 - 1
    reward, mask = torch.randn(BATCH), (torch.rand(BATCH) < 0.9).float()
    chunks = ChunkBatch(obs, action, reward, mask, next_obs, torch.ones(BATCH))
    return chunks, torch.randn(BATCH, ACTION), torch.rand(BATCH)


def ours(nets, data) -> Update:
    learner = Learner(*nets, CONFIG)

    def update(i: int):
        metrics = learner.update(*data[i])
        return metrics["flow_loss"], metrics["critic_loss"], metrics["value_loss"]

    return update


def plain_pytorch(nets, data) -> Update:
    """Three networks, three losses, three optimisers, members one by one, defaults throughout."""
    flow, critic, value = (sequential(net.mlp) for net in nets)
    _, target = (sequential(net.mlp) for net in nets[:2])
    flow, value = flow[0], value[0]
    optimizers = [
        torch.optim.Adam(net.parameters(), lr=CONFIG.learning_rate) for net in (flow, critic, value)
    ]

    def q(members: nn.ModuleList, obs: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([obs, action], dim=-1)
        return torch.stack([member(inputs).squeeze(-1) for member in members])

    def flow_loss(batch: ChunkBatch, noise: Tensor, t: Tensor) -> Tensor:
        a_t = (1 - t[:, None]) * noise + t[:, None] * batch.action
        v = flow(torch.cat([batch.obs, a_t, time_embedding(t)], dim=-1))
        return F.mse_loss(v, batch.action - noise)

    def critic_loss(batch: ChunkBatch) -> Tensor:
        with torch.no_grad():
            next_v = value(batch.next_obs).squeeze(-1)
            y = batch.reward + CONFIG.discount**CONFIG.horizon * batch.mask * next_v
        return (batch.valid * (q(critic, batch.obs, batch.action) - y) ** 2).mean()

    def value_loss(batch: ChunkBatch) -> Tensor:
        with torch.no_grad():
            target_q = q(target, batch.obs, batch.action).min(dim=0).values
        d = target_q - value(batch.obs).squeeze(-1)
        weight = torch.where(d < 0, 1 - CONFIG.expectile, CONFIG.expectile)
        return (batch.valid * weight * d**2).mean()

    def update(i: int):
        chunks, noise, t = data[i]
        losses = flow_loss(chunks, noise, t), critic_loss(chunks), value_loss(chunks)
        with torch.no_grad():
            for old, new in zip(target.parameters(), critic.parameters()):
                old.lerp_(new, CONFIG.target_rate)
        for loss, optimizer in zip(losses, optimizers):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return tuple(loss.detach() for loss in losses)

    return update


def sequential(net: nn.Module) -> nn.ModuleList:
    """A copy of each member of one of our MLPs, built of PyTorch's own modules."""
    members = nn.ModuleList()
    for e in range(len(net.layers[0].weight)):
        modules: list[nn.Module] = []
        for i, layer in enumerate(net.layers):
            linear = nn.Linear(*layer.weight.shape[1:])
            linear.weight.data.copy_(layer.weight[e].T)
            linear.bias.data.copy_(layer.bias[e])
            modules.append(linear)
            if i < len(net.norms):
                modules.append(nn.LayerNorm(linear.out_features, eps=LAYER_NORM_EPS))
            if i < len(net.layers) - 1:
                modules.append(nn.GELU(approximate="tanh"))
        members.append(nn.Sequential(*modules))
    return members


def jitted_jax(nets, data) -> Update:
    """One jitted function, its state donated. The members one by one: XLA needs a fifth to a third
    more time for the whole update where `vmap` runs them side by side."""
    flow, critic, value = (pytree(net.mlp) for net in nets)
    inputs = [
        {k: jnp.asarray(getattr(b, k).numpy()) for k in ("obs", "action", "reward", "mask", "next_obs", "valid")}
        | {"noise": jnp.asarray(noise.numpy()), "time": jnp.asarray(t.numpy())}
        for b, noise, t in data
    ]  # fmt: skip

    def mlp(members: list, x):
        outputs = []
        for layers in members:
            h = x
            for i, p in enumerate(layers):
                h = h @ p["weight"] + p["bias"]
                if "scale" in p:
                    centred = h - h.mean(-1, keepdims=True)
                    h = centred * jax.lax.rsqrt(
                        (centred**2).mean(-1, keepdims=True) + LAYER_NORM_EPS
                    )
                    h = h * p["scale"] + p["shift"]
                if i < len(layers) - 1:
                    h = jax.nn.gelu(h, approximate=True)
            outputs.append(h)
        return jnp.stack(outputs)

    def loss(params: dict, target: list, b: dict):
        t, half = b["time"][:, None], 8
        phase = t * 10_000.0 * jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / half)
        a_t = (1 - t) * b["noise"] + t * b["action"]
        seen = jnp.concatenate([b["obs"], a_t, jnp.cos(phase), jnp.sin(phase)], -1)
        v = mlp(params["flow"], seen)[0]
        flow_loss = ((v - (b["action"] - b["noise"])) ** 2).mean()
        next_v = jax.lax.stop_gradient(mlp(params["value"], b["next_obs"])[0, :, 0])
        y = b["reward"] + CONFIG.discount**CONFIG.horizon * b["mask"] * next_v
        pair = jnp.concatenate([b["obs"], b["action"]], -1)
        critic_loss = (b["valid"] * (mlp(params["critic"], pair)[..., 0] - y) ** 2).mean()
        d = mlp(target, pair)[..., 0].min(0) - mlp(params["value"], b["obs"])[0, :, 0]
        weight = jnp.where(d < 0, 1 - CONFIG.expectile, CONFIG.expectile)
        value_loss = (b["valid"] * weight * d**2).mean()
        return flow_loss + critic_loss + value_loss, (flow_loss, critic_loss, value_loss)

    def step(state: dict, b: dict):
        params, target, count = state["params"], state["target"], state["count"] + 1
        grads, losses = jax.grad(loss, has_aux=True)(params, target, b)
        rate = CONFIG.target_rate
        target = jax.tree.map(lambda old, new: old + rate * (new - old), target, params["critic"])
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, state["v"], grads)
        one, two = 1 - 0.9**count, 1 - 0.999**count
        params = jax.tree.map(
            lambda p, m, v: p - CONFIG.learning_rate * (m / one) / (jnp.sqrt(v / two) + 1e-8),
            params, m, v,
        )  # fmt: skip
        return {"params": params, "target": target, "m": m, "v": v, "count": count}, losses

    jitted = jax.jit(step, donate_argnums=0)
    params = {"flow": flow, "critic": critic, "value": value}
    state = {
        "params": params,
        "target": jax.tree.map(jnp.copy, critic),
        "m": jax.tree.map(jnp.zeros_like, params),
        "v": jax.tree.map(jnp.zeros_like, params),
        "count": jnp.zeros(()),
    }

    def update(i: int):
        nonlocal state
        state, losses = jitted(state, inputs[i])
        return jax.block_until_ready(losses)

    return update


def pytree(net: nn.Module) -> list[list[dict[str, Any]]]:
    """A copy of the weights of one of our MLPs: members, their layers, their arrays."""
    as_jax = lambda p: jnp.array(p.detach().numpy())  # noqa: E731
    members = []
    for e in range(len(net.layers[0].weight)):
        layers = [{"weight": as_jax(la.weight[e]), "bias": as_jax(la.bias[e])} for la in net.layers]
        for p, norm in zip(layers, net.norms):
            p |= {"scale": as_jax(norm.weight[e]), "shift": as_jax(norm.bias[e])}
        members.append(layers)
    return members


# The measurement.


def compare_losses(contestants: dict[str, Update], updates: int = 10) -> None:
    """Raises CriterionNotMet where the contestants do not do the same update."""
    runs = {
        name: np.array([[float(x) for x in update(i % BATCHES)] for i in range(updates)])
        for name, update in contestants.items()
    }
    for name, losses in runs.items():
        off = np.abs(losses / runs["qgf_ros"] - 1).max()
        if not off < 1e-3:
            raise CriterionNotMet(
                f"{name}: a loss of the first {updates} updates is off by {off:.1e} of it"
            )


def measure(contestants: dict[str, Update], seconds: float):
    """-> for each contestant (rounds, 2): seconds of wall and of processor time per update."""
    names = list(contestants)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name in names:
            update = contestants[name]
            wall, processor = time.perf_counter(), time.process_time()
            for i in range(BLOCK):
                update(i % BATCHES)
            times[name].append(
                (
                    (time.perf_counter() - wall) / BLOCK,
                    (time.process_time() - processor) / BLOCK,
                )
            )
        names = names[1:] + names[:1]  # each follows each, and the end cuts none short
    return {name: np.array(t) for name, t in times.items()}


def figures(times: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Medians and quartiles over the rounds, of the times and of the ratio within each round."""
    result: dict[str, dict[str, Any]] = {}
    for name, t in times.items():
        wall, processor = _quartiles(t[:, 0] * 1e3), _quartiles(t[:, 1] * 1e3)
        result[name] = {"wall_ms": wall, "processor_ms": processor, "rounds": len(t)}
        if name != "qgf_ros":
            ratio = _quartiles(t[:, 0] / times["qgf_ros"][:, 0])
            by_processor = _quartiles(t[:, 1] / times["qgf_ros"][:, 1])
            result[name] |= {
                "times_ours": ratio,
                "times_ours_processor": by_processor,
                "met": bool(ratio[1] >= TARGETS[name]),
            }
    return result


def _quartiles(x: np.ndarray) -> list[float]:
    return [round(float(q), 3) for q in np.quantile(x, (0.25, 0.5, 0.75))]


def _row(name: str, figure: dict[str, Any]) -> tuple[str, ...]:
    def show(quartiles: list[float]) -> str:
        low, median, high = quartiles
        return f"{median:.2f} [{low:.2f}, {high:.2f}]"

    cells = name, show(figure["wall_ms"]), show(figure["processor_ms"])
    if name == "qgf_ros":
        return *cells, "", ""
    verdict = "met" if figure["met"] else "missed"
    return *cells, show(figure["times_ours"]), f"{TARGETS[name]:.2f}: {verdict}"


def describe_machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((s.split(":", 1)[1].strip() for s in lines if s.startswith("model name")), cpu)
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "core_used": CORE,
        "load_before": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "jax": jax.__version__ if jax is not None else "missing",
    }


if __name__ == "__main__":
    sys.exit(main())
