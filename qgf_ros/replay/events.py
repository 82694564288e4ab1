"""A bag as what was said, message by message in order of receipt, with memory that does not grow."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_ros.bags import files
from qgf_ros.bags.contract_reader import ContractReader
from qgf_ros.bags.sources import Partial, bare, contract_sources
from qgf_ros.bags.types import Channel, Use
from qgf_ros.replay.node_messages import CLOCK, reader
from qgf_ros.spaces.contract import Contract

WINDOW = 1_000_000_000  # ns: writers put messages down in almost the order in which they came


class BagMessage(NamedTuple):
    """One message. `name` is the contract's for its source; or one of node_messages.py, and then
    `values` is what is read there."""

    at: int  # ns on the control clock: when it could be known
    name: str
    stamp: int  # ns
    values: Any  # (d,) float64 in the order of the source's labels; NaN: a command that is no use


class BagEvents:
    """The messages of one bag that a contract names, and those of the node.

    Where the bag has a /clock, that is the control clock, as it was for a node under use_sim_time;
    else it is the time of receipt. What cannot be read is counted in `losses`.
    """

    def __init__(self, path: Path, name: str, contract: Contract) -> None:
        sources = contract_sources(contract).items()
        self._widths = {name: len(source.labels) for name, source in sources}
        self._partial = {o.name: Partial(o) for o in contract.observations if o.merge}
        self._heap: list[tuple[int, int, str, int, Any]] = []
        self._count = 0
        self._clocked = False
        bag = files.open_bag(path, name)
        self._reader = ContractReader(bag, contract, self._row, self._of_the_node)
        self.losses = self._reader.losses

    def __iter__(self) -> Iterator[BagMessage]:
        """Raises DataRefused where the bag has no usable message of a source that is observed."""
        now: int | None = None
        for receipt, name, stamp, values in self._in_order():
            if name == CLOCK:
                now = values if values > 0 else None
                continue
            at = receipt if not self._clocked else now
            if at is None:
                continue
            # Who stamps by receipt has heard the control clock, too.
            stamp = stamp if stamp != receipt else at
            if name in self._partial:
                known = self._partial[name](stamp, values)
                if known is None:
                    continue
                stamp, values = known
            yield BagMessage(at, name, stamp, values)
        self._reader.check_observed("policy")

    def _in_order(self) -> Iterator[tuple[int, str, int, Any]]:
        latest = 0
        for receipt in self._reader.read():
            latest = max(latest, receipt)
            yield from self._pop(latest - WINDOW)
        yield from self._pop(None)

    def _pop(self, until: int | None) -> Iterator[tuple[int, str, int, Any]]:
        heap = self._heap
        while heap and (until is None or heap[0][0] <= until):
            receipt, _, name, stamp, values = heapq.heappop(heap)
            yield receipt, name, stamp, values

    def _row(self, name: str, stamp: int, receipt: int, values: bytes | None) -> None:
        numbers = np.full(self._widths[name], np.nan) if values is None else np.frombuffer(values)
        self._push(receipt, name, stamp, numbers)

    def _of_the_node(self, channel: Channel) -> Sequence[Use]:
        ours = reader(bare(channel.topic), channel.short_type)
        if ours is None:
            return ()
        name, read = ours
        self._clocked |= name == CLOCK
        return [lambda msg, receipt: self._push(receipt, name, 0, read(msg))]

    def _push(self, receipt: int, name: str, stamp: int, values: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (receipt, self._count, name, stamp, values))
