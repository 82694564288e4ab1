"""Mutants in place: the tests are collected once, and each mutant is a forked process in which one
live function has other code.

A run of the tests as they are says how long each takes and which functions it enters. A mutant is
tried with those that enter its function, the shortest first, up to the first that fails. The file has
the mutant meanwhile, for processes that a test starts.
"""

from __future__ import annotations

import enum
import gc
import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from qgf_ros.processes import signal_at_parents_death

PATIENCE = (
    30.0  # s for a test beyond ten times what it takes; a mutant on which it hangs is noticed
)


class Fate(enum.IntEnum):
    """Of a mutant. NOT_HERE: it is none of one function, or no test enters that."""

    SURVIVES = 0
    NOTICED = 1
    NOT_HERE = 2


class InPlace:
    """A pytest plugin that runs the collected tests once for each of `todo`.

    `root` has the files that the tests import. `told(mutant, fate)` hears each fate as it is known.
    `wide`: files of which processes that the tests start have functions too; all the tests count.
    `failed` is what a test without any mutant said, "" if none did.
    """

    def __init__(
        self, root: Path, todo: list[Any], told: Callable[[Any, Fate], None], wide: set[str]
    ) -> None:
        self.root, self.todo, self.told, self.wide, self.failed = root, todo, told, wide, ""
        self._reports: list[pytest.TestReport] = []
        self._patience: dict[str, float] = {}  # s, by test

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        files = sorted({m.file for m in self.todo})
        original = {file: _Original(self.root / file) for file in files}
        if missing := [file for file, o in original.items() if not o.loaded]:
            self.failed = f"the tests do not import {', '.join(missing)}"
            return True
        reach = _Reach({o.loaded: file for file, o in original.items() if o.loaded})
        said = _forked(lambda tell: tell(self._as_it_is(session.items, reach)))
        if said is None or said["failed"]:
            self.failed = said["failed"] if said else "the tests end their process"
            return True
        seconds, entered = said["seconds"], {i: set(map(tuple, e)) for i, e in said["entered"]}
        live = [f for f in gc.get_objects() if isinstance(f, FunctionType)]
        live = [f for f in live if f.__code__.co_filename in reach.files]
        gc.freeze()  # else a child's first collection copies all of the memory
        items = sorted(session.items, key=lambda i: seconds[i.nodeid])
        for mutant in self.todo:
            here = (mutant.file, mutant.function)
            about = [i for i in items if here in entered[i.nodeid]]
            if mutant.file in self.wide:
                about += [i for i in items if i not in about]
            codes = original[mutant.file].codes(mutant.source)
            if not mutant.function or not about or codes is None:
                self.told(mutant, Fate.NOT_HERE)
                continue
            self._patience = {i.nodeid: PATIENCE + 10 * seconds[i.nodeid] for i in about}
            fate = _forked(lambda tell: tell(self._mutated(mutant, codes, about, live)))  # noqa: B023
            self.told(mutant, Fate.NOTICED if fate is None else Fate(fate))
        return True

    def _as_it_is(self, items: list[pytest.Item], reach: _Reach) -> dict[str, Any]:
        seconds, own, shared = {}, {}, defaultdict(set)
        sys.settrace(reach)
        threading.settrace(reach)
        for item, after in zip(items, [*items[1:], None]):
            reach.entered = set()
            began = time.monotonic()
            failure = self._run(item, after)
            seconds[item.nodeid], own[item.nodeid] = time.monotonic() - began, reach.entered
            # What a module's fixture enters counts for all of the module's tests.
            shared[item.path] |= reach.entered if _begins_module(item) else set()
            if failure:
                return {"failed": failure}
        entered = [(i.nodeid, sorted(own[i.nodeid] | shared[i.path])) for i in items]
        return {"failed": "", "seconds": seconds, "entered": entered}

    def _mutated(
        self, mutant: Any, codes: dict[CodeType, CodeType], about: list[pytest.Item],
        live: list[FunctionType],
    ) -> Fate:  # fmt: skip
        file = self.root / mutant.file
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*"):
            compiled.unlink()
        file.write_text(mutant.source)
        if not put(codes, live) and mutant.file not in self.wide:
            return Fate.NOT_HERE
        for item, after in zip(about, [*about[1:], None]):
            signal.alarm(round(self._patience[item.nodeid]))
            if self._run(item, after):
                return Fate.NOTICED
        return Fate.SURVIVES

    def _run(self, item: pytest.Item, after: pytest.Item | None) -> str:
        self._reports.clear()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        return "".join(f"{r.nodeid}: {r.longreprtext[-800:]}" for r in self._reports if r.failed)


class _Reach:
    """A trace function that keeps which functions of some files are entered."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files, self.entered = files, set()

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if code.co_filename in self.files:
            name = code.co_qualname.split(".<locals>")[0]
            self.entered.add((self.files[code.co_filename], name))


class _Original:
    """A file's code as the tests have loaded it. `loaded`: its name there, "" where they have not."""

    def __init__(self, file: Path) -> None:
        modules = (getattr(m, "__file__", None) for m in list(sys.modules.values()))
        self.loaded = next((m for m in modules if m and os.path.realpath(m) == str(file)), "")
        self._file, self._text = file, file.read_text()
        self._codes = list(_all_codes(_compiled(self._text, self.loaded)))

    def codes(self, source: str) -> dict[CodeType, CodeType] | None:
        """The mutant's code for each that it has another of; None where they do not match."""
        others = list(_all_codes(_compiled(source, self.loaded)))
        if [c.co_qualname for c in others] != [c.co_qualname for c in self._codes]:
            return None
        return dict(zip(self._codes, others))

    def restore(self) -> None:
        self._file.write_text(self._text)


def _compiled(source: str, name: str) -> CodeType:
    return compile(source, name, "exec", dont_inherit=True)


def _all_codes(code: CodeType) -> Iterator[CodeType]:
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield part
            yield from _all_codes(part)


def put(codes: dict[CodeType, CodeType], live: list[FunctionType]) -> bool:
    """Gives every live function its other code, and says whether that could be done."""
    changed = [f for f in live if f.__code__ in codes]
    try:
        for function in changed:
            function.__code__ = codes[function.__code__]
    except ValueError:  # it closes over other variables
        return False
    return bool(changed)


def _begins_module(item: pytest.Item) -> bool:
    return any(d[-1].scope != "function" for d in item._fixtureinfo.name2fixturedefs.values())


def _forked(work: Callable[[Callable[[Any], None]], None]) -> Any:
    """What `work` tells, from a process of its own; None where that ends without a word."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        signal_at_parents_death(signal.SIGKILL)
        os.close(read)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            with os.fdopen(write, "w") as file:
                work(lambda said: file.write(json.dumps(said)))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    try:
        os.killpg(child, signal.SIGKILL)  # what a test has left running
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)
    return json.loads(said) if said else None
