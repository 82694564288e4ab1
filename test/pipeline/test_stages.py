"""A stage that gives something else for the same recording has to say so by its version: what was
prepared before would pass for new. One small recording per format, and what it became."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import qgf_bags
import yaml
from qgf_make import contract, twist_dict, velocity_dict

pytest.importorskip("rosbags")
pytest.importorskip("pyarrow")

from training.pipeline import stages
from training.pipeline.readers.load import find_reader
from training.pipeline.store import prepare
from training.pipeline.writers.convert import convert

# format -> versions, digest. Where a digest differs on purpose, raise the version of the stage that
# gives something else (training/pipeline/stages.py, or `version` of the reader), and write both here.
SAME = "f8c345413305b085"  # whatever the format
KNOWN = {
    "mcap": ("Rosbag2Reader 5 align 5 encode 1 store 3", SAME),
    "sqlite3": ("Rosbag2Reader 5 align 5 encode 1 store 3", SAME),
    "lerobot-v2.1": ("LeRobotReader 5 align 5 encode 1 store 3", SAME),
    "lerobot-v3.0": ("LeRobotReader 5 align 5 encode 1 store 3", SAME),
    "npz": ("NpzReader 3 align 5 encode 1 store 3", SAME),
    "outcome": (5, "bb5cdc6892a9d0c4"),  # how attempts are cut, and the version of alignment
    "length": (5, "eeacccd1955150f1"),
    "encode": (1, "fd7f02a1ed6d6cc0"),
}


def digest(*arrays, **about):
    """In six digits: the last ones are the processor's."""
    hashed = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for array in arrays:
        hashed.update(np.round(np.asarray(array, np.float64), 6).astype(np.float32).tobytes())
    return hashed.hexdigest()[:16]


@pytest.mark.parametrize("kind", ["mcap", "sqlite3", "lerobot-v2.1", "lerobot-v3.0", "npz"])
def test_fault_142_who_changes_a_stage_raises_its_version(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(velocity_dict()))
    own = contract(velocity_dict())
    qgf_bags.write(tmp_path / "bag", own, ticks=40, seed=3)
    convert(tmp_path / "bag", tmp_path / "contract.yaml", tmp_path / kind, None, kind)
    arrays, report = prepare(tmp_path / kind, own)
    found = digest(
        arrays.obs,
        arrays.action,
        arrays.reward,
        steps=arrays.steps.tolist(),
        terminal=arrays.terminal.tolist(),
        success=arrays.success,
        report=[report.episodes, report.ticks, sorted(report.dropped.items())],
    )
    versions = stages.stages(find_reader(tmp_path / kind))
    assert KNOWN.get(kind) == (versions, found), f"{kind}: {(versions, found)!r}; see KNOWN"


@pytest.mark.parametrize("end", ["outcome", "length"])
def test_fault_142_who_changes_how_attempts_are_cut_raises_its_version(tmp_path, monkeypatch, end):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    said = {"objective": "time_to_success", "attempts": {"end": end}}
    said["attempts"] |= {"seconds": 0.5} if end == "length" else {}
    said["success"] = {
        "topic": "success",
        "type": "std_msgs/Bool",
        "fields": ["data"],
        "column": "won",
    }
    names = ("joints", "goal", "arm")
    own = velocity_dict() | {"outcome": said}
    for source, column in zip((*own["observations"], *own["actions"]), names):
        source["column"] = column
    rng = np.random.default_rng(0)
    table = {n: rng.normal(size=(60, w)) for n, w in zip(names, (4, 1, 2))}
    np.savez(tmp_path / "play.npz", **table, won=rng.random(60) < 0.1, fps=np.array(20.0))
    arrays, _ = prepare(tmp_path / "play.npz", contract(own))
    found = digest(
        arrays.obs,
        arrays.action,
        arrays.reward,
        steps=arrays.steps.tolist(),
        terminal=arrays.terminal.tolist(),
        success=arrays.success,
    )
    version = stages.VERSIONS["align"]
    assert KNOWN.get(end) == (version, found), f"{end}: {(version, found)!r}; see KNOWN"


def test_fault_142_who_changes_an_encoding_raises_its_version():
    source = contract(twist_dict()).observations
    (tool,) = (o for o in source if o.encoding != "identity")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, len(tool.labels)))
    made = [
        replace(tool, encoding=e, resample="hold").features(values)
        for e in ("rot6d", "matrix_columns", "yaw_sin_cos")
    ]
    found = digest(*made)
    version = stages.VERSIONS["encode"]
    assert KNOWN.get("encode") == (version, found), f"{(version, found)!r}; see KNOWN"
