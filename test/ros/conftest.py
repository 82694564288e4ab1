"""Fixtures of the wire tests: ROS is there or the tests fail, and every test has its own domain."""

from pathlib import Path

import pytest
import ros_harness as ros
from qgf_make import resign

from qgf_ros.files.share import share_folder

STALL = 0.1  # s; with the 10 ms between two states, nearly what makes a state stale


def pytest_collection_modifyitems(items):
    """A wait that ran out is run again, and its cause is listed; nothing else is."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.flaky(reruns=2, only_rerun=["^TimedOut"]))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    """Where the machine stalled the test or one of its processes, nothing can be said of times and of
    what follows from them: that is a wait that ran out. No stall makes a command that is outside the
    envelope."""
    try:
        return (yield)
    except (ros.Violation, ros.TimedOut):
        raise
    except (AssertionError, IndexError) as error:
        if not (why := ros.stalled(STALL)):
            raise
        raise ros.TimedOut(f"{why}: {error}") from error


@pytest.fixture(scope="session", autouse=True)
def ros_is_there():
    if ros.MISSING:
        pytest.fail(ros.MISSING, pytrace=False)


@pytest.fixture
def domain():
    number = ros.take_domain()
    yield number
    ros.free_domain(number)


@pytest.fixture(autouse=True)
def stalls():
    ros.begin_test()


@pytest.fixture(scope="module")
def module_domain():
    number = ros.take_domain()
    yield number
    ros.free_domain(number)


@pytest.fixture
def slow_policy(tmp_path):
    """The shipped policy with another limit of change, so that ramps and first steps can be seen."""
    import shutil

    def make(rate):
        folder = tmp_path / f"rate_{rate}"
        shutil.copytree(share_folder() / "config" / "policies" / "planar_arm", folder)
        file = folder / "policy.yaml"
        text = file.read_text()
        assert text.count("rate: 80.0") == 2
        file.write_text(text.replace("rate: 80.0", f"rate: {rate}"))
        resign(folder)
        return folder

    return make
