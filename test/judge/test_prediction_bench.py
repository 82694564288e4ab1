"""bench/prediction.py on a very small pair; how critics are spoilt and pairs are counted; and
docs/prediction.md says what the results say."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.pipeline.episodes import Episode

pytest.importorskip("torch")

BENCH = Path(__file__).resolve().parents[2] / "bench"
if not BENCH.is_dir():
    pytest.skip("bench/ is not part of an installed package", allow_module_level=True)


@pytest.fixture
def bench(monkeypatch):
    """A module of bench/ by its name, which comes last on the path: names there are plain."""
    import sys

    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCH)])
    return importlib.import_module


def episode(name, steps, won):
    reward = np.full(steps, -0.1)
    reward[-1] = -0.1 if won else -10.1
    return Episode(name, np.zeros((steps + 1, 2)), np.zeros((steps, 1)), reward, True, won)


def test_spoilt_data_keeps_what_it_does_not_spoil(bench):
    kinds = bench("prediction_pairs").KINDS
    episodes = [episode(str(i), 5 + i, i % 2 == 0) for i in range(60)]
    rng = np.random.default_rng(0)
    shuffled = kinds["shuffled"].spoil(episodes, rng)
    assert [e.name for e in shuffled] == [e.name for e in episodes]
    assert sorted(e.success for e in shuffled) == sorted(e.success for e in episodes)
    assert all((e.reward[-1] == -0.1) == e.success for e in shuffled)
    assert sum(a.success is not b.success for a, b in zip(shuffled, episodes)) > 10
    assert all(
        (a.reward == -b.reward).all()
        for a, b in zip(kinds["negated"].spoil(episodes, rng), episodes)
    )
    assert len(kinds["10 episodes"].spoil(episodes, rng)) == 10
    assert all(e.success for e in kinds["success only"].spoil(episodes, rng))
    assert episodes[1].reward[-1] == -10.1  # the others are as they were


def pair(unguided, default, called="fit", task="arm", seed=0, figure=0.0):
    played = [
        ("inf", unguided),
        (0.1, unguided),
        (0.2, unguided),
        (0.4, default),
        (0.05, unguided[:4]),
    ]
    return {
        "pair": f"{task} {seed} good",
        "task": task,
        "seed": seed,
        "kind": "good",
        "beta": {"default": 0.4, "min": 0.05, "suggested": [0.1, 0.2, 0.4]},
        "played": [{"beta": b, "success": s} for b, s in played],
        "known": {"select": {"figure": figure}, "report": {"figure": -figure}, "own labels": {}},
        "verdict": {
            name: {"called": called, "reasons": ["it says so"]} for name in ("own", "true")
        },
    }


def test_harm_is_a_paired_difference_that_leaves_0_out(bench):
    doc = bench("prediction_doc")
    worse, same = pair("1" * 20, "0" * 8 + "1" * 12), pair("10" * 10, "01" * 10)
    assert doc.gain(worse).mean == pytest.approx(-0.4) and doc.harmful(worse)
    assert doc.gain(same).mean == 0 and not doc.harmful(same) and not doc.helpful(same)
    assert doc.gain(worse, "strongest").mean == 0
    assert doc.played(worse, "floor")["success"] == "1111"  # compared with the first four alone
    assert doc.gain(worse, "floor").mean == 0
    assert "harmful, not called unfit" in doc.misses([worse, same])
    assert doc.misses([pair("1" * 20, "0" * 20, "unfit")]) == "None."


def test_rank_correlation_is_within_tasks(bench, monkeypatch):
    doc = bench("prediction_doc")
    monkeypatch.setattr(doc, "RESAMPLES", 20)
    rows = [
        pair("0" * 20, "1" * n + "0" * (20 - n), task=task, seed=n, figure=float(n) + level)
        for task, level in (("arm", 0), ("cube", 100))
        for n in range(1 if task == "arm" else 9, 9 if task == "arm" else 17)
    ]
    said = doc.correlations(rows).splitlines()[2].split(" | ")
    assert [cell.split(" (")[0] for cell in said[1:]] == ["1.00"] * 3 + ["-1.00"] * 3


def test_a_pair_is_made_looked_at_and_played(bench, tmp_path, monkeypatch):
    pairs, prediction = bench("prediction_pairs"), bench("prediction")
    small = replace(pairs.FIT, hidden=(16,), steps=20, batch=32)
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pairs, "DEMONSTRATIONS", 40)
    monkeypatch.setattr(pairs, "FIT", small)
    monkeypatch.setitem(pairs.TASKS, "arm", replace(pairs.TASKS["arm"], fit=small))
    study = prediction.Study(tmp_path, "arm", (0,), ("shuffled",), episodes=4)
    prediction.run(study)
    results = tmp_path / "arm.jsonl"
    row = json.loads(results.read_text())
    assert row["pair"] == "arm 0 shuffled" and row["beta"]["suggested"]
    assert {len(p["success"]) for p in row["played"]} == {4, 1}  # the floor is played less
    bench("prediction_verdict").Verdicts(tmp_path).run()
    found = bench("prediction_doc").collected(tmp_path)["pairs"][0]
    assert None not in found["known"]["select"].values()
    assert {v["called"] for v in found["verdict"].values()} <= {"unfit", "doubtful", "fit"}
    before = results.read_text()
    prediction.run(study)  # nothing is done twice
    assert results.read_text() == before


def test_the_document_says_what_the_results_say(bench):
    doc = bench("prediction_doc")
    text = doc.DOC.read_text()
    blocks = list(doc.BLOCK.finditer(text))
    assert len(blocks) == len(re.findall("<!-- begin", text)) == 1
    assert blocks[0][0] == doc.block(blocks[0][1]), "run: python bench/prediction_doc.py"
