"""Mutation: whether the tests of the P0 rows notice when one safety branch is missing.

    python test/faults/mutate.py                                  # the files of FILES
    python test/faults/mutate.py qgf_ros/control/gate.py --lines 100-160 --jobs 2

One branch after the other is taken out of a copy of the package: a condition is never true, one of
its parts is left out, a raise does nothing, a bound does not bound, every number counts as finite.
The tests run against the copy, up to the first that fails. Prints every mutant with its fate; exit
code 8 where less than 90 % are noticed. The working tree is not written to.
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qgf_ros.console import say, table, track
from qgf_ros.errors import UsageError, exit_codes

ROOT = Path(__file__).resolve().parents[2]
FILES = tuple(f"qgf_ros/control/{n}.py" for n in ("gate", "limiter", "assembler", "supervisor"))
TESTS = "test/control"
ENOUGH = 0.9
TIMEOUT = 300  # s; a mutant on which the tests hang is noticed
NOT_MUTANT = 99  # the tests ran on something else than the copy
BOUNDS = {"clip", "minimum", "maximum", "min", "max"}
FINITE = {"isfinite": True, "isnan": False, "isinf": False}
GUARD = """
import pathlib, sys, pytest
sys.modules.setdefault("torch", None)  # takes seconds, and the robot's side runs without it
def pytest_collection_finish(session):
    found = getattr(sys.modules.get({module!r}), "__file__", "")
    if pathlib.Path(found or "/").resolve() != pathlib.Path({file!r}).resolve():
        pytest.exit(f"the tests import {{found}}, not the mutant", returncode={code})
"""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One file without one of its safety branches."""

    file: str
    line: int
    what: str
    source: str


def mutants(file: str, source: str) -> list[Mutant]:
    """All of a file's mutants, in the order of its lines."""
    tree = ast.parse(source)
    found = []
    nodes = list(_code(tree))
    for at, node in enumerate(nodes):
        for part, (what, _) in enumerate(_without(node)):
            other = copy.deepcopy(tree)
            _, change = _without(list(_code(other))[at])[part]
            change()
            text = f"{what}: {' '.join(ast.unparse(_headline(node)).split())[:90]}"
            found.append(
                Mutant(file, node.lineno, text, ast.unparse(ast.fix_missing_locations(other)))
            )
    return sorted(found, key=lambda m: m.line)


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement and expression that runs: no annotations."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from _code(child)


def _without(node: ast.AST) -> list[tuple[str, object]]:
    """What can be taken out of a node: how it is called, and what does it."""
    if isinstance(node, (ast.If, ast.IfExp)):
        return [("never", lambda: setattr(node, "test", ast.Constant(False)))]
    if isinstance(node, ast.BoolOp):
        return [
            (f"without part {i + 1}", lambda i=i: node.values.pop(i))
            for i in range(len(node.values))
        ]
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, (ast.BitOr, ast.BitAnd))
        and _decides(node)
    ):
        parts = (("without part 1", node.right), ("without part 2", node.left))
        return [(what, lambda kept=kept: _become(node, kept)) for what, kept in parts]
    if (
        isinstance(node, ast.AugAssign)
        and isinstance(node.op, (ast.BitOr, ast.BitAnd))
        and _decides(node.value)
    ):
        return [("left out", lambda: _become(node, ast.Pass()))]
    if isinstance(node, ast.Raise):
        return [("not raised", lambda: _become(node, ast.Pass()))]
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in BOUNDS and len(node.args) > 1:
            return [("unbounded", lambda: _become(node, node.args[0]))]
        if name in FINITE:
            shape = ast.unparse(node.args[0])
            always = ast.parse(
                f"__import__('numpy').full_like({shape}, {FINITE[name]}, dtype=bool)"
            )
            return [("all finite", lambda: _become(node, always.body[0].value))]
    return []


def _decides(node: ast.AST) -> bool:
    """Whether an operand of | or & is a comparison: then it is logic, number by number."""
    return any(isinstance(n, ast.Compare) for n in ast.walk(node))


