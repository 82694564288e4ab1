"""The guide "your robot": what it tells people to type is what the package has."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "your_robot.md").read_text()
BLOCKS = "\n".join(b.split("```")[0] for b in GUIDE.split("```bash\n")[1:])
TYPED = [line for line in BLOCKS.splitlines() if line] + re.findall(
    r"`((?:qgf|ros2) [^`]+)`", GUIDE
)
QGF = [line for line in TYPED if re.match(r"qgf [a-z]+ \S", line)]


def test_it_can_be_read_in_fifteen_minutes():
    assert len(GUIDE.splitlines()) < 150
    assert len(QGF) >= 8


@pytest.mark.parametrize("line", QGF)
def test_every_qgf_command_is_one(line):
    """Parsed as the command line does it; nothing runs."""
    tyro = pytest.importorskip("tyro")
    from qgf_ros.cli import STYLE, _all_verbs

    tyro.cli(_all_verbs(), args=shlex.split(line, comments=True)[1:], config=STYLE)


def test_parameters_services_topics_and_launch_arguments_are_the_nodes():
    from qgf_ros.control.settings import BY_NAME

    node = "".join(path.read_text() for path in (ROOT / "qgf_ros/ros").glob("*.py"))
    for name in re.findall(r"ros2 param set /qgf (\w+)", GUIDE):
        assert BY_NAME[name].live
    for name in re.findall(r"/qgf/(\w+)", GUIDE):
        assert f'"~/{name}"' in node, name
    launch = (ROOT / "launch/qgf_control.launch.py").read_text()
    (line,) = [t for t in TYPED if t.startswith("ros2 launch")]
    for name in re.findall(r"(\w+):=", line):
        assert f'"{name}"' in launch, name
    status = (ROOT / "msg/Status.msg").read_text()
    assert "inference_p99_ms" in GUIDE and "float64 inference_p99_ms" in status
    assert "guidance_ratio" in (ROOT / "msg/QValues.msg").read_text()


def test_reasons_are_those_that_the_control_core_gives():
    source = "".join(p.read_text() for p in (ROOT / "qgf_ros/control").glob("*.py"))
    source += "".join(p.read_text() for p in (ROOT / "qgf_ros/ros").glob("*.py"))
    codes = re.findall(r"\| `([A-Z_]+)[:`]", GUIDE)
    assert len(codes) >= 5
    for code in codes:
        assert code in source or code.removeprefix("STATE_") in source, code


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!https?:)[^)#]+)\)", GUIDE))
def test_links_lead_somewhere(link):
    assert (ROOT / "docs" / link).exists()
