"""One recording in every format: the same ticks, and what compression changes of images, features and actions.

    python bench/camera_formats.py [--lerobot PYTHON ...] [--datasets DIR CONTRACT ... --episodes 3 4]

The arm with a camera is recorded twice as bags of raw images: as its world has it (64 x 64, rendered), and with
480 x 480 pixels and a camera's noise. `qgf data convert` writes each as a bag of JPEG, as LeRobot 2.1 and 3.0 with
mp4, and as npz; a policy learns for a moment on the raw bags. Then of every tick, beside the raw bag:

bytes      of the image that the encoder is shown, 0 to 255
features   of the policy's encoder file, in standard deviations of each feature over the ticks
action     of the unguided flow, the same noise: RMS over the chunk's numbers, which go from -1 to 1
q          of the recorded chunk, in standard deviations over the ticks
late       the scale: the raw bag with the image of the tick before in place of each image

--lerobot compares LeRobot's own reader row by row with ours before anything is scaled: each PYTHON is one that has
`lerobot` (another environment); it reads what of the above is of its version, and the datasets given.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from qgf_ros.console import say, table
from qgf_ros.errors import UsageError, exit_codes
from qgf_ros.policy.folder import Policy, load_policy
from qgf_ros.sim.camera import Camera
from qgf_ros.sim.planar_arm_camera import world as seen_arm
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from training.demo import CAMERA, FIT_CAMERA
from training.judge.cameras import Asked
from training.judge.data import policy_episodes
from training.judge.subject import model_of, states_of
from training.learn.fit import fit
from training.pipeline.episodes import Episode
from training.pipeline.frames import as_recorded
from training.pipeline.readers.lerobot import LeRobotReader
from training.pipeline.readers.load import load_episodes
from training.pipeline.readers.tables import PART, column_name
from training.pipeline.record import record
from training.pipeline.writers.table import cameras

FORMATS = {
    "bag of JPEG": "mcap", "LeRobot 2.1, mp4": "lerobot-v2.1", "LeRobot 3.0, mp4": "lerobot-v3.0", "npz": "npz",
}  # fmt: skip
RECORDED = {"64 x 64": (64, 0.0), "480 x 480 with noise": (480, 3.0)}  # pixels a side, noise of 255
LATE = "raw, one image late"
BACKENDS = ("pyav", "torchcodec")
READS: dict[Path, str] = {}  # by interpreter: the version of datasets that its lerobot reads, once that is known
DEAD = 1e-6  # spread of a feature that says the same of every image


@dataclass(frozen=True)
class Bench:
    """What a camera's format changes."""

    demonstrations: int = 24
    steps: int = 1500
    lerobot: tuple[Path, ...] = ()
    """Interpreters that have lerobot."""
    datasets: tuple[tuple[Path, Path], ...] = ()
    """Other LeRobot datasets with video, and their contracts, to compare LeRobot's reader on."""
    episodes: tuple[int, ...] = (0,)
    """Of those datasets."""
    first: int = 8
    """Episodes of the arm that LeRobot's reader is compared on."""
    out: Path = Path(__file__).parent / "results" / "camera-formats.json"

    def run(self) -> None:
        document: dict[str, Any] = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(), "demonstrations": self.demonstrations, "steps": self.steps,
            "recordings": {}, "lerobot": [],
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["QGF_CACHE"] = f"{scratch}/cache"
            contract = world_folder(CAMERA) / "contract.yaml"
            for name, (side, noise) in RECORDED.items():
                folder = Path(scratch) / f"{side}"
                with camera_of(side, noise):
                    record(folder / "raw", CAMERA, self.demonstrations)
                converted(folder, contract)
                learnt = replace(FIT_CAMERA, steps=self.steps, workers=1)
                policy = load_policy(fit(folder / "raw", contract, folder / "run", learnt).policy)
                document["recordings"][name] = compared(folder, policy)
                show(name, document["recordings"][name])
                some = tuple(range(self.first))
                sets = [(folder / to, contract, some) for to in FORMATS.values() if "lerobot" in to]
                for python in self.lerobot:
                    document["lerobot"] += readers(python, f"the arm, {name}", sets, Path(scratch))
            for data, told_by in self.datasets:
                other = [(data, told_by, self.episodes)]
                for python in self.lerobot:
                    document["lerobot"] += readers(python, data.name, other, Path(scratch))
        self.out.write_text(json.dumps(document, indent=1) + "\n")
        say(f"written: {self.out}")


@contextmanager
def camera_of(side: int, noise: float) -> Iterator[None]:
    """Meanwhile the arm's camera has side x side pixels, and noise of this spread."""
    rng = np.random.default_rng(0)

    class Noisy(Camera):
        def __call__(self, data: Any) -> np.ndarray:
            image = super().__call__(data)
            if not noise:
                return image
            return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)

    before = seen_arm.SIZE, seen_arm.Camera
    seen_arm.SIZE, seen_arm.Camera = (side, side), Noisy  # type: ignore[misc]
    try:
        yield
    finally:
        seen_arm.SIZE, seen_arm.Camera = before  # type: ignore[misc]


