"""The node's settings from the file that the node reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qgf_ros.control.settings import TABLE, read
from qgf_ros.errors import UsageError
from qgf_ros.files.strict_yaml import load_yaml

NODES = ("/**", "/*", "qgf", "/qgf")  # sections of a parameter file that are the node's


def load_settings(file: Path) -> dict[str, Any]:
    """What a node with this parameter file is given, by name, but for its beta: a replay has its own.

    Raises:
        UsageError: a parameter that there is not, a value that it cannot have, or one that cannot
            be replayed.
    """
    content = load_yaml(file)
    try:
        values = read(_parameters(content))
        for spec in TABLE:
            if spec.unrepeatable and values[spec.name] != spec.default:
                value, default = (str(v).lower() for v in (values[spec.name], spec.default))
                raise UsageError(
                    f"{spec.name} is {value}; {spec.unrepeatable}, which a replay cannot repeat: "
                    f"replay with {default}"
                )
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    return values | {"beta": None}


def _parameters(content: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node, section in content.items() if isinstance(content, Mapping) else ():
        if node not in NODES:
            continue
        if not isinstance(section, Mapping) or not isinstance(
            section.get("ros__parameters"), Mapping
        ):
            raise UsageError(f"{node} has no ros__parameters")
        found.update(_flat("", section["ros__parameters"]))
    if not found:
        raise UsageError(f"no parameters of the node: a section out of {', '.join(NODES)}")
    return found


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """guidance: {support: true} is guidance.support, as for ROS."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
