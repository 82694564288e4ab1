"""Mutation: whether the tests of the P0 rows notice when one safety branch is missing.

    python test/faults/mutate.py                                  # the files of FILES
    python test/faults/mutate.py qgf_ros/control/gate.py --lines 100-160

One branch after the other is taken out of a copy of the package: a condition is never true, one of
its parts is left out, a raise does nothing, a bound does not bound, every number counts as finite.
The tests run against the copy, up to the first that fails: in place (see in_place.py), or with a copy
for each mutant that is none of one function. Prints every mutant with its fate, and each file's share;
exit code 8 where less than 95 % of all are noticed. The working tree is not written to. Files of `qgf_ros/ros` need a built workspace (`make build`, `source env.sh`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy  # noqa: F401
import pytest

from qgf_ros.console import say, table
from qgf_ros.errors import UsageError, exit_codes

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from branches import Mutant, mutants  # noqa: E402
from in_place import Fate, InPlace  # noqa: E402

CONTROL = ("gate", "limiter", "assembler", "supervisor", "arbiter", "schedule", "slew", "saturation")
CHECKS = {p.stem for p in (ROOT / "qgf_ros/control/checks").glob("[!_]*.py")} - {"base"}
# Each file with what tests it: in process, but for the guard of a trial, which is a process.
POLICY = ("components", "description", "folder", "manifest", "plausible", "schema", "tensors")
POLICY_TESTS = (
    "test/policy/test_policy_numbers.py",
    "test/policy/test_policy_folder.py",
    "test/policy/test_components.py",
    "test/policy/test_vetting.py",
)
FILES = {f"qgf_ros/control/{name}.py": ("test/control",) for name in CONTROL} | {
    **{f"qgf_ros/control/checks/{name}.py": ("test/control",) for name in sorted(CHECKS)},
    **{f"qgf_ros/policy/{name}.py": POLICY_TESTS for name in POLICY},
    "qgf_ros/trial/sequential.py": ("test/trial/test_sequential.py",),
    "qgf_ros/ros/robot_commands.py": ("test/ros/test_robot_commands.py",),
    "qgf_ros/ros/trial_guard.py": ("test/ros/test_trial_guard_process.py",),
    "qgf_ros/ros/graph_monitor.py": ("test/ros/test_graph_monitor.py",),
    "qgf_ros/ros/outside_gate.py": (
        "test/ros/test_outside_gate.py",
        "test/ros/test_outside_gate_size.py",
    ),
    "qgf_ros/ros/gate_node.py": ("test/ros/test_gate_node_in_process.py",),
}
# Tests of these start processes that read the file: what they enter is not seen from here.
PROCESSES = {"qgf_ros/ros/trial_guard.py"}
WHOLE = (
    "qgf_ros/trial/sequential.py",
)  # decides about no motion: all its tests count, not a row's
ENOUGH = 0.95
# (file, function, what): why no test can notice it. They are counted apart.
EQUIVALENT = {
    (
        "qgf_ros/control/arbiter.py", "Arbiter._check_stops",
        "without part 1: wrong is not None and now.steady < self._until",
    ): "without an error the moment lies in the past; asked for its type",
    (
        "qgf_ros/control/arbiter.py", "Arbiter._note_silence",
        "without part 1: self.reason is not None and self.reason.code == 'EXPLICIT_HOLD'",
    ): "whatever ends in silence has given its reason before; asked for its type",
    (
        "qgf_ros/ros/trial_guard.py", "Guard.__init__",
        "without part 1: self._process.stdin is not None and self._process.stdout is not None",
    ): "both are pipes, as was asked for; asked for their type",
    (
        "qgf_ros/ros/trial_guard.py", "Guard.__init__",
        "without part 2: self._process.stdin is not None and self._process.stdout is not None",
    ): "as part 1",
    ("qgf_ros/control/checks/frozen.py", "Frozen.heard", "never: name not in self._watched"): (
        "what nobody watches is never asked about: numbers are kept for nothing"
    ),
    ("qgf_ros/control/limiter.py", "Limiter.follow", "never: not chained.any()"): (
        "a shortcut: without any chained number the last line gives the same, after 25 operations more"
    ),
}  # fmt: skip
TIMEOUT = 300  # s; a mutant on which the tests hang is noticed
NOT_MUTANT = 99  # the tests ran on something else than the copy


class Guard:
    """Ends a run whose tests do not test the mutant."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        modules = (getattr(m, "__file__", None) or "/" for m in list(sys.modules.values()))
        if str(self.file) not in modules:
            pytest.exit(f"the tests do not import {self.file}", returncode=NOT_MUTANT)


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs the tests on copies of the package, in forked processes that have the libraries already."""

    folder: Path
    tests: tuple[Path, ...]  # files and folders; empty: those of FILES
    expression: str

    def __call__(self, mutant: Mutant) -> tuple[int, str]:
        """pytest's exit code and what it printed. For a process of its own, which it changes."""
        own = self._copy()
        (own / mutant.file).write_text(mutant.source)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(TIMEOUT)
        said = self._pytest(mutant.file, ["-x"], Guard(own / mutant.file))
        shutil.rmtree(own, ignore_errors=True)
        return said

    def in_place(self, todo: list[Mutant], send: Any) -> None:
        """Tells the fates of mutants whose tests are the same, one after the other, and then what was
        wrong. For a process of its own."""
        own = self._copy()
        files = {m.file for m in todo}
        wide = {f for f in files if f in PROCESSES or self.tests}
        plugin = InPlace(own, todo, lambda m, fate: send((todo.index(m), fate)), wide)
        code, printed = self._pytest(todo[0].file, ["--tb=native"], plugin)
        shutil.rmtree(own, ignore_errors=True)
        send((None, plugin.failed or (printed if code not in (0, 1) else "")))

    def _copy(self) -> Path:
        """From here on this process, and what it starts, has a package of its own."""
        own = Path(tempfile.mkdtemp(dir=self.folder)).resolve()
        for name in ("qgf_ros", "config"):
            shutil.copytree(ROOT / name, own / name)
        compiled = _compiled()
        for part in sorted(compiled.glob("*")) if compiled else ():
            if not (own / "qgf_ros" / part.name).exists():  # messages and their type support
                (own / "qgf_ros" / part.name).symlink_to(part)
        shutil.copy(ROOT / "package.xml", own)
        os.chdir(own)
        for name in [n for n in sys.modules if n.split(".")[0] == "qgf_ros"]:
            del sys.modules[name]
        sys.modules.setdefault("torch", None)  # takes seconds, and the robot's side runs without
        sys.path.insert(0, str(own))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(own), os.environ.get("PYTHONPATH", "")])
        # A file that changes within a second and keeps its size would be taken for its old self.
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        # A failure need not be made small, nor kept.
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("mutants", phases=phases, database=None)
        hypothesis.settings.load_profile("mutants")
        return own

    def _pytest(self, file: str, options: list[str], plugin: object) -> tuple[int, str]:
        # What is about the file comes first: -x ends at the first failure.
        about = Path(file).stem[:5]
        files = [
            f for t in self.tests_of(file) for f in ([t] if t.is_file() else t.glob("test_*.py"))
        ]
        files = sorted(map(str, files), key=lambda f: (about not in f, f))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            which = self.expression_of(file)
            given = ["-q", "-p", "no:cacheprovider", "--assert=plain", "-k", which, *options]
            code = pytest.main([*given, *files], plugins=[plugin])
        return int(code), printed.getvalue()

    def tests_of(self, file: str) -> tuple[Path, ...]:
        return self.tests or tuple(ROOT / t for t in FILES[file])

    def expression_of(self, file: str) -> str:
        return "" if file in WHOLE else self.expression


