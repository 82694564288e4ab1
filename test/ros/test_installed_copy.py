"""One installed copy counts: from the repository and from elsewhere the same code, messages and version."""

import json
import re
import subprocess
import sys

import pytest
import ros_harness as ros

LOOK = """
import json, importlib.metadata, os
import qgf_ros, qgf_ros.msg, qgf_ros.ros.node, qgf_ros.files.share
from ament_index_python.packages import get_package_share_directory as share
real = lambda m: os.path.realpath(m.__file__)
print(json.dumps({
    "package": real(qgf_ros), "messages": real(qgf_ros.msg), "node": real(qgf_ros.ros.node),
    "version": qgf_ros.__version__, "metadata": importlib.metadata.version("qgf_ros"),
    "xml": open(share("qgf_ros") + "/package.xml").read(), "policies": qgf_ros.files.share.shipped(),
}))
"""


def look(folder):
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=folder,
        env=ros.environment(0),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    found["xml"] = re.search("<version>(.+)</version>", found["xml"]).group(1)
    return found


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    return look(ros.REPO), look(tmp_path_factory.mktemp("elsewhere"))


def test_the_repository_and_elsewhere_see_the_same_files(views):
    here, there = views
    assert here == there


def test_the_versions_agree(views):
    for view in views:
        source = re.search("<version>(.+)</version>", (ros.REPO / "package.xml").read_text()).group(
            1
        )
        assert {view["version"], view["metadata"], view["xml"]} == {source}


def test_the_code_under_test_is_the_code_of_this_repository(views):
    """A stale copy elsewhere on the path would be tested in its place."""
    for name in ("package", "node"):
        installed = views[1][name]
        source = ros.REPO / "qgf_ros" / ("__init__.py" if name == "package" else "ros/node.py")
        with open(installed) as file:
            assert file.read() == source.read_text(), (
                f"{installed} is stale; build and install again"
            )


def test_the_messages_are_those_of_this_repository(views):
    import qgf_ros.msg

    for kind in ("Command", "GateStatus", "PolicyInfo", "QValues", "Status", "Tick"):
        lines = [
            line.split("#")[0].strip()
            for line in (ros.REPO / "msg" / f"{kind}.msg").read_text().splitlines()
        ]
        fields = [line.split()[1] for line in lines if line and "=" not in line]
        assert list(getattr(qgf_ros.msg, kind).get_fields_and_field_types()) == fields


def test_without_the_compiled_messages_the_node_says_what_to_do(tmp_path):
    """The source tree alone, as after a clone: no install folder on the path."""
    env = ros.environment(0)
    env["PYTHONPATH"] = str(ros.REPO)
    env["AMENT_PREFIX_PATH"] = sys.prefix
    done = subprocess.run(
        [sys.executable, "-m", "qgf_ros.ros.node"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "qgf_ros/msg" in done.stderr or done.returncode == 0:
        pytest.skip("qgf_ros is installed into this environment itself")
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("qgf: error[2]: ") and "colcon build" in last, done.stderr


@pytest.mark.parametrize("name", ["qgf_node", "qgf_gate", "qgf_sim"])
def test_the_ament_index_finds_the_executables(name):
    assert ros.installed(name)
