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


# What `make quick` leaves out beside test/ros: it trains, exports, opens a browser, starts many processes, or
# costs more than 4 s of a processor.
SLOW = set(
    """
    test_analyze test_assembler test_attempts test_bags_folders test_bags_mcap test_bags_sqlite test_cache
    test_commands test_components test_contract test_coverage test_critics test_critics_export test_disk
    test_draft_fits test_draft_meaning test_explicit test_export_parity test_formats test_gate_fuzz test_golden
    test_guards test_handed_cases test_hdf5 test_hostile_bags test_hostile_runs test_init test_inspect
    test_killed_writers test_lab test_lerobot test_loop test_make_sampler test_mutate test_native_sampler
    test_ogbench_bench test_old_bags test_play_data test_pointmaze test_policy_folder test_prediction_bench
    test_private_names test_processes test_reference_sampler test_replay test_report_figures test_report_moments
    test_report_page test_rosbag2 test_sampler_bench test_sampler_between_calls test_sampler_ort test_sampler_torch
    test_soak test_testbed test_undefined_types test_vetting test_whole_path
    """.split()
)


# What torch needs to export takes 5 s of a processor in each process that does it the first time.
EXPORT = set(
    """
    test_critics_export test_critics_in_node test_explicit test_export_parity test_golden
    test_pointmaze_in_node test_whole_path
    """.split()
)


def pytest_addoption(parser):
    parser.addoption(
        "--quick", action="store_true", help="a minute and a half: no process, no training"
    )


def pytest_ignore_collect(collection_path, config):
    if not config.getoption("--quick"):
        return None
    slow = collection_path.stem in SLOW or collection_path.name in ("ros", "plugins")
    return True if slow else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What a module's tests share is made once, not once per worker. Of several workers one waits for
    a wire while others compute: the tests of both kinds are spread over the run."""
    for item in items:
        shared = [
            f
            for definitions in item._fixtureinfo.name2fixturedefs.values()
            for f in definitions
            if f.scope == "module"
        ]
        group = "export" if item.path.stem in EXPORT else item.path.stem if shared else ""
        if group and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        wire = [item for item in items if item.path.parent.name == "ros"]
        others = [item for item in items if item.path.parent.name != "ros"]
        shares = [(n / len(kind), item) for kind in (wire, others) for n, item in enumerate(kind)]
        items[:] = [item for _, item in sorted(shares, key=lambda share: share[0])]


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
