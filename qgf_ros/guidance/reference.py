"""Whether a sampler answers as the policy's components do, by a few samples at load.

Compared with `sampling`, which is numpy in float64: there is no PyTorch on a robot. A sampler.onnx is
derived data that nobody can read; with its hashes made again, a negated one would drive the robot the
other way, while the native sampler of the same folder would not. A velocity field that answers
otherwise when it is asked again is found out as well: no tick of it could be replayed.
"""

from __future__ import annotations

import math

import numpy as np

from qgf_ros.errors import PolicyRefused
from qgf_ros.guidance.backends import table
from qgf_ros.guidance.protocols import Sample, Sampler
from qgf_ros.guidance.sampling import NumpySampler
from qgf_ros.policy.folder import Policy

ROWS, PROBES = 2, 3  # candidates, and observations that are asked about
EDGE = 3.0  # standard deviations: as far as a probe goes where the recorded range ends later
# `qgf export` holds every backend to 1e-5 (1 + w) and leaves out what float32 cannot decide. Here a
# sound policy must never be refused, and what is looked for (a sign, other weights) is far larger.
TOLERANCE = 1e-3  # times (1 + w), of a normalised action
HALF_TOLERANCE = 3 * table.HALF_TOLERANCE
NUDGE = 2.0**-20  # of the noise: what it changes, guidance has blown up, and the row is left out


def probes(policy: Policy) -> list[np.ndarray]:
    """Observations (O,) that such a policy can meet: the mean, and places within what was recorded.

    The same for the same policy; normalised.
    """
    n, box = policy.normalizer, policy.description.states
    size = len(n.obs_mean)
    rng, low, high = np.random.default_rng([2026, size]), np.full(size, -1.0), np.full(size, 1.0)
    if box is not None:
        low, high = np.clip(box.low, -EDGE, EDGE), np.clip(box.high, -EDGE, EDGE)
    places = [low + rng.random(size) * (high - low) for _ in range(PROBES - 1)]
    return [policy.encode(n.unnormalize_obs(o)) for o in (np.zeros(size), *places)]


def check_answers(policy: Policy, sampler: Sampler, half: bool = False) -> None:
    """Compares a sampler with the reference: unguided, with the default beta, and with the floor, which is
    the hardest that anybody can ask for; and what it says of Q, by which candidates are chosen.

    half: its weights are float16.

    Raises PolicyRefused where it differs, or answers what is no number.
    """
    rng = np.random.default_rng([2027, policy.obs_dim])
    reference = sampler if isinstance(sampler, NumpySampler) else NumpySampler(policy)
    beta = policy.description.beta
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    # At the floor rounded weights are amplified to other actions; what float16 does was measured at export.
    weights = [1 / beta.default] if half else sorted({1 / beta.default, 1 / beta.min})
    with np.errstate(all="ignore"):  # what overflows is compared as what it has become
        for obs in probes(policy):
            noise = rng.standard_normal((ROWS, policy.flat_dim)).astype(np.float32)
            plain = reference.walk(obs, noise, 0.0)
            for weight in weights:
                ours = sampler(obs, noise, weight)
                _compare(policy, sampler, ours.action_unguided, plain.action, tolerance)
                _compare_values(reference, policy, sampler, obs, ours, tolerance)
                if weight == 0:
                    continue
                wanted = reference.walk(obs, noise, weight)
                nudged = reference.walk(obs, noise * (1 + NUDGE), weight)
                blown = abs(wanted.action - nudged.action).max(1) > tolerance
                keep, allowed = ~(wanted.tied | blown), tolerance * (1 + weight)
                _compare(policy, sampler, ours.action[keep], wanted.action[keep], allowed)


def _compare_values(
    reference: NumpySampler,
    policy: Policy,
    sampler: Sampler,
    obs: np.ndarray,
    ours: Sample,
    tolerance: float,
) -> None:
    """Q of the actions that it gave itself: how it came to them does not matter."""
    for action, said, what in (
        (ours.action, (ours.q, ours.q_std), "Q"),
        (ours.action_unguided, (ours.q_unguided,), "unguided Q"),
    ):
        wanted = reference.values(obs, np.asarray(action, np.float64))
        for got, right in zip(said, wanted):
            largest = np.maximum(1.0, abs(wanted[0]))
            _compare(policy, sampler, got / largest, right / largest, tolerance, what)


def _compare(
    policy: Policy,
    sampler: Sampler,
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
