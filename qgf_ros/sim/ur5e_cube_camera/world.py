"""`ur5e_cube` with a fixed camera and one at the tool: where the cube is stands in no topic."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ros.sim.ur5e_cube.world import Ur5eCube
from qgf_ros.sim.world import Publication

# In the order of imports: the world has chosen how MuJoCo renders.
from qgf_ros.sim.camera import Camera, coarse  # isort: skip
import mujoco  # isort: skip

SIZE = (64, 64)  # pixels
FIXED = "front_pixels"  # of the package's cameras the one that its visual tasks have
DISTANCE, TILT = (
    0.25,
    30.0,
)  # m and degrees off the vertical: a camera beside the gripper, seeing its fingers
CELL = (
    0.004  # m; at 64 pixels no difference is to be seen, and an image takes a seventh of the time
)
CAMERAS = ("front", "tool_camera")


class Ur5eCubeCamera(Ur5eCube):
    """The world. Signals: those of `Ur5eCube` but the cube's pose; front, tool_camera (64, 64, 3) uint8."""

    def __init__(self, **given: Any) -> None:
        self._compiled: mujoco.MjModel | None = None
        self._cameras: dict[str, Camera] = {}
        super().__init__(**given)
        kept = [p for p in self.publications if not p.signal.startswith("cube")]
        self.publications = (*kept, *(Publication(name, 1 / self.step_time) for name in CAMERAS))

    def signal(self, name: str) -> np.ndarray:
        if name not in CAMERAS:
            return super().signal(name)
        if self._compiled is not self.env.model:  # the package compiles it anew for another task
            self._compiled = self.env.model
            seen = coarse(self.env.model, CELL)
            self._cameras = {
                "front": Camera(seen, FIXED, SIZE),
                "tool_camera": Camera(seen, self._at_tool, SIZE),
            }
        return self._cameras[name](self.env.data)

    def _at_tool(self) -> mujoco.MjvCamera:
        """Looks at what the gripper holds, and turns with it."""
        seen = mujoco.MjvCamera()
        seen.type = mujoco.mjtCamera.mjCAMERA_FREE
        seen.lookat[:] = self.env.data.site_xpos[self.env._pinch_site_id]
        x, y, z, w = self._tool_quaternion()
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        seen.distance, seen.azimuth, seen.elevation = DISTANCE, np.degrees(yaw), TILT - 90.0
        return seen


def make() -> Ur5eCubeCamera:
    return Ur5eCubeCamera()
