"""The candidates of `sampler.py`: each makes of a case a function that samples once, at its barest.

Modes, which all get the same noise:

    guided, unguided            N actions, and nothing else where a backend can do without
    guided_best, unguided_best  the one of N with the largest Q
    node                        what the node asks for: guided and unguided from the same noise, all
                                diagnostics, the guards of config/default.yaml

A backend that knows no such mode returns None. Libraries are imported here and not above: each
process has those of its own backend.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.policy.description import Flow, Network
from qgf_ros.policy.folder import Policy
from qgf_ros.policy.tensors import network_shapes
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "support"))

WEIGHT = 1.0  # w of guided samples
TIME_FEATURES = 16


@dataclass(frozen=True)
class Sizes:
    """A policy's."""

    hidden: tuple[int, ...]
    critics: int = 2
    steps: int = 10
    obs: int = 37
    horizon: int = 5
    actions: int = 5

    @property
    def net(self) -> str:
        same = len(set(self.hidden)) == 1
        return f"{len(self.hidden)}x{self.hidden[0]}" if same else "x".join(map(str, self.hidden))


@dataclass(frozen=True)
class Case:
    sizes: Sizes
    candidates: int
    mode: str

    @property
    def guided(self) -> bool:
        return not self.mode.startswith("unguided")

    @property
    def best(self) -> bool:
        return self.mode.endswith("_best")

    @property
    def weight(self) -> float:
        return WEIGHT * self.guided

    @cached_property
    def obs(self) -> np.ndarray:
        return np.random.default_rng(1).standard_normal(self.sizes.obs, np.float32)

    @cached_property
    def noise(self) -> np.ndarray:
        shape = self.candidates, self.sizes.horizon * self.sizes.actions
        return np.random.default_rng(2).standard_normal(shape, np.float32)


Run = Callable[[], Any]  # samples once and returns when it is done
Prepared = tuple[Run, Callable[[Any], np.ndarray]]  # and what of its result the actions are


@lru_cache(maxsize=1)
def policy_of(sizes: Sizes) -> Policy:
    """Random weights of those sizes, as training begins with them, in memory."""
    import qgf_make

    joints = [f"j{i}" for i in range(sizes.obs)]
    own = qgf_make.velocity_dict(horizon=sizes.horizon, execute=sizes.horizon)
    own["observations"] = [{**own["observations"][0], "fields": ["position"], "names": joints}]
    action = own["actions"][0]
    names = [f"j{i}" for i in range(sizes.actions)]
    limits = {name: action["limits"]["a"] for name in names}
    own["actions"] = [{**action, "names": names, "limits": limits}]
    contract = Contract.from_dict(own)
    flow = Network("velocity.safetensors", sizes.hidden)
    critic = Network("critic.safetensors", sizes.hidden, members=sizes.critics)
    d = qgf_make.description(contract, flow=Flow(sizes.steps), velocity=flow, critic=critic)
    rng = np.random.default_rng(0)
    flat = sizes.horizon * sizes.actions

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 3:
            bound = np.sqrt(6 / (shape[1] + shape[2]))
            return rng.uniform(-bound, bound, shape).astype(np.float32)
        offset = float(name.startswith("norms") and name.endswith("weight"))
        return (offset + 0.1 * rng.standard_normal(shape)).astype(np.float32)

    sides = [
        network_shapes(flow, sizes.obs + flat + TIME_FEATURES, flat, norm_last=False),
        network_shapes(critic, sizes.obs + flat, 1, norm_last=True),
    ]
    velocity, q = [{name: draw(name, s) for name, s in shapes.items()} for shapes in sides]
    half = TIME_FEATURES // 2
    frequencies = np.exp(-np.log(1e4) * np.arange(half) / half)
    phase = 1e4 * np.arange(sizes.steps)[:, None] / sizes.steps * frequencies
    velocity["time_embedding"] = np.hstack([np.cos(phase), np.sin(phase)]).astype(np.float32)
    normalizer = Normalizer.from_dict({k: list(v) for k, v in d.normalizer.items()})
    return Policy(Path("bench"), "0" * 64, d, contract, normalizer, velocity, q, None)


def eager(case: Case) -> Prepared | None:
    """`training.sampling` with autograd; it gives the final Q and the norms in any case."""
    import torch

    from training.export.write import networks
    from training.sampling import best_of_n, sample

    if case.mode == "node":
        return None
    torch.set_num_threads(1)
    policy = policy_of(case.sizes)
    nets = networks(policy)
    obs, noise = torch.from_numpy(case.obs)[None], torch.from_numpy(case.noise)
    times = torch.from_numpy(policy.velocity["time_embedding"])
    how = {"steps": case.sizes.steps, "times": times}
    if case.best:
        run = partial(best_of_n, *nets, obs, noise, len(noise), case.weight, **how)
    else:
        run = partial(sample, *nets, obs.repeat(len(noise), 1), noise, case.weight, **how)
    return run, lambda drawn: drawn.action.numpy()


