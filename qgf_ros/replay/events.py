"""A bag as what was said, message by message in order of receipt, with memory that does not grow."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_ros.bags import files
from qgf_ros.bags.damage import Damage, Losses
from qgf_ros.bags.sources import Decoder, Partial, about_others, bare, check_type, contract_sources
from qgf_ros.bags.types import Channel, Take, take_with, typestore
from qgf_ros.errors import DataRefused
from qgf_ros.replay.node_messages import CLOCK, reader
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages.joints import Others

WINDOW = 1_000_000_000  # ns: writers put messages down in almost the order in which they came


class Said(NamedTuple):
    """One message. `name` is the contract's for its source; or one of node_messages.py, and then
    `values` is what is read there."""

    at: int  # ns on the control clock: when it could be known
    name: str
    stamp: int  # ns
    values: Any  # (d,) float64 in the order of the source's labels


class BagEvents:
    """The messages of one bag that a contract names, and those of the node.

    Where the bag has a /clock, that is the control clock, as it was for a node under use_sim_time;
    else it is the time of receipt. What cannot be read is counted in `losses`.
    """

    def __init__(self, path: Path, name: str, contract: Contract) -> None:
        self._bag = files.open_bag(path, name)
        self._sources = contract_sources(contract)
        self._observed = {o.name: o.topic for o in contract.observations}
        self._decoders = {name: Decoder(source) for name, source in self._sources.items()}
        self._partial = {o.name: Partial(o) for o in contract.observations if o.merge}
        self._heard: set[str] = set()
        self._unread: set[str] = set()  # commands of the message at hand that are not dealt with
        self._heap: list[tuple[int, int, str, int, Any]] = []
        self._count = 0
        self._clocked = False
        self._latest = 0
        self.losses = Losses()

    def __iter__(self) -> Iterator[Said]:
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
            yield Said(at, name, stamp, values)
        silent = [topic for o, topic in self._observed.items() if o not in self._heard]
        if silent:
            damage = f"; damage: {'; '.join(self.losses)}" if self.losses else ""
            raise DataRefused(
                f"{self._bag.path} has no usable message on {', '.join(silent)}, which the policy "
                f"observes{damage}"
            )

    def _in_order(self) -> Iterator[tuple[int, str, int, Any]]:
        for receipt in self._read():
            self._latest = max(self._latest, receipt)
            yield from self._pop(self._latest - WINDOW)
        yield from self._pop(None)

    def _pop(self, until: int | None) -> Iterator[tuple[int, str, int, Any]]:
        heap = self._heap
        while heap and (until is None or heap[0][0] <= until):
            receipt, _, name, stamp, values = heapq.heappop(heap)
            yield receipt, name, stamp, values

    def _read(self) -> Iterator[int]:
        """Puts message after message onto the heap; gives their receipts."""
        losses = self.losses
        for file in self._bag.files:
            try:
                for take, receipt, raw in self._bag.messages(file, self._choose, losses):
                    take(receipt, raw)
                    yield receipt
            except Damage as damage:
                losses.add(f"file unreadable: {damage}", self._bag.counts.get(file.name, 1))
            except OSError as error:
                why = f"file unreadable: {file.name}: {error.strerror}"
                losses.add(why, self._bag.counts.get(file.name, 1))
        for name, count in self._bag.missing.items():
            losses.add(f"file missing: {name}", count)

    def _choose(self, channel: Channel) -> Take | None:
        topic = bare(channel.topic)
        uses: list[Any] = []
        commands = []
        for name, source in self._sources.items():
            if bare(source.topic) == topic:
                check_type(self._bag.path, source, channel)
                uses.append(self._taker(name, topic))
                if isinstance(source, ActionSpec):
                    commands.append(name)
        if (ours := reader(topic, channel.short_type)) is not None:
            own, read = ours
            self._clocked |= own == CLOCK
            uses.append(lambda msg, receipt: self._push(receipt, own, 0, read(msg)))
        if not uses:
            return None
        try:
            store = typestore(channel, self.losses)
        except Damage as damage:
            why = f"{topic}: {damage}"
            take: Take = lambda receipt, raw: self.losses.add(why)  # noqa: E731
        else:
            take = take_with(channel, store, uses, self.losses)
        return self._watched(take, commands) if commands else take

    def _watched(self, take: Take, commands: list[str]) -> Take:
        """A command that cannot be used says when nothing is known: no older one stands in for it.
        As in training; where not even its stamp can be read, it is of its receipt."""

        def watched(receipt: int, raw: bytes | memoryview) -> None:
            self._unread = set(commands)
            take(receipt, raw)
            for name in self._unread:
                self._refuse(receipt, name, receipt)

        return watched

    def _refuse(self, receipt: int, name: str, stamp: int) -> None:
        self._push(receipt, name, stamp, np.full(len(self._sources[name].labels), np.nan))

    def _taker(self, name: str, topic: str) -> Any:
        decode, source = self._decoders[name], self._sources[name]
        command = isinstance(source, ActionSpec)
        sharing = [s for s in self._sources.values() if bare(s.topic) == topic]
        actions = sum(isinstance(s, ActionSpec) for s in sharing)

        def take(msg: Any, receipt: int) -> None:
            try:
                stamp, values = decode(msg, receipt)
            except Exception as error:
                if isinstance(error, Others):  # no command of this one's
                    self._unread.discard(name)
                elif command:
                    with contextlib.suppress(Exception):
                        self._refuse(receipt, name, decode.stamp(msg, receipt))
                        self._unread.discard(name)
                if about_others(source, actions, error):
                    return
                raise
            self._unread.discard(name)
            self._heard.add(name)
            self._push(receipt, name, stamp, np.frombuffer(values))

        return take

    def _push(self, receipt: int, name: str, stamp: int, values: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (receipt, self._count, name, stamp, values))
