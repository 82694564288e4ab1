"""What benches of several training seeds share: rows of a policy's episodes, and their table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qgf_ros.console import table, track
from training.judge.evaluate import Rate, Variant, evaluate
from training.learn.config import REPORT_SEEDS


def rows_of(
    policy: Path, world: str, beta: float, episodes: int, workers: int, about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Unguided, guided at `beta`, and the best of four, on `episodes` fresh episodes each: about, sampler,
    successes, episodes, beta."""
    variants = [
        Variant("bc", math.inf),
        Variant("qgf", beta),
        Variant("best_of_4", math.inf, 4),
    ]
    found = evaluate(policy, world, variants, episodes, REPORT_SEEDS, workers, track)
    return [
        {
            **about,
            "sampler": e.variant.name,
            "successes": e.success.count,
            "episodes": e.success.total,
            "beta": None if math.isinf(e.variant.beta) else e.variant.beta,
        }
        for e in found
    ]


def show(rows: list[dict[str, Any]], key: str = "world") -> None:
    """Over all training seeds, by `key` and sampler."""
    shown = []
    for name, sampler in dict.fromkeys((r[key], r["sampler"]) for r in rows):
        mine = [r for r in rows if (r[key], r["sampler"]) == (name, sampler)]
        rate = Rate(sum(r["successes"] for r in mine), sum(r["episodes"] for r in mine))
        seeds = " ".join(f"{r['successes']}/{r['episodes']}" for r in mine)
        shown.append((name, sampler, seeds, rate))
    table("fresh episodes", (key, "sampler", "by seed", "rate, 95 % Wilson"), shown)
