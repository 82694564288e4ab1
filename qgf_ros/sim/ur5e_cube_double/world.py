"""`ur5e_cube` with two cubes: the default task of OGBench's cube-double, both to their goals."""

from __future__ import annotations

from qgf_ros.sim.ur5e_cube.world import Ur5eCube


def make() -> Ur5eCube:
    return Ur5eCube(cubes=2, time_limit=25.0)
