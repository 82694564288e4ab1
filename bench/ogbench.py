"""Every sampler of the method on a task that nobody here designed: OGBench's cube tasks.

    python bench/ogbench.py --out DIR                      # cube-single, as in bench/results
    python bench/ogbench.py --out DIR --task cube-double --steps 60000

Makes the play data (`ogbench_data.py`), trains one flow and critic per training seed through the
contract of the `ur5e_cube` world, chooses each sampler's weight on some episodes and reports
others, all through the control core as on the robot. The weight is the published one, of rewards
in their own unit: w = 1 / (beta * return_scale). What is done is kept in DIR: the same command
goes on where it stopped. Results: a JSON file in DIR and a table.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

# A script's folder comes first on the path, where this file would hide the package of its name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]

import tyro  # noqa: E402

from qgf_ros.console import say, table, track  # noqa: E402
from qgf_ros.errors import UsageError, exit_codes  # noqa: E402
from qgf_ros.policy.folder import Policy, load_policy  # noqa: E402
from qgf_ros.processes import process_pool  # noqa: E402
from qgf_ros.sim.world import Outcome, make_world  # noqa: E402
from training.demo import set_default_beta  # noqa: E402
from training.guards import Guards  # noqa: E402
from training.judge.evaluate import Rate, Reference, Variant, run_block  # noqa: E402
from training.learn.config import REPORT_SEEDS, SELECT_SEEDS, FitConfig  # noqa: E402

BLOCK = 10  # episodes per job


@dataclass(frozen=True)
class Task:
    """Where a task's data comes from, in which world it is played, and the weights to try."""

    data: str
    world: str
    weights: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)  # as published, for rewards of -1 and 0
    fit: Mapping[str, Any] = field(default_factory=dict)  # what training does otherwise


TASKS = {
    "cube-single": Task("cube-single", "ur5e_cube"),
    # Returns in [0, 1] instead of (-100, 0]: the same push needs a hundred times the weight.
    # Play was recorded with no goal: none of the critic's may be the "recorded" one.
    "cube-single-goals": Task(
        "cube-single",
        "ur5e_cube_goals",
        (1.0, 3.0, 10.0, 30.0),
        {"critic_future_goals": 0.5, "critic_random_goals": 0.5},
    ),
    "cube-double": Task("cube-double", "ur5e_cube_double"),
}


@dataclass(frozen=True)
class Entry:
    """One sampler. weight None: the task's weights are tried, or, with `like`, the one taken that
    was chosen for another sampler."""

    weight: float | None = None
    candidates: int = 1
    reference: Reference | None = None
    like: str = ""


MAIN = {
    "bc": Entry(0.0),
    "qgf": Entry(),
    "best_of_4": Entry(0.0, 4),
    "best_of_16": Entry(0.0, 16),
    "qgf_best_of_4": Entry(candidates=4, like="qgf"),
}
OTHERS = {
    "qgf_jacobian": Entry(reference=Reference("qgf_jacobian")),
    "qgf_chain": Entry(reference=Reference("qgf_chain")),
    "bptt": Entry(reference=Reference("bptt")),
    "ood": Entry(reference=Reference("ood")),
    "grad_step": Entry(1.0, reference=Reference(grad_steps=3)),  # the weight switches it on
    "qgf_ratio_cap": Entry(like="qgf", reference=Reference(guards=Guards(ratio_cap=1.0))),
    "qgf_skip_first": Entry(like="qgf", reference=Reference(guards=Guards(skip_first=1))),
    "qgf_keep_best": Entry(like="qgf", reference=Reference(guards=Guards(keep_best=True))),
    "qgf_support": Entry(like="qgf", reference=Reference(support=True)),
}
ENTRIES = MAIN | OTHERS


PUBLISHED = FitConfig(
    steps=30_000,
    learning_rate=3e-4,
    schedule="constant",
    warmup=0,
    clip=math.inf,
    average=0.0,
    choose_critic=False,
    relative_actions=False,
)


@dataclass(frozen=True)
class Bench:
    """What to run. The defaults are the benchmark of bench/results/ogbench-cube-single.json."""

    out: Path
    """Folder for data, policies and results."""
    task: Literal["cube-single", "cube-single-goals", "cube-double"] = "cube-single"
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    episodes: int = 200
    """Fresh episodes per training seed, for the main samplers."""
    other_episodes: int = 30
    """The same for the other estimators and the guards; 0 leaves them out."""
    select_episodes: int = 30
    """Per weight and training seed, to choose the weight of a main sampler on."""
    other_select_episodes: int = 5
    """The same for the others."""
    weights: tuple[float, ...] = ()
    """Guidance weights to choose among; none: the task's."""
    transitions: int = 200_000
    fit: FitConfig = field(default_factory=lambda: PUBLISHED)
    """The trainer's later comforts are off: the figures are from before them."""
    analyze: bool = False
    """`qgf analyze` on the first seed's policy, at states of the held-out play."""
    ship: Path | None = None
    """Folder for a copy of the first seed's policy, with the chosen weight of qgf as its beta."""
    workers: int = 2
    """Processes."""


