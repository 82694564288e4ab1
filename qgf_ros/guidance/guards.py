"""The node's `guidance.*` parameters as guards that fit its policy, or the reason why they do not,
and what a backend is told of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from qgf_ros.errors import UsageError
from qgf_ros.guidance.protocols import Guards
from qgf_ros.policy.folder import Policy


def guards_of(values: Mapping[str, Any], policy: Policy) -> Guards:
    """Guards from the values of all parameters, each of which is in its range already.

    Raises:
        UsageError: together, or with this policy, they mean nothing.
    """
    d, names = policy.description, policy.contract.learnt_names
    only = tuple(filter(None, map(str.strip, (values["guidance.only"] or "").split(","))))
    guards = Guards(
        skip_first=values["guidance.skip_first"],
        last=values["guidance.last"],
        disagreement=values["guidance.disagreement"],
        only=only,
        support=values["guidance.support"],
        ratio_cap=values["guidance.ratio_cap"],
        keep_best=values["guidance.keep_best"],
    )
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UsageError(
            f"guidance.only names {', '.join(unknown)}; the policy's actions are {', '.join(names)}"
        )
    steps = d.flow.denoise_steps
    if guards.skip_first >= steps:
        raise UsageError(
            f"guidance.skip_first is {guards.skip_first} of {steps} denoising steps, which leaves "
            f"none; allowed: up to {steps - 1} (beta inf switches guidance off)"
        )
    if guards.support and d.support is None:
        raise UsageError(
            f"guidance.support is true, but {policy.folder} stores no range of its data; "
            "train the policy again, or leave the guard off"
        )
    if guards.disagreement < math.inf and d.critic.members < 2:
        raise UsageError(
            f"guidance.disagreement is {guards.disagreement:g}, but the critic has 1 member, which "
            "never disagrees; train one with 2 or more, or leave the guard off (inf)"
        )
    return guards


def guard_inputs(guards: Guards, policy: Policy) -> dict[str, np.ndarray]:
    """What a sampler is told of its guards, as in `training.export.explicit.GuidedSampler.forward`.

    Returns:
        guide: (T, D) bool, which numbers are guided in which steps.
        low, high: (D,) float32, the box of the support guard, infinite for none.
        disagreement, ratio_cap: () float32, infinite for none.
    """
    steps, flat = policy.description.flow.denoise_steps, policy.flat_dim
    step = np.arange(steps)
    window = (step >= guards.skip_first) & (step >= steps - (guards.last or steps))
    names = policy.contract.learnt_names
    only = np.array([not guards.only or name in guards.only for name in names])
    low, high = np.full(flat, -np.inf), np.full(flat, np.inf)
    if guards.support:
        box = policy.description.support
        assert box is not None  # `guards_of` has seen to it
        low, high = np.array(box.low), np.array(box.high)
    return {
        "guide": window[:, None] & np.tile(only, policy.horizon),
        "low": low.astype(np.float32),
        "high": high.astype(np.float32),
        "disagreement": np.array(guards.disagreement, np.float32),
        "ratio_cap": np.array(guards.ratio_cap, np.float32),
    }
