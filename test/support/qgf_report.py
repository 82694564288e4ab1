"""Something to report on: a random policy, and random walks to look at with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import qgf_make

from qgf_ros.policy.description import Beta, Flow
from qgf_ros.policy.folder import load_policy, write_policy
from training.judge.subject import Subject
from training.pipeline.episodes import Episode

EVIL = "</script><img src=x onerror=alert(1)>"  # a name of somebody else's
STEPS = 6  # T


def subject(
    folder: Path,
    outcomes: tuple[bool | None, ...] = (True, False),
    count: int = 16,
    ticks: int = 24,
    joints: tuple[str, ...] = ("a", EVIL),
    horizon: int = 5,
    flat_critic: bool = False,
    **changes: Any,
) -> Subject:
    """Writes the policy to `folder`. outcomes: of the `count` episodes, in turn; flat_critic: Q is 0
    everywhere; changes: to the policy's description."""
    value = qgf_make.velocity_dict(horizon=horizon, execute=horizon)
    value["observations"][0]["names"] = value["actions"][0]["names"] = list(joints)
    value["actions"][0]["limits"] = {j: {"min": -2.0, "max": 2.0, "rate": 80.0} for j in joints}
    own = qgf_make.contract(value)
    changes = {"flow": Flow(STEPS), "beta": Beta(0.1, 0.05, (0.05, 0.1))} | changes
    told = qgf_make.description(own, **changes)
    tensors = qgf_make.tensors(own, told)
    tensors[told.critic.file] = {
        k: (0.0 if flat_critic else 5.0) * v for k, v in tensors[told.critic.file].items()
    }
    write_policy(folder, told, tensors)
    policy = load_policy(folder)
    random = np.random.default_rng(0)

    def walk(rows, columns):
        return np.cumsum(0.1 * random.standard_normal((rows, columns)), axis=0)

    episodes = [
        Episode(
            f"{EVIL} {i}",
            walk(ticks + 1, policy.obs_dim),
            walk(ticks, len(joints)).clip(-1, 1),
            -0.02 * np.ones(ticks),
            outcomes[i % len(outcomes)] is not None,
            outcomes[i % len(outcomes)],
        )
        for i in range(count)
    ]
    return Subject.of(policy, episodes)
