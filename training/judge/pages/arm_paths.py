"""A picture of the planar arm's paths with and without guidance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from qgf_ros.sim.planar_arm.world import (
    GOAL_RADIUS,
    LINKS,
    OBSTACLE_RADIUS,
    PlanarArm,
    forward_kinematics,
)
from qgf_ros.sim.world import Outcome

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MOST_PATHS = 60
GREEN, RED, GREY = "#1f8a4c", "#c62f2b", "#8a8f98"
COLORS = {Outcome.SUCCESS: GREEN, Outcome.COLLISION: RED, Outcome.TIME_OUT: GREY}
WORDS = {
    Outcome.SUCCESS: "reaches the goal",
    Outcome.COLLISION: "hits the post",
    Outcome.TIME_OUT: "runs out of time",
}
Run = tuple[int, Outcome, np.ndarray]  # seed, outcome, joint path (ticks, 4)


def draw(path: Path, panels: Sequence[tuple[str, Sequence[Run]]]) -> None:
    """One panel per sampler: (title, its episodes). Writes a PNG.

    Every scene is mirrored so that the post stands above: then one way is open and one is not.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.2 * len(panels), 5.6), sharex=True, sharey=True
    )
    world = PlanarArm()
    for axis, (title, runs) in zip(np.atleast_1d(axes), panels):
        axis.add_patch(plt.Circle((0, 0), sum(LINKS), fill=False, color="#d5d8dd"))
        for seed, outcome, joints in runs[:MOST_PATHS]:
            world.reset(seed)
            obstacle, goal = world.signal("obstacle"), world.signal("goal")
            mirror = np.array([1.0, np.sign(obstacle[1])])
            tips = forward_kinematics(joints[:, :2])[:, 2] * mirror
            axis.add_patch(
                plt.Circle(obstacle * mirror, OBSTACLE_RADIUS, color=RED, alpha=0.05, lw=0)
            )
            axis.add_patch(plt.Circle(goal * mirror, GOAL_RADIUS, color=GREEN, alpha=0.03, lw=0))
            axis.plot(*tips.T, color=COLORS[outcome], lw=1.0, alpha=0.6)
        axis.plot(
            *forward_kinematics(np.array([0.0, 0.8])).T,
            color="#33496b",
            lw=5,
            solid_capstyle="round",
            zorder=3,
        )
        axis.plot(0, 0, "o", color="#ee8c24", ms=11, zorder=4)
        axis.set(title=title, aspect="equal", xlim=(-1, 1), ylim=(-1, 1), xlabel="x [m]")
    np.atleast_1d(axes)[0].set_ylabel("y [m]")
    handles = [plt.Line2D([], [], color=COLORS[o], label=text) for o, text in WORDS.items()]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False)
    figure.suptitle(
        "Paths of the tip, mirrored so that the post (red) stands above; goals are green",
        fontsize=11,
    )
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
