"""The planar arm, driven by positions: a servo of its own follows what it is told, a tenth of a second late."""

from __future__ import annotations

import numpy as np

from qgf_ros.sim.planar_arm.world import ArmDemonstrator, PlanarArm

STIFFNESS = 10.0  # 1/s: the speed for each rad that it is behind


class PlanarArmPosition(PlanarArm):
    """The world. Signals as those of `PlanarArm`."""

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self._target = self.data.qpos.copy()  # where it stands, until somebody speaks

    def command(self, values: np.ndarray) -> None:
        """Joint positions (2,) [rad]."""
        self._target = np.array(values, dtype=np.float64)

    def step(self) -> None:
        super().command(STIFFNESS * (self._target - self.data.qpos))
        super().step()

    def demonstrator(self, seed: int) -> PositionDemonstrator:
        return PositionDemonstrator(self, seed)


class PositionDemonstrator(ArmDemonstrator):
    """As a leader arm that is moved so: the arm follows its positions."""

    def __init__(self, world: PlanarArmPosition, seed: int) -> None:
        self._target = world.signal("joints")[:2].copy()
        self._period = world.control_period
        super().__init__(world, seed)

    def _here(self) -> np.ndarray:
        return self._target

    def act(self) -> np.ndarray:
        """Joint positions (2,) [rad]."""
        self._target = self._target + self._period * super().act()
        return self._target


def make() -> PlanarArmPosition:
    return PlanarArmPosition()
