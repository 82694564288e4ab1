"""The formats that are written, in one table. Imports no writer, so that `qgf --help` answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from qgf_ros.spaces.contract import Contract
from training.pipeline.labels import Label
from training.pipeline.streams import Recording

# Name -> its class, in a module of this folder, which is made with the name.
WRITERS = {
    "mcap": "bag:BagFormat",
    "sqlite3": "bag:BagFormat",
    "lerobot-v2.1": "lerobot:LeRobotFormat",
    "lerobot-v3.0": "lerobot:LeRobotFormat",
    "npz": "npz:NpzFormat",
}
if TYPE_CHECKING:
    Written = str
else:  # what `--to` takes
    Written = Literal[tuple(WRITERS)]
PARTS = ".parts"  # in the folder of a conversion until it is whole: what is made in between


class Writer(Protocol):
    """One file per format implements this. Whatever it writes has another name until it is whole."""

    messages: bool
    """Recordings stay as they were, message for message, and one alone may be the dataset; else they
    become episodes on the control grid."""

    def check(self, contract: Contract) -> None:
        """Raises UsageError where the contract is one that data can be read by, but not written."""

    def write(
        self,
        recording: Recording,
        contract: Contract,
        labels: Mapping[str, Label] | None,
        path: Path,
    ) -> dict[str, int]:
        """One recording as `path`, to which a suffix may be added; counts of what was written, and of
        what was dropped or rejected, by reason. labels: as `align` takes them."""

    def finish(self, out: Path, contract: Contract) -> None:
        """Makes the dataset `out` of the recordings that were written into it."""


def writer(name: str) -> Writer:
    module, _, kind = WRITERS[name].partition(":")
    return getattr(import_module(f"training.pipeline.writers.{module}"), kind)(name)
