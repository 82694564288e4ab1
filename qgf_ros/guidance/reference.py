"""The guided sampler in plain numpy and float64, and whether a backend answers as it does.

For the robot's side, where neither PyTorch nor training is: a few samples at load, not a sampler.
A sampler.onnx is derived data that nobody can read; with its hashes made again, a negated one would
drive the robot the other way, while the native sampler of the same folder would not.
Shapes: N rows, O observation, D = H * A, E members, W width of a hidden layer, T steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from qgf_ros.errors import PolicyRefused
from qgf_ros.guidance import protocols as base
from qgf_ros.policy.description import parse_aggregation
from qgf_ros.policy.folder import Policy

EPS = 1e-6  # of the layer norms
GELU_A = 2 * math.sqrt(2 / math.pi)  # tanh form, see `explicit_nets`
GELU_B = 0.044715 * GELU_A
ROWS, PROBES = 2, 3  # candidates, and observations that are asked about
EDGE = 3.0  # standard deviations: as far as a probe goes where the recorded range ends later
# `qgf export` holds every backend to 1e-5 (1 + w) and leaves out what float32 cannot decide. Here a
# sound policy must never be refused, and what is looked for (a sign, other weights) is far larger.
TOLERANCE = 1e-3  # times (1 + w), of a normalised action
HALF_TOLERANCE = 3 * base.HALF_TOLERANCE
TIE = 1e-4  # of Q, relative: members closer than this may swap, and the row is left out
NUDGE = 2.0**-20  # of the noise: what it changes, guidance has blown up, and the row is left out


@dataclass(frozen=True)
class Drawn:
    """action, (N, D); tied: (N,) bool, whether another member could have guided as well."""

    action: np.ndarray
    tied: np.ndarray


def draw(policy: Policy, obs: np.ndarray, noise: np.ndarray, weight: float) -> Drawn:
    """Samples without guards. obs: (O,), noise: (N, D), weight: w = 1/beta >= 0; all normalised."""
    steps, rows = policy.description.flow.denoise_steps, len(noise)
    seen = np.broadcast_to(obs.astype(np.float64, copy=False), (rows, len(obs)))
    a = noise.astype(np.float64, copy=False)
    tied = np.zeros(rows, bool)
    for k, time in enumerate(policy.velocity["time_embedding"].astype(np.float64, copy=False)):
        times = np.broadcast_to(time, (rows, len(time)))
        v = _run(policy.velocity, np.concatenate([seen, a, times], 1))[0][0]
        drift = v
        if weight > 0:
            a_hat = np.clip(a + (1 - k / steps) * v, -1, 1)
            gradient, close = _gradient(policy, seen, a_hat)
            drift, tied = v + weight * gradient, tied | close
        a = a + drift / steps
    return Drawn(np.clip(a, -1, 1), tied)


def _run(
    tensors: dict[str, np.ndarray], x: np.ndarray
) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
    """x: (N, in) -> (E, N, out), and what the way back needs of each hidden layer."""
    layers = sum(name.startswith("layers.") for name in tensors) // 2
    tape: list[tuple[np.ndarray, ...]] = []
    for i in range(layers):
        weight, bias = (
            tensors[f"layers.{i}.{n}"].astype(np.float64, copy=False) for n in ("weight", "bias")
        )
        x = x @ weight + bias[:, None]
        if i == layers - 1:
            break
        normed = f"norms.{i}.weight" in tensors
        unit, inverse, scale = x, np.ones(1), np.ones(1)
        if normed:
            centred = x - x.mean(-1, keepdims=True)
            inverse = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
            unit = centred * inverse
            scale = tensors[f"norms.{i}.weight"].astype(np.float64, copy=False)[:, None]
            x = unit * scale + tensors[f"norms.{i}.bias"].astype(np.float64, copy=False)[:, None]
        gate = _sigmoid(x * (GELU_A + GELU_B * x**2))
        slope = gate * (1 + x * (1 - gate) * (GELU_A + 3 * GELU_B * x**2))
        tape.append((weight, unit, inverse, slope * scale, np.array(normed)))
        x = x * gate
    tape.append((weight,))
    return x, tape


def _gradient(policy: Policy, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D), d aggregated Q / d action; (N,) whether another member's Q is as small."""
    raw, tape = _run(policy.critic, np.concatenate([obs, action], 1))
    kind, k = parse_aggregation(policy.description.returns.aggregation)
    q = _members(policy, raw)
    members, tied = len(q), np.zeros(len(obs), bool)
    if kind == "min":
        share = (np.arange(members)[:, None, None] == raw.argmin(0)) * 1.0
        if members > 1:
            first, second = np.sort(raw[..., 0], 0)[:2]
            tied = second - first <= TIE * np.maximum(1e-3, abs(first))
    else:
        std = q.std(0)
        centred = (q - q.mean(0)) / np.where(std > 0, std, 1)
        share = (1 - k * centred) / members
        tied = (k > 0) & (std[:, 0] <= TIE * np.maximum(1e-3, abs(q.mean(0)[:, 0])))
    g = share * (q * (1 - q) if policy.description.critic.output == "sigmoid" else 1.0)
    g = g @ tape[-1][0].swapaxes(1, 2)
    for weight, unit, inverse, slope, normed in reversed(tape[:-1]):
        g = g * slope
        if normed:
            g = inverse * (
                g - g.mean(-1, keepdims=True) - unit * (g * unit).mean(-1, keepdims=True)
            )
        g = g @ weight.swapaxes(1, 2)
    return g.sum(0)[:, obs.shape[1] :], tied


