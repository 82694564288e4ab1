"""Where the sampler runs: in the caller's thread (simulation, replay, tests) or in its own (node)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qgf_ros.guidance.protocols import UNGUARDED, Guards, Sample, Sampler
from qgf_ros.policy.folder import Observed


@dataclass(frozen=True)
class Request:
    """One observation to sample for; see `Sampler` for the shapes."""

    observed: Observed
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
    device_lost: bool = False  # the error is the device's, and calling again will not help


class Inference(Protocol):
    """A mailbox of size one: `submit` never blocks, `poll` waits at most `timeout` seconds.

    `swap` goes on with another sampler; what was asked of the one before is dropped, and if it
    hangs, nobody waits for it.
    """

    @property
    def sampler(self) -> Sampler: ...

    def submit(self, request: Request) -> None: ...

    def poll(self, timeout: float) -> Result | None: ...

    def swap(self, sampler: Sampler) -> None: ...

    def close(self) -> None: ...


def run_sampler(
    sampler: Sampler, request: Request, clock: Callable[[], float] = time.perf_counter
) -> Result:
    """Runs the sampler; an exception becomes an error text, so that control goes on."""
    began = clock()
    try:
        sample = sampler(
            request.observed.encoded,
            request.noise,
            request.weight,
            request.guards,
            request.committed,
        )
        return Result(request, sample, "", clock() - began)
    except Exception as error:  # whatever a backend raises, the robot must come to a hold
        text = f"{type(error).__name__}: {error}"
        return Result(request, None, text, clock() - began, is_device_loss(error))


def is_device_loss(error: Exception) -> bool:
    """By name and text: the backends' exceptions share no base class, and need not be installed.

    torch raises AcceleratorError("CUDA error: ...") and OutOfMemoryError, ONNX Runtime a `Fail` or
    `RuntimeException` that names CUDA, CUDNN or CUBLAS, or its arena, where no memory is left.
    """
    text = str(error).upper()
    return type(error).__name__ in ("OutOfMemoryError", "AcceleratorError") or any(
        word in text for word in ("CUDA", "CUDNN", "CUBLAS", "BFCARENA")
    )


class InlineInference:
    """Samples in `submit`; the result is there at once."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self._result: Result | None = None

    def submit(self, request: Request) -> None:
        self._result = run_sampler(self.sampler, request)

    def poll(self, timeout: float) -> Result | None:
        result, self._result = self._result, None
        return result

    def swap(self, sampler: Sampler) -> None:
        self.sampler, self._result = sampler, None

    def close(self) -> None:
        pass


class ThreadInference:
    """Samples in a thread of its own. A newer request replaces one that has not begun."""

    def __init__(self, sampler: Sampler) -> None:
        self._worker = _Worker(sampler)

    @property
    def sampler(self) -> Sampler:
        return self._worker.sampler

    def submit(self, request: Request) -> None:
        self._worker.submit(request)

    def poll(self, timeout: float) -> Result | None:
        return self._worker.poll(timeout)

    def swap(self, sampler: Sampler) -> None:
        before, self._worker = self._worker, _Worker(sampler)
        before.end()

    def close(self) -> None:
        """Ends the thread after the call in progress; a call that hangs is left to the process."""
        self._worker.end()
        self._worker.join(timeout=0.3)


class _Worker(threading.Thread):
    """One sampler, its thread and its mailbox."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(name="qgf-inference", daemon=True)
        self.sampler = sampler
        self._request: Request | None = None
        self._result: Result | None = None
        self._changed = threading.Condition()
        self._ending = False
        self.start()

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

    def end(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def run(self) -> None:
        while (request := self._next()) is not None:
            result = run_sampler(self.sampler, request)
            with self._changed:
                self._result = result
                self._changed.notify_all()

    def _next(self) -> Request | None:
        """The newest request, as soon as there is one; None: it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._request is not None or self._ending)
            request, self._request = self._request, None
            return None if self._ending else request


class Rebuild(threading.Thread):
    """Builds a sampler again in a thread of its own: it may take seconds, or never end."""

    def __init__(self, build: Callable[[], Sampler]) -> None:
        super().__init__(name="qgf-rebuild", daemon=True)
        self._build = build
        self._outcome: Sampler | str | None = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._build()
        except Exception as error:  # it becomes the reason of a FAULT
            self._outcome = f"{type(error).__name__}: {error}"

    def poll(self) -> Sampler | str | None:
        """The sampler, or the error; None: not done."""
        return self._outcome
