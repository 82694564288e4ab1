"""The operator's words: single keys of the terminal, or a topic that says the same."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator

KEYS = {
    " ": "start",
    "\n": "start",
    "\r": "start",
    "s": "success",
    "f": "failure",
    "i": "intervention",
    "a": "abort",
    "u": "undo",
    "r": "reset",
    "q": "quit",
}
WORDS = frozenset(KEYS.values())


class Keys:
    """Keys of the terminal as words. Where stdin is no terminal there are none."""

    def __init__(self) -> None:
        self.there = sys.stdin is not None and sys.stdin.isatty()
        self.lost = False  # the terminal is gone, and the operator with it

    @contextlib.contextmanager
    def raw(self) -> Iterator[None]:
        """Each key counts at once, unechoed; the terminal is given back as it was, however this ends."""
        if not self.there:
            yield
            return
        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
        try:
            tty.setcbreak(handle, termios.TCSANOW)
            yield
        finally:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(handle, termios.TCSADRAIN, before)

    def pressed(self, timeout: float) -> list[str]:
        """Words of the keys pressed within `timeout` s, as soon as there are any."""
        if not self.there or self.lost:
            time.sleep(timeout)
            return []
        handle = sys.stdin.fileno()
        if not select.select([handle], [], [], timeout)[0]:
            return []
        try:
            typed = os.read(handle, 64)
        except OSError:
            typed = b""
        self.lost = not typed
        if typed.startswith(b"\x1b"):  # an arrow or a function key; its letters are no words
            return []
        return [KEYS[k] for k in typed.decode(errors="replace").lower() if k in KEYS]

    def forget(self) -> None:
        """What was typed before it was asked for is no answer."""
        if self.there:
            with contextlib.suppress(termios.error):
                termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