def _compiled() -> Path | None:
    """The built package, which has the compiled messages; None where nothing was built."""
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        for folder in Path(prefix or "/none").glob("lib/python3*/site-packages/qgf_ros"):
            if (folder / "msg").is_dir():
                return folder
    return None


def run(
    todo: list[Mutant],
    tests: tuple[Path, ...],
    expression: str,
    jobs: int = 1,
    told: Callable[[Mutant, bool], None] = lambda mutant, alive: None,
) -> list[bool]:
    """For each mutant whether it survives; `told` hears it as soon as it is known. Raises UsageError
    where the tests fail without any."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    alive: dict[int, bool] = {}

    def known(at: int, survives: bool) -> None:
        alive[at] = survives
        told(todo[at], survives)

    with tempfile.TemporaryDirectory(prefix="qgf_mutants_") as folder:
        runner = Runner(Path(folder), tests, expression)
        groups: dict[Any, list[int]] = {}
        for at, mutant in enumerate(todo):
            key = runner.tests_of(mutant.file), runner.expression_of(mutant.file)
            groups.setdefault(key, []).append(at)
        left = []
        for group in groups.values():
            for which, fate in _in_place(runner, [todo[at] for at in group]):
                if fate is Fate.NOT_HERE:
                    left.append(group[which])
                else:
                    known(group[which], fate is Fate.SURVIVES)
        with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
            fates = pool.imap(runner, [todo[at] for at in left])
            for at, (code, text) in zip(left, fates):
                if code not in (0, 1, 2):  # passed, failed, could not be imported or took too long
                    raise UsageError(f"{todo[at].file}:{todo[at].line} gives {text[-800:]}")
                known(at, code == 0)
    return [alive[at] for at in range(len(todo))]


def _in_place(runner: Runner, todo: list[Mutant]) -> Iterator[tuple[int, Fate]]:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=runner.in_place, args=(todo, there.send))
    process.start()
    there.close()
    try:
        while True:
            which, said = here.recv()
            if which is None:
                break
            yield which, said
    except EOFError:
        said = "the process has ended"
    process.join()
    if said:
        names = ", ".join(sorted({m.file for m in todo}))
        raise UsageError(f"{names} as it is: -k {runner.expression!r} gives {said[-800:]}")


def save(
    to: Path, files: Iterable[str], todo: list[Mutant], alive: list[bool], same: list[Mutant]
) -> None:
    """Writes each file's result beside those of other files, with how it was come by."""
    results = json.loads(to.read_text()) if to.exists() else {}
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    asked = [a for a in sys.argv[1:] if a not in ("--save", str(to))]  # a place of this machine
    for file in files:
        own = [(m, a) for m, a in zip(todo, alive) if m.file == file]
        results[file] = {
            "killed": sum(not a for _, a in own),
            "total": len(own),
            "survived": [f"{m.line} {m.what}" for m, a in own if a],
            "equivalent": [f"{m.line} {m.what}" for m in same if m.file == file],
            "command": shlex.join(["python", "test/faults/mutate.py", *asked]),
            "commit": commit,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        }
    to.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", default=FILES, help="relative to the repository")
    parser.add_argument("--tests", type=Path, nargs="+", default=[], help="files or folders")
    parser.add_argument(
        "-k", default="fault and not million", help="which tests count, as for pytest"
    )
    parser.add_argument("--lines", default="", help="FIRST-LAST, of the only file")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--save", type=Path, help="JSON to which each file's result is written")
    given = parser.parse_args()
    todo = [m for file in given.files for m in mutants(file, (ROOT / file).read_text())]
    same = [m for m in todo if m.key in EQUIVALENT]
    todo = [m for m in todo if m.key not in EQUIVALENT]
    if given.lines:
        first, last = map(int, given.lines.split("-"))
        todo = [m for m in todo if first <= m.line <= last]
    unknown = [f for f in given.files if f not in FILES and not given.tests]
    if unknown:
        raise UsageError(f"which tests are about {', '.join(unknown)}? Give --tests")
    fates = ("killed", "SURVIVED")
    alive = run(
        todo,
        tuple(t.resolve() for t in given.tests),
        given.k,
        given.jobs,
        lambda m, a: print(f"{m.file}:{m.line} {fates[a]} {m.what}", flush=True),
    )
    for m in same:
        say(f"{m.file}:{m.line} equivalent, {m.what}: {EQUIVALENT[m.key]}")
    table(
        "mutants",
        ("where", "fate", "what"),
        [(f"{m.file}:{m.line}", fates[a], m.what) for m, a in zip(todo, alive)],
    )
    rows = []
    for file in given.files:
        own = [a for m, a in zip(todo, alive) if m.file == file]
        rows.append((file, f"{len(own) - sum(own)} of {len(own)}"))
    table("by file", ("file", "killed"), rows)
    if given.save:
        save(given.save, given.files, todo, alive, same)
    share = 1 - sum(alive) / max(1, len(todo))
    say(
        f"{len(todo) - sum(alive)} of {len(todo)} killed: {share:.1%}, at least {ENOUGH:.0%} are needed"
    )
    return 0 if share >= ENOUGH else 8


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main())
