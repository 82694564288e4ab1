"""The package of this folder, installed as anybody would, and found by its entry points."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """On the path from here on: a folder with the package and its metadata."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("plugins")
    for file in [HERE / "pyproject.toml", *HERE.glob("qgf_examples/**/*")]:
        if file.is_file() and "__pycache__" not in file.parts:
            copy = source / file.relative_to(HERE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", target, source], check=True)
    sys.path.insert(0, str(target))
    yield target
    sys.path.remove(str(target))
