"""JSON from outside: what a key that is there twice means, nobody knows, so it is refused."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from qgf_ros.files.strict_yaml import clipped


def parse_json(text: str | bytes) -> Any:
    """As `json.loads`. Raises ValueError also where a key is there twice."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {clipped(repr(key), 80)} is there twice")
    return found
