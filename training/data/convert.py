"""One recording of any readable dataset as a bag, message for message."""

from __future__ import annotations

from pathlib import Path

from qgf_ros.contract import Contract
from qgf_ros.errors import UsageError
from training.data.load import find_reader
from training.data.record import EPOCH
from training.data.rosbag2 import BagWriter, contract_sources


def convert(data: Path, contract_path: Path, out: Path, number: int) -> dict[str, int]:
    """Writes recording `number` of `data` to the bag `out`; messages per topic.

    Table rows have no date: their first row becomes a fixed one.

    Raises:
        UsageError: there is no such recording, or `out` exists.
        DataRefused: the data does not have what the contract names.
    """
    contract = Contract.load(contract_path)
    reader = find_reader(data)
    names = reader.recordings(data)
    if not 0 <= number < len(names):
        raise UsageError(
            f"recording {number} does not exist: {data} has {len(names)}, counted from 0"
        )
    recording = reader.read(data, names[number], contract)
    sources = {
        name: s for name, s in contract_sources(contract).items() if name in recording.streams
    }
    first = min(int(s.receipt[0]) for s in recording.streams.values() if len(s))
    shift = EPOCH if first < EPOCH // 2 else 0
    rows = [
        (int(receipt) + shift, name, int(stamp) + shift, values)
        for name, stream in recording.streams.items()
        for stamp, receipt, values in zip(stream.stamp, stream.receipt, stream.values)
    ]
    with BagWriter(out, sources) as bag:
        for receipt, name, stamp, values in sorted(rows, key=lambda row: row[:2]):
            bag.write(name, stamp, receipt, values)
    return {source.topic: len(recording.streams[name]) for name, source in sources.items()}
