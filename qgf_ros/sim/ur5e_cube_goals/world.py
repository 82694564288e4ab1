"""`ur5e_cube` with the goal drawn by the seed, out of the five tasks of OGBench's cube-single."""

from __future__ import annotations

from qgf_ros.sim.ur5e_cube.world import Ur5eCube


def make() -> Ur5eCube:
    return Ur5eCube(task=None)
