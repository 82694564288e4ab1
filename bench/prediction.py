"""Does what is known offline predict what happens in simulation?

    python bench/prediction.py --out DIR --task arm
    python bench/ogbench.py --out DIR && python bench/prediction.py --out DIR --task cube

Makes pairs of a policy and a critic (`prediction_pairs.py`), writes down what is known of each
before anything moves (`prediction_offline.py`), and plays each in simulation through the control
core, on fresh episodes: unguided, at the betas that the policy suggests, and at its floor. One JSON
line per pair in DIR/TASK.jsonl; the same command goes on where it stopped. Statistics and tables:
`prediction_doc.py`.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

# A script's folder comes first on the path, where a file could hide a package of its name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import tyro  # noqa: E402
from prediction_offline import known  # noqa: E402
from prediction_pairs import TASKS, Pair, make  # noqa: E402

from qgf_ros.console import plain, say  # noqa: E402
from qgf_ros.errors import exit_codes  # noqa: E402
from qgf_ros.policy.folder import load_policy  # noqa: E402
from qgf_ros.sim.episode import EpisodeResult  # noqa: E402
from qgf_ros.sim.world import Outcome  # noqa: E402
from qgf_ros.spaces.contract import Contract  # noqa: E402
from training.judge.evaluate import Variant, run_block  # noqa: E402
from training.learn.config import REPORT_SEEDS  # noqa: E402

APART = 10_000  # between the first episodes of two training seeds
FLOOR_SHARE = 4  # the floor is played in the first of so many parts of the episodes


@dataclass(frozen=True)
class Study:
    """Which pairs, and how long each is played."""

    out: Path
    """Folder for data, policies and results; for the cube that of bench/ogbench.py."""
    task: Literal["arm", "cube"]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """Training seeds; the cube's policies are of 0, 1 and 2."""
    kinds: tuple[str, ...] = ()
    """Kinds of critics, all of the task by default."""
    episodes: int = 120
    """Per beta; the same ones for all betas and critics of a training seed."""


def main() -> int:
    study = tyro.cli(Study, description=(__doc__ or "").splitlines()[0])
    with exit_codes():
        run(study)
    return 0


def run(study: Study) -> None:
    """What is missing of each pair, one after the other, the first seeds first."""
    warnings.filterwarnings("ignore")
    study.out.mkdir(parents=True, exist_ok=True)
    path = study.out / f"{study.task}.jsonl"
    done = (
        {json.loads(line)["pair"] for line in path.read_text().splitlines()}
        if path.exists()
        else set()
    )
    for seed in study.seeds:
        for kind in study.kinds or TASKS[study.task].kinds:
            pair = Pair(study.task, seed, kind)
            if pair.name in done:
                continue
            row = examine(pair, study)
            with path.open("a") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
            shown = ", ".join(f"{r['beta']}: {sum(map(int, r['success']))}" for r in row["played"])
            say(f"{pair.name}: {shown} of {study.episodes}; {row['seconds']}")


def examine(pair: Pair, study: Study) -> dict[str, Any]:
    """One pair: made, looked at, played."""
    began = time.monotonic()
    made = make(pair, study.out)
    trained = time.monotonic()
    offline = known(pair, made)
    looked = time.monotonic()
    beta = made.policy.description.beta
    counts = {beta.min: max(1, study.episodes // FLOOR_SHARE)}
    counts |= {b: study.episodes for b in beta.suggested}
    played = [unguided(pair, study)]
    played += [play(pair, made.policy.folder, b, n) for b, n in sorted(counts.items())]
    ended = time.monotonic()
    parts = (trained - began, looked - trained, ended - looked)
    return plain(
        {
            "pair": pair.name,
            "task": pair.task,
            "seed": pair.seed,
            "kind": pair.kind,
            "policy": made.policy.sha256,
            "beta": beta,
            "informative": made.policy.description.returns.informative,
            "offline": offline,
            "played": played,
            "seconds": [round(x, 1) for x in parts],
        }
    )


def unguided(pair: Pair, study: Study) -> dict[str, Any]:
    """The flow by itself, once per training seed: no critic changes what it does."""
    path = study.out / f"{pair.task}-{pair.seed}-unguided-{study.episodes}.json"
    if not path.exists():
        _, flow = TASKS[pair.task].flow(study.out, pair.seed)
        path.write_text(json.dumps(plain(play(pair, flow, math.inf, study.episodes))))
    return json.loads(path.read_text())


def play(pair: Pair, policy: Path, beta: float, episodes: int) -> dict[str, Any]:
    """Fresh episodes at one beta."""
    first = REPORT_SEEDS + APART * pair.seed
    seeds = range(first, first + episodes)
    found = run_block(policy, TASKS[pair.task].world, Variant("qgf", beta), seeds)
    samples = [s for r in found for s in r.samples]
    return {
        "beta": beta,
        "success": "".join(str(int(r.outcome is Outcome.SUCCESS)) for r in found),
        "collisions": sum(r.outcome is Outcome.COLLISION for r in found),
        "seconds": round(float(np.mean([r.seconds for r in found])), 3),
        "held_ticks": sum(r.held_ticks for r in found),
        "rough": round(rough(found, load_policy(policy).contract), 5),
        "gain": round(float(np.mean([s.q - s.q_unguided for s in samples])), 5),
        "guidance_ratio": round(float(np.mean([s.guidance_ratio for s in samples])), 5),
    }


def rough(found: Sequence[EpisodeResult], contract: Contract) -> float:
    """RMS of the second differences of the velocities that were commanded, in widths of their
    range: jerk without a unit of time."""
    low, high, _ = contract.limits
    width = (high - low)[contract.velocity_like]
    total, count = 0.0, 0
    for episode in found:
        commands = np.concatenate([s.chunk.actions for s in episode.samples])
        second = np.diff(commands[:, contract.velocity_like] / width, 2, axis=0)
        total, count = total + float(np.square(second).sum()), count + second.size
    return math.sqrt(total / max(1, count))


if __name__ == "__main__":
    sys.exit(main())
