"""Message types of a bag: by its own definitions, where it has them, else those of ROS 2.

rosbags compiles definitions to Python. What a bag says is checked before that, so that a file from
somewhere else can neither name things that are no names nor ask for arrays without end.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from qgf_ros.bags.damage import ZSTD_MAGIC, Damage, Losses, inflate_message

STORE = Stores.ROS2_KILTED
MAX_DEFINITION = 2**18  # characters
MAX_UNROLLED = 2**14  # elements of fixed arrays of messages and strings: code is made for each
MOST_EMPTY = 3  # arrays of a message whose missing alignment is looked for
IDL = "=" * 80 + "\n"
TYPE_NAME = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*){1,2}", re.ASCII)
FIELD_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


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
    uses: Sequence[Callable[[Any, int], None]],
    losses: Losses,
) -> Take:
    """Decodes each message of a channel once, for all its uses; what raises is counted."""
    topic = channel.topic.strip("/")

    def take(receipt: int, raw: bytes | memoryview) -> None:
        try:
            if raw[:4] == ZSTD_MAGIC:
                raw = inflate_message(raw)
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


def typestore(channel: Channel) -> Typestore:
    """What decodes a channel's messages. Raises Damage where nothing does."""
    if channel.encoding != "cdr":
        raise Damage(f"messages are encoded as {channel.encoding!r}, only 'cdr' can be read")
    return _store(channel.type, channel.definition)


@lru_cache(256)
def _store(name: str, definition: Definition) -> Typestore:
    known = _known()
    if not definition.text.strip():
        if name not in known.fielddefs:
            raise Damage(f"type {name!r} is not known, and the bag does not define it")
        return known
    try:
        types = _parse(name, definition)
        for missing in _missing(types, known.fielddefs):
            types[missing] = known.fielddefs[missing]
        _check(name, types)
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        store.get_msgdef(name)
        digest = store.hash_rihs01(name) if definition.digest else ""
    except Damage:
        raise
    except Exception as error:  # the parsers raise what they run into
        text = " ".join(str(error).split())[:100]
        raise Damage(f"definition of {name!r}: {type(error).__name__}: {text}") from None
    if digest != definition.digest:
        raise Damage(f"definition of {name!r} is not the one it was recorded with: other hash")
    return store


@lru_cache(1)
def _known() -> Typestore:
    return get_typestore(STORE)


def _parse(name: str, definition: Definition) -> dict[str, Any]:
    """Type name -> (constants, fields), as rosbags has them."""
    if len(definition.text) > MAX_DEFINITION or not TYPE_NAME.fullmatch(name):
        raise Damage(f"definition of {name[:80]!r}: too long, or not a type's name")
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


def referred(fields: Any) -> set[str]:
    """Types that fields refer to."""
    inner = [desc[1][0] if desc[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else desc for _, desc in fields]  # fmt: skip
    return {desc[1] for desc in inner if desc[0] == Nodetype.NAME}


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


def _check(name: str, types: dict[str, Any]) -> None:
    """Raises Damage where a definition is not one of plain, bounded fields."""
    unrolled = 0
    for type_name, (constants, fields) in types.items():
        names = {type_name, *referred(fields)}
        if not all(TYPE_NAME.fullmatch(n) for n in names) or not all(
            FIELD_NAME.fullmatch(f[0]) for f in (*constants, *fields)
        ):
            raise Damage(f"definition of {name!r} has names that are none")
        for _, desc in fields:
            if desc[0] == Nodetype.ARRAY:
                (kind, inner), length = desc[1]
                plain = kind == Nodetype.BASE and inner[0] not in ("string", "wstring")
                unrolled += 0 if plain else length
    if unrolled > MAX_UNROLLED:
        raise Damage(f"definition of {name!r} has fixed arrays of {unrolled} messages or strings")
