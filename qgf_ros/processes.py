"""Child processes that do not outlive their parent: what `executors` does work in.

`ProcessPoolExecutor` leaves its workers behind when the process that made it is killed, and waits
for the longest of them where one fails. Here a worker ends with its parent, however that ends, and
with the pool where that is left by an error, Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GIVE_UP = signal.SIGUSR1  # in a worker
GRACE = 3.0  # s that a task has for its last words

# In a worker, its main thread's own: a handler of a signal runs in no other.
_at_work = False  # a task is being done
_given_up = False


class GivenUp(BaseException):
    """What a task is told where its pool is given up."""


def signal_at_parents_death(number: int) -> str:
    """From now on the kernel sends this process that signal when its parent dies. A parent that was
    dead before is not noticed: whoever asks looks at `os.getppid()` afterwards.

    Returns: "", or why there is no such thing here.
    """
    if not sys.platform.startswith("linux"):
        return f"it is known on Linux, not on {sys.platform}"
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        return f"the kernel refused: {os.strerror(ctypes.get_errno())}"
    return ""


def end_with_parent() -> None:
    """In a child of `multiprocessing`: it is killed as soon as its parent is gone.

    By the kernel, at once, where that can be asked; by a thread in any case, which sees the end of
    the pipe that every such child has to its parent, as soon as native code lets go of the GIL.
    """
    parent = parent_process()
    assert parent is not None, "of a child of multiprocessing alone"
    signal_at_parents_death(signal.SIGKILL)
    if os.getppid() != parent.pid:  # it died before the kernel was asked
        os._exit(1)
    _watch(parent.sentinel, lambda: os._exit(1))


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """An executor of so many spawned processes, at least one (ValueError), to be entered, given work
    and left in one thread, which the kernel takes for the parent.

    Left in order, it waits for what was submitted. Left by an exception, what waits is cancelled, and
    what runs gets `GivenUp` raised, and is killed after `GRACE`. SIGTERM is such an exception while the
    pool is open, see `terminated`. Ctrl-C reaches the parent alone.
    """
    # spawn: a forked child would share torch's and rclpy's threads, which do not survive it
    context = get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    with theirs, ours, terminated(), _Pool(workers, context, _begin, (theirs,)) as pool:
        try:
            yield pool
        except BaseException:
            ours.close()  # each worker watches it
            pool.shutdown(cancel_futures=True)
            raise


class _Pool(ProcessPoolExecutor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_task, fn, *args, **kwargs)


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM is an exception (SystemExit, 143), so that what is open is closed; where the main thread
    asks for it and nobody else handles the signal."""

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    free = threading.current_thread() is threading.main_thread()
    if not free or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


# In a worker.


def _begin(pool: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of the group
    signal.signal(GIVE_UP, _on_give_up)
    end_with_parent()
    _watch(pool, _give_up)


def _watch(pipe: Connection | int, then: Callable[[], None]) -> None:
    """Calls `then` when the pipe's other end is closed."""

    def watch() -> None:
        wait([pipe])
        then()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _give_up() -> None:
    # Not killed at once: whoever reads a result that is being sent would wait for ever for the rest.
    signal.pthread_kill(threading.main_thread().ident or 0, GIVE_UP)
    time.sleep(GRACE)
    os._exit(1)


def _on_give_up(*_: object) -> None:
    global _given_up
    _given_up = True
    if _at_work:
        raise GivenUp


def _task(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    global _at_work
    _at_work = True
    try:
        if _given_up:
            raise GivenUp
        return fn(*args, **kwargs)
    finally:
        _at_work = False