@dataclass(frozen=True)
class Job:
    """A block of episodes of one policy and variant."""

    policy: Path
    world: str
    variant: Variant
    first: int
    count: int

    @property
    def key(self) -> str:
        """What decides its result, but for the code: after an edit, remove episodes.jsonl."""
        v = asdict(self.variant)
        return json.dumps([loaded(self.policy).sha256, self.world, v, self.first, self.count])


@cache
def loaded(policy: Path) -> Policy:
    """A policy that is done does not change any more."""
    return load_policy(policy)


def main() -> int:
    bench = tyro.cli(Bench, description=(__doc__ or "").splitlines()[0])
    with exit_codes():
        run(bench)
    return 0


def run(bench: Bench) -> list[dict[str, Any]]:
    """Data, training, choice of weights, report."""
    if (
        min(bench.episodes, bench.select_episodes, bench.other_select_episodes, len(bench.seeds))
        < 1
    ):
        raise UsageError("episodes, select_episodes and seeds must each be at least one")
    if bench.ship is not None and bench.ship.exists():
        raise UsageError(f"{bench.ship} exists; give a folder that does not")
    bench.out.mkdir(parents=True, exist_ok=True)
    task = TASKS[bench.task]
    data = bench.out / f"{task.data}-play.npz"
    if not data.exists():
        options = {
            "task": task.data,
            "transitions": bench.transitions,
            "workers": bench.workers,
            "out": data,
        }
        given = [str(v) for name, value in options.items() for v in (f"--{name}", value)]
        subprocess.run([sys.executable, HERE / "ogbench_data.py", *given], check=True)
    with process_pool(bench.workers) as pool:
        policies = dict(zip(bench.seeds, pool.map(_train, [(bench, data, s) for s in bench.seeds])))
        cache = Cache(bench.out / "episodes.jsonl", pool)
        entries = MAIN | (OTHERS if bench.other_episodes else {})
        chosen = choose(bench, task, policies, entries, cache)
        rows = report(bench, task, policies, entries, chosen, cache)
    (bench.out / f"{label(bench)}.json").write_text(json.dumps(rows, indent=0))
    show(rows)
    first = policies[bench.seeds[0]]
    if bench.analyze:
        _analyze(bench, data, first)
    if bench.ship is not None:
        beta = jobs_for(task, first, "qgf", chosen["qgf"], 0, 1)[0].variant.beta
        shutil.copytree(first, bench.ship)
        set_default_beta(bench.ship, beta)
    return rows


def label(bench: Bench) -> str:
    """Tells what was trained, so that no run takes another one's policy."""
    return f"{bench.task}-{'x'.join(map(str, bench.fit.hidden))}-{bench.fit.steps}"


def policy_folder(bench: Bench, seed: int) -> Path:
    return bench.out / f"{label(bench)}-seed{seed}"


def _train(job: tuple[Bench, Path, int]) -> Path:
    """Trains and exports the policy of one seed, unless it is there."""
    from training.export.write import export
    from training.learn.fit import fit_episodes
    from training.pipeline.readers.ogbench import play_contract, play_episodes

    bench, data, seed = job
    task = TASKS[bench.task]
    config = replace(bench.fit, seed=seed, **task.fit)
    out = policy_folder(bench, seed)
    policy = out / "policy"
    if policy.exists() and (made := load_policy(policy)).onnx is not None:
        was = made.description.provenance["config"]
        differ = {
            k: v for k, v in json.loads(json.dumps(asdict(config))).items() if was.get(k, v) != v
        }
        if differ:
            raise UsageError(
                f"{policy} was trained with other settings ({', '.join(differ)}); choose another --out"
            )
        return policy
    warnings.filterwarnings("ignore")
    contract = play_contract(task.world)
    goals = make_world(task.world).goals  # type: ignore[attr-defined]
    trained, meta = play_episodes(data, contract, goals)
    validation = data.with_name(f"{data.stem}-val.npz")  # a tenth more; none of very little
    held = play_episodes(validation, contract, goals)[0] if validation.exists() else []
    fitted = fit_episodes(trained, held, contract, out, config, {"data": meta})
    export(fitted.policy)
    return fitted.policy


def _analyze(bench: Bench, data: Path, folder: Path) -> None:
    from training.judge.analysis.run import examine
    from training.judge.subject import chosen
    from training.pipeline.readers.ogbench import play_contract, play_episodes

    policy, world = load_policy(folder), TASKS[bench.task].world
    contract = play_contract(world)
    goals = make_world(world).goals  # type: ignore[attr-defined]
    trained, _ = play_episodes(data, contract, goals)
    held, _ = play_episodes(data.with_name(f"{data.stem}-val.npz"), contract, goals)
    held = [e for e in held if len(e) >= policy.horizon]
    of_held, of_trained = range(len(held)), range(len(held), len(held) + len(trained))
    why = "held-out play of the same kind"
    pool = chosen(policy, [*held, *trained], of_held, of_trained, "select", why)
    examine(policy, [*held, *trained], pool, bench.out / f"{label(bench)}-analysis", 256, 0)


