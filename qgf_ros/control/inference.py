"""Where the sampler runs: in the caller's thread (simulation, replay, tests) or in its own (node)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qgf_ros.sampler.base import UNGUARDED, Guards, Sample, Sampler


@dataclass(frozen=True)
class Request:
    """One observation to sample for; see `Sampler` for the shapes."""

    obs: np.ndarray
    noise: np.ndarray
    weight: float
    start: int  # ns, tick the chunk begins at
    stamp: int  # ns, of the observation
    epoch: int
    beta: float
    age: float  # s
    guards: Guards = UNGUARDED
    committed: np.ndarray | None = None


@dataclass(frozen=True)
class Result:
    """A request and its sample, or the error it ended in."""

    request: Request
    sample: Sample | None
    error: str
    seconds: float


class Inference(Protocol):
    """A mailbox of size one: `submit` never blocks, `poll` waits at most `timeout` seconds."""

    def submit(self, request: Request) -> None: ...

    def poll(self, timeout: float) -> Result | None: ...

    def close(self) -> None: ...


def run_sampler(
    sampler: Sampler, request: Request, clock: Callable[[], float] = time.perf_counter
) -> Result:
    """Runs the sampler; an exception becomes an error text, so that control goes on."""
    began = clock()
    try:
        sample = sampler(
            request.obs, request.noise, request.weight, request.guards, request.committed
        )
        return Result(request, sample, "", clock() - began)
    except Exception as error:  # whatever a backend raises, the robot must come to a hold
        return Result(request, None, f"{type(error).__name__}: {error}", clock() - began)


class InlineInference:
    """Samples in `submit`; the result is there at once."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._result: Result | None = None

    def submit(self, request: Request) -> None:
        self._result = run_sampler(self._sampler, request)

    def poll(self, timeout: float) -> Result | None:
        result, self._result = self._result, None
        return result

    def close(self) -> None:
        pass


class ThreadInference:
    """Samples in a thread of its own. A newer request replaces one that has not begun."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._request: Request | None = None
        self._result: Result | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="qgf-inference", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        with self._changed:
            self._request = request
            self._changed.notify_all()

    def poll(self, timeout: float) -> Result | None:
        with self._changed:
            if self._result is None and timeout > 0:
                self._changed.wait_for(lambda: self._result is not None, timeout)
            result, self._result = self._result, None
            return result

    def close(self) -> None:
        """Ends the thread after the call in progress; a call that hangs is left to the process."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._request is not None or self._closing)
                if self._closing:
                    return
                request, self._request = self._request, None
            assert request is not None
            result = run_sampler(self._sampler, request)
            with self._changed:
                self._result = result
                self._changed.notify_all()
