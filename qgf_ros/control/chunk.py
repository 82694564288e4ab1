"""A chunk of actions, the sample it comes from, and which candidate may be believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ros.control.reasons import Problem
from qgf_ros.guidance.protocols import REPORTED, Sample
from qgf_ros.policy.description import Sanity
from qgf_ros.policy.folder import Observed, Policy

SATURATED = 1 - 1e-6  # a normalised number beyond this sits at its edge


@dataclass(frozen=True)
class Chunk:
    """H actions; action i is executed at start + i * period (the time law)."""

    start: int  # ns
    actions: np.ndarray  # (H, A) robot units
    epoch: int
    sequence: int

    def index(self, now: int, period: int) -> int:
        """Which action belongs to `now`; outside 0..H-1 none does."""
        return (now - self.start + period // 2) // period


@dataclass(frozen=True)
class Sampled:
    """A new chunk and what the critic says about it; see QValues.msg."""

    chunk: Chunk
    stamp: int  # ns, of the observation
    beta: float
    q: float
    q_unguided: float
    q_std: float
    gradient_norm: float
    guidance_ratio: float
    share_clipped: float
    guards: tuple[str, ...]
    seam_jump: float  # share of the command's range; NaN: there was no chunk before
    share_executed: float  # of the chunk before
    inference_seconds: float
    age: float


@dataclass(frozen=True)
class Choice:
    """The candidate that is executed."""

    row: int
    action: np.ndarray  # (H, A) robot units
    share_clipped: float
    guards: tuple[str, ...]
    guided: bool  # False: what is executed is the unguided action
    credible: bool  # some candidate's Q and gradient are sane; else the action is unguided


def draw_noise(seed: int, stamp: int, candidates: int, size: int) -> np.ndarray:
    """(N, D) float32 ~ N(0, I), a function of (seed, observation stamp) alone, so that a replay
    samples what the robot sampled. The first rows do not depend on how many there are."""
    rng = np.random.default_rng([seed, stamp])
    return rng.standard_normal((candidates, size), dtype=np.float32)


def choose(
    sample: Sample | None, policy: Policy, observed: Observed, keep_best: bool = False
) -> Choice | Problem:
    """The candidate with the largest Q that can be believed, in robot units.

    observed: what was sampled for; relative actions begin there.
    A candidate whose Q or gradient is not finite, or beyond the policy's sanity bounds, falls back
    to the unguided action from the same noise; where that one's Q is no better, it competes last.
    With `keep_best` so does a candidate whose Q is not larger than the unguided action's.
    """
    wrong = _schema(sample, policy.flat_dim)
    if wrong or sample is None:
        return Problem("ACTION_SCHEMA", "", f"the sampler gave {wrong}")
    sanity = policy.description.sanity
    sane = np.asarray(_sane_q(sample.q, sanity) & np.isfinite(sample.action).all(axis=1))
    sane &= np.isfinite(sample.gradient_norm) & (sample.gradient_norm <= sanity.gradient_norm)
    guided = sane & (sample.q > sample.q_unguided) if keep_best else sane
    action = np.where(guided[:, None], sample.action, sample.action_unguided)
    fallback_q = np.where(_sane_q(sample.q_unguided, sanity), sample.q_unguided, -np.inf)
    q = np.where(guided, sample.q, fallback_q)
    finite = np.asarray(np.isfinite(action).all(axis=1))
    if not finite.any():
        return Problem("ACTION_NONFINITE", "", "the sampler gave no finite action")
    row = int(np.argmax(np.where(finite, q, -np.inf)))
    if not finite[row]:  # all Q are -inf: any finite action is as good
        row = int(np.argmax(finite))
    flat = action[row].reshape(policy.horizon, policy.action_dim)
    return Choice(
        row=row,
        action=policy.codec.decode(flat, observed.origin),
        share_clipped=np.count_nonzero(np.abs(flat) >= SATURATED) / flat.size,
        guards=_guards(sample, row, sane, guided),
        guided=bool(guided[row]),
        credible=bool(sane.any()),
    )


def _guards(sample: Sample, row: int, sane: np.ndarray, guided: np.ndarray) -> tuple[str, ...]:
    """Which guards altered the candidate of that row; q_invalid: any."""
    names = [] if sane.all() else ["q_invalid"]
    if sane[row] and not guided[row] and not np.array_equal(
        sample.action[row], sample.action_unguided[row]
    ):  # fmt: skip
        names.append("keep_best")
    if guided[row] and sample.acted is not None:
        names += [name for i, name in enumerate(REPORTED) if int(sample.acted[row]) >> i & 1]
    return tuple(names)


def blend(old: np.ndarray, new: np.ndarray, steps: int) -> np.ndarray:
    """(K, A): over the first `steps` actions linearly from what `old` goes on with to `new`.

    old: (k, A), new: (K, A), both from the same tick on. Where `old` ends sooner, so does the blend.
    """
    count = min(steps, len(old), len(new))
    share = (np.arange(1, count + 1) / (count + 1))[:, None]
    blended = new.copy()
    blended[:count] = old[:count] + share * (new[:count] - old[:count])
    return blended


def _sane_q(q: np.ndarray, sanity: Sanity) -> np.ndarray:
    return np.isfinite(q) & (q >= sanity.q_low) & (q <= sanity.q_high)


def _schema(sample: object, flat: int) -> str:
    """What is wrong with the form of a sample; "" if nothing is."""
    if not isinstance(sample, Sample):
        return type(sample).__name__
    shape = np.shape(sample.action)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != flat:
        return f"actions of shape {shape}; expected (N, {flat})"
    for name in Sample.__dataclass_fields__:
        value = getattr(sample, name)
        if value is None and name == "acted":
            continue
        wanted = shape if name.startswith("action") else shape[:1]
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.shape != wanted:
            kind = (
                f"{value.dtype} {value.shape}"
                if isinstance(value, np.ndarray)
                else type(value).__name__
            )
            return f"{name} as {kind}; expected floats of shape {wanted}"
    return ""
