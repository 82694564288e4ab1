"""Images of a MuJoCo model, rendered without a screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np


class Camera:
    """A fixed or a moving camera of a model. Shadows and reflections are what rendering in software costs,
    and are left out; so is smoothing of edges, where the model says `offsamples="0"`."""

    def __init__(
        self,
        model: mujoco.MjModel,
        view: str | Callable[[], mujoco.MjvCamera],
        size: tuple[int, int],
    ) -> None:
        """view: the name of a camera of the model, or what says where to look from, each time. size:
        (width, height) in pixels."""
        self.model, self._view, self._size = model, view, size
        self._renderer: Any = None

    def __call__(self, data: mujoco.MjData) -> np.ndarray:
        """(H, W, 3) uint8, red, green and blue."""
        if self._renderer is None:  # in the thread that renders: a context belongs to one
            width, height = self._size
            self._renderer = mujoco.Renderer(self.model, height, width)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = 0
        view = self._view if isinstance(self._view, str) else self._view()
        self._renderer.update_scene(data, view)
        return self._renderer.render()
