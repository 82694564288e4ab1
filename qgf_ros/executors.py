"""Where independent pieces of work are done: one after the other here, in processes beside this one,
or where an executor of another package does them (a cluster). Everything that is done in parallel goes
through `each`.

Another executor is a function with the signature of `Executor`, and an entry point in the group
`qgf.executors`; the variable `QGF_EXECUTOR` chooses it by name.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from qgf_ros.plugins import Kinds
from qgf_ros.processes import process_pool, terminated

EXECUTORS = Kinds(
    "executor",
    "qgf.executors",
    {"inline": "qgf_ros.executors:inline", "processes": "qgf_ros.executors:processes"},
)
CHOICE = "QGF_EXECUTOR"  # in the environment
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, how many, what) -> items


class Executor(Protocol):
    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any], workers: int, ahead: int
    ) -> Iterator[Any]:
        """work(item) for each item, in the order of the items, which with `work` can be pickled.

        Args:
            workers: how many are done at once, at least 1.
            ahead: how many are begun, done or not, before the first of them is taken; at least 1.

        An exception of `work` comes out of the iterator, and what is not done by then is given up; so
        it is where the iterator is closed.
        """


def inline(
    work: Callable[[Any], Any], items: Sequence[Any], workers: int, ahead: int
) -> Iterator[Any]:
    """In this process, one after the other."""
    with terminated():
        yield from map(work, items)


def processes(
    work: Callable[[Any], Any], items: Sequence[Any], workers: int, ahead: int
) -> Iterator[Any]:
    """In spawned processes of this machine, which end with this one."""
    with process_pool(min(workers, len(items))) as pool:
        waiting: deque[Future[Any]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def each(
    work: Callable[[Any], Any],
    items: Sequence[Any],
    workers: int = 1,
    progress: Progress | None = None,
    what: str = "",
    ahead: int | None = None,
) -> Iterator[Any]:
    """work(item) for each item, in the order of the items, whatever does it.

    Args:
        work: a function of a module, or a `partial` of one.
        workers: how many are done at once; 1: here, one after the other, unless `QGF_EXECUTOR` says
            where.
        progress: shows how many are done; what: they are doing.
        ahead: how many results per worker may wait for whoever takes them; None: all of them.

    Raises UsageError where `QGF_EXECUTOR` names none, or one that cannot be imported.
    """
    alone = workers <= 1 or len(items) <= 1
    chosen = EXECUTORS.load(os.environ.get(CHOICE) or ("inline" if alone else "processes"))
    begun = len(items) if ahead is None else workers * (ahead + 1)
    done = chosen(work, items, max(1, workers), max(1, begun)) if items else iter(())
    yield from done if progress is None else progress(done, len(items), what)
