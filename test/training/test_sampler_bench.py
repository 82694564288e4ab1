"""bench/sampler.py, very small: every row that was asked for, the same actions from every backend;
and docs/performance.md says what the results say."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qgf_make import SCALE

from qgf_ros.errors import CriterionNotMet
from qgf_ros.guidance.backends.native import LIBRARY

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
if not BENCH.is_dir():
    pytest.skip("bench/ is not part of an installed package", allow_module_level=True)


@pytest.fixture
def bench(monkeypatch):
    """A module of bench/, whose names are too plain to stay on the path."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


def can_run(backend):
    kind = backend.split("_")[0]
    if kind == "jax":
        return importlib.util.find_spec("jax") is not None
    if kind == "native":
        return LIBRARY.exists()
    return kind != "floor" or shutil.which("cc") is not None


@pytest.mark.xdist_group("browser")  # not beside another that needs much memory
def test_every_backend_gives_its_rows_and_the_same_actions(tmp_path, bench):
    """The benchmark itself compares the actions, for each case, before it times anything."""
    out = tmp_path / "rows.json"
    command = [sys.executable, BENCH / "sampler.py", "--json", "--out", out, "--minutes", "0.01"]
    command += ["--nets", "2x8", "--steps", "2"]
    known = bench("sampler_backends").BACKENDS
    # Each is a process with imports of its own: in `make test` one of each kind, but for JAX.
    asked = [n for n in known if SCALE > 1 or not n.startswith("jax") and "f16" not in n]
    command += ["--backends", *asked]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=480, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout)
    assert rows == json.loads(out.read_text())["rows"]
    found = {(r["backend"], r["mode"], r["candidates"]) for r in rows}
    assert len(found) == len(rows)
    everyone = [name for name in asked if can_run(name)]
    assert {"eager", "explicit", "onnx"} < set(everyone)
    plain = {(b, m, n) for b in everyone for m in ("guided", "unguided") for n in (1, 4, 16)}
    judges = [b for b in everyone if b not in ("floor", "floor_f16", "explicit")]
    best = {(b, m, n) for b in judges for m, n in (("guided_best", 4), ("unguided_best", 16))}
    robots = [b for b in everyone if b == "onnx" or b.startswith("native")]
    assert found == plain | best | {(b, "node", n) for b in robots for n in (1, 4)}
    for row in rows:
        assert (row["net"], row["critics"], row["steps"]) == ("2x8", 2, 2)
        assert 0 < row["p50_ms"] <= row["p99_ms"] and row["calls"] >= 1


def test_other_actions_are_not_timed(bench):
    sampler = bench("sampler")
    case = sampler.Case(sampler.Sizes((8, 8)), 1, "guided")
    right = np.zeros((1, 25), np.float32)
    sampler.compare({"eager": right, "jax": right + 1e-5, "floor": np.zeros(0)}, case)
    for wrong in (right + 3e-5, right * np.nan, np.zeros((1, 24), np.float32)):
        with pytest.raises(CriterionNotMet, match="jax"):
            sampler.compare({"eager": right, "jax": wrong}, case)


def test_the_floor_reads_each_weight_as_often_as_a_sample_does(bench):
    """Four passes per step with two members: the velocity, both forward, one of them backward."""
    width, flat, obs, steps = 512, 25, 37, 10
    hidden = 3 * width * width
    widths = [flat] + [width] * 4
    reads = bench("floor").passes([*widths, flat], [*widths, 1], obs, 2, steps, True)
    weights = 3 * obs * width + steps * (
        2 * flat * width + 3 * (flat + 1) * width + 4 * hidden  # first and last layers, the others
    )
    vectors = steps * 3 * (4 * 4 * width + flat + 3)
    assert sum(size for _, size in reads) == pytest.approx(4 * (weights + vectors), rel=1e-3)
    unguided = bench("floor").passes([*widths, flat], [*widths, 1], obs, 2, steps, False)
    assert len(unguided) == 1 + steps * 5
    assert max(sum(read) for read in unguided) < 4 * (hidden + 100 * width)


def test_the_document_says_what_the_results_say(bench):
    doc = bench("performance_doc")
    text = doc.DOC.read_text()
    blocks = list(doc.BLOCK.finditer(text))
    assert len(blocks) == len(re.findall("<!-- begin", text)) == 3
    for found in blocks:
        assert found[0] == doc.block(found[1]), "run: python bench/performance_doc.py"
