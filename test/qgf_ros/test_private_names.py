"""Private names of libraries may go with any release: each that is used is known here, with the test
that shows what happens without it. Our own are told by being defined in our own source."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("qgf_ros", "training", "bench", "launch")
# Private name of rclpy, torch or onnxruntime -> where it is used, and the test without it.
EXECUTOR = (
    "qgf_ros/ros/lean.py",
    "test/ros/test_hostile_wire.py::test_fault_133_what_cannot_be_taken_leaves_the_executor_hearing",
)
RELIED_ON = {
    "_parameter_overrides": (
        "qgf_ros/ros/parameters.py",
        "test/ros/test_parameters_applied.py::test_what_the_command_line_gives_is_read_without_the_private_name_too",
    ),
    **dict.fromkeys(
        ("_executor_event", "_take_subscription", "_take_client", "_take_service"), EXECUTOR
    ),
    "_linear_pointwise": (
        "training/learn/kernels.py",
        "test/learn/test_models_kernels.py::test_without_the_product_which_is_not_public_networks_are_the_same",
    ),
}
PUBLIC = {"_exit", "_replace", "_asdict", "_fields"}  # documented, whatever they look like
# The simulated robot of one version of ogbench: its world's tests fail where a name goes.
WORLDS = {f"qgf_ros/sim/{name}/world.py" for name in ("ur5e_cube", "ur5e_cube_camera")}


def private(name):
    return name.startswith("_") and not name.startswith("__")


def foreign(trees):
    """name -> files: private attributes that nothing in the source defines, names that are imported
    or asked for as text, and methods that are overridden by calling `super()`'s."""
    own, used = set(), {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                for target in getattr(node, "targets", [getattr(node, "target", None)]):
                    own |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
                    own |= {
                        n.attr for n in ast.walk(target)
                        if isinstance(n, ast.Attribute) and ast.unparse(n.value) in ("self", "cls")
                    }  # fmt: skip
    for file, tree in trees.items():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute) and node.attr not in own:
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] not in FOLDERS:
                names = [*node.module.split("."), *(a.name for a in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for a in node.names for part in a.name.split(".")]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "getattr",
                "hasattr",
            ):
                names = [n.value for n in node.args[1:2] if isinstance(n, ast.Constant)]
            elif isinstance(node, ast.ClassDef):
                names = overridden(node, own)
            for name in filter(private, names):
                used.setdefault(name, set()).add(file)
    return used


def overridden(kind, own):
    """The private methods by which a class overrides those of a foreign one."""
    if {
        base.attr if isinstance(base, ast.Attribute) else ast.unparse(base) for base in kind.bases
    } <= own:
        return []
    return [
        f.name
        for f in kind.body
        if isinstance(f, ast.FunctionDef) and f"super().{f.name}" in ast.unparse(f)
    ]


def sources():
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def test_every_private_name_of_a_library_has_a_way_round():
    found = {name: files - WORLDS for name, files in foreign(sources()).items()}
    found = {name: files for name, files in found.items() if files and name not in PUBLIC}
    assert found == {name: {file} for name, (file, _) in RELIED_ON.items()}


def test_the_tests_without_them_exist():
    for _, test in RELIED_ON.values():
        file, name = test.split("::")
        assert f"def {name}(" in (ROOT / file).read_text()


def test_uses_of_every_kind_are_seen():
    made = (
        "from torch._C import x\nimport rclpy._y\na.b._z\ngetattr(n, '_w')\nself._ours = 1\nq._ours"
    )
    assert foreign({"f": ast.parse(made)}).keys() == {"_C", "_y", "_z", "_w"}
