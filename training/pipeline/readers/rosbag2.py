"""rosbag2: MCAP and sqlite3, split and compressed, whole and damaged; no ROS needed."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from qgf_ros.bags import files
from qgf_ros.bags.clock import Control, RecordedClock, Times
from qgf_ros.bags.contract_reader import ContractReader
from qgf_ros.bags.sources import Partial, contract_sources, merges
from qgf_ros.errors import DataRefused
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.source import ObservationSource
from qgf_ros.spaces.source import Source
from training.doctor.bag_survey import survey_bag
from training.pipeline import frames
from training.pipeline.streams import Recording, Stream, Survey


class Rosbag2Reader:
    """A folder with metadata.yaml or with bag files is a bag, and so is a bag file; a folder of
    such folders or files is a dataset. See qgf_ros/bags/files.py."""

    version = 5  # raised when the same files give something else, see `stages`

    def recognises(self, path: Path) -> bool:
        try:
            return bool(files.names(path))
        except DataRefused:  # `recordings` says why
            return True

    def recordings(self, path: Path) -> list[str]:
        return files.names(path)

    def files(self, path: Path, name: str) -> list[Path]:
        return files.open_bag(path, name).all_files()

    def survey(self, path: Path, name: str) -> Survey:
        return survey_bag(files.open_bag(path, name), name)

    def read(self, path: Path, name: str, contract: Contract) -> Recording:
        cameras = frames.writers(contract)
        decoders = frames.decoders(contract, cameras)
        rows = {
            s: _Rows(source, decoders[s][1] if s in decoders else source.width)
            for s, source in contract_sources(contract).items()
        }
        clock = RecordedClock()

        def row(source: str, stamp: int, receipt: int, values: bytes | None) -> None:
            rows[source].add(stamp, receipt, values)

        def file_ends() -> None:
            for own in rows.values():
                own.times.file_ends()

        reader = ContractReader(files.open_bag(path, name), contract, row, clock.uses, decoders)
        for _ in reader.read(file_ends):
            pass
        reader.check_topics()
        reader.check_observed("contract")
        losses = reader.losses
        now = clock.control([own.times.recorded()[1] for own in rows.values()])
        streams = {s: own.stream(now) for s, own in rows.items()}
        if now is not None:
            kept = [(own.times, streams[s]) for s, own in rows.items() if not merges(own.source)]
            if early := sum(len(times) - len(stream) for times, stream in kept):
                losses.add("received before the first /clock", early)
        elif clock.said:
            losses.add(clock.said)
        refused = {s: own.refused_at(now) for s, own in rows.items() if len(own.refused)}
        seen = frames.frames_by_name(cameras)
        return Recording(name, streams, dict(losses), refused=refused, frames=seen)


class _Rows:
    """What one source said."""

    def __init__(self, source: Source, width: int) -> None:
        """width: numbers of a message; of a camera whose images are encoded as they are read, its features."""
        self.source, self.width = source, width
        self.times, self.refused = Times(), Times()  # refused: commands that cannot be used
        self._values = array("d")

    def add(self, stamp: int, receipt: int, values: bytes | None) -> None:
        if values is None:
            self.refused.add(stamp, receipt)
        else:
            self.times.add(stamp, receipt)
            self._values.frombytes(values)

    def refused_at(self, now: Control | None) -> np.ndarray:
        """(K,) ns, sorted."""
        stamp, _, order = self.refused.ordered(now)
        return np.sort(stamp[order])

    def stream(self, now: Control | None) -> Stream:
        """now: the control clock where that is not the recorder's."""
        stamp, receipt, order = self.times.ordered(now)
        values = np.array(self._values, np.float64).reshape(len(stamp), self.width)
        stream = Stream(stamp[order], receipt[order], values[order])
        return merged(self.source, stream) if isinstance(self.source, ObservationSource) else stream


def merged(source: ObservationSource, stream: Stream) -> Stream:
    """With `merge: joints`, what was known of all joints after each message; else the stream."""
    if not source.merge:
        return stream
    add, rows = Partial(source), []
    for stamp, receipt, values in zip(
        stream.stamp.tolist(), stream.receipt.tolist(), stream.values
    ):
        known = add(stamp, values)
        if known is not None:
            rows.append((known[0], receipt, known[1]))
    width = source.width
    return Stream(
        np.array([r[0] for r in rows], np.int64),
        np.array([r[1] for r in rows], np.int64),
        np.array([r[2] for r in rows], np.float64).reshape(len(rows), width),
    )
