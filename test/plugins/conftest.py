"""The package of this folder, installed as anybody would, and found by its entry points."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def installed(folder, monkeypatch):
    """The folder with the package and its metadata, on the path for one test."""
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("plugins")
    for file in [HERE / "pyproject.toml", *HERE.glob("qgf_examples/**/*")]:
        if file.is_file() and "__pycache__" not in file.parts:
            copy = source / file.relative_to(HERE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", target, source], check=True)
    return target
