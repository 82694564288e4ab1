"""The simulated UR5e as a film: one episode unguided and guided, side by side, from the same start.

    python -m training.judge.pages.cube_film docs/images/ur5e_cube.gif --policy POLICY

Needs a MuJoCo renderer (libegl1 on Debian).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from qgf_ros.control.core import ControlCore
from qgf_ros.control.inference import InlineInference
from qgf_ros.control.settings import resolve
from qgf_ros.files.share import find_policy
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import Policy, load_policy
from qgf_ros.sim.episode import run_episode
from qgf_ros.sim.stream import Stream
from qgf_ros.sim.world import Outcome, World, make_world

SIZE = (320, 240)  # pixels of one panel
EVERY = 2  # control periods per frame
PAUSE = 10  # frames that the end is shown
MARGIN = 22  # pixels for the title


class Camera:
    """A world that takes a picture of itself as it steps."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.frames: list[np.ndarray] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._world, name)

    def step(self) -> None:
        self._world.step()
        self.frames.append(self._world.render())  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help=".gif: a film; .png: five moments of it")
    parser.add_argument("--policy", required=True)
    parser.add_argument("--world", default="ur5e_cube")
    parser.add_argument("--seed", type=int, default=700_000_000, help="first seed that is tried")
    arguments = parser.parse_args()
    policy = load_policy(find_policy(arguments.policy))
    sampler = make_sampler(policy, device="cpu")
    beta = policy.description.beta.default
    for seed in range(arguments.seed, arguments.seed + 50):  # the first start that tells them apart
        films = [_film(policy, sampler, arguments.world, b, seed) for b in (math.inf, beta)]
        if [won for won, _ in films] == [False, True]:
            break
    titles = ("unguided", f"Q-guided, beta {beta:g}")
    panels = [_panel(title, won, frames) for title, (won, frames) in zip(titles, films)]
    length = min(max(map(len, panels)), 2 * len(panels[1]))  # the unguided one runs into time-out
    both = [
        np.concatenate([p[min(i, len(p) - 1)] for p in panels], axis=1)
        for i in range(0, length, EVERY)
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.out.suffix == ".png":
        picks = np.linspace(0, len(panels[1]) - 1, 5).round().astype(int)
        rows = [np.concatenate([p[min(i, len(p) - 1)] for i in picks], axis=1) for p in panels]
        Image.fromarray(np.concatenate(rows)).save(arguments.out)
        return
    images = [Image.fromarray(f).quantize(96) for f in (*both, *[both[-1]] * PAUSE)]
    images[0].save(
        arguments.out, save_all=True, append_images=images[1:], duration=100, loop=0, optimize=True
    )


def _film(
    policy: Policy, sampler: Sampler, world: str, beta: float, seed: int
) -> tuple[bool, list[np.ndarray]]:
    settings = resolve({"seed": seed, "beta": beta}, policy)
    core = ControlCore(policy, InlineInference(sampler), settings, enabled=True)
    camera = Camera(make_world(world))
    result = run_episode(core, Stream(camera, 10**12), seed)  # type: ignore[arg-type]
    return result.outcome is Outcome.SUCCESS, camera.frames


def _panel(title: str, won: bool, frames: list[np.ndarray]) -> list[np.ndarray]:
    """Frames at their size with a title; the last one says how it ended."""
    panel = []
    for number, frame in enumerate(frames):
        image = Image.new("RGB", (SIZE[0], SIZE[1] + MARGIN), "white")
        image.paste(Image.fromarray(frame).resize(SIZE, Image.Resampling.LANCZOS), (0, MARGIN))
        ended = number == len(frames) - 1
        text = f"{title}: {'at the goal' if won else 'not there in time'}" if ended else title
        ImageDraw.Draw(image).text((6, 5), text, fill="black")
        panel.append(np.asarray(image))
    return panel


if __name__ == "__main__":
    main()
