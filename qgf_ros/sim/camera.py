"""Images of a MuJoCo model, rendered without a screen."""

from __future__ import annotations

import copy
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


def coarse(model: mujoco.MjModel, cell: float) -> mujoco.MjModel:
    """A copy to look at: of all vertices of a mesh within a cell the first stands for the others, and
    edges are not smoothed.

    A robot's meshes have thousands of triangles for each pixel of a small image, and rendering in software
    takes its time for every one. Only what is seen changes: physics has the model itself.

    Args:
        cell: length of its sides [m].
    """
    seen = copy.copy(model)
    seen.vis.quality.offsamples = 0
    for i in range(seen.nmesh):
        vertices = seen.mesh_vert[seen.mesh_vertadr[i] :][: seen.mesh_vertnum[i]]
        faces = slice(seen.mesh_faceadr[i], seen.mesh_faceadr[i] + seen.mesh_facenum[i])
        cells = np.floor(vertices / cell).astype(np.int64)
        _, first, which = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        merged = first[which.ravel()][seen.mesh_face[faces]]
        corners = np.sort(merged, axis=1)
        once = np.zeros(len(merged), bool)
        once[np.unique(corners, axis=0, return_index=True)[1]] = True
        kept = once & (np.diff(corners, axis=1) > 0).all(axis=1)
        if not kept.any():  # all of it lies in one cell
            continue
        count = int(kept.sum())
        of = seen.mesh_face, seen.mesh_facenormal, seen.mesh_facetexcoord
        for array, values in zip(of, (merged, *(a[faces] for a in of[1:]))):
            array[faces][:count] = values[kept]
        seen.mesh_facenum[i] = count
    return seen