def explicit(case: Case) -> Prepared | None:
    """The parts of `training.export.explicit` in plain PyTorch: no autograd, and no unguided row."""
    import torch

    from training.export.explicit import GuidedSampler

    if case.mode not in ("guided", "unguided"):
        return None
    torch.set_num_threads(1)
    module = explicit_module(GuidedSampler, case.sizes)
    obs, start = torch.from_numpy(case.obs), torch.from_numpy(case.noise)
    velocity, critic, steps = module.velocity, module.critic, case.sizes.steps
    transposed = critic.transposed()

    @torch.inference_mode()
    def run() -> torch.Tensor:
        a, seen = start, critic.observe(obs)
        for k, flow_seen in enumerate(velocity.observe(obs)):
            drift = velocity(flow_seen, a)
            if case.guided:
                a_hat = (a + (1 - k / steps) * drift).clamp(-1, 1)
                drift = drift + case.weight * critic.gradient(seen, a_hat, transposed)[0]
            a = a + drift / steps
        return a.clamp(-1, 1)

    return run, lambda action: action.numpy()


def explicit_module(kind: Any, sizes: Sizes) -> Any:
    import torch

    from training.export.write import networks

    policy = policy_of(sizes)
    times = torch.from_numpy(policy.velocity["time_embedding"])
    return kind(*networks(policy), sizes.steps, "min", times)


def onnx(case: Case) -> Prepared | None:
    """The exported sampler. The unguided row and the diagnostics are in its graph: always all of it."""
    sampler = _onnx_sampler(case.sizes)
    return _through_the_node(sampler, case)


@lru_cache(maxsize=1)
def _onnx_sampler(sizes: Sizes) -> Any:
    from qgf_ros.guidance.backends.onnx import OnnxSampler
    from training.export.explicit import GuidedSampler, export_onnx

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sampler.onnx"
        export_onnx(explicit_module(GuidedSampler, sizes), path)
        return OnnxSampler(replace(policy_of(sizes), onnx=path.read_bytes()), "cpu")


def _through_the_node(sampler: Any, case: Case) -> Prepared:
    """As the node calls a sampler."""
    guards = default_guards(case.sizes)
    ask = partial(sampler, case.obs, case.noise, case.weight, guards)
    if case.best:
        return partial(_best_of, ask), lambda action: action
    return ask, lambda drawn: drawn.action


def _best_of(ask: Callable[[], Any]) -> np.ndarray:
    drawn = ask()
    return drawn.action[drawn.q.argmax()][None]


def default_guards(sizes: Sizes) -> Any:
    from qgf_ros.control.settings import resolve

    return resolve({}, policy_of(sizes)).guards


def native(case: Case, precision: str) -> Prepared | None:
    """The native sampler through its binding, asked for no more than the case needs."""
    from qgf_ros.guidance.backends.native import NativeSampler

    sampler = NativeSampler(policy_of(case.sizes), precision)
    if case.mode == "node":
        return _through_the_node(sampler, case)
    draw = partial(sampler.draw, case.obs, case.noise, case.weight)
    if not case.best:
        return partial(draw, fields=("action",)), lambda drawn: drawn[0]

    def best() -> np.ndarray:
        action, q = draw(fields=("action", "q"))
        return action[q.argmax()][None]

    return best, lambda action: action


def jax(case: Case, tuned: bool = False) -> Prepared | None:
    """See `sampler_jax.py`; its arrays lie where JAX wants them."""
    if case.mode == "node":
        return None
    import sampler_jax

    build = sampler_jax.sampler(policy_of(case.sizes), case.guided, case.best, tuned)
    return build(case.obs, case.noise, case.weight), np.asarray


def floor(case: Case, item: int = 4) -> Prepared | None:
    """See `floor.py`."""
    if case.mode not in ("guided", "unguided"):
        return None
    from floor import Floor, passes

    flat, hidden = case.sizes.horizon * case.sizes.actions, list(case.sizes.hidden)
    widths = [flat, *hidden, flat], [flat, *hidden, 1]
    sizes = case.sizes.obs, case.sizes.critics, case.sizes.steps, case.guided, item
    return Floor(passes(*widths, *sizes)), lambda _: np.zeros(0)


BACKENDS: dict[str, Callable[[Case], Prepared | None]] = {
    "native_f32": partial(native, precision="float32"),
    "native_f16": partial(native, precision="float16"),
    "floor": floor,
    "floor_f16": partial(floor, item=2),
    "jax": jax,
    "jax_tuned": partial(jax, tuned=True),
    "onnx": onnx,
    "explicit": explicit,
    "eager": eager,
}