class Cache:
    """Blocks of episodes that were played, one JSON line each."""

    def __init__(self, path: Path, pool: ProcessPoolExecutor) -> None:
        self._path, self._pool = path, pool
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last one may be cut off
        if whole != lines:
            path.write_text("".join(whole))
        self._done = {row["key"]: row for row in map(json.loads, whole)}

    def play(self, jobs: list[Job], what: str) -> dict[str, dict[str, Any]]:
        """Plays what is missing; key -> row."""
        missing = [j for j in jobs if j.key not in self._done]
        futures = [self._pool.submit(_play, job) for job in missing]
        with self._path.open("a") as file:
            for future in track(as_completed(futures), len(futures), what):
                row = future.result()
                self._done[row["key"]] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
        return {j.key: self._done[j.key] for j in jobs}


def _play(job: Job) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    results = run_block(job.policy, job.world, job.variant, range(job.first, job.first + job.count))
    won = [r for r in results if r.outcome is Outcome.SUCCESS]
    return {
        "key": job.key,
        "successes": len(won),
        "episodes": len(results),
        "seconds_to_success": [round(r.seconds, 2) for r in won],
        "guidance_ratio": round(
            sum(s.guidance_ratio for r in results for s in r.samples)
            / max(1, sum(len(r.samples) for r in results)),
            4,
        ),
    }


def jobs_for(
    task: Task, policy: Path, name: str, weight: float, first: int, episodes: int
) -> list[Job]:
    """The blocks of one sampler at one weight."""
    entry, scale = ENTRIES[name], loaded(policy).description.returns.scale
    beta = 1 / (weight * scale) if weight else math.inf
    variant = Variant(name, beta, entry.candidates, entry.reference, floor=False)
    return [
        Job(policy, task.world, variant, first + at, min(BLOCK, episodes - at))
        for at in range(0, episodes, BLOCK)
    ]


def choose(
    bench: Bench,
    task: Task,
    policies: dict[int, Path],
    entries: dict[str, Entry],
    cache: Cache,
) -> dict[str, float]:
    """Each sampler's weight with the most successes, over all training seeds, on select episodes;
    of equals, the gentlest."""
    episodes = {
        name: bench.select_episodes if name in MAIN else bench.other_select_episodes
        for name in entries
    }
    tried = {
        (name, weight): [
            job
            for policy in policies.values()
            for job in jobs_for(task, policy, name, weight, SELECT_SEEDS, episodes[name])
        ]
        for name, entry in entries.items()
        if entry.weight is None and not entry.like
        for weight in bench.weights or task.weights
    }
    done = cache.play([j for jobs in tried.values() for j in jobs], "choosing weights")
    won = {k: sum(done[j.key]["successes"] for j in jobs) for k, jobs in tried.items()}
    table(
        "Select episodes",
        ("sampler", "weight", "success"),
        [(n, f"{w:g}", f"{count}/{episodes[n] * len(policies)}") for (n, w), count in won.items()],
    )

    def best(name: str) -> float:
        return max(bench.weights or task.weights, key=lambda w: (won[name, w], -w))

    return {
        name: best(entry.like or name) if entry.weight is None else entry.weight
        for name, entry in entries.items()
    }


def report(
    bench: Bench,
    task: Task,
    policies: dict[int, Path],
    entries: dict[str, Entry],
    chosen: dict[str, float],
    cache: Cache,
) -> list[dict[str, Any]]:
    """One row per sampler and training seed, on episodes that nothing was chosen on."""
    plan = {
        (name, seed): jobs_for(
            task, policy, name, chosen[name], REPORT_SEEDS,
            bench.episodes if name in MAIN else bench.other_episodes,
        )
        for name in entries
        for seed, policy in policies.items()
    }  # fmt: skip
    done = cache.play([j for jobs in plan.values() for j in jobs], "report episodes")
    rows = []
    for (name, seed), jobs in plan.items():
        blocks = [done[j.key] for j in jobs]
        seconds = [s for b in blocks for s in b["seconds_to_success"]]
        beta = jobs[0].variant.beta
        rows.append(
            {
                "task": bench.task,
                "sampler": name,
                "weight": chosen[name],
                "seed": seed,
                "successes": sum(b["successes"] for b in blocks),
                "episodes": sum(b["episodes"] for b in blocks),
                "beta": None if math.isinf(beta) else round(beta, 5),
                "hidden": list(bench.fit.hidden),
                "updates": bench.fit.steps,
                "policy": loaded(jobs[0].policy).sha256,
                "seconds_to_success": round(sum(seconds) / len(seconds), 2) if seconds else None,
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The pooled table."""
    lines = []
    for name in dict.fromkeys(row["sampler"] for row in rows):
        mine = [r for r in rows if r["sampler"] == name]
        rate = Rate(sum(r["successes"] for r in mine), sum(r["episodes"] for r in mine))
        each = " ".join(f"{r['successes']}/{r['episodes']}" for r in mine)
        lines.append((name, f"{mine[0]['weight']:g}", each, str(rate)))
    table(f"{rows[0]['task']}: fresh episodes", ("sampler", "weight", "by seed", "rate"), lines)
    say("rate: over all training seeds, with its 95 % Wilson interval")


if __name__ == "__main__":
    sys.exit(main())
