"""The one loop over the messages of a bag that a contract names: topics, types, decoding, stamps, and
what cannot be used, with its reason. Training's reader and replay are given the same rows by it."""

from __future__ import annotations

import contextlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from qgf_ros.bags.damage import Damage, Losses
from qgf_ros.bags.files import Bag, read_messages
from qgf_ros.bags.sources import (
    Decoder,
    Decoders,
    about_others,
    bare,
    check_type,
    contract_sources,
    merges,
    topics,
)
from qgf_ros.bags.types import Channel, Take, Use, take_with, typestore
from qgf_ros.errors import DataRefused
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages.base import SchemaError
from qgf_ros.spaces.messages.joints import Others
from qgf_ros.spaces.source import Source

MAX_NAMED = 50  # topics in an error
# (source, stamp [ns], receipt [ns], numbers as bytes of float64 in the order of the source's labels);
# the numbers are None where a command came that cannot be used: no older one stands in for it.
Row = Callable[[str, int, int, bytes | None], None]


class ContractReader:
    """Reads one bag by a contract, once; every message that can be used becomes a row, in the order of
    the file. A partial message of a merged source has NaN for the joints it lacks: rows are merged
    (`sources.Partial`) by who has put them into the order of receipt.

    Args:
        row: takes what each source said.
        also: further uses of a channel's messages, whether the contract names its topic or not.
        decoders: by name, for sources that are decoded otherwise than their type is: cameras.
        sources: by name; those of the contract where none are given.

    Attributes:
        losses: messages that could not be used, by reason.
    """

    def __init__(
        self,
        bag: Bag,
        contract: Contract,
        row: Row,
        also: Callable[[Channel], Sequence[Use]] = lambda channel: (),
        decoders: Decoders | None = None,
        sources: Mapping[str, Source] | None = None,
    ) -> None:
        self.losses = Losses()
        self._bag, self._contract, self._also = bag, contract, also
        self._topics: set[str] = set()
        special = decoders or {}
        self._sources = {
            name: _SourceReader(name, source, row, *special.get(name, ()))
            for name, source in (sources or contract_sources(contract)).items()
        }
        self._by_topic: dict[str, list[_SourceReader]] = defaultdict(list)  # sources may share one
        for reading in self._sources.values():
            for topic in topics(reading.source):
                self._by_topic[bare(topic)].append(reading)

    def read(self, file_ends: Callable[[], None] = lambda: None) -> Iterator[int]:
        """The receipt of each message [ns], when its rows have been given. file_ends: called when all
        of a file have been. Raises DataRefused where a topic carries another type than the contract's."""
        return read_messages(self._bag, self._choose, self.losses, file_ends)

    def check_topics(self) -> None:
        """Raises DataRefused where the bag that was read has no topic of a source."""
        there = {bare(topic) for topic in self._topics}
        for name, own in self._sources.items():
            if not there & set(map(bare, topics(own.source))):
                named = ", ".join(sorted(self._topics)[:MAX_NAMED]) or "no topic that can be read"
                raise DataRefused(
                    f"{self._bag.path} has no topic {own.source.topic!r}, which the contract needs for "
                    f"{name!r}; it has {named}{self._damage()}"
                )

    def check_observed(self, who: str, but: Collection[str] = ()) -> None:
        """Raises DataRefused where an observation said nothing that can be used. who: observes it; but:
        names of those that have been seen otherwise."""
        observed = [self._sources[o.name] for o in self._contract.observations if o.name not in but]
        silent = [own.source.topic for own in observed if not own.heard]
        if silent:
            raise DataRefused(
                f"{self._bag.path} has no usable message on {', '.join(silent)}, which the {who} "
                f"observes{self._damage()}"
            )

    def _damage(self) -> str:
        return f"; damage: {'; '.join(self.losses)}" if self.losses else ""

    def _choose(self, channel: Channel) -> Take | None:
        self._topics.add(channel.topic)
        topic = bare(channel.topic)
        # A camera may be there raw and compressed: the first that comes is read, and no image twice.
        sources = [s for s in self._by_topic.get(topic, []) if s.topic in ("", topic)]
        for own in sources:
            own.topic = topic
            check_type(self._bag.path, own.source, channel)
        uses = [*_together(sources), *self._also(channel)]
        if not uses:
            return None
        take = decoded(channel, uses, self.losses)
        commands = [own for own in sources if own.command]
        return _watched(take, commands) if commands else take


def decoded(channel: Channel, uses: Sequence[Use], losses: Losses) -> Take:
    """Decodes a channel's messages for `uses`; where nothing does, each of them is counted."""
    try:
        store = typestore(channel, losses)
    except Damage as damage:
        return undecodable(channel, damage, losses)[1]
    return take_with(channel, store, uses, losses)


def undecodable(channel: Channel, damage: Damage, losses: Losses) -> tuple[str, Take]:
    """Why a channel's messages cannot be decoded, and what counts them."""
    why = f"{bare(channel.topic)}: {damage}"
    return why, lambda receipt, raw: losses.add(why)


class _SourceReader:
    """The messages of one source, as they come."""

    def __init__(
        self,
        name: str,
        source: Source,
        row: Row,
        decode: Callable[[Any], bytes] | None = None,
        width: int | None = None,
    ) -> None:
        self.source, self.command = source, isinstance(source, ActionSpec)
        self.heard = False  # anything that can be used
        self.topic = ""  # as it is in the bag, once it was seen
        self.pending = False  # a message has come and is not dealt with
        self._name, self._row, self._decode = name, row, Decoder(source, decode)
        self._width = source.width if width is None else width

    def take(self, msg: Any, receipt: int) -> None:
        """Raises whatever a message that does not fit leads to."""
        try:
            stamp, values = self._decode(msg, receipt)
            array("q", (stamp, receipt))  # raises where they are no times
            if len(values) != 8 * self._width:
                raise SchemaError(f"{len(values) // 8} numbers of {self._width}")
        except Others:
            self.pending = False  # no command of this one's
            raise
        except Exception:
            if self.command:
                with contextlib.suppress(Exception):
                    stamp = self._decode.stamp(msg, receipt)
                    array("q", (stamp, receipt))
                    self.refuse(stamp, receipt)
            raise
        self.pending, self.heard = False, True
        self._row(self._name, stamp, receipt, values)

    def refuse(self, stamp: int, receipt: int) -> None:
        """A command that cannot be used says when nothing is known."""
        self.pending = False
        self._row(self._name, stamp, receipt, None)


def _together(sources: Sequence[_SourceReader]) -> list[Use]:
    """What takes a message of a topic that several sources may read: counted once, and not where it
    need not be theirs."""
    if len(sources) == 1 and not merges(sources[0].source):
        return [sources[0].take]
    actions = sum(own.command for own in sources)

    def use(msg: Any, receipt: int) -> None:
        failed, taken, others = None, False, None
        for own in sources:
            try:
                own.take(msg, receipt)
                taken = True
            except Exception as error:
                if about_others(own.source, actions, error):
                    others = None if merges(own.source) else error
                else:
                    failed = failed or error
        if failed is None and not taken:
            failed = others
        if failed is not None:
            raise failed

    return [use] if sources else []


def _watched(take: Take, commands: Sequence[_SourceReader]) -> Take:
    """A command of which not even the stamp can be read is refused at its receipt."""

    def watched(receipt: int, raw: bytes | memoryview) -> None:
        for own in commands:
            own.pending = True
        take(receipt, raw)
        for own in commands:
            if own.pending:
                own.refuse(receipt, receipt)

    return watched
