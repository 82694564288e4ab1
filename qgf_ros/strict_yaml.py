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

T = TypeVar("T")
MERGE = "tag:yaml.org,2002:merge"
FILL_IN = "FILL_IN"  # what a draft writes where only a person knows: nothing loads with it
MAX_BYTES = 4 * 2**20  # no configuration of ours comes near


def load_yaml(path: Path) -> Any:
    """Parses a YAML file. Raises UsageError if it is missing, too large or not YAML."""
    try:
        with path.open("rb") as file:
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
    try:
        return _UniqueKeys(data).get_single_data()
    except _ToFillIn as error:
        line = data.decode(errors="replace").splitlines()[error.line].strip()[:500]
        raise UsageError(
            f"{where}, line {error.line + 1}: {FILL_IN} stands for what only you can know; write it "
            f"there, and nothing is guessed: {line}"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


class _ToFillIn(Exception):
    def __init__(self, line: int) -> None:
        self.line = line


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets the last of two equal keys win: limits that were pasted twice would be the wrong ones."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if node.value == FILL_IN and getattr(node, "style", None) is None:
            raise _ToFillIn(node.start_mark.line)
        return super().construct_scalar(node)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != MERGE]  # type: ignore[no-untyped-call]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


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
        raise UsageError(f"{where} must be a mapping with keys, not {_shown(value)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(
                f"{where} has an unknown key {key!r}{meant} (allowed: {', '.join(fields)})"
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
        if value not in args:
            raise UsageError(f"{where} is {value!r}; allowed: {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where} must be a list, not {_shown(value)}")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} must be a mapping, not {_shown(value)}")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
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
    raise UsageError(f"{where} must be a {hint.__name__}, not {_shown(value)}")


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
