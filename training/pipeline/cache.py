"""Where prepared data is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`QGF_CACHE`, else qgf_ros in the user's cache folder."""
    given = os.environ.get("QGF_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(home) / "qgf_ros"
