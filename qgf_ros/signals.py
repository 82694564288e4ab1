"""What a handler of a signal may do: set a flag, and nothing that takes a lock.

A handler runs between any two instructions of the main thread, those of another handler among them.
`threading.Event.set` takes a lock that its own thread cannot take twice: a second signal in the middle of
the first one's `set` waits for itself, for ever, and the process hears nothing any more. A terminal, and
`ros2 launch`, send two.
"""

from __future__ import annotations

import time

SLICE = 0.05  # s, how soon whoever waits notices


class Flag:
    """Set by a handler, looked at by everybody."""

    def __init__(self) -> None:
        self._set = False

    def set(self, *_: object) -> None:
        """A handler as it is: its arguments mean nothing."""
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> bool:
        """Until it is set, or so long. -> whether it is."""
        until = time.monotonic() + seconds
        while not self._set and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE))
        return self._set
