"""The planar arm with a camera above it: goal and post are in no topic, only in its image."""

from __future__ import annotations

import numpy as np

from qgf_ros.sim.camera import Camera
from qgf_ros.sim.planar_arm.world import PlanarArm
from qgf_ros.sim.world import Publication

SIZE = (64, 64)  # pixels; one is 3.5 cm of the table


class PlanarArmCamera(PlanarArm):
    """The world. Signals: joints (4,) position and velocity, top (64, 64, 3) uint8."""

    publications = (Publication("joints", 100.0), Publication("top", 20.0))

    def __init__(self) -> None:
        super().__init__()
        self.model.vis.quality.offsamples = 0
        self._camera = Camera(self.model, "top", SIZE)

    def signal(self, name: str) -> np.ndarray:
        return self._camera(self.data) if name == "top" else super().signal(name)


def make() -> PlanarArmCamera:
    return PlanarArmCamera()
