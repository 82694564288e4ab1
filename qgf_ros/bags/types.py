"""Message types of a bag: by its own definitions, where it has them, else those of ROS 2.

rosbags compiles definitions to Python. What a bag says is checked before that, so that a file from
somewhere else can neither name things that are no names nor ask for arrays without end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from qgf_ros.bags.damage import ZSTD_MAGIC, Damage, Losses, inflate_message
from qgf_ros.bags.definitions import (
    MAX_DEFINITION,
    MAX_OBJECTS,
    check_text,
    check_types,
    longest_message,
    referred,
    statements,
)
from qgf_ros.bags.msg_files import find_msg

STORE = Stores.ROS2_KILTED
MAX_PARSED = 2**15  # statements of all definitions of one bag
EACH_TYPE = 50  # statements that take as long as what every type costs
MOST_EMPTY = 3  # arrays of a message whose missing alignment is looked for
IDL = "=" * 80 + "\n"


@dataclass(frozen=True)
class Definition:
    """How a bag defines a type: ros2msg or ros2idl text; empty where it does not."""

    encoding: str = ""
    text: str = ""
    digest: str = ""  # RIHS01 hash, where the bag has one beside the text


@dataclass(frozen=True)
class Channel:
    """A topic as one file has it."""

    topic: str
    type: str  # "sensor_msgs/msg/JointState"
    encoding: str  # "cdr"
    definition: Definition

    @property
    def short_type(self) -> str:
        """As contracts write it: "sensor_msgs/JointState"."""
        return self.type.replace("/msg/", "/")


Use = Callable[[Any, int], None]  # a decoded message, receipt in ns; raises where it does not fit
Take = Callable[
    [int, bytes | memoryview], None
]  # what becomes of a message: receipt in ns, serialised
Message = tuple[Take, int, bytes | memoryview]  # and who takes it
Choose = Callable[[Channel], Take | None]  # None: the channel's messages are not wanted


def long_type(short: str) -> str:
    package, name = short.split("/")
    return f"{package}/msg/{name}"


def take_with(
    channel: Channel,
    store: Typestore,
    uses: Sequence[Use],
    losses: Losses,
) -> Take:
    """Decodes each message of a channel once, for all its uses; what raises is counted."""
    topic = channel.topic.strip("/")
    longest = longest_message(channel.type, store.fielddefs)

    def take(receipt: int, raw: bytes | memoryview) -> None:
        try:
            if raw[:4] == ZSTD_MAGIC:
                raw = inflate_message(raw, losses)
            if len(raw) > longest:
                raise Damage(f"{len(raw)} bytes may become more than {MAX_OBJECTS} objects")
            msg = _decoded(store, raw, channel.type)
        except Exception as error:  # noise in a message: whatever decoding runs into
            losses.add(f"{topic}: {type(error).__name__}: {error}")
            return
        for use in uses:
            try:
                use(msg, receipt)
            except Exception as error:
                losses.add(f"{topic}: {type(error).__name__}: {error}")

    return take


def _decoded(store: Typestore, raw: bytes | memoryview, type_name: str) -> Any:
    try:
        return store.deserialize_cdr(raw, type_name)
    except SerdeError:
        # rclpy's serialize_message counts the alignment of an empty array's numbers, which nobody
        # writes, and leaves as many bytes at the end: a JointState without efforts has 8 too many.
        for surplus in range(4, 8 * MOST_EMPTY + 1, 4):
            with contextlib.suppress(SerdeError):
                msg = store.deserialize_cdr(raw[:-surplus], type_name)
                empty = sum(isinstance(v, np.ndarray) and not v.size for v in vars(msg).values())
                if surplus <= 8 * empty:
                    return msg
        raise


def typestore(channel: Channel, losses: Losses) -> Typestore:
    """What decodes a channel's messages. `losses`: of the bag, which also counts how much code was
    made for it. Raises Damage where nothing does."""
    if channel.encoding != "cdr":
        raise Damage(f"messages are encoded as {channel.encoding!r}, only 'cdr' can be read")
    definition = channel.definition
    if not definition.text.strip():
        if channel.type in _known().fielddefs:
            return _known()
        definition = _from_msg_files(channel.type)
    if losses.parsed.setdefault((channel.type, definition), 0) == 0:
        losses.parsed[channel.type, definition] = EACH_TYPE + statements(definition.text)
        if sum(losses.parsed.values()) > MAX_PARSED:
            raise Damage(
                f"definition of {channel.type[:80]!r}: the bag has too many definitions, of more than "
                f"{MAX_PARSED} lines"
            )
    found = _store(channel.type, definition)
    if isinstance(found, Damage):
        raise found
    return found


@lru_cache(256)
def _store(name: str, definition: Definition) -> Typestore | Damage:
    try:
        types = _parse(name, definition)
        known = _known().fielddefs
        for missing in _missing(types, known):
            types[missing] = known[missing]
        check_types(name, types)
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        store.get_msgdef(name)
        digest = store.hash_rihs01(name) if definition.digest else ""
    except Damage as damage:
        return damage
    except Exception as error:  # the parsers raise what they run into
        text = " ".join(str(error).split())[:100]
        return Damage(f"definition of {name!r}: {type(error).__name__}: {text}")
    if digest != definition.digest:
        return Damage(f"definition of {name!r} is not the one it was recorded with: other hash")
    return store


def foreign_definitions(types: Iterable[str]) -> str:
    """What .msg files say of those of `types` ("package/Type") that ROS itself has not: what a bag
    is read by where it does not define them. "" where there are none."""
    texts = []
    for name in sorted({long_type(t) for t in types} - set(_known().fielddefs)):
        with contextlib.suppress(Damage):
            texts.append(f"{name}\n{_from_msg_files(name).text}")
    return "".join(texts)


def _from_msg_files(name: str) -> Definition:
    """The definition of a type that the bag does not define, by .msg files, with all that it
    consists of and ROS itself has not."""
    parts: dict[str, str] = {}
    missing = [name]
    while missing:
        wanted = missing.pop()
        text = find_msg(wanted)
        if text is None:
            what = f"its type {name}"
            if wanted != name:
                what += f" holds {wanted}, which"
            raise Damage(
                f"cannot be decoded, {what} is not defined in the bag; source its workspace, or give "
                "its .msg files with --msgs"
            )
        check_text(wanted, text, idl=False)
        parts[wanted] = text
        if sum(map(len, parts.values())) > MAX_DEFINITION:
            raise Damage(f"definition of {name!r}: its .msg files are too long")
        try:
            inner = referred(get_types_from_msg(text, wanted)[wanted][1])
        except Exception as error:  # the parser raises what it runs into
            why = " ".join(str(error).split())[:100]
            raise Damage(f"definition of {wanted!r}: {type(error).__name__}: {why}") from None
        missing += sorted(inner - set(parts) - set(missing) - set(_known().fielddefs))
    first, *rest = parts.items()
    return Definition("ros2msg", first[1] + "".join(f"{IDL}MSG: {n}\n{t}" for n, t in rest))


@lru_cache(1)
def _known() -> Typestore:
    return get_typestore(STORE)


def _parse(name: str, definition: Definition) -> dict[str, Any]:
    """Type name -> (constants, fields), as rosbags has them."""
    check_text(name, definition.text, idl=definition.encoding != "ros2msg")
    if definition.encoding == "ros2msg":
        return dict(get_types_from_msg(definition.text, name))
    if definition.encoding not in ("ros2idl", "omgidl"):
        raise Damage(f"definition of {name!r}: {definition.encoding!r} is not known")
    if not definition.text.startswith(f"{IDL}IDL: "):
        return dict(get_types_from_idl(definition.text))
    types: dict[str, Any] = {}
    for part in definition.text.split(IDL)[1:]:
        types |= get_types_from_idl(part.partition("\n")[2])
    return types


def _missing(types: dict[str, Any], known: Any) -> set[str]:
    """Types that the definitions use and do not define, but ROS does."""
    missing: set[str] = set()
    open_ends = [name for _, fields in types.values() for name in referred(fields)]
    while open_ends:
        name = open_ends.pop()
        if name not in types and name not in missing and name in known:
            missing.add(name)
            open_ends += referred(known[name][1])
    return missing
