"""Rolling latency figures."""

from __future__ import annotations

from collections import deque

import numpy as np


class Latency:
    """The last `size` durations. `add` is cheap; the percentiles are for a few times a second."""

    def __init__(self, size: int = 1000) -> None:
        self._seconds: deque[float] = deque(maxlen=size)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def clear(self) -> None:
        """Begins anew."""
        self._seconds.clear()

    def percentiles_ms(self) -> tuple[float, float, float]:
        """p50, p99 and the largest [ms]; NaN where nothing was measured."""
        if not self._seconds:
            return (float("nan"),) * 3
        p50, p99, largest = np.percentile(list(self._seconds), [50, 99, 100]) * 1e3
        return float(p50), float(p99), float(largest)
