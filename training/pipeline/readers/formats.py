"""The formats that are read, in one table: what recognises a path, and what people are told of it.

Imports no reader, so that `qgf --help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import tyro

from training.pipeline.streams import Reader


@dataclass(frozen=True)
class Format:
    """One format; `reader`: its class, in a module of this folder."""

    name: str
    reader: str
    given: str  # what a path to it is

    def make(self) -> Reader:
        module, _, name = self.reader.partition(":")
        return getattr(import_module(f"training.pipeline.readers.{module}"), name)()


# In the order in which a path is looked at.
FORMATS = (
    Format("LeRobot", "lerobot:LeRobotReader", "a LeRobot dataset (meta/info.json)"),
    Format("rosbag2", "rosbag2:Rosbag2Reader", "a rosbag2 recording or a folder of them"),
    Format("npz", "npz:NpzReader", "an npz file or a folder of them"),
    Format(
        "HDF5", "hdf5:Hdf5Reader", "an HDF5 file (robomimic, ALOHA, Minari) or a folder of them"
    ),
)
READABLE = ", ".join(f.given for f in FORMATS[:-1]) + f", or {FORMATS[-1].given}"

# What a verb's argument `data` is.
Data = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help=f"Recorded data: {READABLE}.")]
DataOfPolicy = Annotated[
    Path,
    tyro.conf.arg(help=f"Recorded data, best what the policy was trained on: {READABLE}."),
]
