"""Buffered messages to one observation, or the reason why there is none.

Times are integer ns on the control clock, so that a replay is exact; ages are seconds. Only the
newest message of a source is kept. Nothing missing is ever filled in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ros.contract import Contract
from qgf_ros.control.reasons import Problem

FUTURE_TOLERANCE = 0.1  # s: a stamp further ahead is no proof of freshness
LARGEST = float(
    np.finfo(np.float32).max
)  # the networks' arithmetic: beyond it a number is infinite
NO_STATE = "not finite, or held a quaternion of zeros"


@dataclass(frozen=True)
class Observation:
    """The state at a tick."""

    vector: np.ndarray  # (O,) float64, robot units
    stamp: int  # ns, newest stamp among the sources: noise is drawn by it
    age: float  # s, of the oldest source


@dataclass(frozen=True)
class _Latest:
    stamp: int
    values: np.ndarray


class Assembler:
    """One slot per source. `push` may be called from another thread than `assemble`."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._source = {o.name: o for o in contract.observations}
        self._width = {o.name: len(o.labels) for o in contract.observations}
        self._topic = {o.name: o.topic for o in contract.observations}
        self.dropped = 0
        self.state_score = float("nan")  # see bounds.py
        self.clear()

    def clear(self) -> None:
        """Forgets everything: nothing counts as seen."""
        self._latest: dict[str, _Latest] = {}
        self._broken: dict[str, Problem] = {}
        self._nonfinite: set[str] = set()  # whose newest message was not finite

    def push(self, name: str, stamp: int, receipt: int, values: np.ndarray) -> None:
        """Offers a message. What cannot be used is counted, and the last good one is kept.

        Args:
            stamp: when the values were true; 0 is no stamp, and then `receipt` counts.
            values: the numbers of the message, in the order of the source's `labels`.
        """
        if values.shape != (self._width[name],):
            self.reject(
                name,
                "STATE_SCHEMA",
                f"{values.shape[0]} numbers where {self._width[name]} are expected",
            )
            return
        values = self._source[name].features(values)
        if not (np.abs(values) <= LARGEST).all():  # NaN compares false
            self.dropped += 1  # the last good one ages until it is too old
            self._nonfinite.add(name)
            return
        stamp = stamp or receipt
        if (stamp - receipt) * 1e-9 > FUTURE_TOLERANCE:
            self.reject(
                name, "STATE_FUTURE", f"stamped {(stamp - receipt) * 1e-9:.3f} s in the future"
            )
            return
        held = self._latest.get(name)
        if held is not None and stamp < held.stamp:
            self.dropped += 1
            return
        self._latest[name] = _Latest(stamp, np.array(values, dtype=np.float64))
        self._broken.pop(name, None)
        self._nonfinite.discard(name)

    def reject(self, name: str, code: str, detail: str) -> None:
        """Notes that a source's newest message is unusable; it stays so until a good one comes."""
        self.dropped += 1
        self._broken[name] = Problem(
            f"{code}:{self._topic[name]}", f"{self._topic[name]}: {detail}"
        )

    def assemble(self, now: int) -> Observation | Problem:
        """The observation at tick `now`, or the first problem in the contract's order."""
        for name in self._width:
            broken = self._broken.get(name)  # one look: `push` may clear it meanwhile
            if broken is not None:
                return broken
        missing = [self._topic[n] for n in self._width if n not in self._latest]
        if missing:
            bad = [self._topic[n] for n in self._width if n in self._nonfinite - set(self._latest)]
            return Problem(
                "STATE_MISSING:" + ",".join(missing),
                f"waiting for {', '.join(missing)}"
                + (f"; on {', '.join(bad)} came only messages that were {NO_STATE}" if bad else ""),
            )
        ages = self.ages(now)
        for source in self._contract.observations:
            limit = self._contract.max_age(source)
            if ages[source.name] > limit:
                age, spoilt = ages[source.name], source.name in self._nonfinite
                return Problem(
                    f"STATE_{'NONFINITE' if spoilt else 'STALE'}:{source.topic}",
                    f"{source.topic} is {age:.3f} s old, allowed {limit:.3f} s"
                    + (f"; newer messages were {NO_STATE}" if spoilt else ""),
                )
            if ages[source.name] < -FUTURE_TOLERANCE:
                return Problem(
                    f"STATE_FUTURE:{source.topic}",
                    f"{source.topic} is {-ages[source.name]:.3f} s ahead of the clock",
                )
        latest = [self._latest[n] for n in self._width]
        return Observation(
            vector=np.concatenate([m.values for m in latest]),
            stamp=max(m.stamp for m in latest),
            age=max(ages.values()),
        )

    def ages(self, now: int) -> dict[str, float]:
        """Age of each source's newest good message [s], NaN where there is none."""
        return {
            o.name: (now - m.stamp) * 1e-9 + o.delay
            if (m := self._latest.get(o.name))
            else float("nan")
            for o in self._contract.observations
        }
