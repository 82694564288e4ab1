"""Where an episode of many attempts is cut, message by message, by the rules of training
(`training.data.attempts`): an outcome ends an attempt, and so does what `outcome.attempts` says; the
next one begins once what ended it no longer holds."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from qgf_ros.contract import Contract
from qgf_ros.control.usable import ahead, usable
from qgf_ros.replay.ending import Held
from qgf_ros.replay.events import Said

What = Literal["", "ended", "other", "again", "found"]


class Turn(NamedTuple):
    """What a message means for the attempt that goes on, if it means something.

    close: `ended` by an outcome, `cut`, or `dropped`: what was done since its beginning is none.
    begin: ns, from when on another goes on; None: none does, until it is said.
    """

    close: Literal["", "ended", "cut", "dropped"]
    begin: int | None


class Attempts:
    """Follows one bag."""

    def __init__(self, contract: Contract) -> None:
        spec = contract.outcome.attempts
        assert spec is not None
        self._sources: dict[str, _Level | _Moments] = {}
        for name in ("success", "failure"):
            source = getattr(contract.outcome, name)
            if source is not None and source.condition is not None:
                self._sources[name] = _Level(Held(source.condition, contract.max_age(source)))
            elif source is not None:
                self._sources[name] = _Moments(name, contract.max_age(source))
        self._goal = _Goal(contract) if spec.end == "goal" else None
        self._goes_on = True

    def anew(self) -> None:
        """Another episode: what held before does not count."""
        self._goes_on = True
        for source in (*self._sources.values(), *([self._goal] if self._goal else [])):
            source.forget()

    def hear(self, said: Said) -> Turn | None:
        """None: everything goes on as it does."""
        source = self._sources.get(said.name)
        if ahead(said.stamp, said.at):
            return None
        if source is not None and np.isfinite(said.values).all():
            what = source.hear(said)
        elif self._goal is not None and said.name in self._goal.names:
            what = self._goal.hear(said)
        else:
            return None
        holds = any(s.active for s in self._sources.values())
        holds |= self._goal is not None and self._goal.active
        # Of a moment, the next attempt begins with the first tick after it.
        begin = said.at + (isinstance(source, _Moments) and not source.released)
        went_on, self._goes_on = self._goes_on, not holds
        if went_on:
            if not what:
                return None
            close: Literal["ended", "cut", "dropped"] = "dropped"
            if what in ("ended", "other"):
                close = "ended" if what == "ended" else "cut"
            return Turn(close, None if holds else begin)
        return Turn("", begin) if not holds else None


class _Level:
    """A field test: a success lasts until a message says that it does not hold."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self.forget()

    def forget(self) -> None:
        self._held.since = self._held.newest = None
        self._spoken = self.active = False

    def hear(self, said: Said) -> What:
        if self._held.newest is not None and said.stamp < self._held.newest:
            return ""
        first, self._spoken = not self._spoken, True
        reached = self._held.reached(said.stamp, said.values)
        if self._held.since is None:  # it does not hold
            self.active = False
        elif first:  # it was not reached here
            self.active = True
            return "found"
        elif reached and not self.active:
            self.active = True
            return "ended"
        return ""


class _Moments:
    """Messages that say an outcome each; those that say the same within `max_age` are one."""

    active = False

    def __init__(self, name: str, max_age: float) -> None:
        self._success, self._max_age = name == "success", round(max_age * 1e9)
        self.forget()

    def forget(self) -> None:
        self._last: tuple[bool, int] | None = None  # what was said, and when
        self.released = False  # `failure` has just said that it is over

    def hear(self, said: Said) -> What:
        true, last = bool(said.values[0]), self._last
        self.released = not self._success and not true
        if self.released:
            self._last = None
            return "again" if last is not None else ""
        self._last = (true, said.at)
        if last is not None and last[0] == true and said.at - last[1] <= self._max_age:
            return "again"
        return "ended"


class _Goal:
    """Whether the goal is reached, and whether it is another one."""

    def __init__(self, contract: Contract) -> None:
        spec = contract.outcome.goal
        assert spec is not None
        self._radius, self._observation = spec.radius, spec.observation
        self._sources = {o.name: o for o in contract.observations}
        places = {
            f"{o.name}.{label}": (o.name, i)
            for o in contract.observations
            for i, label in enumerate(o.feature_labels)
        }
        self._achieved = [places[n] for n in spec.achieved]
        self.names = {spec.observation, *(name for name, _ in self._achieved)}
        self.forget()

    def forget(self) -> None:
        self._seen: dict[str, tuple[int, list[float]]] = {}
        self._given: list[float] | None = None  # the goal that counts as the same
        self._known = self.active = False

    def hear(self, said: Said) -> What:
        source = self._sources[said.name]
        features = source.features(said.values)
        late = said.name in self._seen and said.stamp < self._seen[said.name][0]
        if late or not usable(source, said.values, features):
            return ""
        self._seen[said.name] = (said.stamp, features.tolist())
        other = False
        if said.name == self._observation:
            goal = features.tolist()
            other = self._given is not None and math.dist(goal, self._given) > self._radius
            self._given = goal if self._given is None or other else self._given
        if self._seen.keys() < self.names:
            return "other" if other else ""
        first, self._known = not self._known, True
        was, at = self.active, [self._seen[name][1][i] for name, i in self._achieved]
        self.active = math.dist(at, self._seen[self._observation][1]) <= self._radius
        if other:
            return "other"
        if self.active and not was:
            return "found" if first else "ended"
        return ""
