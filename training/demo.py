"""The whole path on the simulated arm, as a newcomer sees it first.

Demonstrations as bags; a policy from the bags; beta chosen on episodes of its own; then fresh
episodes for the report, in process and over ROS.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qgf_ros.console import say, table, track
from qgf_ros.errors import CriterionNotMet, UsageError
from qgf_ros.policy.folder import describe_anew, load_policy
from qgf_ros.sim.world import world_folder
from training.export.write import export, summary
from training.judge.evaluate import (
    COLUMNS,
    LEGEND,
    Evaluation,
    Variant,
    evaluate,
    plain,
)
from training.judge.evaluate_ros import check_ros, evaluate_ros
from training.judge.pages.arm_paths import draw
from training.learn.config import REPORT_SEEDS, SELECT_SEEDS, FitConfig
from training.learn.fit import fit
from training.pipeline.record import record

WORLD = "planar_arm"
CAMERA = "planar_arm_camera"  # goal and post are to be seen alone
FIT = FitConfig(hidden=(128, 128), steps=4000)  # small: the policy that ships weighs 0.7 MB
# An image costs more than a draw, and bootstrapping made guidance worse where the critic learns to see.
FIT_CAMERA = replace(FIT, batch=64, flow_draws=4, critic="monte_carlo")
SELECT_EPISODES = 60  # per beta
RESULTS = "results.json"
MARKER = ".qgf_demo"  # says that a folder is ours to replace
MOST_SEEDS = 500  # demonstrations of higher ones would share seeds with the evaluation


@dataclass(frozen=True)
class DemoConfig:
    """See `qgf demo --help`."""

    out: Path
    demonstrations: int = 1200
    episodes: int = 300
    ros_episodes: int = 20
    seed: int = 0
    workers: int = 2
    camera: bool = False

    @property
    def world(self) -> str:
        return CAMERA if self.camera else WORLD


def demo(config: DemoConfig) -> dict[str, Any]:
    """Runs it all; the returned document is also written to `out`/results.json.

    Raises:
        CriterionNotMet: guidance did not beat the unguided policy with 95 % intervals apart, or
            the rates over ROS and in process disagree.
    """
    began = time.monotonic()
    if not 0 <= config.seed < MOST_SEEDS:
        raise UsageError(f"seed is {config.seed}; allowed: 0 to {MOST_SEEDS - 1}")
    if config.ros_episodes:
        check_ros()
    _make_room(config.out)
    contract = world_folder(config.world) / "contract.yaml"

    say("\n1. Record demonstrations: a teacher that picks its way without looking at the post")
    bags = config.out / "bags"
    outcomes = record(
        bags, config.world, config.demonstrations, config.seed, workers=config.workers, progress=track
    )
    say(f"{bags}: " + ", ".join(f"{n} {c}" for n, c in outcomes.items()))

    say("\n2. Train flow and critic on the bags, export the sampler")
    settings = FIT_CAMERA if config.camera else FIT
    fitted = fit(
        bags,
        contract,
        config.out / "run",
        replace(settings, seed=config.seed, workers=config.workers),
    )
    parity = export(fitted.policy)
    say(f"exported; {summary(parity)}")

    say("\n3. Choose beta on episodes of their own")
    beta, swept = choose_beta(fitted.policy, config.world, config.workers)
    set_default_beta(fitted.policy, beta)

    say("\n4. Report on fresh episodes, through the control core in process")
    variants = [
        Variant("unguided", math.inf),
        Variant("qgf", beta),
        Variant("best-of-4", math.inf, 4),
    ]
    inside = evaluate(
        fitted.policy, config.world, variants, config.episodes, REPORT_SEEDS, config.workers, track
    )
    table(f"{config.episodes} fresh episodes each, in process", COLUMNS, [e.row for e in inside])

    wire: list[Evaluation] = []
    if config.ros_episodes:
        say("\n5. The same policy over ROS topics: simulator and node as two processes")
        first = REPORT_SEEDS + config.episodes
        for variant in track(variants, len(variants), "over ROS"):
            wire.append(evaluate_ros(fitted.policy, config.world, variant, config.ros_episodes, first))
        table(
            f"{config.ros_episodes} fresh episodes each, over ROS",
            COLUMNS[:-1],
            [e.row[:-1] for e in wire],
        )

    say(LEGEND)

    picture = config.out / "paths.png"
    draw(
        picture,
        [
            (
                f"{e.variant.name}: {e.success.value:.0%} reach the goal",
                list(zip(e.seeds, e.outcomes, e.paths)),
            )
            for e in inside[:2]
        ],
    )
    document = {
        "beta": beta,
        "demonstrations": outcomes,
        "select": [plain(e) for e in swept],
        "in_process": [plain(e) for e in inside],
        "over_ros": [plain(e) for e in wire],
        "policy": str(fitted.policy),
        "picture": str(picture),
        "seconds": round(time.monotonic() - began, 1),
    }
    (config.out / RESULTS).write_text(json.dumps(document, indent=1).replace("Infinity", '"inf"'))
    say(f"\npicture: {picture}\npolicy:  {fitted.policy}\n{document['seconds']:.0f} s in all")
    _judge(inside, wire, document)
    return document


def choose_beta(policy: Path, world: str, workers: int) -> tuple[float, list[Evaluation]]:
    """The suggested beta with the most successes on the select seeds; of equals, the gentlest."""
    suggested = load_policy(policy).description.beta.suggested
    variants = [Variant("qgf", beta) for beta in sorted(suggested, reverse=True)]
    found = evaluate(policy, world, variants, SELECT_EPISODES, SELECT_SEEDS, workers, track)
    table(f"{SELECT_EPISODES} select episodes each", COLUMNS, [e.row for e in found])
    best = max(found, key=lambda e: e.success.count)  # the first of equals
    say(f"beta {best.variant.beta:g}")
    return best.variant.beta, found


def set_default_beta(folder: Path, beta: float) -> None:
    """Makes a beta that was chosen by trying the policy's default."""
    policy = load_policy(folder)
    d = policy.description
    describe_anew(policy, replace(d, beta=replace(d.beta, default=beta)), policy.onnx)


def _judge(inside: list[Evaluation], wire: list[Evaluation], document: dict[str, Any]) -> None:
    unguided, guided = inside[0].success, inside[1].success
    if not guided.interval[0] > unguided.interval[1]:
        raise CriterionNotMet(
            f"guidance does not beat the unguided policy: {guided} against {unguided}", document
        )
    for a, b in zip(inside, wire):
        (low, high), (wire_low, wire_high) = a.success.interval, b.success.interval
        if wire_low > high or wire_high < low:
            raise CriterionNotMet(
                f"{a.variant.name}: {b.success} over ROS, {a.success} in process", document
            )


def _make_room(out: Path) -> None:
    """Removes an earlier demo, and nothing else."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise UsageError(f"{out} is not empty and holds no demo; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
