"""The formats that are read, in one table: what recognises a path, and what people are told of it.
Imports no reader, so that `qgf --help` answers at once.

Another package adds a format by an entry point in the group `qgf.formats`: its name is the format's,
its value a class as `streams.Reader` has it, made without arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from qgf_ros.plugins import Kinds


@dataclass(frozen=True)
class Format:
    """One format; `reader`: its class, in a module of this folder."""

    name: str
    reader: str
    given: str  # what a path to it is


# In the order in which a path is looked at.
FORMATS = (
    Format("LeRobot", "lerobot:LeRobotReader", "a LeRobot dataset (meta/info.json)"),
    Format("rosbag2", "rosbag2:Rosbag2Reader", "a rosbag2 recording or a folder of them"),
    Format("npz", "npz:NpzReader", "an npz file or a folder of them"),
    Format(
        "HDF5", "hdf5:Hdf5Reader", "an HDF5 file (robomimic, ALOHA, Minari) or a folder of them"
    ),
)
READERS = Kinds(
    "format", "qgf.formats", {f.name: f"training.pipeline.readers.{f.reader}" for f in FORMATS}
)
_GIVEN = [f.given for f in FORMATS] + [
    f"{name} (of another package)" for name in READERS.names[len(FORMATS) :]
]
READABLE = ", ".join(_GIVEN[:-1]) + f", or {_GIVEN[-1]}"

# What a verb's argument `data` is.
Data = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help=f"Recorded data: {READABLE}.")]
DataOfPolicy = Annotated[
    Path,
    tyro.conf.arg(help=f"Recorded data, best what the policy was trained on: {READABLE}."),
]
