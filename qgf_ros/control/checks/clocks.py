"""Whether a message's stamp can be believed: asked by the node and by training alike."""

from __future__ import annotations

from typing import Any

FUTURE_TOLERANCE = 0.1  # s: a stamp further ahead is no proof of freshness


def ahead(stamp: Any, receipt: Any) -> Any:
    """Whether a message is stamped further ahead of its receipt than clocks differ; ns, bool."""
    return stamp - receipt > round(FUTURE_TOLERANCE * 1e9)
