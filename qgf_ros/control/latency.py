"""Rolling latency figures."""

from __future__ import annotations

import numpy as np

SHARES = np.array([0.5, 0.99, 1.0])


class Latency:
    """The last `size` durations. `add` is cheap; the percentiles are for a few times a second."""

    def __init__(self, size: int = 1000) -> None:
        self._seconds = np.zeros(size)
        self._added = 0

    def add(self, seconds: float) -> None:
        self._seconds[self._added % len(self._seconds)] = seconds
        self._added += 1

    def clear(self) -> None:
        """Begins anew."""
        self._added = 0

    def percentiles_ms(self) -> tuple[float, float, float]:
        """p50, p99 and the largest [ms]; NaN where nothing was measured."""
        count = min(self._added, len(self._seconds))
        if not count:
            return (float("nan"),) * 3
        # As np.percentile has it, which keeps Python's lock from the control thread for longer.
        ordered = np.sort(self._seconds[:count]) * 1e3
        p50, p99, largest = np.interp(SHARES * (count - 1), np.arange(count), ordered)
        return float(p50), float(p99), float(largest)
