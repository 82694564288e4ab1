"""Writes what `check cases` compares the native sampler with: python cases.py FILE

Answers of `training.sampling` in float64 on networks of the sizes that robots have, on the shipped
policies with every guard, and, where they are, the golden vectors with the actions that the QGF
authors' code returned. Rows that float32 cannot decide (see `training.export.parity`) are left out.
"""

import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this code, installed or not

from golden_file import Golden

from qgf_ros.policy.description import parse_aggregation
from qgf_ros.policy.folder import load_policy
from training.export.parity import NUDGES, UNDECIDED, TieWatch, networks
from training.guards import Box, Guards
from training.learn.models import Critic, VelocityField, time_table
from training.sampling import sample

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "test" / "golden" / "data"
MAGIC = 0x31464751
# Times 1 + w. float16: of weights that half precision holds exactly, and of others.
TOLERANCE, ROUNDED, PUBLISHED = 1e-5, 1e-2, 1e-4
FIELDS = ("action", "q", "action_unguided", "q_unguided", "q_std", "gradient_norm", "guidance_ratio", "acted")  # fmt: skip


@dataclass(frozen=True)
class Net:
    name: str
    velocity: VelocityField
    critic: Critic
    aggregation: str
    times: torch.Tensor  # (T, 16)
    halves: bool = False  # the weights are exact in half precision
    tolerance_half: float = ROUNDED


def numbers(file: BinaryIO, kind: str, *values: Any) -> None:
    for value in values:
        file.write(np.ascontiguousarray(value, kind).tobytes())


def write_net(file: BinaryIO, net: Net) -> None:
    layers = [p.mlp.layers for p in (net.velocity, net.critic)]
    widths = [[layer.weight.shape[2] for layer in each[:-1]] for each in layers]
    members, into, _ = net.critic.mlp.layers[0].weight.shape
    action = layers[0][-1].weight.shape[2]
    kind, deviations = parse_aggregation(net.aggregation)
    steps, features = net.times.shape
    file.write(net.name.encode()[:63].ljust(64, b"\0"))
    numbers(file, "i4", into - action, action, steps, features, members, kind == "mean")
    numbers(file, "f4", deviations)
    numbers(file, "i4", net.critic.output == "sigmoid")
    for width in widths:
        numbers(file, "i4", len(width), width)
    for mlp in (net.velocity.mlp, net.critic.mlp):
        for i, layer in enumerate(mlp.layers):
            numbers(file, "f4", layer.weight.detach(), layer.bias.detach())
            if i < len(mlp.norms):
                numbers(file, "f4", mlp.norms[i].weight.detach(), mlp.norms[i].bias.detach())
    numbers(file, "f4", net.times)


@dataclass(frozen=True)
class Ask:
    obs: np.ndarray  # (O,)
    noise: np.ndarray  # (N, D)
    weight: float
    guards: Guards = Guards()
    committed: np.ndarray | None = None  # (m,)
    published: np.ndarray | None = None  # (N, D), what somebody else's code made of it


def answer(net: Net, ask: Ask, dtype: torch.dtype, nudge: float = 0.0) -> tuple[dict, np.ndarray]:
    """Outputs by name, and which rows came near a tie."""
    velocity, critic = net.velocity.to(dtype), net.critic.to(dtype)
    noise = torch.from_numpy(ask.noise * np.float32(1 + nudge)).to(dtype)
    rows = torch.from_numpy(ask.obs).to(dtype).expand(len(noise), -1)
    watch = TieWatch(critic)
    how: dict[str, Any] = {
        "steps": len(net.times),
        "aggregation": net.aggregation,
        "times": net.times,
        "committed": None if ask.committed is None else torch.from_numpy(ask.committed),
    }
    weight = float(np.float32(ask.weight))
    guided = sample(velocity, watch, rows, noise, weight, guards=ask.guards, **how)
    plain = sample(velocity, critic, rows, noise, 0.0, **how)
    found = {name: getattr(guided, name) for name in ("action", "q", "gradient_norm", "guidance_ratio")}  # fmt: skip
    found |= {"action_unguided": plain.action, "q_unguided": plain.q}
    found["q_std"] = critic(rows, guided.action).std(dim=0, unbiased=False)
    velocity.to(torch.float32), critic.to(torch.float32)
    tied = watch.tied.numpy() if net.aggregation == "min" and weight else np.zeros(len(noise), bool)
    return {k: v.detach().double().numpy() for k, v in found.items()}, tied


