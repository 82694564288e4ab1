"""The node's parameters that a sample or a command depends on, from the file that the node reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgf_ros.errors import UsageError
from qgf_ros.files.share import share_folder
from qgf_ros.files.strict_yaml import load_yaml
from qgf_ros.guidance.guards import guards_of
from qgf_ros.guidance.protocols import UNGUARDED, Guards
from qgf_ros.policy.folder import Policy

NODES = ("/**", "/*", "qgf", "/qgf")  # sections of a parameter file that are the node's
UNSET = {"guidance.only": "", "beta": math.nan, "policy": "", "policies": ""}  # not in the defaults
RANGES = {"seed": (0, 2**31), "num_candidates": (1, 64), "blend_steps": (0, 64),
          "limits_scale": (0.01, 1.0), "state_bound": (0.0, math.inf)}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """At the node's defaults."""

    seed: int = 0
    num_candidates: int = 1
    blend_steps: int = 0
    limits_scale: float = 1.0
    state_bound: float = 1.0
    hold_if_frozen: bool = False
    guards: Guards = UNGUARDED


def load_settings(file: Path | None, policy: Policy) -> Settings:
    """What a node with this parameter file does; None: with its defaults.

    Raises:
        UsageError: a parameter that there is not, a value that it cannot have, or one that cannot
            be replayed.
    """
    values = {**UNSET, **_parameters(share_folder() / "config" / "default.yaml")}
    given = _parameters(file) if file is not None else {}
    unknown = sorted(set(given) - set(values) - {"use_sim_time"})
    if unknown:
        raise UsageError(f"{file}: unknown parameters {', '.join(unknown)}")
    for name, value in given.items():
        values[name] = _checked(file, name, value, values.get(name, False))
    if values["real_time_chunking"]:
        raise UsageError(
            f"{file}: real_time_chunking is true; when it asks for a chunk depends on measured "
            "latency, which a replay cannot repeat: replay with false"
        )
    own = {name: values[name] for name in (*RANGES, "hold_if_frozen")}
    return Settings(**own, guards=guards_of(values, policy))


def _parameters(file: Path) -> dict[str, Any]:
    content = load_yaml(file)
    found: dict[str, Any] = {}
    for node, section in content.items() if isinstance(content, Mapping) else ():
        if node not in NODES:
            continue
        if not isinstance(section, Mapping) or not isinstance(
            section.get("ros__parameters"), Mapping
        ):
            raise UsageError(f"{file}: {node} has no ros__parameters")
        found.update(_flat("", section["ros__parameters"]))
    if not found:
        raise UsageError(
            f"{file} has no parameters of the node: a section out of {', '.join(NODES)}"
        )
    return found


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """guidance: {support: true} is guidance.support, as for ROS."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def _checked(file: Path | None, name: str, value: Any, default: Any) -> Any:
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise UsageError(
            f"{file}: {name} must be of type {type(default).__name__}, not {type(value).__name__} "
            f"{value!r}"
        )
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise UsageError(f"{file}: {name} is {value:g}; allowed: {low:g} to {high:g}")
    if name.startswith("guidance.") and isinstance(value, (int, float)) and not value >= 0:
        raise UsageError(f"{file}: {name} is {value:g}; it must not be negative")
    return value
