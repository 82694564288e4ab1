"""Whether a description is made of what may be in one, and its numbers can mean what they are said to.

Beyond these bounds a number is a slip of the unit or an attack, not data.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qgf_ros.files.strict_yaml import checked_text, shown
from qgf_ros.policy.description import DESCRIPTION, PolicyDescription
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer

MAX_TEXT = 20_000  # characters
FAR_COMMAND = 10.0  # widths of the contract's limits that a command may lie outside of them
LARGEST_LIMIT = 1e9  # of a contract's limits, in any unit
LARGEST_STATE = 1e12  # mean and scale of an observed number, in its unit
LARGEST_SCORE = 1e9  # normalised numbers of `states` and `support`


def check_plain(value: Any, where: str = DESCRIPTION, lines: bool = False) -> None:
    """Only what JSON has, and only text that can be printed and sent; ValueError otherwise.

    lines: line breaks may be in a text; they may be where people write freely.
    """
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise ValueError(f"{where} has the key {shown(key)}; keys are text")
            checked_text(shown(key) if isinstance(key, int) else key, f"a key of {where}", 200)
            free = lines or key in ("description", "provenance")
            check_plain(entry, f"{where}.{key}"[:200], free)
    elif isinstance(value, list):
        for entry in value:
            check_plain(entry, where, lines)
    elif isinstance(value, str):
        checked_text(value, where, MAX_TEXT, lines)
    elif isinstance(value, int):
        if value.bit_length() > 128:
            raise ValueError(f"{where} is {shown(value)}; whole numbers have up to 128 bits")
    elif value is not None and not isinstance(value, float):
        raise ValueError(
            f"{where} is a {type(value).__name__}; numbers, text, lists and mappings are allowed"
        )


def check_plausible(d: PolicyDescription, contract: Contract, n: Normalizer) -> None:
    """Whether the numbers can mean what they are said to; ValueError names the one that cannot."""
    low, high, rate = contract.limits
    if len(n.action_center) != len(contract.learnt_names) or len(n.obs_mean) != len(contract.observation_names):
        return  # said by the caller, with both sizes
    names = contract.action_names
    for at in np.flatnonzero(np.maximum(abs(low), abs(high)) > LARGEST_LIMIT):
        raise ValueError(
            f"the limits of {shown(names[at])} are {low[at]:g} to {high[at]:g}; at most {LARGEST_LIMIT:g}"
        )
    for at in np.flatnonzero(rate > LARGEST_STATE):
        raise ValueError(
            f"the rate of {shown(names[at])} is {rate[at]:g} per second; at most {LARGEST_STATE:g}"
        )
    learnt = contract.learnt_names
    low, high = contract.learnt_limits
    room = FAR_COMMAND * (high - low)
    relative = n.action_reference >= 0
    least, most = np.where(relative, 0.0, low) - room, np.where(relative, 0.0, high) + room
    half = n.action_half_range
    inside = (
        (half <= most - least)
        & (n.action_center - half >= least)
        & (n.action_center + half <= most)
    )
    for at in np.flatnonzero(~inside):
        raise ValueError(
            f"normalizer: {shown(learnt[at])} has centre {n.action_center[at]:g} and half range {half[at]:g}; the "
            f"contract's limits are {low[at]:g} to {high[at]:g}, and no command is {FAR_COMMAND:g} of their widths "
            "outside: is it another unit?"
        )
    states = contract.observation_names
    far = (
        (abs(n.obs_mean) > LARGEST_STATE)
        | (n.obs_std > LARGEST_STATE)
        | (n.obs_std < 1 / LARGEST_STATE)
    )
    for at in np.flatnonzero(far):
        raise ValueError(
            f"normalizer: {shown(states[at])} has mean {n.obs_mean[at]:g} and scale {n.obs_std[at]:g}; allowed: "
            f"up to {LARGEST_STATE:g}, scale from {1 / LARGEST_STATE:g}"
        )
    bounds = (d.sanity.q_low, d.sanity.q_high, d.sanity.gradient_norm)
    if not math.isinf(d.beta.default) and not all(map(math.isfinite, bounds)):
        raise ValueError(
            f"sanity has Q from {d.sanity.q_low} to {d.sanity.q_high} and gradient {d.sanity.gradient_norm}; "
            "only a policy that is not guided (beta default inf) has no bounds"
        )
    for key, box in (("support", d.support), ("states", d.states)):
        if box is not None and max(map(abs, (*box.low, *box.high)), default=0) > LARGEST_SCORE:
            raise ValueError(
                f"{key} holds a normalised number beyond {LARGEST_SCORE:g}; no data was there"
            )
