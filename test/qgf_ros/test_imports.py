"""Who imports what, read from the source: the robot's side carries no training code, ROS stays in
one folder, heavy libraries stay in the file that is about them, nothing is unpickled, and one
function alone sends commands."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    str(p.relative_to(ROOT)): ast.parse(p.read_text(), str(p))
    for p in sorted((ROOT / "qgf_ros").rglob("*.py"))
}
TRAINING = {
    str(p.relative_to(ROOT)): ast.parse(p.read_text(), str(p))
    for p in sorted((ROOT / "training").rglob("*.py"))
}

# Import package -> the files or folders that may import it. Everything else is numpy, PyYAML,
# safetensors or the standard library.
HOMES = {
    "rclpy": ("qgf_ros/ros/",),
    "ament_index_python": ("qgf_ros/ros/",),
    "onnxruntime": ("qgf_ros/guidance/backends/onnx.py", "qgf_ros/images/encoder.py"),
    "simplejpeg": ("qgf_ros/images/compressed.py", "qgf_ros/images/messages.py"),
    "av": ("qgf_ros/images/compressed.py",),
    "torch": (
        "qgf_ros/guidance/backends/torch.py",
        "qgf_ros/guidance/backends/explicit.py",
        "qgf_ros/guidance/backends/explicit_nets.py",
    ),
    "mujoco": (
        "qgf_ros/sim/planar_arm/world.py",
        "qgf_ros/sim/pointmaze/world.py",
        "qgf_ros/sim/ur5e_cube/world.py",
        "qgf_ros/sim/ur5e_cube_camera/world.py",
        "qgf_ros/sim/camera.py",
    ),
    "ogbench": ("qgf_ros/sim/pointmaze/world.py", "qgf_ros/sim/ur5e_cube/world.py"),
    "rosbags": ("qgf_ros/bags/types.py", "qgf_ros/bags/definitions.py", "qgf_ros/bags/writer.py"),
    "lz4": ("qgf_ros/bags/damage.py",),
    "backports": ("qgf_ros/bags/damage.py",),
    "compression": ("qgf_ros/bags/damage.py",),
    "rich": (
        "qgf_ros/console.py",
        "qgf_ros/trial/screen.py",
        "qgf_ros/watch/panel.py",
        "qgf_ros/watch/verb.py",
    ),
    "tyro": ("qgf_ros/cli.py", "qgf_ros/replay/verb.py", "qgf_ros/watch/latency.py"),
}
FREE = {"numpy", "yaml", "safetensors", "qgf_ros", *sys.stdlib_module_names}
ROS_MESSAGES = {
    "builtin_interfaces",
    "rcl_interfaces",
    "lifecycle_msgs",
    "rosgraph_msgs",
    "std_srvs",
}
FORBIDDEN = {
    "training",
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
}


def imports(tree):
    """(top-level package, line) of every import, lazy ones and import_module("...") included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield node.module.split(".")[0], node.lineno
        elif isinstance(node, ast.Call) and name_of(node.func).endswith(
            ("import_module", "__import__")
        ):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value).split(".")[0], node.lineno


def name_of(node):
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_ros(package):
    return (
        package == "rclpy" or package in ROS_MESSAGES or package.endswith(("_msgs", "_interfaces"))
    )


def at_home(package, file):
    if is_ros(package):
        return file.startswith("qgf_ros/ros/")
    return package in FREE or any(
        file == home or (home.endswith("/") and file.startswith(home))
        for home in HOMES.get(package, ())
    )


def test_there_is_something_to_read():
    assert len(FILES) > 20 and "qgf_ros/ros/node.py" in FILES
    assert {p for p, _ in imports(FILES["qgf_ros/guidance/backends/onnx.py"])} >= {
        "numpy",
        "onnxruntime",
    }
    assert {
        p
        for p, _ in imports(
            ast.parse(
                "def f():\n    import torch.nn as nn\n    importlib.import_module('rclpy.node')"
            )
        )
    } == {"torch", "rclpy"}


@pytest.mark.parametrize("file", FILES)
def test_every_import_is_where_it_belongs(file):
    wrong = [
        f"{file}:{line} imports {package}"
        for package, line in imports(FILES[file])
        if not at_home(package, file)
    ]
    assert not wrong, wrong


def test_qgf_ros_never_imports_training_nor_anything_that_unpickles():
    found = [
        f"{file}:{line} {package}"
        for file, tree in FILES.items()
        for package, line in imports(tree)
        if package in FORBIDDEN
    ]
    assert not found, found


def test_only_the_ros_folder_imports_rclpy_and_messages():
    found = {
        file for file, tree in FILES.items() for package, _ in imports(tree) if is_ros(package)
    }
    assert found and all(file.startswith("qgf_ros/ros/") for file in found), found


def test_the_messages_of_our_own_are_imported_in_one_file():
    found = set()
    for file, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith(
                ("qgf_ros.msg", "qgf_ros.srv")
            ):
                found.add(file)
            if isinstance(node, ast.Import) and any(
                a.name.startswith(("qgf_ros.msg", "qgf_ros.srv")) for a in node.names
            ):
                found.add(file)
    assert found == {"qgf_ros/ros/conversions.py"}


def test_the_control_core_does_not_know_of_ros():
    for file, tree in FILES.items():
        if file.startswith(
            ("qgf_ros/control/", "qgf_ros/guidance/", "qgf_ros/policy/", "qgf_ros/spaces/")
        ):
            ours = {
                n.module
                for n in ast.walk(tree)
                if isinstance(n, ast.ImportFrom) and n.module.startswith("qgf_ros.")
            }
            assert not [m for m in ours if m.startswith("qgf_ros.ros")], file


