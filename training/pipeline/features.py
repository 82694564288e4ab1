"""Features of frozen encoders: made once of each recording's frames, and kept beside them.

    features/<key>.features   of one camera's frames of one recording, (N, F) float32; the key is the hash of
                              the frames, the encoder's file and how it is shown an image

They carry their checksum; what is damaged is said and made anew, as all that lies in the cache.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qgf_ros.errors import StorageError
from qgf_ros.files.atomic import replaced_file
from qgf_ros.files.regular import open_regular
from qgf_ros.spaces.contract import Contract
from training.pipeline.cache import cache_folder
from training.pipeline.episodes import EpisodeArrays
from training.pipeline.frames import BLOCK, Frames
from training.pipeline.pieces import Damaged, discard

if TYPE_CHECKING:
    from training.encoders.frozen import Encoder

VERSION = 1  # of this stage: whoever changes what it gives raises it
MAGIC = b"qgf features   "  # then the SHA-256 of key and content in hexadecimal digits, a new line, the content
HEAD = len(MAGIC) + 65
ROWS = 65_536  # of an observation, that are filled together


def frozen_encoders(contract: Contract, folder: Path, threads: int = 1) -> dict[str, Encoder]:
    """Of those cameras whose encoder is a file of the user's, by name. folder: of the contract.

    Raises UsageError where a file is not there, or is no encoder of that camera's images.
    """
    wanted = [o for o in contract.cameras if o.has_frames and not o.is_learnt]
    if not wanted:  # nothing is imported for it
        return {}
    from training.encoders.frozen import Encoder

    return {o.name: Encoder(o, folder, threads) for o in wanted}


def with_features(
    arrays: EpisodeArrays, contract: Contract, encoders: Mapping[str, Encoder]
) -> EpisodeArrays:
    """The same episodes with features in place of those cameras' frame numbers, and without their frames;
    in a file that goes with the arrays, so that memory does not grow with the dataset."""
    if not encoders:
        return arrays
    import torch

    def encode(net: Encoder) -> Callable[[np.ndarray], np.ndarray]:
        return lambda block: net(torch.from_numpy(block)).numpy()

    tables = {}
    for name, net in encoders.items():
        column = contract.observation_slices[name].start
        tables[column] = features_of(arrays.frames[column], encode(net), net.key, net.features)
    with tempfile.TemporaryFile(dir=cache_folder()) as file:
        obs = np.memmap(file, np.float32, "w+", shape=arrays.obs.shape)
    for at in range(0, len(obs), ROWS):
        rows = slice(at, at + ROWS)
        obs[rows] = arrays.obs[rows]
        for column, table in tables.items():
            numbers = arrays.obs[rows, column].astype(np.int64)
            obs[rows, column : column + table.shape[0]] = table[numbers]
    # What an episode is told by is what was made of its frames, and so the encoders too.
    made = " ".join(net.key for net in encoders.values())
    digests = [hashlib.sha256(f"{d} {made}".encode()).hexdigest() for d in arrays.digests]
    frames = {column: f for column, f in arrays.frames.items() if column not in tables}
    return replace(arrays, obs=obs, digests=tuple(digests), frames=frames)


def features_of(
    frames: Frames, encode: Callable[[np.ndarray], np.ndarray], key: str, width: int
) -> Frames:
    """(N, F) float32 of a camera's frames, mapped from files.

    Args:
        encode: (B, H, W, C) uint8 -> (B, F).
        key: of the encoder and how it is shown an image.
    """
    folder = cache_folder() / "features"
    folder.mkdir(parents=True, exist_ok=True)
    return Frames([_of_part(folder, part, encode, key, width) for part in frames.parts])


def _of_part(
    folder: Path, part: np.ndarray, encode: Callable[[np.ndarray], np.ndarray], key: str, width: int
) -> np.ndarray:
    if not len(part):  # nothing can be mapped
        return np.empty((0, width), np.float32)
    hashed = hashlib.sha256(f"features {VERSION} {key} {part.shape} ".encode())
    hashed.update(np.ascontiguousarray(part).data)
    path = folder / f"{hashed.hexdigest()}.features"
    shape = len(part), width
    if os.path.lexists(path):
        try:
            return _read(path, shape)
        except Damaged as damage:
            discard(path, damage)
    _write(path, part, encode)
    try:
        return _read(path, shape)
    except Damaged as damage:
        raise StorageError(
            f"{damage}, right after it was written; look at the disk, and for who clears {folder}, or choose another "
            "place by QGF_CACHE"
        ) from None


def _write(path: Path, part: np.ndarray, encode: Callable[[np.ndarray], np.ndarray]) -> None:
    made = [
        np.asarray(encode(np.array(part[at : at + BLOCK])), np.float32)
        for at in range(0, len(part), BLOCK)
    ]
    hashed = hashlib.sha256(path.stem.encode())
    for block in made:
        hashed.update(block.tobytes())
    with replaced_file(path) as file:
        file.write(MAGIC + hashed.hexdigest().encode() + b"\n")
        for block in made:
            file.write(block.tobytes())


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Raises Damaged where it is not what was written."""
    try:
        with open_regular(path, follow=False) as file:
            head = file.read(HEAD)
            found = np.memmap(file, np.float32, "r", HEAD, shape)
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: {error}") from None
    hashed = hashlib.sha256(path.stem.encode())
    hashed.update(found.data)
    if head != MAGIC + hashed.hexdigest().encode() + b"\n":
        raise Damaged(f"{path} does not have its checksum")
    return found
