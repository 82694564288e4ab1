"""YAML into frozen dataclasses, strictly: an unknown or missing key, or a value of another type,
is an error that names the place, what was given and what is allowed."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from qgf_ros.errors import UsageError
from qgf_ros.files.regular import open_regular

T = TypeVar("T")
FILL_IN = "FILL_IN"  # what a draft writes where only a person knows: nothing loads with it
MAX_BYTES = 4 * 2**20  # no configuration of ours comes near
MAX_NODES = 200_000  # scalars, lists and mappings; so many take seconds to parse
MAX_DEPTH = 32
MAX_NUMBER = 64  # characters; PyYAML reads hexadecimal and base 60 of any length, in quadratic time
SHOWN = 60  # characters of a value that an error quotes


def shown(value: Any, limit: int = SHOWN) -> str:
    """A value of unknown size and content for an error's text: printable, at most about `limit`
    characters, and at a cost that does not grow with the value."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"{ascii_of(value[:limit])}{f'... ({len(value)} characters)' * (len(value) > limit)}"
    if isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        small = value.bit_length() <= 128
        return str(value) if small else f"an integer of {value.bit_length()} bits"
    if isinstance(value, (bytes, list, tuple, set, frozenset, dict)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def ascii_of(text: str) -> str:
    """Quoted as by repr, but lone surrogates and control characters are escaped and other letters
    stay, so that the result can always be printed, logged and sent."""
    return repr(text).encode("utf-8", "backslashreplace").decode("utf-8")


def clipped(text: object, limit: int = 300) -> str:
    """An error's own text on one line, printable and bounded: libraries quote what they were given."""
    line = " ".join(str(text)[: 4 * limit].split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= limit else f"{line[:limit]}..."


def checked_text(value: str, what: str, longest: int, lines: bool = False) -> None:
    """Text that goes into messages and logs: every character can be sent and printed.

    lines: line breaks and tabs are allowed. Raises ValueError.
    """
    if len(value) > longest:
        raise ValueError(f"{what} has {len(value)} characters; at most {longest}")
    wrong = [c for c in value if not (c.isprintable() or (lines and c in "\n\t"))]
    if wrong:
        raise ValueError(
            f"{what} holds the character U+{ord(wrong[0]):04X}, which cannot be printed or sent; leave it out"
        )


def load_yaml(path: Path) -> Any:
    """Parses a YAML file. Raises UsageError if it is missing, no regular file, too large or not YAML."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes, where: str) -> Any:
    """Parses YAML text. Raises UsageError if it is none."""
    if len(data) > MAX_BYTES:
        raise UsageError(
            f"{where} is larger than {MAX_BYTES} bytes; it is not a configuration file"
        )
    loader: _Strict | None = None
    try:
        # Else a mark at its beginning would make it UTF-16. What is not printable is refused.
        loader = _Strict(data.decode("utf-8-sig"))
        return loader.get_single_data()
    except _ToFillIn as error:
        line = data.decode(errors="replace").splitlines()[error.line].strip()
        raise UsageError(
            f"{where}, line {error.line + 1}: {FILL_IN} stands for what only you can know; write it "
            f"there, and nothing is guessed: {clipped(line, 500)}"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise UsageError(f"{where} is not valid YAML: {clipped(error)}") from None
    finally:
        if loader is not None:
            loader.dispose()


class _ToFillIn(Exception):
    def __init__(self, line: int) -> None:
        self.line = line


class _Strict(yaml.SafeLoader):
    """Plain YAML alone: the size of the result is that of the text.

    Aliases and merge keys are refused (12 KB of nested ones are 10^8 elements). YAML lets the last
    of two equal keys win: limits that were pasted twice would be the wrong ones.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._refused("anchors (&) and aliases (*) are not read; write it out", event)
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_NODES:
            raise self._refused(f"more than {MAX_NODES} values", event)
        if self._depth > MAX_DEPTH:
            raise self._refused(f"nested deeper than {MAX_DEPTH}", event)
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(str(node.value)) > MAX_NUMBER:
            raise self._refused(f"a number of {len(str(node.value))} characters", node)
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
        ) as error:  # of a tag on a wrong value
            raise self._refused(
                f"{shown(node.tag)} does not fit its value ({type(error).__name__})", node
            ) from None

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if node.value == FILL_IN and getattr(node, "style", None) is None:
            raise _ToFillIn(node.start_mark.line)
        return super().construct_scalar(node)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise self._refused("a mapping was expected", node)
        keys: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise self._refused("merge keys (<<) are not read; write it out", key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._refused("a key is a list or a mapping; keys are plain", key_node)
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                raise self._refused(f"the key {shown(key)} is there twice", key_node)
            keys.add(key)
        return super().construct_mapping(node, deep)

    @staticmethod
    def _refused(what: str, at: Any) -> yaml.constructor.ConstructorError:
        return yaml.constructor.ConstructorError(None, None, what, at.start_mark)


def build(cls: type[T], value: Any, where: str) -> T:
    """A dataclass from a mapping, checked against the field types.

    Args:
        cls: a frozen dataclass; its `__post_init__` may raise ValueError for a bad value.
        value: what YAML gave.
        where: the place, for messages, e.g. "contract.yaml: observations[0]".

    Raises:
        UsageError: naming the place, what was given and what is allowed.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must be a mapping with keys, not {_typed(value)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1) if _short(key) else []
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(
                f"{where} has an unknown key {shown(key)}{meant} (allowed: {', '.join(fields)})"
            )
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where} lacks the key {name!r}")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is typing.Literal:
        if not isinstance(value, (str, int)) or value not in args:
            raise UsageError(f"{where} is {shown(value)}; allowed: {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where} must be a list, not {_typed(value)}")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} must be a mapping, not {_typed(value)}")
        return {_key(k, where): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise UsageError(f"{where} is an integer beyond what a float can hold") from None
        if math.isnan(number):
            raise UsageError(f"{where} is NaN")
        return number
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise UsageError(f"{where} must be a {hint.__name__}, not {_typed(value)}")


def _typed(value: Any) -> str:
    """With its type, where `shown` does not say it: "str '5'" is not 5."""
    plain = value is not None and isinstance(value, (str, int, float))
    return f"{type(value).__name__} {shown(value)}" if plain else shown(value)


def _short(key: Any) -> bool:
    return isinstance(key, str) and len(key) <= SHOWN


def _key(key: Any, where: str) -> str:
    """A key that is itself a name; a joint may be called 1."""
    text = str(key) if type(key) is not int or key.bit_length() <= 128 else ""
    if not 0 < len(text) <= 200 or not text.isprintable():
        raise UsageError(
            f"{where} has the key {shown(key)}; keys have 1 to 200 printable characters"
        )
    return text
