"""A bag as what was said, message by message in order of receipt, with memory that does not grow."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from qgf_ros.bags import files
from qgf_ros.bags.contract_reader import ContractReader
from qgf_ros.bags.sources import Decoders, Partial, bare, contract_sources
from qgf_ros.bags.types import Channel, Use
from qgf_ros.replay.node_messages import CLOCK, reader
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages.base import SchemaError

IMAGES = "image of "  # before a camera's name: its images, beside its features; no name has a space
NOTHING = np.float64(np.nan).tobytes()  # a number of a message that says nothing
WINDOW = 1_000_000_000  # ns: writers put messages down in almost the order in which they came


class Encoder(Protocol):
    """Of a camera, see `images.encoder.CameraEncoder`."""

    policy: str  # its id

    def __call__(self, msg: Any) -> np.ndarray:
        """The features (F,) of an image message. Raises BadImage."""


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

    Of a camera, the features that its encoder published for this policy are what the node heard. Where
    there are none, images are encoded here, and known as late as the contract says.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        contract: Contract,
        encoders: Mapping[str, Encoder] | None = None,
    ) -> None:
        """contract: as the node hears it. encoders: of its cameras, by name."""
        sources = contract_sources(contract)
        self._widths = {name: source.width for name, source in sources.items()}
        self._partial = {o.name: Partial(o) for o in contract.observations if o.merge}
        self._encoders = dict(encoders or {})
        self._latency = {o.name: round(o.latency * 1e9) for o in contract.recorded.cameras}
        self._published: set[str] = set()  # cameras whose features are in the bag
        self._seen: set[str] = set()
        self._heap: list[tuple[int, int, str, int, Any]] = []
        self._count = 0
        self._clocked = False
        bag = files.open_bag(path, name)
        decoders = self._decoders(contract)
        images = {f"{IMAGES}{o.name}": o for o in contract.recorded.cameras}
        self._reader = ContractReader(
            bag, contract, self._row, self._of_the_node, decoders, {**sources, **images}
        )
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
        self._reader.check_observed("policy", self._seen)

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

    def _decoders(self, contract: Contract) -> Decoders:
        found: dict[str, tuple[Callable[[Any], bytes], int]] = {}
        for name, encoder in self._encoders.items():
            width = self._widths[name]
            found[name] = partial(self._features, name, encoder.policy, width), width
            found[f"{IMAGES}{name}"] = partial(self._encoded, name, encoder), width
        return found

    def _features(self, camera: str, policy: str, width: int, msg: Any) -> bytes:
        """Those of another policy, and reasons why there are none, are NOTHING."""
        if msg.policy != policy or msg.reason:
            return NOTHING * width
        if len(msg.values) != width:
            raise SchemaError(f"{len(msg.values)} features of {width}")
        self._published.add(camera)
        return np.asarray(msg.values, np.float64).tobytes()

    def _encoded(self, camera: str, encoder: Encoder, msg: Any) -> bytes:
        """Raises BadImage."""
        if camera in self._published:
            return NOTHING * self._widths[camera]
        return encoder(msg).astype(np.float64).tobytes()

    def _row(self, name: str, stamp: int, receipt: int, values: bytes | None) -> None:
        if name.startswith(IMAGES):
            name = name.removeprefix(IMAGES)
            receipt = max(receipt, stamp + self._latency[name])
        if name in self._encoders:
            if values is not None and values[:8] == NOTHING:
                return
            self._seen.add(name)
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
