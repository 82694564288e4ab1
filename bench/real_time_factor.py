"""The same policy in the simulation at 0.3, 1 and 3 times real time, over ROS topics.

    python bench/real_time_factor.py [--policy planar_arm] [--episodes 20] [--out FILE]

The control clock is simulated time, so success must not depend on how fast it runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from pathlib import Path

from qgf_ros.console import table
from qgf_ros.errors import exit_codes
from qgf_ros.files.share import find_policy
from qgf_ros.policy.folder import load_policy
from training.judge.evaluate import Variant
from training.judge.evaluate_ros import evaluate_ros
from training.learn.config import REPORT_SEEDS

FACTORS = (0.3, 1.0, 3.0)
FIRST_SEED = REPORT_SEEDS + 10_000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policy", default="planar_arm")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with exit_codes():
        folder = find_policy(arguments.policy)
        beta = load_policy(folder).description.beta.default
        rows = []
        for factor in FACTORS:
            done = evaluate_ros(
                folder, "planar_arm", Variant("qgf", beta), arguments.episodes, FIRST_SEED, factor
            )
            low, high = done.success.interval
            rows.append(
                {
                    "real_time_factor": factor,
                    "successes": done.success.count,
                    "episodes": done.success.total,
                    "interval": [round(low, 3), round(high, 3)],
                    "steps_to_goal": round(done.steps_to_goal, 1),
                }
            )
        table(
            "qgf over ROS topics", tuple(rows[0]), [tuple(map(str, row.values())) for row in rows]
        )
        if arguments.out:
            machine = {"cores": os.cpu_count(), "cpu": platform.processor() or platform.machine()}
            document = {
                "date": datetime.date.today().isoformat(),
                "machine": machine,
                "beta": beta,
                "rows": rows,
            }
            arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
