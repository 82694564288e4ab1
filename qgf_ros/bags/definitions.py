"""What a message definition may ask for. It comes out of a file, and code is made of it.

rosbags parses a definition, compiles functions from it, and makes Python objects of messages. Each
of the three is bounded here, before it begins: the text that is parsed, the numbers that code is
made for, and the objects that a message of some bytes can become.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rosbags.interfaces import Nodetype

from qgf_ros.bags.damage import Damage

MAX_DEFINITION = 2**18  # characters
MAX_STATEMENTS = 4096  # of one definition: lines, and what commas and semicolons divide
MAX_UNROLLED = 2**14  # numbers, texts and messages of one message, less what sequences add
MAX_DEPTH = 16  # messages inside of messages
MAX_OBJECTS = 2**20  # that one message may become; arrays of numbers are one each
IDL_COST = 4  # times as long as .msg to parse
PARENTHESES = 1  # in each other, in IDL: its parser tries every one of them many times over
BRACKETS = 8  # the same of the others, which cost it little
COMMENT = re.compile(r"#[^\n]*|//[^\n]*|/\*(?:.*?\*/|.*)", re.DOTALL)
BARE = re.compile(COMMENT.pattern + r'|"(?:\\.|[^"\\])*"', re.DOTALL)
TYPE_NAME = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*){1,2}", re.ASCII)
FIELD_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
SIZES = {
    "bool": 1, "byte": 1, "char": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "string": 5,
    "wstring": 5,
}  # bytes; the others are taken for 4  # fmt: skip
ARRAYS = (Nodetype.ARRAY, Nodetype.SEQUENCE)


def statements(text: str) -> int:
    """How much there is to parse and to compile."""
    bare = COMMENT.sub("", text)
    return sum(bool(line.strip()) for line in bare.split("\n")) + bare.count(",") + bare.count(";")


def check_text(name: str, text: str, idl: bool) -> None:
    """Raises Damage where a text is too much to parse."""
    if len(text) > MAX_DEFINITION or not TYPE_NAME.fullmatch(name):
        raise Damage(f"definition of {name[:80]!r}: too long, or not a type's name")
    if statements(text) * (IDL_COST if idl else 1) > MAX_STATEMENTS:
        raise Damage(f"definition of {name!r} has more than {MAX_STATEMENTS} lines")
    bare = BARE.sub("", text) if idl else ""
    if (
        IDL_COST * (bare.count("(") + text.count('"')) > MAX_STATEMENTS
        or "<<" in bare
        or _nested(bare, "()") > PARENTHESES
        or _nested(bare, "[]{}<>") > BRACKETS
    ):
        raise Damage(f"definition of {name!r} computes or is nested as no message type is")


def _nested(text: str, brackets: str) -> int:
    deepest = depth = 0
    for bracket in text:
        if bracket in brackets:
            depth += 1 if bracket in "([{<" else -1
            deepest = max(deepest, depth)
    return deepest


def referred(fields: Any) -> set[str]:
    """Types that fields refer to."""
    inner = [desc[1][0] if desc[0] in ARRAYS else desc for _, desc in fields]
    return {desc[1] for desc in inner if desc[0] == Nodetype.NAME}


def check_types(name: str, types: Mapping[str, Any]) -> None:
    """Raises Damage where a definition is not one of plain, bounded fields.

    types: type name -> (constants, fields), all that `name` consists of.
    """
    for type_name, (constants, fields) in types.items():
        names = {type_name, *referred(fields)}
        if not all(TYPE_NAME.fullmatch(n) for n in names) or not all(
            FIELD_NAME.fullmatch(f[0]) for f in (*constants, *fields)
        ):
            raise Damage(f"definition of {name!r} has names that are none")
    measures = _Measures(types)
    for type_name in (name, *types):
        if type_name not in types:
            raise Damage(f"definition of {name!r} lacks it")
        size = measures.of(type_name).objects
        if size > MAX_UNROLLED:
            raise Damage(
                f"definition of {name!r} is of {size} numbers or more, or of fixed arrays of as "
                f"many messages or strings; at most {MAX_UNROLLED} are read"
            )


@dataclass(frozen=True)
class _Measure:
    """Of one message, with every sequence empty."""

    objects: int  # that it becomes
    size: int  # bytes, at least
    density: float  # objects per byte that a sequence in it, or below, adds


class _Measures:
    def __init__(self, types: Mapping[str, Any]) -> None:
        self._types = types
        self._known: dict[str, _Measure] = {}

    def of(self, name: str, above: tuple[str, ...] = ()) -> _Measure:
        """Raises Damage where a type holds itself, or is nested too deeply."""
        if name in above:
            raise Damage(f"definition of {name!r}: it holds itself ({' in '.join(above[:4])})")
        if len(above) >= MAX_DEPTH:
            raise Damage(f"definition of {above[0]!r}: more than {MAX_DEPTH} messages in messages")
        if name not in self._known:
            if name not in self._types:
                raise Damage(f"definition of {(above or (name,))[0]!r}: {name!r} is not defined")
            parts = [self._field(desc, (*above, name)) for _, desc in self._types[name][1]]
            self._known[name] = _Measure(
                1 + sum(p.objects for p in parts),
                max(1, sum(p.size for p in parts)),
                max((p.density for p in parts), default=0.0),
            )
        return self._known[name]

    def _field(self, desc: Any, above: tuple[str, ...]) -> _Measure:
        kind, value = desc
        inner = value[0] if kind in ARRAYS else desc
        plain = inner[0] == Nodetype.BASE
        one = (
            _Measure(1, SIZES.get(inner[1][0], 4), 0.0) if plain else self.of(str(inner[1]), above)
        )
        numbers = plain and inner[1][0] not in ("string", "wstring")
        if kind == Nodetype.SEQUENCE:
            return _Measure(1, 4, 0.0 if numbers else max(one.density, one.objects / one.size))
        if kind != Nodetype.ARRAY:
            return one
        length = value[1]
        if length < 1:
            raise Damage(f"definition of {above[0]!r}: an array of {length} elements")
        objects = 1 if numbers else 1 + length * one.objects
        return _Measure(objects, length * one.size, one.density)


def longest_message(name: str, types: Mapping[str, Any]) -> float:
    """Bytes of a message beyond which it may become more than MAX_OBJECTS objects."""
    density = _Measures(types).of(name).density
    return MAX_OBJECTS / density if density else float("inf")
