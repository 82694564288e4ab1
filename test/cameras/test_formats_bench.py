"""bench/camera_formats.py: what it calls the same ticks, and what it would call a difference to LeRobot's reader,
is found where it is put in."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import qgf_cameras
from qgf_make import contract

from training.pipeline.readers.load import load_episodes

for needed in ("av", "simplejpeg", "pyarrow", "torch", "onnxruntime", "mujoco"):
    pytest.importorskip(needed)

BENCH = Path(__file__).resolve().parents[2] / "bench"
if not BENCH.is_dir():
    pytest.skip("bench/ is not part of an installed package", allow_module_level=True)

RNG = np.random.default_rng(3)
T, EPISODES = 10, 2
LIGHTS = RNG.uniform(size=(EPISODES, T, 2))
IMAGES = [np.stack([qgf_cameras.picture(light) for light in of]) for of in LIGHTS]
STATES, ACTIONS = RNG.normal(size=(EPISODES, T, 5)), RNG.uniform(-1, 1, (EPISODES, T, 2))
CAMERA = "observation.images.wrist"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCH)])
    return importlib.import_module("camera_formats")


def own():
    told = qgf_cameras.camera_dict(column=CAMERA)
    told["observations"][1]["column"] = "observation.state[0:4]"
    told["observations"][2]["column"] = "observation.state[4:5]"
    return contract(told)


def read(tmp_path, name, images, states=STATES, codec="libx264"):
    qgf_cameras.lerobot(tmp_path / name, images, states, ACTIONS, "v3.0", codec)
    return load_episodes(tmp_path / name, own())[0]


def test_ticks_are_the_same_until_an_image_or_a_number_is_another(tmp_path, bench):
    part = own().observation_slices["wrist"]
    first = read(tmp_path, "a", IMAGES)
    found = bench.same_ticks(first, read(tmp_path, "b", IMAGES, codec="libx265"), part)
    assert found == {"same_ticks": True, "another_tick": 0, "told": found["told"]}
    assert found["told"] >= EPISODES * T, "every image is another, and tells its tick"
    shifted = [np.concatenate([of[:1], of[:-1]]) for of in IMAGES]
    found = bench.same_ticks(first, read(tmp_path, "c", shifted), part)
    assert found["same_ticks"] and found["another_tick"] >= EPISODES * (T - 1)
    moved = STATES.copy()
    moved[1, 4, 2] += 1e-3
    assert not bench.same_ticks(first, read(tmp_path, "d", IMAGES, moved), part)["same_ticks"]
    assert not bench.same_ticks(first, first[:1], part)["same_ticks"]


def as_lerobot(out, data, change=lambda rows, images: None):
    """What bench/lerobot_frames.py leaves of a dataset, by our reader."""
    from training.pipeline.frames import as_recorded
    from training.pipeline.readers.lerobot import LeRobotReader

    reader, kept = LeRobotReader(), as_recorded(own())
    images = [
        recording.frames["wrist"][np.arange(T)]
        for recording in (reader.read(data, name, kept) for name in reader.recordings(data))
    ]
    rows = {
        "episode_index": np.repeat(np.arange(EPISODES), T), "frame_index": np.tile(np.arange(T), EPISODES),
        "timestamp": np.tile(np.arange(T, dtype=np.float32) / 20, EPISODES),
        "observation.state": STATES.reshape(-1, 5).astype(np.float32),
        "action": ACTIONS.reshape(-1, 2).astype(np.float32),
    }  # fmt: skip
    shown = np.concatenate(images)
    change(rows, shown)
    out.mkdir()
    np.savez(out / "rows.npz", **rows)
    np.save(out / f"{CAMERA}.npy", shown)


def one_late(rows, images):
    images[1:T] = images[: T - 1].copy()


def one_byte(rows, images):
    images[T + 3, 5, 6, 1] ^= 1


def one_number(rows, images):
    rows["action"][T + 2, 1] += 0.25


def one_time(rows, images):
    rows["timestamp"][4] += 0.01


@pytest.mark.parametrize(
    "change, far, least",
    [(None, None, 0), (one_late, "byte", 50), (one_byte, "byte", 1), (one_number, "action", 0.24), (one_time, "timestamp", 0.009)],
)
def test_another_reader_that_differs_is_told(tmp_path, bench, change, far, least):
    qgf_cameras.lerobot(tmp_path / "data", IMAGES, STATES, ACTIONS, "v3.0")
    as_lerobot(tmp_path / "out", tmp_path / "data", change or (lambda *_: None))
    found = bench.beside(tmp_path / "out", tmp_path / "data", own(), None, set())
    assert found["frames"] == EPISODES * T and found["frames_that_we_lack"] == 0
    for kind, value in found["largest_difference"].items():
        if kind == far:
            assert value >= least
        else:
            assert value < 1e-6, f"{kind} differs by {value}"


def test_the_results_hold_what_the_issue_asks_for():
    """The same ticks in every format, nothing moved by a format that loses nothing, a compression that moves
    features less than an image late does, and LeRobot's own reader with the same bytes."""
    document = json.loads((BENCH / "results/camera-formats.json").read_text())
    for name, found in document["recordings"].items():
        formats = dict(found["formats"])
        formats.pop("raw")
        late = formats.pop("raw, one image late")
        for form, figures in formats.items():
            assert figures["same_ticks"] and not figures["another_tick"], f"{name}, {form}"
            for kind in ("features", "action", "q"):
                assert figures[kind]["mean"] < late[kind]["mean"], f"{name}, {form}, {kind}"
        assert formats["npz"]["bytes"]["max"] == formats["npz"]["features"]["max"] == 0
    versions = {found["dataset"] for found in document["lerobot"]}
    assert versions == {"v2.1", "v3.0"}
    for found in document["lerobot"]:
        assert found["frames"] > 0 and found["frames_that_we_lack"] == 0
        largest = found["largest_difference"]
        assert largest["byte"] == largest["state"] == largest["action"] == 0, found
