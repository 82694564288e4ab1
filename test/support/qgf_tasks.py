"""Tasks for the workers of a pool, which find them by this module's name."""

import os
import signal
import threading
import time
from pathlib import Path


def begun(path):
    """Says who does it, and takes for ever; its last words are another file."""
    draft = Path(f"{path}.draft")
    draft.write_text(str(os.getpid()))
    draft.rename(path)
    try:
        time.sleep(600)
    finally:
        Path(f"{path}.ended").touch()


def deaf(path):
    """As `begun`, and hears no signal, as in native code that takes for ever."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    begun(path)


def fails(path):
    """Once `begun` has begun."""
    until = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < until:
        time.sleep(0.02)
    raise ValueError("one fails")


def where(item):
    """Who does it."""
    return item, os.getpid(), threading.current_thread().name