def converted(folder: Path, contract: Path) -> None:
    """The raw bags in every format, by the command that a user has."""
    for to in FORMATS.values():
        command = ["qgf", "data", "convert", folder / "raw", "--contract", contract, "--out", folder / to, "--to", to]
        told(*command, "--workers", "1")


def told(*command: object) -> None:
    """Runs a command. Raises UsageError, with the end of what it said, where that fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()[-500:]}")


def compared(folder: Path, policy: Policy) -> dict[str, Any]:
    """Figures of each format beside the raw bags."""
    contract = policy.contract.recorded
    raw, raw_seen = episodes_of(folder / "raw", policy, contract)
    part = contract.observation_slices[contract.cameras[0].name]
    spread = np.concatenate([e.obs[:, part] for e in raw_seen]).std(axis=0)
    alive = spread > DEAD
    states = states_of(policy, raw_seen, range(len(raw_seen)))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(states.action.shape, generator=generator)
    asked = Asked(model_of(policy), states.obs, states.action, noise, math.inf)

    def figures(images: list[np.ndarray], seen: Sequence[Episode]) -> dict[str, Any]:
        pairs = list(zip((pixels(e) for e in raw), images))
        moved = asked(states_of(policy, seen, range(len(seen))).obs)
        off = np.concatenate([(a.obs - b.obs)[:, part][:, alive] for a, b in zip(seen, raw_seen)]) / spread[alive]
        return {
            "bytes": summed(np.concatenate([np.abs(b - a).ravel() for a, b in pairs])),
            "features": summed(np.abs(off)),
            "action": summed(moved.action.numpy()),
            "q": summed((moved.q.abs() / asked.q.std()).numpy()),
        }

    shown = {"raw": {"megabytes": megabytes(folder / "raw")}}
    for name, to in FORMATS.items():
        plain, seen = episodes_of(folder / to, policy, contract)
        ticks = same_ticks(raw, plain, part)
        shown[name] = {"megabytes": megabytes(folder / to), **ticks, **figures([pixels(e) for e in plain], seen)}
    behind = [late(pixels(e)) for e in raw]
    seen = [replace(e, obs=with_part(e.obs, part, late(e.obs[:, part]))) for e in raw_seen]
    shown[LATE] = figures(behind, seen)
    return {
        "episodes": len(raw), "ticks": sum(map(len, raw)), "chunks": len(states), "features": int(alive.sum()),
        "dead": int((~alive).sum()), "formats": shown,
    }  # fmt: skip


def episodes_of(data: Path, policy: Policy, contract: Contract) -> tuple[list[Episode], list[Episode]]:
    """With the images that an encoder is shown, and with the features that the policy's makes of them."""
    plain, report = load_episodes(data, contract)
    assert not report.lost, f"{data}: {report.lost} ticks are lost"
    return plain, policy_episodes(policy, data, None, 1)


def pixels(episode: Episode) -> np.ndarray:
    """(T + 1, H, W, C) of each tick."""
    ((column, frames),) = episode.frames.items()
    return frames[episode.obs[:, column].astype(int)].astype(np.int16)


def late(values: np.ndarray) -> np.ndarray:
    """What was known a tick before; of the first tick its own."""
    return np.concatenate([values[:1], values[:-1]])


def with_part(obs: np.ndarray, part: slice, values: np.ndarray) -> np.ndarray:
    out = obs.copy()
    out[:, part] = values
    return out


def same_ticks(raw: list[Episode], other: list[Episode], part: slice) -> dict[str, Any]:
    """Whether ticks are the same, in float32, as tables have them: numbers, outcome, and of each image the tick.

    another_tick: ticks whose image is nearer to the raw one of the tick before or behind than to its own. What is
    left of two images that are the same tells nothing and is not counted; `told` are those that do."""
    same = len(raw) == len(other)
    wrong = told = 0
    for a, b in zip(raw, other):
        rest = np.delete(a.obs, np.r_[part], axis=1), np.delete(b.obs, np.r_[part], axis=1)
        same &= len(a) == len(b) and a.success == b.success and a.terminal == b.terminal
        same &= all(
            np.array_equal(x.astype(np.float32), y.astype(np.float32))
            for x, y in (rest, (a.action, b.action), (a.reward, b.reward))
        )
        if not same:
            break
        mine, theirs = pixels(a), pixels(b)
        for k in range(len(mine)):
            near = [j for j in (k - 1, k + 1) if 0 <= j < len(mine) and (mine[j] != mine[k]).any()]
            told += bool(near)
            own = np.abs(theirs[k] - mine[k]).mean()
            wrong += any(np.abs(theirs[k] - mine[j]).mean() < own for j in near)
    return {"same_ticks": bool(same), "another_tick": wrong, "told": told}


