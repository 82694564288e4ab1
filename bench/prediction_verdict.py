"""What `qgf report` says of each pair of `prediction.py`, before anyone runs it.

    python bench/prediction_verdict.py --out DIR

Twice: with the data as its owner has it, spoilt as the critic's own was, held-out episodes too; and
with the data as it was. One JSON line per pair in DIR/verdicts-TASK.jsonl; pairs that have one are
left out, so after a change of the verdict remove these files.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import torch  # noqa: E402
import tyro  # noqa: E402
from prediction_pairs import TASKS, Data, Pair  # noqa: E402

from qgf_ros.console import plain, say  # noqa: E402
from qgf_ros.errors import exit_codes  # noqa: E402
from qgf_ros.policy.folder import Policy, load_policy  # noqa: E402
from training.judge.panels.fitness.figures import figures as fitness  # noqa: E402
from training.judge.subject import OWN, POOL, RECORDED, Group, Held, Subject, chosen, model_of  # noqa: E402  # noqa: E402
from training.pipeline.episodes import Episode  # noqa: E402
from training.pipeline.split import Split  # noqa: E402


@dataclass(frozen=True)
class Verdicts:
    """Judges every pair that was played."""

    out: Path
    """Folder of the study."""

    def run(self) -> None:
        warnings.filterwarnings("ignore")
        torch.set_num_threads(1)
        for task in TASKS:
            path = self.out / f"verdicts-{task}.jsonl"
            done = {row["pair"] for row in lines(path)}
            for row in lines(self.out / f"{task}.jsonl"):
                if row["pair"] in done:
                    continue
                said = {
                    "pair": row["pair"],
                    **judged(Pair(task, row["seed"], row["kind"]), self.out),
                }
                with path.open("a") as file:
                    file.write(json.dumps(said, allow_nan=False) + "\n")
                say(f"{said['pair']}: {said['own']['called']} ({said['true']['called']})")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def judged(pair: Pair, out: Path) -> dict[str, Any]:
    """Verdict and reasons by `own` and `true` labels."""
    data, _ = TASKS[pair.task].flow(out, pair.seed)
    policy = load_policy(out / pair.folder)
    spoilt = Data(
        data.contract,
        *(pair.spoilt(e, i) for i, e in enumerate((data.trained, data.select, data.report))),
    )
    found = {}
    for name, its in (("own", spoilt), ("true", data)):
        said = fitness(subject(policy, its))
        values = {c["name"]: c["value"] for c in said["checks"]}
        found[name] = {
            "called": said["verdict"],
            "reasons": said["reasons"],
            "figures": {n: v["mean"] for n, v in values.items() if isinstance(v, dict)},
        }
    return plain(found)


def subject(policy: Policy, data: Data) -> Subject:
    """In the groups that training had, which cannot be found again where outcomes were spoilt."""
    episodes = [*data.trained, *data.select, *data.report]
    long = [i for i, e in enumerate(episodes) if e.terminal or len(e) >= policy.horizon]
    ends = len(data.trained), len(data.trained) + len(data.select)
    train = tuple(i for i in long if i < ends[0])
    rows = {
        "select": tuple(i for i in long if ends[0] <= i < ends[1]),
        "report": tuple(i for i in long if i >= ends[1]),
    }
    groups = (
        Group(name, own, _held(policy, episodes, own, train, name)) for name, own in rows.items()
    )
    return Subject(policy, model_of(policy), episodes, train, *groups, OWN, 0, Split(train, **rows))


def _held(
    policy: Policy, episodes: Sequence[Episode], own: Sequence[int], train: Sequence[int], name: str
) -> Held:
    held = chosen(policy, episodes, own, train, name, "")
    order = torch.randperm(len(held.recorded), generator=torch.Generator().manual_seed(0))
    return Held(held.pool[:POOL], held.recorded[order[:RECORDED]], name, "")


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Verdicts, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
