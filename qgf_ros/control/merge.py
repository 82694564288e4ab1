"""Messages that hold some of the joints each, to what is known of all: the newest of every joint.

One rule for the node, the gate, replay and training. The whole is stamped by its oldest joint, so
that `max_age` counts for each of them.
"""

from __future__ import annotations

import numpy as np

from qgf_ros.spaces.observations.source import ObservationSource


class Merger:
    """What is known of the joints of one source with `merge: joints`."""

    def __init__(self, source: ObservationSource) -> None:
        self._names = source.names
        shape = (len(source.fields), len(source.names))
        self._values = np.full(shape, np.nan)
        self._stamp = np.full(len(source.names), np.iinfo(np.int64).min)  # ns, by joint

    def clear(self) -> None:
        """No joint has spoken."""
        self._stamp[:] = np.iinfo(np.int64).min

    @property
    def unheard(self) -> tuple[str, ...]:
        """Joints that have not spoken yet."""
        never = self._stamp == np.iinfo(np.int64).min
        return tuple(n for n, silent in zip(self._names, never) if silent)

    def add(
        self, stamp: int, values: np.ndarray, there: np.ndarray
    ) -> tuple[int, np.ndarray] | None:
        """Takes a message as `Joints.decode_some` gives it. A number that is not finite changes
        nothing, and is handed on for whoever judges that; so is a late message, which does not
        replace a newer one.

        Args:
            stamp: when its numbers were true [ns].

        Returns:
            The oldest stamp [ns] and the numbers of all joints, as `decode` gives them; None while
            there is a joint that has not spoken.
        """
        parts = values.reshape(self._values.shape)
        if not np.isfinite(parts[:, there]).all():
            return stamp, np.where(there, parts, self._values).reshape(-1)
        newer = there & (stamp >= self._stamp)
        self._values[:, newer] = parts[:, newer]
        self._stamp[newer] = stamp
        if self.unheard:
            return None
        return int(self._stamp.min()), self._values.reshape(-1).copy()