def write_request(file: BinaryIO, net: Net, ask: Ask) -> None:
    expected, out = answer(net, ask, torch.float64)
    for nudge in NUDGES if ask.weight else ():
        apart = np.abs(answer(net, ask, torch.float32, nudge)[0]["action"] - expected["action"])
        out = out | (apart.max(axis=1) > UNDECIDED * TOLERANCE * (1 + ask.weight))
    tolerance = TOLERANCE
    if ask.published is not None:
        expected, tolerance = {"action": ask.published.astype(float)}, PUBLISHED / (1 + ask.weight)
    n, d = ask.noise.shape
    steps, guards = len(net.times), ask.guards
    guide = np.zeros((steps, d), np.uint8)
    guide[list(guards.window(steps))] = np.resize(guards.mask or (1,), d)
    off = math.inf
    numbers(file, "f8", tolerance, tolerance if net.halves else max(tolerance, net.tolerance_half))
    numbers(file, "i4", n, 0 if ask.committed is None else len(ask.committed))
    numbers(file, "i4", guide.all(), guards.support is not None)
    numbers(file, "f4", ask.weight, off if guards.disagreement is None else guards.disagreement)
    numbers(file, "f4", off if guards.ratio_cap is None else guards.ratio_cap)
    numbers(file, "f4", ask.obs, ask.noise)
    if not guide.all():
        numbers(file, "u1", guide)
    if guards.support:
        for edge in (guards.support.low, guards.support.high):
            numbers(file, "f4", np.resize(edge, d))
    if ask.committed is not None:
        numbers(file, "f4", ask.committed)
    for name in FIELDS:
        values = expected.get(name, np.full((n, d) if name.startswith("action") else n, np.nan))
        numbers(file, "f8", np.where(out.reshape(-1, *[1] * (values.ndim - 1)), np.nan, values))


def random_net(name: str, hidden: int, width: int, **changes: Any) -> tuple[Net, list[Ask]]:
    """obs 37, chunk 5x5; weights as drawn by torch, all of them exact in half precision."""
    how = {"members": 2, "aggregation": "min", "output": "linear", "steps": 10, "asks": 1} | changes
    velocity = VelocityField(37, 25, [width] * hidden)
    critic = Critic(37, 25, [width] * hidden, how["members"], how["output"])
    with torch.no_grad():
        for net in (velocity, critic):
            for key, parameter in net.named_parameters():
                if "layers" not in key or key.endswith("bias"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
                parameter.copy_(parameter.half())
    times = time_table(how["steps"]).half().float()
    rng = np.random.default_rng(width)
    draw = partial(rng.standard_normal, dtype=np.float32)
    asks = [Ask(draw(37), draw((3, 25)), w) for _ in range(how["asks"]) for w in (0.0, 1.0, 10.0)]
    return Net(name, velocity, critic, how["aggregation"], times, halves=True), asks


def shipped(folder: Path) -> tuple[Net, list[Ask]]:
    """A policy of the repository; the weights that its betas give, with every guard."""
    policy = load_policy(folder)
    d, rng = policy.description, np.random.default_rng(0)
    draw = partial(rng.standard_normal, dtype=np.float32)
    velocity, critic = networks(policy)
    times = torch.from_numpy(policy.velocity["time_embedding"])
    net = Net(policy.name, velocity, critic, d.returns.aggregation, times)
    D, A = policy.flat_dim, policy.action_dim
    box = Box(d.support.low, d.support.high) if d.support else Box((-0.5,), (0.5,))
    guards = [
        Guards(),
        Guards(support=box),
        Guards(disagreement=0.02),
        Guards(ratio_cap=0.1),
        Guards(skip_first=2, last=5),
        Guards(mask=(1,) + (0,) * (A - 1)),
        Guards(2, 7, 0.02, (1,) + (0,) * (A - 1), box, None, 0.1),
    ]
    asks = []
    for weight in (0.0, 0.3 / d.beta.min, 1 / d.beta.min):
        for guard in guards if weight else guards[:1]:
            for held in (None, rng.uniform(-1, 1, D // 2).astype(np.float32)):
                asks.append(Ask(draw(policy.obs_dim), draw((4, D)), weight, guard, held))
    return net, asks


def golden(path: Path) -> tuple[Net, list[Ask]]:
    """What the authors' code returned, row by row."""
    file = Golden(path)
    nets = file.networks()
    arch = file.architecture
    obs = file.get("obs", -1, arch.obs_dim).numpy()
    noise = file.get("noise", len(obs), arch.action_size).numpy()
    velocity, critic = nets["policy"], nets["target_critic"]
    net = Net(path.stem, velocity, critic, file.config.aggregation, time_table(file.steps))
    asks = []
    for i, w in enumerate(file.get("guidance_weights", -1).tolist()):
        theirs = file.get(f"sample/qgf/{i}", len(obs), arch.action_size).numpy()
        for row in range(len(obs)):
            one = slice(row, row + 1)
            asks.append(Ask(obs[row], noise[one], w))
            asks.append(Ask(obs[row], noise[one], w, published=theirs[one]))
    return net, asks


def main(path: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lower = {"members": 3, "aggregation": "mean-0.5std", "output": "sigmoid", "steps": 7}
    made = [
        random_net("3x256", 3, 256, asks=4),
        random_net("4x512", 4, 512),
        random_net("2x100, three members", 2, 100, asks=4, **lower),
        random_net("1x33, one member", 1, 33, asks=4, members=1, aggregation="mean"),
        *(shipped(folder) for folder in sorted((ROOT / "config" / "policies").iterdir())),
        *(golden(file) for file in sorted(GOLDEN.glob("*.npz"))),
    ]
    with open(path, "wb") as file:
        numbers(file, "i4", MAGIC, len(made))
        for net, asks in made:
            write_net(file, net)
            numbers(file, "i4", len(asks))
            for ask in asks:
                write_request(file, net, ask)
    names = ", ".join(f"{net.name} ({len(asks)})" for net, asks in made)
    print(f"{path}: {Path(path).stat().st_size / 1e6:.1f} MB; requests to {names}")


if __name__ == "__main__":
    main(sys.argv[1])
