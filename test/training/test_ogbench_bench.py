"""bench/ogbench.py end to end, very small: data, training, choice of weights, report, resumption."""

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
if not BENCH.is_dir():
    pytest.skip("bench/ is not part of an installed package", allow_module_level=True)


OPTIONS = """--seeds 0 --workers 1 --transitions 1000 --episodes 1 --select-episodes 1 --weights 0.1
    --other-episodes 0 --fit.steps 20 --fit.hidden 16 16""".split()


def rows_of(out):
    return json.loads((out / "cube-single-16x16-20.json").read_text())


@pytest.mark.xdist_group("export")  # whose worker has what an export imports
def test_the_benchmark_runs_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capfd):
    """In this process, where the policy is trained and played; then as its command, which finds all
    of it there."""
    arguments = [str(BENCH / "ogbench.py"), "--out", str(tmp_path), *OPTIONS]
    monkeypatch.setattr(sys, "argv", arguments)
    spec = importlib.util.spec_from_file_location("bench_ogbench", BENCH / "ogbench.py")
    bench = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, bench)
    spec.loader.exec_module(bench)
    monkeypatch.setattr(bench, "process_pool", ThreadPoolExecutor)
    assert bench.main() == 0
    rows = rows_of(tmp_path)
    assert {r["sampler"] for r in rows} == {
        "bc",
        "qgf",
        "best_of_4",
        "best_of_16",
        "qgf_best_of_4",
    }
    assert all(r["episodes"] == 1 and 0 <= r["successes"] <= 1 for r in rows)
    assert all(r["task"] == "cube-single" and r["seed"] == 0 for r in rows)
    bc = next(r for r in rows if r["sampler"] == "bc")
    assert bc["weight"] == 0 and bc["beta"] is None
    played = (tmp_path / "episodes.jsonl").read_text()
    assert "training:" in capfd.readouterr().err
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=240, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows_of(tmp_path) == rows
    assert (tmp_path / "episodes.jsonl").read_text() == played  # nothing was played twice
    assert "training:" not in done.stderr
