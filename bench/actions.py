"""The same episodes learnt as positions and as changes of position, and driven by them.

    python bench/actions.py --out DIR [--seeds 0 1 2]

For each training seed: demonstrations of `planar_arm_position`, and of these a policy per representation, with
the settings of `qgf demo`; beta chosen on episodes of its own; 300 fresh episodes a row, in process. Rows
{world, contract, sampler, seed, successes, episodes, beta} in bench/results/actions-arm.json. What is done is
kept in DIR: the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
import yaml
from by_seed import rows_of, show

from qgf_ros.console import say, track
from qgf_ros.errors import exit_codes
from qgf_ros.sim.world import world_folder
from training.demo import FIT, choose_beta, set_default_beta
from training.export.write import export
from training.learn.fit import fit
from training.pipeline.record import record

RESULTS = Path(__file__).parent / "results/actions-arm.json"
WORLD = "planar_arm_position"
CONTRACTS = {
    "joint_position": "absolute",
    "joint_delta_observed": "delta_observed",
    "joint_delta_last": "delta_last",
}


@dataclass(frozen=True)
class Bench:
    """What to run."""

    out: Path
    """Folder for bags and policies."""
    seeds: tuple[int, ...] = (0, 1, 2)
    demonstrations: int = 1200
    episodes: int = 300
    workers: int = 2

    def run(self) -> None:
        rows: list[dict[str, Any]] = []
        for seed in self.seeds:
            bags = self.out / f"bags-{seed}"
            if not bags.exists():
                record(bags, WORLD, self.demonstrations, seed, workers=self.workers, progress=track)
            for name in CONTRACTS:
                done = self.out / f"{name}-{seed}/rows.json"
                if not done.exists():
                    found = self.one(done.parent, bags, name, seed)
                    done.write_text(json.dumps(found))
                rows += json.loads(done.read_text())
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        show(rows, "contract")

    def one(self, folder: Path, bags: Path, name: str, seed: int) -> list[dict[str, Any]]:
        """Rows of one representation and training seed."""
        say(f"\n{name}, seed {seed}")
        folder.mkdir(parents=True, exist_ok=True)
        told = yaml.safe_load((world_folder(WORLD) / "contract.yaml").read_text())
        told["actions"][0]["representation"] = CONTRACTS[name]
        contract, policy = folder / "contract.yaml", folder / "run/policy"
        contract.write_text(yaml.safe_dump(told, sort_keys=False))
        if not policy.exists():
            settings = replace(FIT, seed=seed, workers=self.workers)
            fit(bags, contract, folder / "run", settings, resume=(folder / "run").exists())
        export(policy)
        beta, _ = choose_beta(policy, WORLD, self.workers)
        set_default_beta(policy, beta)
        about = {"world": WORLD, "contract": name, "seed": seed}
        return rows_of(policy, WORLD, beta, self.episodes, self.workers, about)


def main() -> int:
    with exit_codes():
        tyro.cli(Bench, description=(__doc__ or "").splitlines()[0]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
