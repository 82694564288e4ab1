"""`make test-long`: every test at full counts, one file at a time, resumable.

Each finished file is a line of bench/results/test-long.partial.jsonl; a run that was interrupted
goes on where it stopped, as long as the commit is the same. The end result is
bench/results/test-long-DATE.json with the machine it ran on.

At the default scale that is, among others, a million candidates into the gate, every signal at
twenty phases of the period, a hundred swaps of the policy, and twenty minutes of random faults.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PARTIAL = RESULTS / "test-long.partial.jsonl"
SCALE = os.environ.get("QGF_TEST_SCALE", "50")  # how many times the counts of `make test`


def main() -> int:
    commit = _git("rev-parse", "HEAD")
    done = [
        row
        for row in _rows()
        if row["commit"] == commit and row["scale"] == SCALE and not row["code"] % 5
    ]
    finished = {row["file"] for row in done}
    files = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "test").rglob("test_*.py"))]
    files.append("test/native/run.sh")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file in finished:
            print(f"{file}: done before", flush=True)
            continue
        row = {"commit": commit, "scale": SCALE, "file": file} | _run(file)
        done.append(row)
        with PARTIAL.open("a") as partial:
            partial.write(json.dumps(row) + "\n")
        print(f"{file}: {row['summary']}", flush=True)
    failed = [row["file"] for row in done if row["code"] not in (0, 5)]
    document = {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {"cores": os.cpu_count(), "cpu": _cpu(), "python": platform.python_version()},
        "scale": int(SCALE),
        "failed": failed,
        "files": sorted(done, key=lambda row: row["file"]),
    }
    result = RESULTS / f"test-long-{document['date']}.json"
    result.write_text(json.dumps(document, indent=1) + "\n")
    PARTIAL.unlink(missing_ok=True)
    print(f"{result}: {len(failed)} of {len(files)} files failed")
    return 8 if failed else 0


def _run(file: str) -> dict[str, Any]:
    began = time.monotonic()
    env = os.environ | {"QGF_TEST_SCALE": SCALE}
    runner = ["bash"] if file.endswith(".sh") else [sys.executable, "-m", "pytest", "-q"]
    command = [*runner, file]
    out = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    lines = [line for line in out.stdout.splitlines() if line.strip()]
    if out.returncode not in (0, 5):
        print(out.stdout[-6000:], flush=True)
    return {
        "code": out.returncode,
        "summary": lines[-1].strip("= ") if lines else out.stderr[-300:],
        "seconds": round(time.monotonic() - began, 1),
    }


def _rows() -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    )


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [
        line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
