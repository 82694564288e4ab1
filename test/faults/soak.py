"""The node on the wire with a random fault every ten seconds, for minutes or for a day.

    python test/faults/soak.py [--minutes 20] [--hours 24] [--seed 0] [--gate outside] [--json]

After each fault a person restores what is needed (`~/reset`, `~/enable`, activation), and the arm is
set up anew. Exit code 8 where a command was outside the envelope, a pause of more than two periods
between commands was not told by a status, the node did not stop or recover, or its memory or file
descriptors grew. The same seed gives the same faults.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import ros_harness as ros
import soak_faults
from qgf_make import resign
from ros_gaps import SAYS_SO_WITHIN, Heard, gaps, listen, silent, unexplained

from qgf_ros.console import emit, say, table
from qgf_ros.errors import CriterionNotMet, exit_codes
from qgf_ros.files.share import share_folder

T = ros.PERIOD
RATE = 10.0  # rad/s2, so low that ramps take several periods and are judged
LONG = 1200.0  # s, from where on the tight bound of memory holds
GROWTH = {True: 2.0, False: 12.0}  # MB over the last three quarters: of a long run, of a short one
DESCRIPTORS = 8  # more than at the start: connections to peers that come and go
RECOVERS_WITHIN = 15.0  # s


@dataclass(frozen=True)
class Soak:
    """Runs the node under random faults."""

    minutes: float = 20.0
    hours: float = 0.0
    """Added to the minutes; given alone, it is the whole time."""
    seed: int = 0
    every: float = 10.0
    """s between faults."""
    gate: Literal["inside", "outside"] = "inside"
    json: bool = False

    def run(self) -> None:
        if ros.MISSING:
            raise CriterionNotMet(ros.MISSING)
        minutes = self.hours * 60 if self.hours else self.minutes
        document = soak(minutes * 60, self.seed, self.every, self.gate)
        table("Soak", ("figure", "value"), [(k, v) for k, v in document.items() if k != "problems"])
        for problem in document["problems"]:
            say(f"! {problem}")
        if self.json:
            emit(document)
        if document["problems"]:
            raise CriterionNotMet(
                f"{len(document['problems'])} problems; first: {document['problems'][0]}"
            )


def soak(
    seconds: float, seed: int = 0, every: float = 10.0, gate: str = "inside"
) -> dict[str, Any]:
    """Runs for `seconds`; the document's `problems` is empty where all was well."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        run = Run(stack, seconds, rng, gate)
        began, number = time.monotonic(), 0
        faults = soak_faults.FAULTS[gate]
        round_: list[Callable[[Run], None]] = []
        chosen: dict[str, int] = {}
        run.recover("start")
        while (left := began + seconds - time.monotonic()) > 0:
            if not round_:  # each once, in a new order, before any comes again
                round_ = rng.sample(faults, len(faults))
            fault = round_.pop()
            number += 1
            chosen[fault.__name__] = chosen.get(fault.__name__, 0) + 1
            cycle_ends = time.monotonic() + min(every, left)
            say(f"{time.monotonic() - began:7.1f} s  fault {number}: {fault.__name__}")
            run.cycle(fault, number, cycle_ends)
        usage = {name: run.judge_usage(name, seconds) for name in run.usage}
        run.finish()
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "seconds": round(seconds, 1),
        "seed": seed,
        "gate": gate,
        "faults": dict(sorted(chosen.items())),
        "commands": run.commands_judged,
        "gaps": run.gaps_judged,
        "lost": run.lost,
        "usage": usage,
        "problems": run.problems,
    }


