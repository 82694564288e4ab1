"""Samplers of one policy side by side in simulation, in process or over ROS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgf_ros.console import say, table, track
from qgf_ros.errors import UsageError
from qgf_ros.policy import load_policy
from training.evaluate import COLUMNS, LEGEND, Variant, evaluate, plain
from training.evaluate_ros import evaluate_ros


def compare(
    policy: Path,
    world: str,
    betas: Sequence[float],
    candidates: Sequence[int],
    episodes: int,
    seed: int,
    ros: bool,
    workers: int,
) -> dict[str, Any]:
    """Unguided, guided at each of `betas` (the policy's default where empty) and best-of-N.

    Raises UsageError for numbers that make no sense, and for a beta below the policy's floor: the
    node would hold the floor, and the figure would stand beside a beta that was not in effect.
    """
    beta = load_policy(policy).description.beta
    tried = [b for b in betas or (beta.default,) if b != math.inf]
    low = [b for b in tried if not b >= beta.min]
    if low:
        raise UsageError(f"beta is {low[0]:g}; this policy's floor is {beta.min:g}")
    if episodes < 1 or seed < 0 or any(n < 1 for n in candidates):
        raise UsageError(
            f"episodes {episodes}, candidates {list(candidates)}, seed {seed}: needed are at least "
            "1, at least 1 each, and at least 0"
        )
    variants = [
        Variant("unguided", math.inf),
        *(Variant("qgf", b) for b in tried),
        *(Variant(f"best-of-{n}", math.inf, n) for n in candidates),
    ]
    if ros:
        found = [
            evaluate_ros(policy, world, v, episodes, seed)
            for v in track(variants, len(variants), "over ROS")
        ]
    else:
        found = evaluate(policy, world, variants, episodes, seed, workers, track)
    columns = COLUMNS[:-1] if ros else COLUMNS  # the time of one sample is the node's own there
    rows = [e.row[: len(columns)] for e in found]
    table(f"{episodes} episodes each, {'over ROS' if ros else 'in process'}", columns, rows)
    say(LEGEND)
    return {"policy": policy, "world": world, "ros": ros, "samplers": [plain(e) for e in found]}
