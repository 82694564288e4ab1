"""The contract's outcome topics as the judge, by the rules that training has for them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.outcome import EndSource


class Judge:
    """Listens from `begin` on for the first word of success or failure."""

    def __init__(self, contract: Contract) -> None:
        named = {"success": contract.outcome.success, "failure": contract.outcome.failure}
        self.sources: dict[str, EndSource] = {n: s for n, s in named.items() if s is not None}
        self._max_age = {name: contract.max_age(s) for name, s in self.sources.items()}
        self.begin()

    def begin(self) -> None:
        """Nothing was said yet."""
        self.verdict: Literal["success", "failure"] | None = None
        self._since: dict[str, int] = {}  # ns, from when on a field test has held
        self._last: dict[str, int] = {}

    def hear(self, name: str, stamp: int, values: np.ndarray) -> None:
        """The numbers (d,) of one message of a source, and when they were true [ns]."""
        if self.verdict is not None:
            return
        condition = self.sources[name].condition
        if condition is None:
            if values[0] != 0:
                self.verdict = "success" if name == "success" else "failure"
            elif name == "success":  # its first message ends the episode, and says how
                self.verdict = "failure"
            return
        broken = stamp - self._last.get(name, stamp) > self._max_age[name] * 1e9
        self._last[name] = stamp
        if not condition.holds(values[None])[0]:
            self._since.pop(name, None)
            return
        since = stamp if broken else self._since.get(name, stamp)
        self._since[name] = since
        if stamp - since >= condition.seconds * 1e9:
            self.verdict = "success" if name == "success" else "failure"
