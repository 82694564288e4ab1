"""Where an episode of many attempts is cut, message by message, by the rules of training
(`training.pipeline.attempts`): an outcome ends an attempt, and so does what `outcome.attempts` says; the
next one begins once what ended it no longer holds."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from qgf_ros.control.checks.clocks import ahead
from qgf_ros.replay.ending import Held
from qgf_ros.replay.events import BagMessage
from qgf_ros.spaces.contract import Contract

What = Literal["", "ended", "other", "again", "found"]


ORDER = {"failure": 0, "success": 1}
CLOSE: dict[What, Literal["", "ended", "cut", "dropped"]] = {
    "": "", "ended": "ended", "other": "cut", "again": "dropped", "found": "dropped"
}  # fmt: skip


class Turn(NamedTuple):
    """What a message means for the attempt that goes on, if it means something.

    close: `ended` by an outcome, `cut`, or `dropped`: what began after `since` is none.
    begin: ns, from when on another goes on; None: none does, until it is said.
    """

    close: Literal["", "ended", "cut", "dropped"]
    begin: int | None
    since: int = 0  # ns


class Attempts:
    """Follows one bag."""

    def __init__(self, contract: Contract) -> None:
        spec = contract.outcome.attempts
        assert spec is not None
        self._sources: dict[str, _Level | _Moments | _Goal] = {}
        for name in ("success", "failure"):
            source = getattr(contract.outcome, name)
            if source is not None and source.condition is not None:
                self._sources[name] = _Level(Held(source.condition, contract.max_age(source)))
            elif source is not None:
                self._sources[name] = _Moments(name, contract.max_age(source))
        if spec.end == "goal":
            goal = _Goal(contract)
            self._sources |= dict.fromkeys(goal.names, goal)
        self._trackers = list(dict.fromkeys(self._sources.values()))
        self._heard: list[BagMessage] = []  # of one moment
        self._goes_on = True

    def anew(self) -> None:
        """Another episode: what held before does not count."""
        self._goes_on = True
        for tracker in self._trackers:
            tracker.forget()

    def hear(self, said: BagMessage) -> None:
        """Takes a message; what it means `settle` says, when all of one moment are there."""
        if said.name not in self._sources or ahead(said.stamp, said.at):
            return
        if said.name in ("success", "failure") and not np.isfinite(said.values).all():
            return
        self._heard.append(said)

    def settle(self) -> list[Turn]:
        """What the messages of the last moment mean: a failure counts first, then a success, then a
        goal; of one source as they are sorted in training."""
        heard, self._heard = sorted(self._heard, key=_order), []
        turns = []
        for number, said in enumerate(heard):
            tracker = self._sources[said.name]
            tracker.hear(said)
            following = heard[number + 1] if number + 1 < len(heard) else None
            goes_on = following is not None and self._sources[following.name] is tracker
            if not (goes_on and isinstance(tracker, _Goal)):
                begin = said.at + isinstance(tracker, _Moments)
                turn = self._turn(tracker.said(), begin, tracker.since)
                turns += [turn] if turn is not None else []
        return turns

    def _turn(self, what: What, begin: int, since: int) -> Turn | None:
        """begin: ns; of a moment, the next attempt begins with the first tick after it."""
        holds = any(tracker.active for tracker in self._trackers)
        went_on, self._goes_on = self._goes_on, not holds
        if not went_on and what != "again":
            return Turn("", begin) if not holds else None
        return Turn(CLOSE[what], None if holds else begin, since) if what else None


def _order(said: BagMessage) -> tuple[int, list[float]]:
    outcome = said.name in ORDER
    return ORDER.get(said.name, len(ORDER)), said.values.tolist() if outcome else []


class _Level:
    """A field test: a success lasts until a message says that it does not hold."""

    since = 0

    def __init__(self, held: Held) -> None:
        self._held = held
        self.forget()

    def forget(self) -> None:
        self._held.since = self._held.newest = None
        self._spoken = self.active = False
        self._what: What = ""

    def said(self) -> What:
        what, self._what = self._what, ""
        return what

    def hear(self, said: BagMessage) -> None:
        if self._held.newest is not None and said.stamp < self._held.newest:
            return
        first, self._spoken = not self._spoken, True
        reached = self._held.reached(said.stamp, said.values)
        if self._held.since is None:  # it does not hold
            self.active = False
        elif first:  # it was not reached here
            self.active, self._what = True, "found"
        elif reached and not self.active:
            self.active, self._what = True, "ended"


class _Moments:
    """Messages that say an outcome each; those that say the same within `max_age` are one."""

    active = False  # another attempt may begin at once: it is dropped where this goes on

    def __init__(self, name: str, max_age: float) -> None:
        self._success, self._max_age = name == "success", round(max_age * 1e9)
        self.forget()

    def forget(self) -> None:
        self._last: tuple[bool, int] | None = None  # what was said, and when [ns]
        self._what: What = ""
        self.since = 0  # ns, the message before, where it said the same

    def said(self) -> What:
        what, self._what = self._what, ""
        return what

    def hear(self, said: BagMessage) -> None:
        true, last = bool(said.values[0]), self._last
        if not (true or self._success):  # false says nothing of a failure
            self._last = None
            return
        self._last = (true, said.at)
        goes_on = last is not None and last[0] == true and said.at - last[1] <= self._max_age
        self._what = "again" if goes_on else "ended"
        self.since = last[1] if last is not None else 0


class _Goal:
    """Whether the goal is reached, and whether it is another one."""

    since = 0

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
        self._seen: dict[str, tuple[int, list[float]]] = {}  # stamp [ns], features
        self._given: list[float] | None = None  # the goal that counts as the same
        self._known = self._other = self.active = False

    def hear(self, said: BagMessage) -> None:
        source = self._sources[said.name]
        features = source.features(said.values)
        late = said.name in self._seen and said.stamp < self._seen[said.name][0]
        if late or not source.usable(said.values, features):
            return
        self._seen[said.name] = (said.stamp, features.tolist())
        if said.name == self._observation:
            goal = features.tolist()
            other = self._given is not None and math.dist(goal, self._given) > self._radius
            self._given = goal if self._given is None or other else self._given
            self._other |= other

    def said(self) -> What:
        other, self._other = self._other, False
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
