"""What an installation lacks is named, with what brings it; a robot's verbs need no extra."""

import ast
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("tyro")

from qgf_ros.missing import BROUGHT_BY, remedy

ROOT = Path(__file__).resolve().parents[2]
SETUP = ast.parse((ROOT / "setup.py").read_text())
IMPORTED = {"PyYAML": "yaml", "backports.zstd": "backports", "onnxruntime-gpu": "onnxruntime"}
OF_TRAINING = {"torch", "onnx", "onnxscript", "tensorboard", "pyarrow", "h5py", "scipy", "mujoco"}


def setting(name):
    """A list or dict that setup.py assigns."""
    (value,) = [
        node.value for node in SETUP.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name
    ]  # fmt: skip
    return ast.literal_eval(value)


def names(requirements):
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement).group()
        yield IMPORTED.get(name, name)


def test_the_table_is_that_of_setup_py():
    extras = setting("EXTRAS")
    brought = dict.fromkeys(names(setting("REQUIRES")), "")
    for extra in ("onnx", "cameras", "train", "sim", "bench"):
        brought |= {name: extra for name in names(extras[extra]) if name not in brought}
    assert {n: e for n, e in BROUGHT_BY.items() if n != "gymnasium"} == brought  # ogbench's


def test_what_the_robots_side_imports_is_brought():
    """But for ROS and what stands in `qgf_ros/sim` and pages: worlds and reports are training's."""
    for path in sorted((ROOT / "qgf_ros").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {n.split(".")[0] for n in found} - {"qgf_ros", "compression", "PIL"}:
                known = name in sys.stdlib_module_names or name in BROUGHT_BY
                assert known or "/ros/" in str(path), f"{path}: {name}"


@pytest.fixture
def without(monkeypatch):
    """Hides modules, also from what was imported before."""

    def hide(*hidden):
        for name in [n for n in sys.modules if n.split(".")[0] in ("qgf_ros", "training", *hidden)]:
            monkeypatch.delitem(sys.modules, name)
        for name in hidden:
            monkeypatch.setitem(sys.modules, name, None)

    yield hide
    for name in [n for n in sys.modules if n.split(".")[0] in ("qgf_ros", "training")]:
        del sys.modules[name]  # monkeypatch brings the ones back that were there


def last_line(capsys, arguments):
    from qgf_ros.cli import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code, capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("module", ["rosbags", "lz4", "backports"])
@pytest.mark.parametrize("verb", ["replay", "trial"])
def test_bags_without_their_libraries(tmp_path, capsys, without, module, verb):
    if verb == "trial":
        pytest.importorskip("rclpy")
    if module == "backports" and sys.version_info >= (3, 14):
        pytest.skip("zstd is Python's own")
    without(module)
    options = {
        "replay": [str(tmp_path), "--policy", "planar_arm"],
        "trial": ["--beta", "0.1", "inf", "--out", str(tmp_path / "trial")],
    }[verb]
    code, said = last_line(capsys, [verb, *options])
    assert code == 2 and said.startswith(f"qgf: error[2]: {module}")
    assert "is not installed" in said and "`pip install '.'`" in said
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_a_robot_without_training_has_help_and_its_verbs(tmp_path, capsys, without):
    from qgf_ros.cli import main

    with pytest.raises(SystemExit):  # tyro looks for torch once, and takes one that is hidden for it
        main(["--help"])
    without(*OF_TRAINING)
    from qgf_ros.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and "replay" in capsys.readouterr().out
    code, said = last_line(capsys, ["replay", str(tmp_path / "none"), "--policy", "planar_arm"])
    assert code == 5 and "does not exist" in said
    code, said = last_line(capsys, ["export", str(tmp_path)])
    assert code == 2 and "`pip install '.[train]'`" in said


@pytest.mark.parametrize("module, what", [
    ("rclpy", "source a ROS 2"), ("control_msgs.msg", "source a ROS 2"),
    ("qgf_ros.msg", "colcon build"), ("mujoco", r"'\.\[sim\]'"), ("something", "train,sim,onnx"),
    (None, "a module is not installed"),
])  # fmt: skip
def test_each_kind_has_its_remedy(module, what):
    assert re.search(what, remedy(module))
