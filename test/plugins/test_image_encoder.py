"""An encoder of images that another package adds: learnt like ours, and on the robot without that package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import qgf_cameras
import yaml
from qgf_make import contract

pytest.importorskip("torch")
pytest.importorskip("simplejpeg")

from qgf_ros.errors import UsageError
from qgf_ros.policy.folder import load_policy
from training.learn.config import FitConfig
from training.learn.fit import fit

pytestmark = pytest.mark.xdist_group("plugins")
TINY = FitConfig(hidden=(16,), steps=10, batch=16, workers=1, critic="monte_carlo")
ON_ROBOT = """
import json, sys
import numpy as np
from pathlib import Path
from qgf_ros.images.encoder import CameraEncoder
from qgf_ros.policy.folder import load_policy
encoder = CameraEncoder(load_policy(Path(sys.argv[1])), "wrist")
features = [encoder.features(np.full((48, 64, 3), light, np.uint8)).tolist() for light in (60, 120)]
print(json.dumps({"features": features, "met": sorted({"torch", "qgf_examples"} & set(sys.modules))}))
"""


def recorded(folder, kind):
    own = qgf_cameras.camera_dict(encoder={"kind": kind, "features": 6})
    (folder / "contract.yaml").write_text(yaml.safe_dump(own))
    for k in range(4):
        qgf_cameras.write(folder / "bags" / f"{k}", contract(own), seed=k)
    return folder


def test_it_is_learnt_and_the_robot_has_it_without_the_package(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    folder = recorded(tmp_path, "patches")
    fit(folder / "bags", folder / "contract.yaml", folder / "run", TINY)
    policy = folder / "run" / "policy"
    (about,) = load_policy(policy).description.cameras
    assert about.kind == "patches" and about.parity < 1e-4
    path = os.pathsep.join(p for p in sys.path if p and p != str(installed))
    done = subprocess.run(
        [sys.executable, "-c", ON_ROBOT, str(policy)], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    said = json.loads(done.stdout)
    dark, bright = (np.array(f) for f in said["features"])
    assert len(dark) == 6 and not np.allclose(dark, bright) and not said["met"]


def test_without_the_package_it_is_named_with_those_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    folder = recorded(tmp_path, "patches")
    with pytest.raises(
        UsageError,
        match=r"encoder 'patches' is not known; allowed: small, frozen; .*qgf\.image_encoders",
    ):
        fit(folder / "bags", folder / "contract.yaml", folder / "run", TINY)
