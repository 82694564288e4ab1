"""Where the robot's joints are measured to be, for who needs nothing else of the state."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from qgf_ros.control.checks.clocks import ahead
from qgf_ros.control.merge import Merger
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.joints import Joints, Others
from qgf_ros.spaces.observations.source import ObservationSource


class MeasuredPositions:
    """The newest measured position of each joint that is commanded by position."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._of = contract.measured
        whole = {a.measured[a.kind.measured_whole] for a in contract.actions if a.kind.measured_whole}
        index = contract.measured_positions
        self._observed = np.full(len(contract.observation_names), np.nan)
        self._since: dict[str, int] = {}  # ns, by source: its stamp or its receipt, the earlier one
        self._part = {
            name: part
            for name, part in contract.observation_slices.items()
            if name in whole or any(part.start <= at < part.stop for at in index)
        }
        self._mergers = {o.name: Merger(o) for o in contract.observations if o.merge}

    @property
    def sources(self) -> list[ObservationSource]:
        """Those of the contract that hold such a position; none for velocities."""
        return [o for o in self._contract.observations if o.name in self._part]

    def push(self, source: ObservationSource, stamp: int, receipt: int, values: np.ndarray) -> None:
        """Takes the numbers of a message, in the order of the source's `labels`, true at `stamp`
        and received at `receipt` [ns, control clock]. A number that is not finite is an unknown one;
        so are all where the stamp lies ahead of the receipt by more than clocks may differ."""
        self._observed[self._part[source.name]] = source.features(values)
        if ahead(stamp, receipt):
            self._observed[self._part[source.name]] = np.nan
        self._since[source.name] = min(stamp, receipt)  # a stamp ahead makes nothing younger

    def push_message(self, source: ObservationSource, stamp: int, receipt: int, msg: Any) -> None:
        """Takes a message, true at `stamp`, received at `receipt` [ns]. Raises SchemaError where it is not one of the
        source's; one that only holds joints of others is ignored where it may come."""
        kind = message_type(source.type)
        if not (source.merge and isinstance(kind, Joints)):
            self.push(source, stamp, receipt, kind.decode(msg, source.fields, source.names))
            return
        with contextlib.suppress(Others):
            some = kind.decode_some(msg, source.fields, source.names)
            merged = self._mergers[source.name].add(stamp, *some)
            if merged is not None:
                self.push(source, merged[0], receipt, merged[1])

    def at(self, now: int) -> np.ndarray:
        """(A,) positions by command, NaN for velocities and where none is known that is as young as
        the contract wants it, or it lies ahead of `now` [ns]."""
        observed = self._observed.copy()
        for source in self.sources:
            # In ns, as the assembler does: a message just as old as is allowed is of use to both.
            age = now - self._since.get(source.name, 0) + round(source.delay * 1e9)
            if age > round(self._contract.max_age(source) * 1e9) or ahead(-age, 0):
                observed[self._part[source.name]] = np.nan
        return self._of(np.where(np.isfinite(observed), observed, np.nan))
