"""What every test folder shares: helpers on the path, one torch thread, ROS kept on this machine."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # half of numpy's import, in every process
os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported, whoever does it first
# Prepared data of tests does not stay in the user's cache.
_cache = tempfile.TemporaryDirectory(prefix="qgf_cache_")
os.environ["QGF_CACHE"] = _cache.name
sys.path.insert(0, str(Path(__file__).parent / "support"))

try:
    import torch
except ImportError:  # the robot's side runs without it, and so do its tests
    pass
else:
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What a module's tests share is made once, not once per worker."""
    for item in items:
        shared = [
            f
            for definitions in item._fixtureinfo.name2fixturedefs.values()
            for f in definitions
            if f.scope == "module"
        ]
        if shared and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_configure(config):
    """pytest 9.2 takes a test's id from elsewhere than pytest-xdist 3.8 writes its group."""
    if config.getoption("dist", "no") == "loadgroup" and pytest.version_tuple >= (9, 2):
        raise pytest.UsageError(
            f"pytest {pytest.__version__} loses the groups of pytest-xdist, and what tests share would "
            "be made once per worker; take that of constraints.txt: pip install 'pytest<9.2'"
        )


def pytest_terminal_summary(terminalreporter):
    """Why each test was run again: on which line it gave up, and what it said."""
    again = terminalreporter.stats.get("rerun", [])
    if again:
        terminalreporter.section("run again, because")
    for report in again:
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = crash.message.splitlines() if crash else str(report.longrepr).splitlines()[-1:]
        at = f"{Path(crash.path).name}:{crash.lineno}: " if crash else ""
        terminalreporter.line(f"{report.nodeid}: {at}{' '.join(lines[:2])[:400]}")
