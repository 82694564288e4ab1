"""What half-precision weights change: the native sampler in float16 against the reference in float64.

The weights are rounded to 11 bits, arithmetic stays in float32. On trained policies (planar arm,
cube, mobile base, G1) nine of ten unguided actions moved by at most 0.0002 to 0.0013 of [-1, 1], and
guided by the default beta 0.0006 to 0.002; at the floor of beta, where guidance is as strong as the
critic's curvature allows, 0.001 to 0.024. Two draws of noise are 0.4 to 1.3 apart there.

A quantile and not the largest one: with min, guidance follows the smaller of two critics, and where
they are nearer to each other than half precision it may follow the other one, for one sample in a
hundred or so. That one is then another draw, as pessimistic as the first: by the reference's own
critic the two are worth the same.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from qgf_ros.errors import PolicyRefused
from qgf_ros.guidance.backends.native import NativeSampler
from qgf_ros.policy.folder import Policy
from training.export.parity import Case, Reference

SAMPLES = 128  # per beta
SHARE = 0.9  # of samples


def half_error(policy: Policy, seed: int = 0) -> float:
    """What nine of ten samples stay within: the largest error of a sample's D normalised actions.

    Measured on fresh inputs for beta infinity, the default and the floor; the largest of the three.
    Infinity where a weight does not fit into half precision.

    Raises:
        DeviceUnavailable: the native sampler is not there.
    """
    try:
        sampler = NativeSampler(policy, "float16")
    except PolicyRefused:
        return math.inf
    rng, beta = np.random.default_rng([2026, seed]), policy.description.beta
    return max(_error(policy, sampler, 1 / b, rng) for b in (math.inf, beta.default, beta.min))


def _error(
    policy: Policy, sampler: NativeSampler, weight: float, rng: np.random.Generator
) -> float:
    obs = rng.standard_normal((SAMPLES, policy.obs_dim)).astype(np.float32)
    noise = rng.standard_normal((SAMPLES, policy.flat_dim)).astype(np.float32)
    theirs, _ = Reference(policy)(Case(obs, noise, weight), torch.float64)
    ours = np.concatenate(
        [sampler.draw(o, n[None], weight, fields=("action",))[0] for o, n in zip(obs, noise)]
    )
    errors = np.nan_to_num(np.abs(ours - theirs).max(axis=1), nan=np.inf)
    return float(np.quantile(errors, SHARE, method="higher"))
