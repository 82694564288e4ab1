"""Runs the test suite many times, and says what failed and what was run again, each with its cause.

    python bench/suite_runs.py --name quiet [--runs 10] [--busy 0] [-- PYTEST ARGUMENTS]

`make test-runs` is ten runs on a quiet machine and three beside two busy processes. Resumable: each
finished run is a line of bench/results/suite-NAME.partial.jsonl, and what was interrupted goes on
there, as long as commit and arguments are the same. The result is bench/results/suite-NAME-DATE.json.
Exit code 8 where anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
DEFAULT = "-n 3 --dist loadgroup --max-worker-restart 0 test".split()  # as `make test`
AGAIN = "run again, because"  # a section of test/conftest.py
BURN = [sys.executable, "-c", "while True: pass"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--name", required=True, help="of this series")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--busy", type=int, default=0, help="busy processes beside the suite")
    parser.add_argument("pytest", nargs="*", help=f"default: {' '.join(DEFAULT)}")
    given = parser.parse_args()
    same = {"commit": _commit(), "busy": given.busy, "pytest": given.pytest or DEFAULT}
    partial = RESULTS / f"suite-{given.name}.partial.jsonl"
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = (
        [json.loads(line) for line in partial.read_text().splitlines()] if partial.exists() else []
    )
    done = [row for row in rows if {k: row[k] for k in same} == same][: given.runs]
    while len(done) < given.runs:
        row = same | _run(same["pytest"], given.busy)
        done.append(row)
        with partial.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"run {len(done)} of {given.runs}: {row['summary']}", flush=True)
        for what in ("failed", "again"):
            for line in row[what]:
                print(f"  {what}: {line}", flush=True)
    document = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        **same,
        "minutes": [round(row["seconds"] / 60, 1) for row in done],
        "failed": sum(row["code"] != 0 for row in done),
        "runs": [{k: v for k, v in row.items() if k not in same} for row in done],
    }
    result = RESULTS / f"suite-{given.name}-{document['date']}.json"
    result.write_text(json.dumps(document, indent=1) + "\n")
    partial.unlink(missing_ok=True)
    print(f"{result}: {document['failed']} of {given.runs} runs failed")
    return 8 if document["failed"] else 0


def _run(arguments: list[str], busy: int) -> dict[str, Any]:
    """One run: its exit code, seconds, last line, and a line for each test that failed or was run again."""
    with contextlib.ExitStack() as stack:
        junit = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "junit.xml"
        for _ in range(busy):
            burning = stack.enter_context(subprocess.Popen(BURN))
            stack.callback(burning.kill)
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={junit}", *arguments]
        began = time.monotonic()
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seconds = time.monotonic() - began
        failed, slowest = _outcomes(junit)
    lines = [line for line in ended.stdout.splitlines() if line.strip()]
    if ended.returncode:
        print(ended.stdout[-8000:], ended.stderr[-2000:], flush=True)
    return {
        "code": ended.returncode,
        "seconds": round(seconds, 1),
        "load": [round(x, 2) for x in os.getloadavg()],
        "summary": lines[-1].strip("= ") if lines else ended.stderr[-300:],
        "failed": failed,
        "again": _section(lines, AGAIN),
        "slowest": slowest,
    }


def _outcomes(junit: Path) -> tuple[list[str], list[str]]:
    """Why what failed did, and the slowest tests."""
    if not junit.exists():
        return ["no report: the run itself broke off"], []
    failed, took = [], []
    for case in ElementTree.parse(junit).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        took.append((float(case.get("time") or 0), name))
        for kind in ("failure", "error"):
            for found in case.iter(kind):
                failed.append(f"{name}: {(found.get('message') or '')[:400]}")
    return failed, [f"{seconds:.1f} s {name}" for seconds, name in sorted(took)[:-21:-1]]


def _section(lines: list[str], title: str) -> list[str]:
    """The lines below the title of a section, up to the next one."""
    begin = next((i + 1 for i, line in enumerate(lines) if title in line), len(lines))
    end = next((i for i in range(begin, len(lines)) if lines[i].startswith("=")), len(lines))
    return lines[begin:end]


def _commit() -> str:
    """What is tested: the commit, and whether the tree differs from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
    )
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())


if __name__ == "__main__":
    sys.exit(main())
