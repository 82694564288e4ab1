"""Log lines that a flood of one fault cannot turn into a flood of lines."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

PER_SECOND = 5  # lines per reason
MAX_REASONS = 256  # remembered at a time


class ThrottledLog:
    """At most five lines per second and reason; the next one says how many were left out."""

    def __init__(self, logger: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lines: dict[str, deque[float]] = {}
        self._left_out: dict[str, int] = {}
        self._lock = threading.Lock()

    # One call each on a line of its own: rclpy refuses a call site that changes its severity.

    def info(self, reason: str, text: str) -> None:
        if (line := self._line(reason, text)) is not None:
            self._logger.info(line)

    def warning(self, reason: str, text: str) -> None:
        if (line := self._line(reason, text)) is not None:
            self._logger.warning(line)

    def error(self, reason: str, text: str) -> None:
        if (line := self._line(reason, text)) is not None:
            self._logger.error(line)

    def _line(self, reason: str, text: str) -> str | None:
        now = self._clock()
        with self._lock:
            if len(self._lines) >= MAX_REASONS and reason not in self._lines:
                self._lines.clear()
                self._left_out.clear()
            lines = self._lines.setdefault(reason, deque(maxlen=PER_SECOND))
            if len(lines) == PER_SECOND and now - lines[0] < 1.0:
                self._left_out[reason] = self._left_out.get(reason, 0) + 1
                return None
            lines.append(now)
            left_out = self._left_out.pop(reason, 0)
        return f"{text} (and {left_out} more like it)" if left_out else text
