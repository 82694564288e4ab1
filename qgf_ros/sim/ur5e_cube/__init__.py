"""ur5e_cube: a UR5e with a gripper takes a cube to its goal (OGBench cube-single)."""

import numpy as np

PERIOD = 0.05  # s, of control and of the state topics
MAX_STEP = np.array([0.05, 0.05, 0.05, 0.3])  # m, m, m, rad: the package's action at 1, per period
