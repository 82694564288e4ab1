"""The simulated arm as a picture: one episode unguided and guided, the same start and post.

    MUJOCO_GL=egl python -m training.judge.pages.arm_render docs/images/arm.png

Needs a MuJoCo renderer (libegl1 on Debian).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib
import mujoco
import numpy as np

from qgf_ros.control.core import ControlCore
from qgf_ros.control.inference import InlineInference
from qgf_ros.control.settings import resolve
from qgf_ros.files.share import find_policy
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import Policy, load_policy
from qgf_ros.sim.episode import EpisodeResult, run_episode
from qgf_ros.sim.planar_arm.world import PlanarArm, forward_kinematics
from qgf_ros.sim.stream import Stream
from qgf_ros.sim.world import Outcome
from training.judge.pages.arm_paths import COLORS, WORDS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZE = 900  # pixels, square
CAMERA_HEIGHT, FIELD_OF_VIEW = 2.4, 50.0  # m and degrees, as in arm.xml
GHOSTS = 6  # earlier postures shown faintly


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--policy", default="planar_arm")
    parser.add_argument("--seed", type=int, default=700_000_000, help="first seed that is tried")
    arguments = parser.parse_args()
    policy = load_policy(find_policy(arguments.policy))
    sampler = make_sampler(policy, device="cpu")
    beta = policy.description.beta.default
    for seed in range(arguments.seed, arguments.seed + 50):  # the first scene that tells them apart
        unguided, guided = (_episode(policy, sampler, b, seed) for b in (math.inf, beta))
        if unguided.outcome is Outcome.COLLISION and guided.outcome is Outcome.SUCCESS:
            break
    panels = (("unguided", unguided), (f"Q-guided, beta {beta:g}", guided))
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.7))
    for axis, (title, result) in zip(axes, panels):
        _panel(axis, title, result)
    figure.tight_layout()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=110)


def _episode(policy: Policy, sampler: Sampler, beta: float, seed: int) -> EpisodeResult:
    settings = resolve({"seed": seed, "beta": beta}, policy)
    core = ControlCore(policy, InlineInference(sampler), settings, enabled=True)
    return run_episode(core, Stream(PlanarArm(), 10**12), seed)


def _panel(axis: plt.Axes, title: str, result: EpisodeResult) -> None:
    world = PlanarArm()
    world.reset(result.seed)
    picks = np.linspace(0, len(result.path) - 1, GHOSTS + 1).round().astype(int)
    with mujoco.Renderer(world.model, SIZE, SIZE) as renderer:
        frames = [_render(renderer, world, result.path[i, :2]) for i in picks]
    weights = np.linspace(0.25, 0.6, GHOSTS)
    image = frames[-1]
    for frame, weight in zip(
        frames[:-1], weights
    ):  # darker wins: postures show, the table does not
        image = np.minimum(image, 255 - (255 - frame) * weight)
    half = CAMERA_HEIGHT * math.tan(math.radians(FIELD_OF_VIEW / 2))
    axis.imshow(image.astype(np.uint8), extent=(-half, half, -half, half))
    tip = forward_kinematics(result.path[:, :2])[:, 2]
    axis.plot(*tip.T, color=COLORS[result.outcome], lw=2.5)
    axis.set_title(f"{title}: {WORDS[result.outcome]}")
    axis.set(xlim=(-0.8, 1.0), ylim=(-0.85, 0.9))
    axis.axis("off")


def _render(renderer: mujoco.Renderer, world: PlanarArm, joints: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE, 3) float from above."""
    world.data.qpos[:] = joints
    mujoco.mj_forward(world.model, world.data)
    renderer.update_scene(world.data, camera="top")
    return renderer.render().astype(float)


if __name__ == "__main__":
    main()
