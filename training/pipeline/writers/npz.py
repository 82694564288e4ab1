"""npz files on the control grid, which the reader of that name reads back."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from qgf_ros.spaces.contract import Contract
from training.pipeline.labels import Label
from training.pipeline.readers.npz import BOOKKEEPING
from training.pipeline.report import Report
from training.pipeline.streams import Recording
from training.pipeline.writers.table import TableEpisode, layout, on_grid, rate

STORED = ("terminals", "masks", *BOOKKEEPING)  # beside the columns


class NpzFormat:
    """A file per recording."""

    messages = False

    def __init__(self, name: str) -> None:
        self.name = name

    def folder(self, out: Path) -> Path:
        """Where the files of the recordings go."""
        return out

    def check(self, contract: Contract) -> None:
        layout(contract)

    def write(
        self,
        recording: Recording,
        contract: Contract,
        labels: Mapping[str, Label] | None,
        path: Path,
    ) -> dict[str, int]:
        report = Report()
        episodes = list(on_grid(recording, contract, report, labels))
        folder = self.folder(path.parent)
        episodes = self.put_aside(episodes, contract, folder / path.name)
        part = folder / f".{path.name}.part.npz"
        write_npz(part, episodes, layout(contract), rate(contract))
        part.replace(folder / f"{path.name}.npz")
        return {"episodes": len(episodes), "rows": sum(map(len, episodes))} | dict(report.dropped)

    def put_aside(
        self, episodes: list[TableEpisode], contract: Contract, beside: Path
    ) -> list[TableEpisode]:
        """What is left of the episodes for the file, where something of them goes elsewhere: nothing here."""
        return episodes

    def finish(self, out: Path, contract: Contract) -> None:
        pass


def write_npz(
    file: Path, episodes: list[TableEpisode], names: dict[str, tuple[str, ...]], fps: float
) -> None:
    """All of `episodes` as one file, which this reader reads back. names: by column."""
    ends = np.cumsum([len(e) for e in episodes], dtype=int) - 1
    terminals, masks = np.zeros((2, sum(map(len, episodes))), bool)
    terminals[ends] = True
    masks[:] = True
    for end, episode in zip(ends, episodes):
        masks[end - 1 : end + 1] = not episode.terminal
    arrays = {
        column: np.concatenate([e.columns[column] for e in episodes])
        for column in (episodes[0].columns if episodes else ())
    }
    arrays |= {"terminals": terminals, "masks": masks}
    arrays |= {"fps": np.array(float(fps)), "names": np.array(json.dumps(names))}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, array in arrays.items():
            with target.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
        for camera in episodes[0].images if episodes else ():
            columns = [e.images[camera] for e in episodes]
            shape = (sum(map(len, columns)), *columns[0].shape)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            with target.open(f"{camera}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, header)
                for column in columns:  # one image in memory
                    for image in column:
                        member.write(np.ascontiguousarray(image).data)


def stored(file: Path) -> list[TableEpisode]:
    """What `write_npz` wrote."""
    with np.load(file) as source:
        ends = np.flatnonzero(source["terminals"]) + 1
        masks = source["masks"]
        columns = {n: source[n] for n in source.files if n not in STORED}
    return [
        TableEpisode({n: v[b:e] for n, v in columns.items()}, not masks[e - 1])
        for b, e in zip([0, *ends[:-1]], ends)
    ]
