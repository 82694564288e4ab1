"""The images behind recorded features: a report reads features, and asks for the pixels of a few moments.

Nothing says in which message of a recording an image stood; its features do. Recordings are read again until all
are found, their images encoded once more by the same file, and those kept whose features are the ones of that
moment, to the bit: what is shown is what the policy was told of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from qgf_ros.console import track
from qgf_ros.images.encoder import CameraEncoder
from qgf_ros.policy.folder import Policy
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.image import ImageSpec
from training.judge.cameras import columns_of
from training.judge.data import encoded
from training.pipeline.episodes import Episode
from training.pipeline.frames import watched
from training.pipeline.readers.load import find_reader

MEMORY = 512 * 2**20  # bytes of images that are held, of all cameras together

# By camera: the image (H', W', C) as the camera sent it, None where it was not found.
Views = dict[str, np.ndarray | None]


class Pictures:
    """The recordings of a policy's cameras, to be looked at again."""

    def __init__(self, policy: Policy, data: Path, contract: Contract | None = None) -> None:
        """contract: as `judge.data.policy_episodes` was given it."""
        self.policy, self._data = policy, data
        self._contract = encoded(policy, contract)
        self.columns = columns_of(self._contract)
        self.specs: dict[str, ImageSpec] = {
            o.name: o.image for o in self._contract.cameras if o.image is not None
        }
        self.encoders = {name: CameraEncoder(policy, name).features for name in self.columns}

    @property
    def most(self) -> int:
        """Moments that can be held at once, at least one."""
        about = policy_sizes(self.policy, self.specs)
        return max(1, MEMORY // sum(about.values()))

    def of(self, moments: Iterable[tuple[Episode, int]]) -> list[Views]:
        """What each camera saw at ticks of episodes: what was known there, so that of several cameras each
        has its own time of capture.

        Raises as reading the data does.
        """
        moments = list(moments)
        reader = find_reader(self._data)
        recordings = reader.recordings(self._data)
        found: dict[tuple[str, bytes], np.ndarray | None] = {}
        for episode, tick in moments:
            found |= dict.fromkeys(self._keys(episode.obs[tick]).items())

        def see(camera: str, image: np.ndarray, features: np.ndarray) -> None:
            key = camera, _told(features)
            if key in found and found[key] is None:
                found[key] = image.copy()

        likely = set[str]().union(*(_names(episode) for episode, _ in moments))
        order = sorted(recordings, key=lambda name: not {name, Path(name).stem} & likely)
        with watched(see):
            for name in track(order, len(order), "looking again"):
                if all(image is not None for image in found.values()):
                    break
                reader.read(self._data, name, self._contract)
        return [
            {camera: found[camera, key] for camera, key in self._keys(episode.obs[tick]).items()}
            for episode, tick in moments
        ]

    def _keys(self, obs: np.ndarray) -> dict[str, bytes]:
        return {camera: _told(obs[part]) for camera, part in self.columns.items()}


def policy_sizes(policy: Policy, specs: Mapping[str, ImageSpec]) -> dict[str, int]:
    """Bytes of an image of each camera."""
    return {
        c.camera: c.size[0] * c.size[1] * specs[c.camera].shape[2]
        * (2 if specs[c.camera].channels == "depth" else 1)
        for c in policy.description.cameras
    }  # fmt: skip


def _told(features: np.ndarray) -> bytes:
    return np.asarray(features, np.float32).tobytes()


def _names(episode: Episode) -> set[str]:
    """What the recording of an episode may be called: as that is, without a number behind #. Formats name
    theirs as they like, so that this says where to look first and no more."""
    whole = episode.origin or episode.name
    return {whole, whole.rpartition("#")[0]}
