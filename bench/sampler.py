"""One guided sample on one core: every way that we have to draw it, the memory floor, and JAX.

    python bench/sampler.py [--json] [--minutes 9]      # the table
    python bench/sampler.py --curves                    # cost over T, N, E, width and D

Each candidate is a process of its own with one thread, all on the same core. They take turns in
short bursts, so that whatever else the machine does hits all alike: ratios count, milliseconds
move with the machine. Before anything is timed the actions are compared: the same noise must give
the same ones. `sampler_backends.py` has the candidates and says what a row of each mode times;
a candidate that cannot run here is named and left out.

Obs 37, chunk 5x5, T = 10, E = 2, w = 1, random weights; the curves move one of these at a time from
4x512 and one candidate.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import platform
import sys
import time
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from sampler_backends import BACKENDS, WEIGHT, Case, Sizes

from qgf_ros.console import emit, say, table
from qgf_ros.errors import CriterionNotMet, QgfError, UsageError, exit_codes
from qgf_ros.processes import end_with_parent

ROOT = Path(__file__).resolve().parents[1]
CORE = max(os.sched_getaffinity(0))
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
NETS = {"3x256": (256,) * 3, "4x512": (512,) * 4, "4x1024": (1024,) * 4}
CANDIDATES = (1, 4, 16)
OTHER_MODES = (("node", 1), ("node", 4), ("guided_best", 4), ("unguided_best", 16))
TOLERANCE = {"native_f16": 1e-2}  # of normalised action, times (1 + w)
EXACT = 1e-5  # where the weights are the same
BURST = 0.02  # s
WARM = 0.004  # s at the beginning of a burst that are not counted: others have had the caches
BASE = Sizes(NETS["4x512"])


@dataclass(frozen=True)
class Sampler:
    """Times a sample on one core, by every backend, in turns."""

    minutes: float = 9.0
    """Of the whole run; the cases share what preparations leave."""
    nets: tuple[str, ...] = tuple(NETS)
    """Layers x width of both networks."""
    steps: int = 10
    """T, of the table."""
    backends: tuple[str, ...] = tuple(BACKENDS)
    curves: bool = False
    """Cost over T, N, E, width and D instead of the table; without onnx, whose exports take long."""
    out: Path | None = (
        None  # JSON file; none: bench/results/sampler-DATE.json or sampler-curves-DATE
    )
    json: bool = False

    def run(self) -> None:
        unknown = sorted(set(self.backends) - set(BACKENDS))
        if unknown:
            raise UsageError(f"backend {unknown[0]!r}; known: {', '.join(BACKENDS)}")
        end = time.monotonic() + 60 * self.minutes
        backends = [b for b in self.backends if not (self.curves and b == "onnx")]
        cases = curve_cases() if self.curves else self._table_cases()
        before = os.getloadavg()[0]
        with Contest(backends) as contest:
            rows = []
            for i, case in enumerate(cases):
                urgency = [1 + (c.mode == "guided" and c.candidates == 1) for c in cases[i:]]
                exports = ("onnx" in backends) * (len({c.sizes for c in cases[i:]}) - 1)
                rows += contest.measure(case, end, urgency[0] / sum(urgency), exports)
                say(f"{i + 1}/{len(cases)}: {_name(case)}")
        document = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine() | {"load_average_before": round(before, 2)},
            "versions": versions(),
            "weight": WEIGHT,
            "absent": contest.absent,
            "rows": rows,
        }
        kind = "sampler-curves" if self.curves else "sampler"
        out = self.out or ROOT / f"bench/results/{kind}-{document['date']}.json"
        out.write_text(json.dumps(document, indent=1) + "\n")
        show(rows)
        say(f"written: {out}")
        if self.json:
            emit(rows)

    def _table_cases(self) -> list[Case]:
        plain = [(mode, n) for mode in ("guided", "unguided") for n in CANDIDATES]
        sizes = [replace(sizes_of(net), steps=self.steps) for net in self.nets]
        return [Case(s, n, mode) for s in sizes for mode, n in (*plain, *OTHER_MODES)]


def sizes_of(net: str) -> Sizes:
    layers, _, width = net.partition("x")
    if not (layers.isdigit() and width.isdigit() and int(layers) and int(width)):
        raise UsageError(f"net {net!r}; give layers x width, such as {', '.join(NETS)}")
    return Sizes((int(width),) * int(layers))


def curve_cases() -> list[Case]:
    """One thing at a time; the base itself is a point of each curve, and there once."""
    changes = [
        *({"steps": t} for t in (1, 2, 5, 20, 50)),
        *({"critics": e} for e in (1, 4, 10)),
        *({"hidden": (w,) * 4} for w in (64, 128, 256, 1024)),
        *({"horizon": h} for h in (1, 10, 20, 40)),  # times 5 numbers of an action
    ]
    several = [Case(BASE, n, "guided") for n in (1, 2, 4, 8, 16, 32, 64)]
    return several + [Case(replace(BASE, **change), 1, "guided") for change in changes]


class Contest:
    """The candidates' processes."""

    def __init__(self, backends: list[str]) -> None:
        os.environ.update(ONE_THREAD)  # theirs: what they import reads it
        self.absent: dict[str, str] = {}
        self._longest = 0.0  # s, of the preparations so far
        spawn = multiprocessing.get_context("spawn")
        self._workers: dict[str, tuple[Any, Connection]] = {}
        for name in backends:
            ours, its = spawn.Pipe()
            process = spawn.Process(target=work, args=(name, its), daemon=True)
            process.start()
            its.close()
            self._workers[name] = process, ours

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._workers.values():
            pipe.close()  # ends its loop
            process.join(5.0)
            process.kill()

    def measure(self, case: Case, end: float, share: float, exports: int) -> list[dict[str, Any]]:
        """One row per backend that knows this case; lasts for that share of the time until `end`,
        less what it takes to prepare so many policies that are to be exported."""
        begin = time.monotonic()
        names = self._prepare(case)
        now = time.monotonic()
        self._longest = max(self._longest, now - begin)
        times: dict[str, list[float]] = {name: [] for name in names}
        until = now + share * (end - now - exports * self._longest)
        while names:
            for name in names:
                times[name] += self._ask(name, None)
            names = names[1:] + names[:1]  # each follows each
            if time.monotonic() > until:
                break
        return [
            {
                "backend": name,
                "net": case.sizes.net,
                "critics": case.sizes.critics,
                "candidates": case.candidates,
                "mode": case.mode,
                "steps": case.sizes.steps,
                "p50_ms": round(1e3 * float(np.median(t)), 4),
                "p99_ms": round(1e3 * float(np.quantile(t, 0.99)), 4),
                "calls": len(t),
                "action": case.sizes.horizon * case.sizes.actions,
            }
            for name, t in times.items()
        ]

    def _prepare(self, case: Case) -> list[str]:
        for _, pipe in self._workers.values():
            pipe.send(case)
        actions: dict[str, np.ndarray] = {}
        for name in list(self._workers):
            answer = self._receive(name)
            if isinstance(answer, str):
                say(f"{name} is left out: {answer}")
                self.absent[name] = answer
                del self._workers[name]
            elif answer is not None:
                actions[name] = answer
        compare(actions, case)
        return list(actions)

    def _ask(self, name: str, question: Any) -> Any:
        self._workers[name][1].send(question)
        return self._receive(name)

    def _receive(self, name: str) -> Any:
        process, pipe = self._workers[name]
        try:
            return pipe.recv()
        except EOFError:
            process.join()
            raise CriterionNotMet(
                f"{name} ended with exit code {process.exitcode}; its own message is above"
            ) from None


