"""The cube that is seen by two cameras beside the cube whose pose is told: the same play, the same task.

    python bench/camera_cube.py --out DIR [--seeds 0 1 2]

Play as of `ogbench_data.py`, no more than 1000 episodes, seen again by the cameras of `ur5e_cube_camera`; per
training seed a policy that has the images and one that has the cube's pose, of the same episodes and with
the same settings; 200 fresh episodes each, guided at the beta that training proposes. Rows {world, sampler,
seed, successes, episodes, beta} in bench/results/camera-cube.json. What is done is kept in DIR: the same
command goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from by_seed import rows_of, show

# A script's folder comes first on the path, where ogbench.py would hide the package of its name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]

import numpy as np  # noqa: E402
import tyro  # noqa: E402

from qgf_ros.console import say, track  # noqa: E402
from qgf_ros.errors import UsageError, exit_codes  # noqa: E402
from qgf_ros.executors import each  # noqa: E402
from qgf_ros.policy.folder import load_policy  # noqa: E402
from qgf_ros.sim.world import make_world  # noqa: E402
from training.export.write import export  # noqa: E402
from training.learn.config import FitConfig  # noqa: E402
from training.learn.fit import fit_episodes  # noqa: E402
from training.pipeline.align import align  # noqa: E402
from training.pipeline.episodes import Episode  # noqa: E402
from training.pipeline.frames import Frames  # noqa: E402
from training.pipeline.readers.ogbench import play_contract, recording  # noqa: E402
from training.pipeline.report import Report  # noqa: E402
from training.pipeline.streams import Stream  # noqa: E402

RESULTS = HERE / "results/camera-cube.json"
TOLD, SEEN = "ur5e_cube", "ur5e_cube_camera"
CAMERAS, SIZE = ("front", "tool_camera"), (64, 64)
MOST_EPISODES = 1000
# Of the benchmark (`ogbench.py`), but for the batch: an image costs more than a draw.
FIT = FitConfig(
    batch=64, flow_draws=4, learning_rate=3e-4, schedule="constant", warmup=0, clip=math.inf,
    average=0.0, choose_critic=False, relative_actions=False,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What to run."""

    out: Path
    """Folder for play, frames and policies."""
    seeds: tuple[int, ...] = (0, 1, 2)
    transitions: int = 100_000
    """Of play, 1000 an episode; a tenth more is held out."""
    steps: int = 30_000
    """Gradient updates; with 10 000 Q is still falling, and guidance harms."""
    episodes: int = 200
    """Fresh ones per row."""
    worlds: tuple[str, ...] = (SEEN, TOLD)
    workers: int = 2

    def run(self) -> None:
        if not 1 <= self.transitions <= 1000 * MOST_EPISODES:
            raise UsageError(
                f"transitions is {self.transitions}; allowed: 1 to {1000 * MOST_EPISODES}, 1000 an episode"
            )
        play = self.out / "play.npz"
        if not play.exists():
            given = {"transitions": self.transitions, "workers": self.workers, "out": play}
            words = [str(v) for name, value in given.items() for v in (f"--{name}", value)]
            subprocess.run([sys.executable, HERE / "ogbench_data.py", *words], check=True)
        rows: list[dict[str, Any]] = []
        for seed in self.seeds:
            for world in self.worlds:
                folder = self.out / f"{world}-{self.steps}-{seed}"
                done = folder / "rows.json"
                if not done.exists():
                    found = self.one(folder, world, seed, play)
                    done.write_text(json.dumps(found))
                rows += json.loads(done.read_text())
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        show(rows)

    def one(self, folder: Path, world: str, seed: int, play: Path) -> list[dict[str, Any]]:
        """Rows of one world and training seed."""
        say(f"\n{world}, seed {seed}")
        policy = folder / "run/policy"
        if not policy.exists():
            warnings.filterwarnings("ignore")
            trained, held = (
                episodes(path, world, self.workers)
                for path in (play, play.with_name(f"{play.stem}-val.npz"))
            )
            say(
                f"{len(trained)} attempts of {sum(map(len, trained))} periods, {len(held)} held out"
            )
            config = replace(FIT, seed=seed, steps=self.steps, workers=self.workers)
            fit_episodes(trained, held, play_contract(world), folder / "run", config, {})
        export(policy)
        beta = load_policy(policy).description.beta.default
        about = {"world": world, "seed": seed, "updates": self.steps, "transitions": self.transitions}
        return rows_of(policy, world, beta, self.episodes, self.workers, about)


def episodes(path: Path, world: str, workers: int) -> list[Episode]:
    """Play on the grid of a world's contract, cut where the cube reached its goal."""
    contract = play_contract(world)
    goals = make_world(TOLD).goals  # type: ignore[attr-defined]
    with np.load(path) as file:
        count = int(file["terminals"].sum())
        obs, action, places = (
            file[k].reshape(count, -1, file[k].shape[-1]).astype(np.float64)
            for k in ("observations", "actions", "qpos")
        )
    frames = views(path.with_suffix(""), places, workers) if contract.cameras else {}
    found: list[Episode] = []
    report = Report()
    numbers = replace(
        contract, observations=tuple(o for o in contract.observations if not o.is_camera)
    )
    for k in range(count):
        play = recording(f"{path.stem}#{k}", obs[k], action[k], numbers, goals)
        stamp = play.streams["joints"].stamp
        here = k * len(stamp) + np.arange(len(stamp), dtype=np.float64)[:, None]
        streams = {name: Stream(stamp, stamp, here) for name in frames}
        play = replace(play, streams=play.streams | streams, frames=frames)
        found += align(play, contract, report)
    return found


def views(folder: Path, places: np.ndarray, workers: int) -> dict[str, Frames]:
    """What the cameras see of (episodes, T, nq) joint positions, by camera; rendered once, and kept."""
    folder.mkdir(exist_ok=True)
    missing = [k for k in range(len(places)) if not file_of(folder, k, CAMERAS[-1]).exists()]
    jobs = [(k, places[k]) for k in missing]
    for _ in each(partial(render, folder), jobs, workers, track, "rendering"):
        pass
    found = {}
    for name in CAMERAS:
        parts = [np.load(file_of(folder, k, name), mmap_mode="r") for k in range(len(places))]
        found[name] = Frames(parts, [SIZE] * len(parts))
    return found


def file_of(folder: Path, episode: int, camera: str) -> Path:
    return folder / f"{episode:04d}-{camera}.npy"


def render(folder: Path, job: tuple[int, np.ndarray]) -> None:
    """The frames of one episode, a file per camera; the last of them says that all are there."""
    import mujoco

    episode, places = job
    world = make_world(SEEN)
    world.reset(0)
    env = world.env  # type: ignore[attr-defined]
    seen: dict[str, list[np.ndarray]] = {name: [] for name in CAMERAS}
    for place in places:
        env.data.qpos[:] = place
        mujoco.mj_forward(env.model, env.data)
        for name in CAMERAS:
            seen[name].append(world.signal(name))
    for name in CAMERAS:
        draft = folder / f"{episode:04d}-{name}.tmp.npy"
        np.save(draft, np.array(seen[name]))
        os.replace(draft, file_of(folder, episode, name))


def main() -> int:
    bench = tyro.cli(Bench, description=(__doc__ or "").splitlines()[0])
    with exit_codes():
        bench.out.mkdir(parents=True, exist_ok=True)
        bench.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
