"""Play data of an OGBench manipulation task, made here with the package's environment and oracles.

    python bench/ogbench_data.py --task cube-single --transitions 200000 --seed 0 --out FILE.npz

The published files lie on a host that cannot always be reached. This does what the package's
`generate_manipspace.py` does for its play data: a UR5e follows scripted plans with smooth noise,
one target after another, 1000 transitions per episode, no task in mind. FILE.npz and
FILE-val.npz (a tenth more episodes) have the published keys, so `ogbench.make_env_and_datasets(
..., dataset_path=FILE.npz)` reads them; `meta` says how they were made.

An episode depends on (seed, its index) alone: the same call gives the same arrays on the same
versions, whatever was interrupted. Episodes are kept in FILE.partNNN.npz until all are there; the
same command goes on where it stopped. It does not know rewards: those come from relabelling.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# A script's folder comes first on the path, where ogbench.py would hide the package of its name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]

import numpy as np  # noqa: E402

from qgf_ros.console import say, track  # noqa: E402
from qgf_ros.errors import UsageError, exit_codes  # noqa: E402
from qgf_ros.executors import each  # noqa: E402

EPISODE_STEPS = 1001  # rows per episode; the last gives a state only, so 1000 transitions
PLAN_NOISE = 0.1  # share of the largest action, added to the plan (the script's default)
NOISE_SMOOTHING = 0.5  # control periods, width of the Gaussian over that noise
PART = 10  # episodes per part, about 15 s of work
DTYPES = {"terminals": bool, "button_states": np.int64}  # all else float32, as published


@dataclass(frozen=True)
class Task:
    """What the plans handle, and how often a cube is put upon another (range, drawn per episode)."""

    objects: tuple[str, ...] = ("cube",)
    stacking: tuple[float, float] = (0.0, 0.0)


TASKS = {
    "cube-single": Task(),
    "cube-double": Task(stacking=(0.0, 0.25)),
    "cube-triple": Task(stacking=(0.05, 0.35)),
    "cube-quadruple": Task(stacking=(0.1, 0.5)),
    "scene": Task(("cube", "button", "drawer", "window"), (0.5, 0.5)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="cube-single")
    parser.add_argument("--transitions", type=int, default=200_000, help="rounded up to episodes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes; arrays do not depend")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with exit_codes():
        generate(**vars(arguments))
    return 0


def generate(task: str, transitions: int, seed: int, workers: int, out: Path) -> None:
    """Makes what is missing, then writes FILE.npz and FILE-val.npz and removes the parts."""
    if transitions < 1 or seed < 0 or workers < 1 or out.suffix != ".npz":
        raise UsageError(
            f"transitions {transitions}, seed {seed}, workers {workers}, out {out}: the first and "
            "third must be at least 1, the seed at least 0, and out must end in .npz"
        )
    train = -(-transitions // (EPISODE_STEPS - 1))
    episodes = train + train // 10
    out.parent.mkdir(parents=True, exist_ok=True)
    meta = {"task": task, "kind": "play", "seed": seed} | {
        name: version(name) for name in ("ogbench", "mujoco", "numpy")
    }
    if out.exists():
        _check(out, meta | {"episodes": train})
        say(f"{out} is there already")
        return
    parts = {
        out.with_suffix(f".part{i // PART:03d}.npz"): meta
        | {"episodes": [i, min(i + PART, episodes)]}
        for i in range(0, episodes, PART)
    }
    for path in filter(Path.exists, parts):
        _check(path, parts[path])
    missing = [(path, m) for path, m in parts.items() if not path.exists()]
    say(f"{task}: {episodes} episodes in {len(parts)} parts, {len(missing)} to make")
    began = time.monotonic()
    for _ in each(_make_part, missing, workers, track, "parts"):
        pass
    say(f"made in {time.monotonic() - began:.0f} s")
    made = list(_read(parts))
    for path, chosen in ((out.with_name(f"{out.stem}-val.npz"), made[train:]), (out, made[:train])):
        if chosen:
            arrays = {k: np.concatenate([e[k] for e in chosen]) for k in chosen[0]}
            _write(path, arrays, meta | {"episodes": len(chosen)})
            rows = len(arrays["terminals"])
            say(f"{path}: {len(chosen)} episodes, {rows - len(chosen)} transitions")
    for path in parts:
        path.unlink()


def _make_part(part: tuple[Path, dict[str, Any]]) -> None:
    """One part: some episodes, one array per key, end to end."""
    path, meta = part
    rows = list(_episodes(meta["task"], meta["seed"], range(*meta["episodes"])))
    _write(path, {k: np.concatenate([e[k] for e in rows]) for k in rows[0]}, meta)


def _check(path: Path, meta: dict[str, Any]) -> None:
    """Raises UsageError where a file was made with other settings or versions."""
    with np.load(path) as file:
        found = json.loads(bytes(file["meta"]))
    if found != meta:
        raise UsageError(
            f"{path} was made with {found}; asked for is {meta}; remove it or choose another --out"
        )


def _read(paths: Iterable[Path]) -> Iterator[dict[str, np.ndarray]]:
    """All episodes in order."""
    for path in paths:
        with np.load(path) as file:
            arrays = {k: file[k] for k in file.files if k != "meta"}
        count = int(arrays["terminals"].sum())
        pieces = {k: np.split(v, count) for k, v in arrays.items()}
        yield from ({k: v[i] for k, v in pieces.items()} for i in range(count))


def _write(path: Path, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
    """All or nothing: a file that is there is whole."""
    text = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    draft = path.with_suffix(".tmp.npz")
    np.savez_compressed(draft, **arrays, meta=text)
    draft.replace(path)


def _episodes(task: str, seed: int, indices: range) -> Iterator[dict[str, np.ndarray]]:
    """Plays the episodes of these indices, (1001, n) per key."""
    # Neither the missing display nor the precision of a space matters here.
    warnings.filterwarnings("ignore", module="glfw|gymnasium")
    import gymnasium
    import ogbench.manipspace  # noqa: F401  registers the environments
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    kinds = {
        "cube": cube_plan.CubePlanOracle,
        "button": button_plan.ButtonPlanOracle,
        "drawer": drawer_plan.DrawerPlanOracle,
        "window": window_plan.WindowPlanOracle,
    }
    env = gymnasium.make(
        f"{task}-v0",
        terminate_at_goal=False,
        mode="data_collection",
        max_episode_steps=EPISODE_STEPS,
    )
    oracles = {
        name: kinds[name](env=env, noise=PLAN_NOISE, noise_smoothing=NOISE_SMOOTHING)
        for name in TASKS[task].objects
    }
    for index in indices:
        attempt = 0
        while not _usable(task, rows := _play(env, oracles, TASKS[task], (seed, index, attempt))):
            attempt += 1
        yield {k: np.array(v, dtype=DTYPES.get(k, np.float32)) for k, v in rows.items()}


def _play(
    env: Any, oracles: dict[str, Any], task: Task, entropy: tuple[int, ...]
) -> dict[str, list]:
    """One episode; everything random comes from `entropy`: the scene from the environment's
    generator, the plans and their noise from numpy's global one, which the oracles use."""
    scene, plans = np.random.SeedSequence(entropy).generate_state(2)
    np.random.seed(plans)
    obs, info = env.reset(seed=int(scene))
    p_stack = np.random.uniform(*task.stacking)
    oracle = oracles[info["privileged/target_task"]]
    oracle.reset(obs, info)
    rows: dict[str, list] = {}
    done = False
    while not done:
        action = np.clip(oracle.select_action(obs, info), -1, 1)
        next_obs, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        if oracle.done:
            target = env.unwrapped.set_new_target(p_stack=p_stack)
            oracle = oracles[target[1]["privileged/target_task"]]
            oracle.reset(*target)
        row = {"observations": obs, "actions": action, "terminals": done}
        for name in ("qpos", "qvel", "button_states"):  # of the moment before the action
            if f"prev_{name}" in info:
                row[name] = info[f"prev_{name}"]
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
        obs = next_obs
    return rows


def _usable(task: str, rows: dict[str, list]) -> bool:
    """Whether the scene's cube stayed in sight or in the drawer (the published script's check)."""
    if task != "scene":
        return True
    y, z = np.array(rows["qpos"])[:, 15:17].T
    in_drawer = (z >= 0.06) & (z <= 0.08)
    return not ((y >= 0.29) | ((y <= -0.3) & ~in_drawer)).any()


if __name__ == "__main__":
    sys.exit(main())
