"""The example contracts load, with and without their optional parts, and every guess is marked."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from qgf_ros.spaces.contract import Contract

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
# Lines that say something about a robot which nobody here has seen.
GUESS = re.compile(r"\s*(topic|frame|period|radius):|.*\{(min|topic):")


def test_there_are_examples():
    seeing = {"so101_two_cameras": 2, "aloha": 4, "ur5e_realsense": 2}
    others = {"so101", "so101_lerobot", "ur5e_servo", "diff_drive"}
    assert {p.stem for p in EXAMPLES} == others | seeing.keys()
    for path in EXAMPLES:
        assert len(Contract.load(path).cameras) == seeing.get(path.stem, 0)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_loads(path):
    own = Contract.load(path)
    assert Contract.from_dict(own.to_dict()) == own


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_guess_is_marked(path):
    guesses = [line for line in path.read_text().splitlines() if GUESS.match(line.lstrip("#"))]
    assert len(guesses) > 5
    assert not [line for line in guesses if "# confirm" not in line]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_optional_parts_load_when_they_are_uncommented(path):
    text = path.read_text()
    whole = re.sub(r"^#(?=  )", "", text, flags=re.MULTILINE)
    own = Contract.from_dict(yaml.safe_load(whole))
    assert len(own.observations) == len(Contract.load(path).observations) + (whole != text)
    whole_already = {"so101_lerobot", "so101_two_cameras", "aloha", "ur5e_realsense"}
    assert whole != text or path.stem in whole_already


def test_lerobots_names_are_not_those_of_the_urdf():
    """In rad where degrees were learnt, an arm would be told a fiftieth of the way."""
    rad, degrees = (
        Contract.load(next(p for p in EXAMPLES if p.stem == s)) for s in ("so101", "so101_lerobot")
    )
    assert not set(rad.actions[0].names) & set(degrees.actions[0].names)
    for own in (rad, degrees):
        assert own.observations[0].names == own.actions[0].names


def test_lerobots_columns_are_read_by_their_own_names_and_units(tmp_path):
    """A v2.1 dataset as LeRobot writes it for this arm, its names in another order than ours."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from training.pipeline.readers.lerobot import LeRobotReader

    own = Contract.load(next(p for p in EXAMPLES if p.stem == "so101_lerobot"))
    names = list(reversed(own.actions[0].names))
    rows = np.round(np.random.default_rng(0).uniform(-90, 90, (20, 6)), 3)
    feature = {"dtype": "float32", "shape": [6], "names": names}
    info = {
        "codebase_version": "v2.1", "fps": 30, "total_episodes": 1, "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "features": {"observation.state": feature, "action": feature},
    }  # fmt: skip
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    (tmp_path / "data/chunk-000").mkdir(parents=True)
    columns = {"observation.state": rows.tolist(), "action": (rows + 1).tolist()}
    pq.write_table(pa.table(columns), tmp_path / "data/chunk-000/episode_000000.parquet")

    reader = LeRobotReader()
    streams = reader.read(tmp_path, reader.recordings(tmp_path)[0], own).streams
    assert np.array_equal(streams["joints"].values, rows[:, ::-1])
    assert np.array_equal(streams["arm"].values, rows[:, ::-1] + 1)
