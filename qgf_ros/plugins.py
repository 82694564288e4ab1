"""Tables of kinds that others can add to: our own by name, and what installed packages offer beside them
by entry points. Nothing is imported before it is asked for by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from qgf_ros.errors import UsageError


@dataclass(frozen=True)
class Kinds:
    """One table.

    what: what its entries are called in messages ("world"). group: of entry points. own: name ->
    "module" or "module:attribute", as an entry point has it.
    """

    what: str
    group: str
    own: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Our own first, each in its order; a foreign one of the same name does not take its place."""
        return (*self.own, *(n for n in self._foreign() if n not in self.own))

    def load(self, name: str) -> Any:
        """The module or attribute of that name.

        Raises:
            UsageError: there is none, or the package that offers it cannot be imported.
        """
        point = self._own(name) or self._foreign().get(name)
        if point is None:
            raise UsageError(
                f"{self.what} {name!r} is not known; allowed: {', '.join(self.names)}; an installed package "
                f"adds one by the entry-point group {self.group}"
            )
        if name in self.own:
            return point.load()
        try:
            return point.load()
        except Exception as error:  # of somebody else's code, whatever it raises
            brought = f" of {point.dist.name}" if point.dist is not None else ""
            raise UsageError(
                f"{self.what} {name!r}{brought} cannot be imported from {point.value}: "
                f"{type(error).__name__}: {error}; install that package again"
            ) from error

    def _own(self, name: str) -> EntryPoint | None:
        return EntryPoint(name, self.own[name], self.group) if name in self.own else None

    def _foreign(self) -> dict[str, EntryPoint]:
        return dict(_offered(self.group, tuple((folder, _changed(folder)) for folder in sys.path)))


@lru_cache(64)
def _offered(group: str, path: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:
    """By name. To look opens a file of every installed package, and readers ask for each recording."""
    return {p.name: p for p in sorted(entry_points(group=group), key=lambda p: p.name)}


def _changed(folder: str) -> int:
    """When something was last installed there or taken away, in ns; -1 where nothing can be."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return -1
