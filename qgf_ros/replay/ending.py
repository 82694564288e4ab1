"""Whether an outcome's topic has just said that the episode is over, message by message."""

from __future__ import annotations

import numpy as np

from qgf_ros.replay.events import BagMessage
from qgf_ros.spaces.condition import Condition
from qgf_ros.spaces.contract import Contract


class Ending:
    """What ends an episode in training (`training.pipeline.readers.rewards.ending`): the first message on
    success, a true one on failure, or a field test that has held for as long as it says."""

    def __init__(self, contract: Contract) -> None:
        self._plain: set[str] = set()
        self._tests: dict[str, Held] = {}
        for name in ("success", "failure"):
            source = getattr(contract.outcome, name)
            if source is not None and source.condition is not None:
                self._tests[name] = Held(source.condition, contract.max_age(source))
            elif source is not None:
                self._plain.add(name)

    def anew(self) -> None:
        """Another episode: what held before does not count."""
        for test in self._tests.values():
            test.since = test.newest = None

    def said(self, said: BagMessage) -> bool:
        """Once per episode, or, where nobody says when one starts, each time that it is said."""
        if not np.isfinite(said.values).all():
            return False
        if said.name in self._plain:
            return said.name == "success" or bool(said.values[0])
        test = self._tests.get(said.name)
        return test is not None and test.reached(said.stamp, said.values)


class Held:
    """A field test over a stream of messages; one that is older than the newest is passed over."""

    def __init__(self, condition: Condition, max_age: float) -> None:
        self._condition, self._max_age = condition, round(max_age * 1e9)
        self._lasts = round(condition.seconds * 1e9)
        self.since: int | None = None  # ns, first stamp of the run in which it holds
        self.newest: int | None = None  # ns

    def reached(self, stamp: int, values: np.ndarray) -> bool:
        """Whether it has held for long enough with this message, and had not with the one before."""
        last = self.newest
        if last is not None and stamp < last:
            return False
        self.newest = stamp
        if not self._condition.holds(values[None])[0]:
            self.since = None
            return False
        broken = self.since is None or last is None or stamp - last > self._max_age
        before = None if broken else last
        if broken:
            self.since = stamp
        assert self.since is not None
        reached_before = before is not None and before - self.since >= self._lasts
        return stamp - self.since >= self._lasts and not reached_before