def compare(actions: dict[str, np.ndarray], case: Case) -> None:
    """Raises CriterionNotMet where a backend draws other actions than the others."""
    drawn = {name: a for name, a in actions.items() if a.size}
    reference = drawn.get("eager", next(iter(drawn.values()), None))
    for name, action in drawn.items():
        limit = TOLERANCE.get(name, EXACT) * (1 + case.weight)
        same_shape = action.shape == reference.shape
        off = float(np.abs(action - reference).max()) if same_shape else np.inf
        if not off <= limit:
            raise CriterionNotMet(
                f"{_name(case)}: {name}'s actions are off by {off:.1e}; allowed: {limit:.1e}"
            )


def work(name: str, pipe: Connection) -> None:
    """A candidate's process: a case is prepared and answered by its actions (none: not known, text:
    why it cannot run here), and what follows, until the next one, are its bursts."""
    end_with_parent()
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CORE})  # before the libraries count the cores
    warnings.simplefilter("ignore")
    run = None
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        if isinstance(question, Case):
            run = None
            os.sched_setaffinity(0, everywhere)  # an export need not wait for the others
            try:
                prepared = BACKENDS[name](question)
            except (ImportError, FileNotFoundError, QgfError) as error:
                pipe.send(str(error))
                return
            os.sched_setaffinity(0, {CORE})
            if prepared is None:
                pipe.send(None)
                continue
            run, action_of = prepared
            run()  # the first call may compile
            pipe.send(np.asarray(action_of(run())))
            gc.collect()
            gc.freeze()
            gc.disable()
        else:
            assert run is not None
            pipe.send(burst(run))