def values(policy: Policy, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Aggregated Q of actions (N, D) in one state (O,), and the members' standard deviation; (N,) each."""
    seen = np.broadcast_to(obs, (len(action), len(obs)))
    q = _members(policy, _run(policy.critic, np.concatenate([seen, action], 1))[0])[..., 0]
    kind, k = parse_aggregation(policy.description.returns.aggregation)
    return q.min(0) if kind == "min" else q.mean(0) - k * q.std(0), q.std(0)


def _members(policy: Policy, raw: np.ndarray) -> np.ndarray:
    """The members' Q, of what their last layers say; (E, N, 1) each."""
    return _sigmoid(raw) if policy.description.critic.output == "sigmoid" else raw


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def probes(policy: Policy) -> list[np.ndarray]:
    """Observations (O,) that such a policy can meet: the mean, and places within what was recorded.

    The same for the same policy; normalised.
    """
    rng, box = np.random.default_rng([2026, policy.obs_dim]), policy.description.states
    low, high = np.full(policy.obs_dim, -1.0), np.full(policy.obs_dim, 1.0)
    if box is not None:
        low, high = np.clip(box.low, -EDGE, EDGE), np.clip(box.high, -EDGE, EDGE)
    places = [low + rng.random(policy.obs_dim) * (high - low) for _ in range(PROBES - 1)]
    return [o.astype(np.float32) for o in (np.zeros(policy.obs_dim), *places)]


def check_answers(policy: Policy, sampler: base.Sampler, half: bool = False) -> None:
    """Compares a sampler with the reference: unguided, with the default beta, and with the floor, which is
    the hardest that anybody can ask for; and what it says of Q, by which candidates are chosen.

    half: its weights are float16.

    Raises PolicyRefused where it differs, or answers what is no number.
    """
    rng = np.random.default_rng([2027, policy.obs_dim])
    wide = [
        {k: t.astype(np.float64) for k, t in p.items()} for p in (policy.velocity, policy.critic)
    ]
    policy = replace(policy, velocity=wide[0], critic=wide[1])  # once, not at every step
    beta = policy.description.beta
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    # At the floor rounded weights are amplified to other actions; what float16 does was measured at export.
    weights = [1 / beta.default] if half else sorted({1 / beta.default, 1 / beta.min})
    with np.errstate(all="ignore"):  # what overflows is compared as what it has become
        for obs in probes(policy):
            noise = rng.standard_normal((ROWS, policy.flat_dim)).astype(np.float32)
            plain = draw(policy, obs, noise, 0.0)
            for weight in weights:
                ours = sampler(obs, noise, weight)
                _compare(policy, sampler, ours.action_unguided, plain.action, tolerance)
                _compare_values(policy, sampler, obs, ours, tolerance)
                if weight == 0:
                    continue
                wanted = draw(policy, obs, noise, weight)
                nudged = draw(policy, obs, noise * (1 + NUDGE), weight)
                blown = abs(wanted.action - nudged.action).max(1) > tolerance
                keep, allowed = ~(wanted.tied | blown), tolerance * (1 + weight)
                _compare(policy, sampler, ours.action[keep], wanted.action[keep], allowed)


def _compare_values(
    policy: Policy, sampler: base.Sampler, obs: np.ndarray, ours: base.Sample, tolerance: float
) -> None:
    """Q of the actions that it gave itself: how it came to them does not matter."""
    for action, said, what in (
        (ours.action, (ours.q, ours.q_std), "Q"),
        (ours.action_unguided, (ours.q_unguided,), "unguided Q"),
    ):
        wanted = values(policy, obs, np.asarray(action, np.float64))
        for got, right in zip(said, wanted):
            largest = np.maximum(1.0, abs(wanted[0]))
            _compare(policy, sampler, got / largest, right / largest, tolerance, what)


def _compare(
    policy: Policy,
    sampler: base.Sampler,
    ours: np.ndarray,
    wanted: np.ndarray,
    tolerance: float,
    what: str = "a normalised action",
) -> None:
    if ours.shape == wanted.shape and not ours.size:
        return
    apart = float(abs(ours - wanted).max()) if ours.shape == wanted.shape else math.inf
    if not apart <= min(tolerance, 0.5):
        raise PolicyRefused(
            f"{policy.folder}: the {sampler.backend} sampler does not answer as the policy's weights do: "
            f"{what} differs by {apart:.3g}, allowed {min(tolerance, 0.5):.2g}; make it again with "
            f"`qgf export`, or build the package again"
        )
