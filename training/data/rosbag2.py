"""rosbag2: MCAP and sqlite3, split and compressed, whole and damaged; no ROS needed."""

from __future__ import annotations

from array import array
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.bags import files
from qgf_ros.bags.damage import Damage, Losses
from qgf_ros.bags.sources import Decoder, bare, check_type
from qgf_ros.bags.sources import contract_sources as contract_sources
from qgf_ros.bags.types import Channel, Take, take_with, typestore
from qgf_ros.contract import Contract, Source
from qgf_ros.errors import DataRefused
from training.data.bag_survey import survey_bag
from training.data.bag_writer import BagWriter as BagWriter
from training.data.streams import Recording, Stream, Survey

MAX_NAMED = 50  # topics in an error


class Rosbag2Reader:
    """A folder with metadata.yaml or with bag files is a bag, and so is a bag file; a folder of
    such folders or files is a dataset. See qgf_ros/bags/files.py."""

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
        bag = files.open_bag(path, name)
        losses = Losses()
        rows = {s: _Rows(source) for s, source in contract_sources(contract).items()}
        by_topic: dict[str, list[_Rows]] = defaultdict(list)  # sources may share a topic
        for own in rows.values():
            by_topic[bare(own.source.topic)].append(own)
        topics: set[str] = set()

        def choose(channel: Channel) -> Take | None:
            topics.add(channel.topic)
            sources = by_topic.get(bare(channel.topic), [])
            for own in sources:
                check_type(bag.path, own.source, channel)
            if not sources:
                return None
            try:
                store = typestore(channel, losses)
            except Damage as damage:
                why = f"{bare(channel.topic)}: {damage}"
                return lambda receipt, raw: losses.add(why)
            return take_with(channel, store, [own.add for own in sources], losses)

        for _ in files.read_messages(bag, choose, losses):
            for own in rows.values():
                own.ends.append(len(own))
        damage_note = f"; damage: {'; '.join(losses)}" if losses else ""
        for s, own in rows.items():
            if bare(own.source.topic) not in map(bare, topics):
                there = ", ".join(sorted(topics)[:MAX_NAMED]) or "no topic that can be read"
                raise DataRefused(
                    f"{bag.path} has no topic {own.source.topic!r}, which the contract needs for "
                    f"{s!r}; it has {there}{damage_note}"
                )
        silent = [rows[o.name].source.topic for o in contract.observations if not rows[o.name]]
        if silent:
            raise DataRefused(
                f"{bag.path} has no usable message on {', '.join(silent)}, which the contract "
                f"observes{damage_note}"
            )
        return Recording(name, {s: own.stream() for s, own in rows.items()}, dict(losses))


class _Rows:
    """Messages of one source, as they come."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._decode = Decoder(source)
        self._times = array("q")  # stamp and receipt in turn
        self._values = array("d")
        self.ends: list[int] = []  # of the files

    def __len__(self) -> int:
        return len(self._times) // 2

    def add(self, msg: Any, receipt: int) -> None:
        """Raises whatever a message that does not fit leads to, and is then as before."""
        stamp, values = self._decode(msg, receipt)
        self._times.extend(array("q", (stamp, receipt)))
        self._values.frombytes(values)

    def stream(self) -> Stream:
        """In order of receipt within each file; files follow one another."""
        stamp, receipt = np.array(self._times, np.int64).reshape(-1, 2).T
        order = files.receipt_order(receipt, self.ends)
        values = np.array(self._values, np.float64).reshape(len(self), len(self.source.labels))
        return Stream(stamp[order], receipt[order], values[order])
