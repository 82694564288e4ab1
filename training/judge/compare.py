"""Samplers of one policy side by side in simulation, in process or over ROS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgf_ros.console import say, table, track
from qgf_ros.errors import UsageError
from training.judge.evaluate import COLUMNS, LEGEND, Variant, evaluate, plain, policy_for
from training.judge.evaluate_ros import evaluate_ros
from training.learn.config import REPORT_SEEDS, SELECT_SEEDS


def compare(
    policy: Path,
    world: str,
    betas: Sequence[float],
    candidates: Sequence[int],
    episodes: int,
    seed: int | None,
    ros: bool,
    workers: int,
) -> dict[str, Any]:
    """Unguided, guided at each of `betas` (the policy's default where empty) and best-of-N.

    seed: of the first episode; None: where there is one beta the seeds of reports, else those to
    choose on, so that nobody reports the episodes that a beta was chosen on without noticing.
    Raises UsageError for numbers that make no sense, and for a beta below the policy's floor: the
    node would hold the floor, and the figure would stand beside a beta that was not in effect.
    """
    beta = policy_for(policy, world).description.beta
    tried = [b for b in betas or (beta.default,) if b != math.inf]
    if seed is None:
        seed = REPORT_SEEDS if len(tried) <= 1 else SELECT_SEEDS
        if seed == SELECT_SEEDS:
            say(
                "several betas: on episodes to choose on; report the chosen one in a run of its own"
            )
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
