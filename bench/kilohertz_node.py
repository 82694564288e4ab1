"""The node `qgf` whose inference thread samples more often than the control thread asks for it, and
which writes down when its ticks began.

    python bench/kilohertz_node.py FILE BURST EACH --ros-args ...

Inference is on in every second burst of BURST seconds. Then the newest observation is sampled EACH
times per tick, evenly spread: first as the tick asks, and then as the tick would ask, with the noise
of that observation's stamp; what comes out is dropped, as there is no use for more chunks than
commands. While inference is off the sampler answers with the last sample again, and its thread
sleeps between requests. FILE gets, when the node ends, the JSON {ticks: [[due, begun], ...],
between: [[begun, seconds], ...]}, times in ns of the system's clock.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.control import inference
from qgf_ros.control.chunk import draw_noise
from qgf_ros.control.core import ControlCore
from qgf_ros.control.inference import Request, run_sampler
from qgf_ros.guidance.protocols import Sample, Sampler
from qgf_ros.ros import node
from qgf_ros.ros.process import run


def is_on(now: int, burst: float) -> bool:
    """Inference, at `now` [ns, system]; burst: s."""
    return now // round(burst * 1e9) % 2 == 0


class Switched:
    """A sampler that answers from memory while inference is off."""

    def __init__(self, sampler: Sampler, burst: float) -> None:
        self._sampler, self._burst = sampler, burst
        self._last: Sample | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def __call__(self, *question: Any) -> Sample:
        if self._last is None or is_on(time.time_ns(), self._burst):
            self._last = self._sampler(*question)
        return self._last


class Worker(inference._Worker):
    """The node's inference thread, which samples between two requests too."""

    burst, each = 1.0, 1
    core: ControlCore | None = None
    between: list[tuple[int, float]] = []
    _asked: Request | None = None  # the last one
    _left = 0  # samples until the next one

    def _next(self) -> Request | None:
        while self._left and not self._comes():
            self._sample()
        self._asked = request = super()._next()
        on = request is not None and is_on(request.start, self.burst)
        self._left = self.each - 1 if on else 0
        return request

    def _comes(self) -> bool:
        """A request, before the next sample is due."""
        assert self._asked is not None and self.core is not None
        period = self.core.policy.contract.time.period
        due = self._asked.start * 1e-9 + period * (1 - self._left / self.each)
        with self._changed:
            return self._changed.wait_for(
                lambda: self._request is not None or self._ending, max(0.0, due - time.time())
            )

    def _sample(self) -> None:
        assert self._asked is not None and self.core is not None
        self._left -= 1
        policy, latest = self.core.policy, self.core.assembler._latest
        vector = np.concatenate([latest[o.name].values for o in policy.contract.observations])
        stamp = max(m.stamp for m in latest.values())
        request = replace(
            self._asked,
            observed=policy.observed(vector),
            noise=draw_noise(0, stamp, 1, policy.flat_dim),
            stamp=stamp,
        )
        began = time.time_ns()
        self.between.append((began, run_sampler(self.sampler, request).seconds))


class Node(node.QgfNode):
    """Watches its own control thread."""

    file = Path()
    ticks: list[tuple[int, int]] = []

    def _configure(self) -> None:
        super()._configure()
        Worker.core = self.core

    def _tick(self, deadline: int) -> None:
        self.ticks.append((deadline, time.time_ns()))
        super()._tick(deadline)

    def close(self) -> None:
        super().close()
        self.file.write_text(json.dumps({"ticks": self.ticks, "between": Worker.between}))


if __name__ == "__main__":
    Node.file = Path(sys.argv.pop(1))
    Worker.burst, Worker.each = float(sys.argv.pop(1)), int(sys.argv.pop(1))
    make_sampler = node.make_sampler
    node.make_sampler = lambda *args: Switched(make_sampler(*args), Worker.burst)
    inference._Worker = Worker
    sys.exit(run(Node, "qgf"))
