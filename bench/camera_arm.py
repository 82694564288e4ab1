"""The arm that is seen beside the arm that is told: the same task, with a camera and without.

    python bench/camera_arm.py --out DIR [--seeds 0 1 2]

For each training seed and world what `qgf demo` does, in process: 1200 demonstrations, training, beta chosen
on episodes of its own, 300 fresh episodes each. Rows {world, sampler, seed, successes, episodes, beta} in
bench/results/camera-arm.json. What is done is kept in DIR: the same command goes on where it stopped.

    python bench/camera_arm.py --out DIR --gradient flow

The encoder learns from the flow's loss alone, on the same bags: rows in bench/results/camera-arm-flow.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from by_seed import rows_of, show

from qgf_ros.console import say, track
from qgf_ros.errors import exit_codes
from qgf_ros.sim.world import world_folder
from training.demo import CAMERA, FIT, FIT_CAMERA, WORLD, choose_beta, set_default_beta
from training.export.write import export
from training.learn.fit import fit
from training.pipeline.record import record

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bench:
    """What to run."""

    out: Path
    """Folder for bags and policies."""
    seeds: tuple[int, ...] = (0, 1, 2)
    demonstrations: int = 1200
    episodes: int = 300
    workers: int = 2
    gradient: Literal["both", "flow"] = "both"
    """Whose loss teaches the encoder."""

    def run(self) -> None:
        rows: list[dict[str, Any]] = []
        worlds = [(WORLD, FIT), (CAMERA, FIT_CAMERA)]
        name = "camera-arm.json"
        if self.gradient == "flow":
            worlds = [(CAMERA, replace(FIT_CAMERA, encoder_gradient="flow"))]
            name = "camera-arm-flow.json"
        for seed in self.seeds:
            for world, settings in worlds:
                folder = self.out / f"{world}-{seed}"
                done = folder / f"rows{self.suffix}.json"
                if not done.exists():
                    found = self.one(
                        folder, world, replace(settings, seed=seed, workers=self.workers)
                    )
                    done.write_text(json.dumps(found))
                rows += json.loads(done.read_text())
                (RESULTS / name).write_text(json.dumps(rows, indent=1) + "\n")
        show(rows)

    @property
    def suffix(self) -> str:
        """Tells what was learnt by the flow's loss alone."""
        return "" if self.gradient == "both" else "-flow"

    def one(self, folder: Path, world: str, settings: Any) -> list[dict[str, Any]]:
        """Rows of one world and training seed."""
        say(f"\n{world}, seed {settings.seed}")
        bags, run = folder / "bags", folder / f"run{self.suffix}"
        if not bags.exists():
            record(
                bags,
                world,
                self.demonstrations,
                settings.seed,
                workers=self.workers,
                progress=track,
            )
        if not (run / "policy").exists():
            fit(bags, world_folder(world) / "contract.yaml", run, settings, resume=run.exists())
        export(run / "policy")
        beta, _ = choose_beta(run / "policy", world, self.workers)
        set_default_beta(run / "policy", beta)
        about = {"world": world, "seed": settings.seed}
        return rows_of(run / "policy", world, beta, self.episodes, self.workers, about)


def main() -> int:
    with exit_codes():
        tyro.cli(Bench, description=(__doc__ or "").splitlines()[0]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