def summed(values: np.ndarray) -> dict[str, float]:
    values = np.asarray(values, np.float64)
    found = {"mean": values.mean(), "p99": np.quantile(values, 0.99), "max": values.max()}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def megabytes(folder: Path) -> float:
    return float(f"{sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 1e6:.3g}")


def readers(
    python: Path, name: str, sets: Sequence[tuple[Path, Path, tuple[int, ...] | None]], scratch: Path
) -> list[dict[str, Any]]:
    """LeRobot's reader beside ours, with each of its decoders, on the datasets of its version."""
    script, found = Path(__file__).with_name("lerobot_frames.py"), []
    for data, contract, episodes in sets:
        kind = json.loads((data / "meta/info.json").read_text())["codebase_version"]
        if READS.setdefault(python, kind) != kind:
            continue
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            command = [python, script, data, folder, "--backends", *BACKENDS]
            told(*command, *(["--episodes", *episodes] if episodes else []))
            for out in (Path(folder) / backend for backend in BACKENDS):
                about = json.loads((out / "about.json").read_text())
                READS[python] = about["reads"]
                if "rows" not in about:
                    continue
                refused = about.pop("refused")
                about |= beside(out, data, Contract.load(contract), episodes, {r["row"] for r in refused})
                about |= {"refused": len(refused), "why": refused[0]["why"] if refused else ""}
                found.append({"recording": name, **about})
                say(f"{found[-1]}")
    return found


def beside(
    out: Path, data: Path, contract: Contract, episodes: tuple[int, ...] | None, refused: set[int]
) -> dict[str, Any]:
    """How far LeRobot's rows are from ours, at most: time, state, action, and each byte of each image as it was
    recorded. A row is found by its number in its episode, so that a shift of a single frame is a difference.
    refused: rows whose images LeRobot does not show."""
    rows, reader, own = np.load(out / "rows.npz"), LeRobotReader(), as_recorded(contract)
    seen = {name: np.load(out / f"{column}.npy", mmap_mode="r") for column, name in cameras(contract).items()}
    far = {"timestamp": 0.0, "state": 0.0, "action": 0.0, "byte": 0.0}
    frames, lacking, total = 0, 0, 0.0
    kinds = {o.name: "state" for o in contract.observations} | {a.name: "action" for a in contract.actions}
    for recording in reader.recordings(data):
        number = int(recording.removesuffix(".parquet").split("_")[-1])
        if episodes and number not in episodes:
            continue
        mine = np.flatnonzero(rows["episode_index"] == number)
        assert (rows["frame_index"][mine] == np.arange(len(mine))).all(), "LeRobot's rows are not in order"
        read = reader.read(data, recording, own)
        for name, kind in kinds.items():
            stream = read.streams[name]
            at = (stream.stamp - stream.stamp[0]) / 1e9
            row = np.rint(at / contract.time.period).astype(int)  # of a table: its rows are a period apart
            said = rows["timestamp"][mine[row]]
            far["timestamp"] = max(far["timestamp"], float(np.abs(at - (said - said[0])).max()))
            if name not in seen:
                column, begin, end = part_of(column_name(contract, name))
                numbers = rows[column][mine[row]].reshape(len(row), -1)[:, begin:end]
                far[kind] = max(far[kind], float(np.abs(numbers - stream.values).max()))
                continue
            lacking += len(mine) - len(row)
            for k, r in zip(stream.values[:, 0].astype(int), mine[row]):
                if r in refused:
                    continue
                image = read.frames[name][np.array([k])][0].astype(np.int16)
                differs = np.abs(image - seen[name][r])
                far["byte"] = max(far["byte"], float(differs.max()))
                frames, total = frames + 1, total + float(differs.mean())
    return {
        "frames": frames, "frames_that_we_lack": lacking,
        "largest_difference": {name: float(f"{value:.3g}") for name, value in far.items()},
        "mean_byte_difference": float(f"{total / max(frames, 1):.3g}"),
    }  # fmt: skip


def part_of(column: str) -> tuple[str, int | None, int | None]:
    """A column, and which of its numbers: all, or those of `column[begin:end]`."""
    found = PART.fullmatch(column)
    return (found[1], int(found[2]), int(found[3])) if found else (column, None, None)


def show(name: str, found: dict[str, Any]) -> None:
    kinds = ("bytes", "features", "action", "q")
    rows = [
        (form, *(f"{f[kind]['mean']:.3g} / {f[kind]['p99']:.3g}" if kind in f else "" for kind in kinds))
        for form, f in found["formats"].items()
    ]
    table(f"{name}, mean / p99", ("", *kinds), rows)


def main() -> int:
    with exit_codes():
        tyro.cli(Bench, description=(__doc__ or "").splitlines()[0]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
