"""A dataset format that another package adds: read and prepared like ours, and named where it is broken."""

import os
import subprocess
import sys

import numpy as np
import pytest
from qgf_make import contract, velocity_dict

pytest.importorskip("rosbags")
pytest.importorskip("pyarrow")

from qgf_ros.errors import DataRefused
from training.pipeline.readers.load import find_reader, load_episodes
from training.pipeline.store import prepare

pytestmark = pytest.mark.xdist_group("plugins")
BROKEN = {
    "gone": "",
    "fails": "class Odd:\n    def __init__(self): raise OSError('no')",
    "incomplete": "class Odd:\n    version = 1",
    "confused": "class Odd:\n    version = 1\n    recordings = read = survey = files = None\n"
    "    def recognises(self, path): return 1 / 0",
}


def test_it_is_read_and_prepared(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    value = velocity_dict()
    for source, column in zip(
        (*value["observations"], *value["actions"]), ("joints", "goal", "arm")
    ):
        source["column"] = column
    value["outcome"] = {"objective": "time_to_success", "assume_success": True}
    own = contract(value)
    sources = (*own.observations, *own.actions)
    # The joints in another order than the contract's: values are matched by name.
    names = [f"{s.column}.{label}" for s in sources for label in s.labels[::-1]]
    (tmp_path / "data").mkdir()
    for seed in range(3):
        rows = np.random.default_rng(seed).normal(size=(30, len(names)))
        file = tmp_path / "data" / f"{seed}.csv"
        np.savetxt(file, rows, delimiter=",", header=",".join(names), comments="")
    episodes, report = load_episodes(tmp_path / "data", own)
    arrays, _ = prepare(tmp_path / "data", own, workers=2)
    assert len(episodes) == len(arrays) == 3 and not report.lost
    first = np.loadtxt(tmp_path / "data" / "0.csv", delimiter=",", skiprows=1)
    said = first[:, -len(own.actions[0].labels) :][:, ::-1]
    assert np.allclose(episodes[0].action, said[: len(episodes[0])])


def test_help_names_it_and_imports_no_reader(installed):
    script = (
        "import sys; from training.pipeline.readers.formats import READABLE; print(READABLE);"
        "readers = ('rosbags', 'pyarrow', 'h5py', 'qgf_examples');"
        "sys.exit(', '.join(m for m in readers if m in sys.modules) or 0)"
    )
    path = os.pathsep.join([str(installed), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(", or CSV (of another package)")


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_one_is_named_and_takes_nothing_else_down(tmp_path, monkeypatch, how):
    (tmp_path / f"odd_{how}.py").write_text(BROKEN[how])
    info = tmp_path / f"odd_{how}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: odd_{how}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[qgf.formats]\nodd = odd_{how}:Odd\nnpz = odd_{how}:Odd\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    np.savez(tmp_path / "a.npz", observations=np.zeros((5, 2)))
    assert type(find_reader(tmp_path / "a.npz")).__name__ == "NpzReader"  # ours stays ours
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataRefused, match="format 'odd' of another package is broken"):
        find_reader(tmp_path / "notes.txt")