class Run:
    """A node, if asked for its gate, and a robot; what was wrong is collected."""

    def __init__(
        self, stack: contextlib.ExitStack, seconds: float, rng: random.Random, gate: str
    ) -> None:
        self.rng = rng
        self.problems: list[str] = []
        # MB and descriptors of each process, once per fault since it was started.
        self.usage: dict[str, list[tuple[float, int]]] = {}
        self.commands_judged = self.gaps_judged = self.lost = 0
        self.domain = ros.take_domain()
        stack.callback(ros.free_domain, self.domain)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._policy = slow_policy(scratch)
        self._deadline = seconds + 600.0
        self._gate = gate
        self.robot = ros.FakeRobot(self.domain, rate=RATE)
        stack.callback(self.robot.close)
        self._sent = listen(self.robot, ros.Float64MultiArray, "velocity_controller/commands")
        twin = "qgf/command" if gate == "inside" else "qgf_gate/passed"
        self._twins = listen(self.robot, ros.Command, twin)
        self._statuses = [listen(self.robot, ros.Status, "qgf/status")]
        self.barrier: ros.Proc | None = None
        if gate == "outside":
            self._statuses.append(listen(self.robot, ros.Status, "qgf_gate/status"))
            arguments = ros.ros_args(policy=self._policy)
            command = [sys.executable, "-m", "qgf_ros.ros.gate_node", *arguments]
            self.barrier = ros.Proc(command, self.domain, self._deadline)
            stack.callback(self.barrier.close)
            self.usage["gate"] = []
            self.barrier.wait_line("READY")
        self._stack = stack
        self.start()

    def start(self) -> None:
        """The node, or another one after it was killed."""
        parameters = {"gate": "outside"} if self._gate == "outside" else {}
        arguments = ros.ros_args(policy=self._policy, **parameters)
        self.node = ros.Proc([*ros.node_command(), *arguments], self.domain, self._deadline)
        self._stack.callback(self.node.close)
        self.usage["node"] = []
        self.node.wait_line("qgf: READY")

    def cycle(self, fault: Callable[[Run], None], number: int, until: float) -> None:
        """One fault somewhere in the time until `until` [s, steady], recovery, and judgement."""
        name = f"fault {number} ({fault.__name__})"
        begin = time.time_ns()
        try:
            time.sleep(max(0.0, self.rng.random() * (until - time.monotonic() - 6.0)))
            fault(self)
        except AssertionError as error:
            self.problems.append(f"{name}: {_first_line(error)}")
        self.recover(name)
        time.sleep(max(0.0, until - time.monotonic()))
        self._judge(name, begin)
        for part, process in (("node", self.node), ("gate", self.barrier)):
            if process is not None:
                self.usage[part].append((resident_mb(process), descriptors(process)))

    def recover(self, name: str) -> None:
        """What a person does until the arm moves again."""
        robot, until = self.robot, time.monotonic() + RECOVERS_WITHIN
        robot.speak()
        robot.frozen = False
        try:
            while robot.state != ros.RUN or not robot.statuses[-1].msg.enabled:
                assert time.monotonic() < until, (
                    f"not in RUN {RECOVERS_WITHIN} s later: {robot.statuses[-1].msg if robot.statuses else None}"
                )
                assert self.node.running, f"the node ended\n{self.node.log}"
                with contextlib.suppress(ros.TimedOut):  # a person tries again
                    if robot.state == ros.INACTIVE:
                        robot.transition(ros.Transition.TRANSITION_ACTIVATE)
                    elif robot.state == ros.FAULT:
                        robot.estop(False)
                        robot.reset()
                    elif robot.state == ros.READY:
                        robot.position, robot.velocity = [-0.1, 0.8], [0.0, 0.0]
                        robot.enable()
                    robot.wait_statuses(1)
            robot.wait_commands(5)
        except AssertionError as error:
            self.problems.append(f"{name}: no recovery: {_first_line(error)}")

    def _judge(self, name: str, begin: int) -> None:
        """Since `begin` [ns, system]; what was judged is forgotten, so that a day fits in memory."""
        end = time.time_ns()
        time.sleep(SAYS_SO_WITHIN + 0.3)  # what is said of the last gap, and its way here
        sent = [h.sent for h in list(self._sent) if begin - 2e9 <= h.sent < end]
        seen = [gap for gap in gaps(sent, T) if gap[1] >= begin]
        found = silent(seen, [h.sent for h in list(self._twins)], T)
        self.lost += len(seen) - len(found)
        for source in self._statuses:
            found_before, found = found, unexplained(found, list(source), T)
            self.gaps_judged += len(found_before) - len(found)
        self.problems += [
            f"{name}: {(b - a) * 1e-6:.0f} ms without a command or a word" for a, b in found
        ]
        self.commands_judged += len(sent)
        robot = self.robot
        with robot.news:
            self.problems += [f"{name}: {v}" for v in robot.violations]
            robot.violations.clear()
            records: list[list[Any]] = [robot.commands, robot.candidates, robot.statuses,
                                        robot.q_values, robot.diagnostics, *robot.stamps.values()]  # fmt: skip
            for record in records:
                del record[:-10]
        for heard in (self._sent, self._twins, *self._statuses):
            _forget(heard, end - 3_000_000_000)

    def judge_usage(self, part: str, seconds: float) -> dict[str, Any]:
        """Growth over the last three quarters; too much is a problem."""
        window = self.usage[part][len(self.usage[part]) // 4 :]
        if not window:
            return {}
        tenth = max(1, len(window) // 10)
        first, last = (
            statistics.median(mb for mb, _ in end) for end in (window[:tenth], window[-tenth:])
        )
        allowed = GROWTH[seconds >= LONG]
        if last - first > allowed:
            self.problems.append(f"{part}: {last - first:.1f} MB more, allowed {allowed:g}")
        before, after = window[0][1], window[-1][1]
        if after > before + DESCRIPTORS:
            self.problems.append(f"{part}: file descriptors from {before} to {after}")
        return {
            "memory_mb": [round(first, 1), round(last, 1)],
            "descriptors": [before, after],
            "samples": len(window),
        }

    def finish(self) -> None:
        """Both end by SIGTERM, with code 0."""
        for process in filter(None, (self.node, self.barrier)):
            try:
                process.stop()
            except AssertionError as error:
                self.problems.append(_first_line(error))


def slow_policy(scratch: Path) -> Path:
    """The shipped arm with a limit of change of RATE."""
    folder = scratch / "planar_arm"
    shutil.copytree(share_folder() / "config" / "policies" / "planar_arm", folder)
    file = folder / "policy.yaml"
    file.write_text(file.read_text().replace("rate: 80.0", f"rate: {RATE}"))
    resign(folder)
    return folder


def resident_mb(proc: ros.Proc) -> float:
    pages = int(Path(f"/proc/{proc.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(proc: ros.Proc) -> int:
    return len(os.listdir(f"/proc/{proc.process.pid}/fd"))


def _forget(heard: list[Heard], before: int) -> None:
    """The executor's thread only appends, so a front that is gone does no harm."""
    old = sum(1 for h in list(heard) if h.sent < before)
    del heard[:old]


def _first_line(error: AssertionError) -> str:
    return str(error).split("\n")[0]


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Soak, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
