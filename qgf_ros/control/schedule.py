"""What is executed when: one chunk, until the next one takes over."""

from __future__ import annotations

import numpy as np

from qgf_ros.control.chunk import Chunk, blend

MAX_REUSE = 2  # ticks the last action may be repeated while the next chunk is late


class Schedule:
    """The current chunk by the time law. Times in ns on the control clock.

    blend_steps: actions over which a new chunk takes over from the last; 0: at once.
    """

    def __init__(self, period: int, span: np.ndarray, blend_steps: int = 0) -> None:
        """span: (A,) width of each command's range; seam jumps are told as shares of it."""
        self._period = period
        self._span = span
        self.blend_steps = blend_steps
        self.clear()

    def clear(self) -> None:
        """Nothing is scheduled, and nothing was executed."""
        self._chunk: Chunk | None = None
        self._executed = 0
        self._last: np.ndarray | None = None  # (A,) what was executed last

    def covers(self, now: int) -> bool:
        """There is an action for `now`."""
        return self._chunk is not None and 0 <= self._index(now) < len(self._chunk.actions)

    def exhausted(self, now: int, steps: int) -> bool:
        """`steps` actions of the chunk have had their turn: it is time for the next."""
        return self._chunk is None or self._index(now) >= steps

    def take(self, now: int) -> np.ndarray | None:
        """(A,) the action that is executed at `now`. A late next chunk lets this one go on to its end."""
        rest = self._rest(now)
        if not len(rest):
            return None
        self._executed += 1
        self._last = rest[0]
        return self._last

    @property
    def begun(self) -> bool:
        """Something was executed."""
        return self._last is not None

    def repeat(self) -> np.ndarray | None:
        """(A,) the last action once more; None before the first one."""
        return self._last

    def committed(self, now: int, count: int) -> np.ndarray | None:
        """(k, A) the next actions from `now` on, 0 < k <= count; None where there are none."""
        rest = self._rest(now)[:count]
        return rest if len(rest) else None

    def adopt(self, chunk: Chunk, now: int, committed: np.ndarray | None) -> tuple[Chunk, float]:
        """The chunk as it is executed from `now` on, and the jump at the seam.

        Where the old chunk still has actions the command goes from them to the new ones; the
        committed ones are executed as they were promised.

        Returns:
            The chunk, and the largest |new - old| where it takes over, before blending, as a share
            of the command's range: old is the old chunk's action for that tick, or the last one
            that was executed. NaN for the first chunk of an epoch.
        """
        actions, held = chunk.actions.copy(), 0 if committed is None else len(committed)
        if committed is not None:
            actions[:held] = committed
        seam = max(chunk.index(now, self._period), held)
        old, jump = self._rest(chunk.start + seam * self._period), float("nan")
        if 0 <= seam < len(actions):
            before = old[0] if len(old) else self._last if not held else actions[held - 1]
            if before is not None:
                jump = float(np.max(np.abs(actions[seam] - before) / self._span))
            actions[seam:] = blend(old, actions[seam:], self.blend_steps)
        self._chunk = Chunk(chunk.start, actions, chunk.epoch, chunk.sequence)
        return self._chunk, jump

    def share_executed(self) -> float:
        """Of the current chunk, which is about to be replaced; NaN without one. Counts anew."""
        share = self._executed / len(self._chunk.actions) if self._chunk else float("nan")
        self._executed = 0
        return share

    def _index(self, now: int) -> int:
        assert self._chunk is not None
        return self._chunk.index(now, self._period)

    def _rest(self, now: int) -> np.ndarray:
        """(k, A) the current chunk from `now` on; k = 0 where it has no action for `now`."""
        if not self.covers(now):
            return np.empty((0, len(self._span)))
        assert self._chunk is not None
        return self._chunk.actions[self._index(now) :]