def module_of(file):
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(tree, lazy):
    """Modules of ours that a file imports: when it is imported itself, or with lazy in functions too."""
    inside = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
        for n in ast.walk(f)
    }
    typing = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and ast.unparse(i.test).endswith("TYPE_CHECKING")
        for n in ast.walk(i)
    }
    for node in ast.walk(tree):
        if id(node) in typing or (id(node) in inside and not lazy):
            continue
        if isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{a.name}" for a in node.names))
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


def circle(files, lazy):
    """Modules that import each other in a ring; [] for none."""
    modules = {module_of(f): tree for f, tree in files.items()}
    graph = {
        m: {i for i in imported(tree, lazy) if i in modules and i != m}
        for m, tree in modules.items()
    }
    done = set()

    def walk(module, path):
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for other in sorted(graph[module]):
            if ring := walk(other, [*path, module]):
                return ring
        done.add(module)
        return []

    return next((ring for m in sorted(graph) if (ring := walk(m, []))), [])


def test_no_modules_import_each_other_in_a_ring():
    assert circle({**FILES, **TRAINING}, lazy=False) == []


def test_the_samplers_do_not_in_functions_either():
    room = ("qgf_ros/guidance/", "qgf_ros/policy/")
    assert circle({f: t for f, t in FILES.items() if f.startswith(room)}, lazy=True) == []


def test_rings_are_seen():
    ring = {"a.py": "import b", "b.py": "def f():\n    from c import x", "c.py": "from a import y"}
    trees = {f: ast.parse(text) for f, text in ring.items()}
    assert circle(trees, lazy=False) == [] and circle(trees, lazy=True) == ["a", "b", "c"]


def test_fault_043_nothing_is_unpickled():
    """numpy's allow_pickle and torch.load are pickles under another name; eval and exec are worse."""
    found = []
    for file, tree in {**FILES, **TRAINING}.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = name_of(node.func)
            if name in (
                "torch.load",
                "torch.jit.load",
                "yaml.load",
                "yaml.unsafe_load",
                "yaml.full_load",
                "eval",
                "exec",
                "joblib.load",
            ):
                found.append(f"{file}:{node.lineno} {name}")
            if name in ("np.load", "numpy.load") and any(
                k.arg == "allow_pickle" and getattr(k.value, "value", True) is not False
                for k in node.keywords
            ):
                found.append(f"{file}:{node.lineno} {name} with allow_pickle")
    assert not found, found
    pickles = [
        f"{f}:{line}"
        for f, tree in TRAINING.items()
        for p, line in imports(tree)
        if p in FORBIDDEN - {"training"}
    ]
    assert not pickles, pickles


class Publishes(ast.NodeVisitor):
    """publish calls as (innermost function, what it is called on)."""

    def __init__(self):
        self.stack, self.found = [], []

    def visit_FunctionDef(self, node):
        self.stack.append(node.name)
        self.generic_visit(node)
        self.stack.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Call(self, node):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "publish":
            self.found.append((self.stack[-1] if self.stack else "", ast.unparse(node.func.value)))
        self.generic_visit(node)


def publishes(tree):
    visitor = Publishes()
    visitor.visit(tree)
    return visitor.found


ROBOT = "qgf_ros/ros/robot_commands.py"
REPORTS = ("~/", "/diagnostics", "/clock")  # what anybody may publish; /clock is the simulation's


def publishers(tree):
    """The topic of every create_publisher, as source text."""
    calls = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and name_of(n.func).endswith("create_publisher")
    ]
    return [ast.unparse(c.args[1]) for c in calls]


def test_one_function_sends_on_the_robots_command_topics():
    """Whoever decides, node or gate: `RobotCommands.send` alone publishes, and what it was given."""
    tree = FILES[ROBOT]
    assert publishers(tree) == ["t"], "one for each topic of an action"
    assert publishes(tree) == [("send", "publisher")]
    uses = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute)
        and n.attr in ("_publishers", "_by_action")
        and isinstance(n.ctx, ast.Load)
    ]
    holders = {
        f.name
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef)
        for n in ast.walk(f)
        if n in uses
    }
    assert holders == {"send", "deliver", "destroy"}
    outside = [f for f in FILES if f != ROBOT and "._by_action" in ast.unparse(FILES[f])]
    assert not outside, "the publishers stay in their class"


def test_every_other_publisher_is_a_report_of_the_node_itself():
    """Its topic is written where it is made; the simulation alone also plays the robot's sensors."""
    found = {file: publishers(tree) for file, tree in FILES.items() if publishers(tree)}
    del found[ROBOT]
    assert len(found) >= 3
    others = {
        f"{file}: {topic}"
        for file, topics in found.items()
        for topic in topics
        if not topic.strip("'").startswith(REPORTS)
    }
    passed_on = "qgf_ros/ros/lean.py: topic"  # to rclpy, as it is given
    features = "qgf_ros/ros/encoder_node.py: source.heard.topic"
    assert others == {"qgf_ros/ros/sim_node.py: s.topic", features, passed_on}


def test_what_the_robot_is_sent_comes_from_a_gate():
    """Every call of `send` passes an `Output`, which only gate.py makes, but for empty ones."""
    makers = {
        file
        for file, tree in FILES.items()
        for n in ast.walk(tree)
        if isinstance(n, ast.Call)
        and name_of(n.func).endswith("Output")
        and ast.unparse(n.args[0]) != "None"
    }
    assert makers == {"qgf_ros/control/gate.py"}
    calls = {
        (file, ast.unparse(n.args[0]))
        for file, tree in FILES.items()
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and name_of(n.func).endswith("_robot.send")
    }
    assert calls == {
        ("qgf_ros/ros/node.py", "output"),
        ("qgf_ros/ros/gate_node.py", "output"),
    }
