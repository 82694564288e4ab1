"""A thread for what takes long, which a service's coroutine waits for while the executor goes on.

It is there from the start: `Thread.start` waits for the new thread, and waits for ever where that dies of
a full memory before it says so.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from rclpy.node import Node
from rclpy.task import Future

T = TypeVar("T")


class Worker:
    """Does one thing after the other."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def do(self, function: Callable[[], T]) -> T:
        """What it returns. Raises what it raises."""
        done: Future[Any] = Future(executor=self._node.executor)

        def work() -> None:
            try:
                done.set_result((function(), None))
            except Exception as error:  # raised again where it is awaited
                done.set_result((None, error))

        self._work.put(work)
        result, error = await done  # type: ignore[misc]
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def close(self, patience: float) -> None:
        """Ends after what is being done, for which it waits so long [s]."""
        self._work.put(None)
        self._thread.join(patience)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
