"""Buffered messages to one observation, or the reason why there is none.

Times are integer ns on the control clock, so that a replay is exact; ages are seconds. Only the
newest message of a source is kept. Nothing missing is ever filled in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from qgf_ros.control.checks.base import StateCheck
from qgf_ros.control.checks.clocks import FUTURE_TOLERANCE, ahead
from qgf_ros.control.checks.frozen import Frozen
from qgf_ros.control.merge import Merger
from qgf_ros.control.notices import Notices
from qgf_ros.control.reasons import Code, Problem
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.source import ObservationSource

# How far a message may be behind the newest source when it comes, the largest of: periods, a share of
# its own max_age (what is late by more than two periods says so there), and the time that a wireless link
# or a busy executor takes at times [s]. An image's `latency` comes on top.
SKEW_PERIODS, SKEW_SHARE, SKEW_LEAST = 2, 1 / 3, 1 / 30


@dataclass(frozen=True)
class Observation:
    """The state at a tick."""

    vector: np.ndarray  # (O,) float64, robot units
    stamp: int  # ns, newest stamp among the sources: noise is drawn by it
    age: float  # s, of the oldest source
    stamps: tuple[int, ...] = ()  # ns, of each source's message, in the contract's order


@dataclass(frozen=True)
class _Latest:
    stamp: int
    receipt: int
    values: np.ndarray


class Assembler:
    """One slot per source. `push` may be called from another thread than `assemble`.

    checks: what is asked of every state; none: any finite state is one.
    hold_if_frozen: a frozen sensor is a problem, not a warning alone.
    """

    def __init__(
        self,
        contract: Contract,
        checks: tuple[StateCheck, ...] = (),
        notices: Notices | None = None,
    ) -> None:
        """notices: where warnings go."""
        self._sources = {o.name: o for o in contract.observations}
        self._width = {o.name: len(o.labels) for o in contract.observations}
        self._delay = {o.name: round(o.delay * 1e9) for o in contract.observations}
        self._max_age = {o.name: round(contract.max_age(o) * 1e9) for o in contract.observations}
        least = round(max(SKEW_PERIODS * contract.time.period, SKEW_LEAST) * 1e9)
        # An image's features are late by the contract's `latency`, and training has paired them so.
        late = {o.name: round(o.latency * 1e9) for o in contract.recorded.cameras}
        self._max_skew = {
            n: max(least, round(SKEW_SHARE * a)) + late.get(n, 0) for n, a in self._max_age.items()
        }
        if contract.outcome.goal is not None:  # what was said once is true at every moment
            del self._max_skew[contract.outcome.goal.observation]
        self._mergers = {o.name: Merger(o) for o in contract.observations if o.merge}
        self.checks = checks
        self._notices = notices or Notices()
        self._frozen = Frozen(contract)
        self._unstamped: set[str] = set()
        self.hold_if_frozen = False
        self.dropped = 0
        self._latest: dict[str, _Latest] = {}
        self.clear()

    def clear(self, keep: str = "") -> None:
        """Forgets everything: nothing counts as seen.

        keep: a source that is only said once. What it said stays, as if it came with the next tick.
        """
        self._kept = keep
        self._latest = {name: m for name, m in self._latest.items() if name == keep}
        for merger in self._mergers.values():
            merger.clear()
        self._broken: dict[str, Problem] = {}
        self._nonfinite: set[str] = set()  # whose newest message was not finite
        self._frozen.clear()
        self.state_score = float("nan")  # of the last observation, see bounds.py

    def push(self, name: str, stamp: int, receipt: int, values: np.ndarray) -> None:
        """Offers a message. What cannot be used is counted, and the last good one is kept.

        Args:
            stamp: when the values were true; 0 is no stamp, and then `receipt` counts.
            values: the numbers of the message, in the order of the source's `labels`.
        """
        source = self._sources[name]
        if values.shape != (self._width[name],):
            self.reject(
                name,
                "STATE_SCHEMA",
                f"{values.shape[0]} numbers where {self._width[name]} are expected",
            )
            return
        features = source.features(values)
        if not source.usable(values, features):
            self.dropped += 1  # the last good one ages until it is too old
            self._nonfinite.add(name)
            return
        if stamp == 0:
            stamp = receipt
            self._unstamped_came(source, receipt)
        if ahead(stamp, receipt):
            self.reject(
                name, "STATE_FUTURE", f"stamped {(stamp - receipt) * 1e-9:.3f} s in the future"
            )
            return
        held = self._latest.get(name)
        if held is not None and stamp < held.stamp:
            self.dropped += 1
            return
        latest = _Latest(stamp, receipt, np.array(features, dtype=np.float64))
        self._latest[name] = latest
        self._frozen.heard(name, latest.values)
        self._broken.pop(name, None)
        self._nonfinite.discard(name)

    def push_some(
        self, name: str, stamp: int, receipt: int, values: np.ndarray, there: np.ndarray
    ) -> None:
        """Offers a message with some of the joints of a source with `merge: joints`, as
        `Joints.decode_some` gives it; else as `push`."""
        merger = self._mergers[name]
        if stamp == 0:
            stamp = receipt
            self._unstamped_came(self._sources[name], receipt)
        if ahead(stamp, receipt):  # it must not stand in for what comes later
            self.push(name, stamp, receipt, np.zeros(self._width[name]))
            return
        merged = merger.add(stamp, values, there)
        if merged is None:
            self._broken[name] = Problem(
                "STATE_MISSING",
                self._sources[name].topic,
                f"{self._sources[name].topic}: waiting for {', '.join(merger.unheard[:8])}",
            )
            return
        self.push(name, merged[0], receipt, merged[1])

    def _unstamped_came(self, source: ObservationSource, now: int) -> None:
        """Said once: whoever has such a driver has read it, and may have no other."""
        if source.stamp == "header" and source.name not in self._unstamped:
            self._unstamped.add(source.name)
            said = f"{source.topic} has stamp 0; the time of arrival counts"
            self._notices.note(now, Problem("STAMP_ZERO", source.topic, said))

    def reject(self, name: str, code: Code, detail: str) -> None:
        """Notes that a source's newest message is unusable; it stays so until a good one comes."""
        self.dropped += 1
        topic = self._sources[name].topic
        self._broken[name] = Problem(code, topic, f"{topic}: {detail}")

    def sent(self, now: int, values: np.ndarray | None) -> None:
        """What the robot was sent at `now`, (A,); None: nothing. Once per period."""
        self._frozen.sent(now, values)

    def assemble(self, now: int) -> Observation | Problem:
        """The observation at tick `now`, or the first problem in the contract's order."""
        self.state_score = float("nan")
        if self._kept in self._latest:
            self._latest[self._kept] = replace(self._latest[self._kept], stamp=now, receipt=now)
        self._kept = ""
        latest = dict(self._latest)  # one look: `push` goes on meanwhile
        problem = self._missing(latest) or self._untimely(now, latest) or self._stuck(now)
        if problem is not None:
            return problem
        vector = np.concatenate([latest[name].values for name in self._sources])
        for check in self.checks:
            judged = check.judge(vector)
            if not math.isnan(judged.score):
                self.state_score = judged.score
            if judged.problem is not None:
                return judged.problem
            if judged.warning is not None:
                self._notices.note(now, judged.warning)
        return Observation(
            vector=vector,
            stamp=max(m.stamp for m in latest.values()),
            age=max(self._age(now, n, m) for n, m in latest.items()) * 1e-9,
            stamps=tuple(latest[name].stamp for name in self._sources),
        )

    def _missing(self, latest: dict[str, _Latest]) -> Problem | None:
        """Sources whose newest message cannot be used, or that have none."""
        for name in self._sources:
            broken = self._broken.get(name)  # one look: `push` may clear it meanwhile
            if broken is not None:
                return broken
        missing = [s.topic for n, s in self._sources.items() if n not in latest]
        if not missing:
            return None
        bad = [s for n, s in self._sources.items() if n in self._nonfinite - set(latest)]
        why = {s.kind.unusable: [x.topic for x in bad if x.kind is s.kind] for s in bad}
        return Problem(
            "STATE_MISSING",
            ",".join(missing),
            f"waiting for {', '.join(missing)}"
            + "".join(
                f"; on {', '.join(topics)} came only messages that were {said}"
                for said, topics in why.items()
            ),
        )

    def _untimely(self, now: int, latest: dict[str, _Latest]) -> Problem | None:
        """Sources that are too old, from the future, or of another moment than the others."""
        for name, source in self._sources.items():
            age, limit = self._age(now, name, latest[name]), self._max_age[name]
            if age > limit:
                spoilt = name in self._nonfinite
                return Problem(
                    "STATE_NONFINITE" if spoilt else "STATE_STALE",
                    source.topic,
                    f"{source.topic} is {age * 1e-9:.3f} s old, allowed {limit * 1e-9:.3f} s"
                    + (f"; newer messages were {source.kind.unusable}" if spoilt else ""),
                )
            early = (latest[name].stamp - now - self._delay[name]) * 1e-9
            if early > FUTURE_TOLERANCE:
                return Problem(
                    "STATE_FUTURE",
                    source.topic,
                    f"{source.topic} is {early:.3f} s ahead of the clock",
                )
        newest = max(m.stamp for m in latest.values())
        for name, limit in self._max_skew.items():
            # When it came, not now: a slow source waits for its next message, and max_age says for
            # how long. A source's `delay` is no skew either: the policy has learnt with it.
            behind = min(newest, latest[name].receipt) - latest[name].stamp
            if behind > limit:
                topic = self._sources[name].topic
                return Problem(
                    "STATE_SKEW",
                    topic,
                    f"{topic} came {behind * 1e-9:.3f} s behind the newest topic, "
                    f"allowed {limit * 1e-9:.3f} s",
                )
        return None

    def _stuck(self, now: int) -> Problem | None:
        """Sensors that do not answer to what is commanded."""
        for name, source in self._sources.items():
            if not (seconds := self._frozen.seconds(name, now)):
                continue
            said = f"{source.topic} has repeated itself for {seconds:.1f} s of commanded motion"
            self._notices.note(now, Problem("FROZEN", source.topic, said))
            if self.hold_if_frozen:
                return Problem("STATE_FROZEN", source.topic, said)
        return None

    def _age(self, now: int, name: str, message: _Latest) -> int:
        """By stamp, and by receipt where the stamp lies ahead of it: that makes nothing younger."""
        return now - min(message.stamp, message.receipt) + self._delay[name]

    def ages(self, now: int) -> dict[str, float]:
        """Age of each source's newest good message [s], NaN where there is none."""
        return {
            name: self._age(now, name, m) * 1e-9 if (m := self._latest.get(name)) else float("nan")
            for name in self._sources
        }