def burst(run: Any) -> list[float]:
    """-> seconds of each call after the first few; at least one."""
    begin = now = time.perf_counter()
    while now - begin < WARM:
        run()
        now = time.perf_counter()
    times = []
    while now - begin < BURST or not times:
        run()
        before, now = now, time.perf_counter()
        times.append(now - before)
    return times


def show(rows: list[dict[str, Any]]) -> None:
    """One table per mode and policy: p50, and its multiple of native_f32's at the same N."""
    policy = ("net", "mode", "steps", "critics", "action")
    p50 = {(*(row[k] for k in (*policy, "candidates")), row["backend"]): row for row in rows}
    for key in dict.fromkeys(k[:5] for k in p50):
        counts = sorted({k[5] for k in p50 if k[:5] == key})
        lines = []
        for name in dict.fromkeys(k[6] for k in p50 if k[:5] == key):
            line = [name]
            for n in counts:
                row = p50.get((*key, n, name))
                native = p50.get((*key, n, "native_f32"))
                line += _cells(row, native) if row else ["", "", ""]
            lines.append(line)
        heads = (head for n in counts for head in (f"N={n}", "times", "p99"))
        net, mode, steps, critics, action = key
        title = (
            f"{net}, {mode}, T = {steps}, E = {critics}, D = {action}: p50 in ms, "
            "its multiple of native_f32, p99 / p50"
        )
        table(title, ("backend", *heads), lines)


def _cells(row: dict[str, Any], native: dict[str, Any] | None) -> list[str]:
    p50 = row["p50_ms"]
    ratio = f"{p50 / native['p50_ms']:.2f}" if native else ""
    return [f"{p50:.3f}", ratio, f"{row['p99_ms'] / p50:.2f}"]


def _name(case: Case) -> str:
    flat = case.sizes.horizon * case.sizes.actions
    return (
        f"{case.sizes.net}, {case.mode}, N = {case.candidates}, T = {case.sizes.steps}, "
        f"E = {case.sizes.critics}, D = {flat}"
    )


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((s.split(":", 1)[1].strip() for s in lines if s.startswith("model name")), cpu)
    except OSError:
        pass
    caches = {}
    for index in sorted(Path(f"/sys/devices/system/cpu/cpu{CORE}/cache").glob("index*")):
        level, kind, size = ((index / k).read_text().strip() for k in ("level", "type", "size"))
        if kind != "Instruction":
            caches[f"L{level}"] = size
    return {"cpu": cpu, "cores": os.cpu_count(), "core_used": CORE, "caches": caches}


def versions() -> dict[str, str]:
    known = {"python": platform.python_version()}
    for package in ("torch", "onnxruntime", "jax", "jaxlib"):
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            known[package] = "missing"
    return known


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Sampler, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
