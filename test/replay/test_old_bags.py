"""What was recorded before replays as it did: bags of an earlier commit, the figures that its code gave for
them, and the hashes of the contracts as they were then."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from qgf_ros import cli
from qgf_ros.spaces.contract import Contract

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "test/data/recorded"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
# Of floats: another processor sums float32 in another order. On one machine they are equal to the bit.
TOLERANCE = {"rel": 1e-3, "abs": 1e-5}


def differences(was, now, where=""):
    """Numbers and words that are other than they were; what is new beside them is none."""
    if isinstance(was, dict):
        for key, value in was.items():
            yield from differences(value, now.get(key, "missing"), f"{where}/{key}")
    elif isinstance(was, list):
        assert len(was) == len(now), where
        for i, (a, b) in enumerate(zip(was, now)):
            yield from differences(a, b, f"{where}[{i}]")
    elif isinstance(was, float) and isinstance(now, (int, float)) and math.isfinite(was):
        if now != pytest.approx(was, **TOLERANCE):
            yield where, was, now
    elif was != now:
        yield where, was, now


def test_bags_replay_as_they_did(capsys):
    bags = [str(p) for p in sorted(FOLDER.glob("demonstrations_*"))]
    betas = list(map(str, EXPECTED["betas"]))
    assert len(bags) == 3
    assert (
        cli.main(["replay", *bags, "--policy", EXPECTED["policy"], "--beta", *betas, "--json"]) == 0
    )
    now = json.loads(capsys.readouterr().out)
    assert list(differences(EXPECTED["replay"], now)) == []
    assert now["ticks"] == 377 and now["results"][0]["samples"] == 78


@pytest.mark.parametrize("file", EXPECTED["contracts"])
def test_a_contract_keeps_its_hash(file):
    assert Contract.load(ROOT / file).hash == EXPECTED["contracts"][file]