def _become(node: ast.AST, other: ast.AST) -> None:
    place = {name: getattr(node, name) for name in ("lineno", "col_offset")}
    node.__class__, node.__dict__ = other.__class__, dict(other.__dict__) | place


def _headline(node: ast.AST) -> ast.AST:
    """The part of a statement that says which one it is."""
    return node.test if isinstance(node, (ast.If, ast.IfExp)) else node


class Runner:
    """Runs the tests on copies of the package, one copy per thread."""

    def __init__(self, folder: Path, tests: Path, expression: str) -> None:
        self.folder, self.tests, self.expression = folder, tests, expression
        self._own = threading.local()

    def survives(self, file: str, source: str) -> bool:
        """Whether all tests pass with `source` in the place of `file`."""
        if not hasattr(self._own, "copy"):
            self._own.copy = Path(tempfile.mkdtemp(dir=self.folder))
            for name in ("qgf_ros", "config"):
                shutil.copytree(
                    ROOT / name, self._own.copy / name, ignore=shutil.ignore_patterns("__pycache__")
                )
            shutil.copy(ROOT / "package.xml", self._own.copy)
        mutated = self._own.copy / file
        guard = GUARD.format(module=file[:-3].replace("/", "."), file=str(mutated), code=NOT_MUTANT)
        (self._own.copy / "mutant_guard.py").write_text(guard)
        mutated.write_text(source)
        try:
            code, text = self._pytest(Path(file).stem[:5])
        finally:
            shutil.copy(ROOT / file, mutated)
        if code not in (0, 1, 2):
            raise UsageError(f"the tests did not run ({code}): {text[-800:]}")
        return code == 0

    def _pytest(self, about: str) -> tuple[int, str]:
        # What is about the file comes first: -x ends at the first failure.
        files = [self.tests] if self.tests.is_file() else self.tests.glob("test_*.py")
        files = sorted(map(str, files), key=lambda f: (about not in f, f))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "mutant_guard",
            "-k",
            self.expression,
        ]
        own = str(self._own.copy)
        path = os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH", ""))))
        env = os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        try:
            out = subprocess.run(
                [*command, *files],
                cwd=own,
                env=env,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            return 1, "timeout"
        return out.returncode, out.stdout + out.stderr


def run(todo: list[Mutant], tests: Path, expression: str, jobs: int = 1) -> list[bool]:
    """For each mutant whether it survives. Raises UsageError where the tests fail without any."""
    with tempfile.TemporaryDirectory(prefix="qgf_mutants_") as folder:
        runner = Runner(Path(folder), tests, expression)
        for file in sorted({m.file for m in todo}):
            if not runner.survives(file, (ROOT / file).read_text()):
                raise UsageError(f"-k {expression!r} of {tests} fails on {file} as it is")
        with ThreadPoolExecutor(jobs) as pool:
            fates = pool.map(lambda m: runner.survives(m.file, m.source), todo)
            return list(track(fates, len(todo), "mutants"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", default=FILES, help="relative to the repository")
    parser.add_argument("--tests", type=Path, default=ROOT / TESTS, help="a file or a folder")
    parser.add_argument(
        "-k", default="fault and not million", help="which tests count, as for pytest"
    )
    parser.add_argument("--lines", default="", help="FIRST-LAST, of the only file")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    todo = [m for file in given.files for m in mutants(file, (ROOT / file).read_text())]
    if given.lines:
        first, last = map(int, given.lines.split("-"))
        todo = [m for m in todo if first <= m.line <= last]
    alive = run(todo, given.tests.resolve(), given.k, given.jobs)
    fates = ("killed", "SURVIVED")
    table(
        "mutants",
        ("where", "fate", "what"),
        [(f"{m.file}:{m.line}", fates[a], m.what) for m, a in zip(todo, alive)],
    )
    share = 1 - sum(alive) / max(1, len(todo))
    say(
        f"{len(todo) - sum(alive)} of {len(todo)} killed: {share:.1%}, at least {ENOUGH:.0%} are needed"
    )
    return 0 if share >= ENOUGH else 8


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main())
