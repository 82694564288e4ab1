"""Simulated worlds. A folder per world: MJCF, contract, scripted demonstrator."""

import os

# MuJoCo reads it when it is imported, for all worlds of a process, also those that are seen after one that
# is not. A person with a screen has chosen already.
if not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")
