"""Every command that a reason, a remedy, an error, a page or a document names is one: read from the
source and the documents, and asked of the parsers, files and tables that would take it."""

import ast
import contextlib
import io
import re
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("tyro")

import tyro

from qgf_ros.cli import GROUPS, STYLE, _all_verbs
from qgf_ros.control.reasons import REASONS

ROOT = Path(__file__).resolve().parents[2]
CODE = ("qgf_ros", "training", "bench", "launch")
PROSE = {"as", "at", "over"}  # "qgf as its beta": the sampler or node of that name, not the command
# What of the ros2 command line (Humble and later) is named: verb -> its own verbs -> their options.
ROS2: dict[str, dict[str, set[str]]] = {
    "bag": {"record": {"-s", "-o", "--use-sim-time", "--topics"}, "convert": {"-i", "-o"}, "info": set()},
    "launch": {}, "lifecycle": {"set": set()}, "node": {"list": set(), "info": set()},
    "param": {"get": set(), "set": set(), "dump": set()}, "run": {},
    "security": {"create_keystore": set(), "generate_artifacts": {"-k", "-p", "-e"}},
    "service": {"call": set(), "list": set()},
    "topic": {
        "echo": {"--field", "--once"}, "info": {"-v", "--verbose"}, "pub": {"-r", "--once", "--qos-durability"},
    },
}  # fmt: skip
TOOLS = {"nvidia-smi"}  # of the machine, that a remedy names
# What rclpy gives every node, and every one with a life cycle.
RCLPY = {
    *("change_state", "get_state", "get_available_states", "get_available_transitions"),
    *("get_transition_graph", "transition_event", "get_type_description", "list_parameters"),
    *("describe_parameters", "get_parameter_types", "get_parameters", "set_parameters"),
    "set_parameters_atomically",
}
OTHERS = {"policies", "controller_state"}  # a folder at home; a topic of ros2_control's controllers


def texts():
    """(file, text): strings and comments of code, each by itself; documents and pages as they are."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name, source = str(path.relative_to(ROOT)), path.read_text()
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield name, node.value
                if isinstance(node, ast.JoinedStr):
                    parts = (getattr(part, "value", "X") for part in node.values)
                    yield name, "".join(p if isinstance(p, str) else "X" for p in parts)
            yield from ((name, found) for found in re.findall(r"#\s(.+)", source))
    documents = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "Makefile"]
    for folder, kinds in {
        "docs": ("md",), "examples": ("md", "yaml"), "config": ("yaml", "json", "xml"),
        "msg": ("msg",), "srv": ("srv",), "qgf_ros": ("j2", "js", "yaml"),
    }.items():  # fmt: skip
        documents += [p for kind in kinds for p in sorted((ROOT / folder).rglob(f"*.{kind}"))]
    for path in documents:
        yield str(path.relative_to(ROOT)), re.sub(r"\\\n\s*", "", path.read_text())


@cache
def verbs():
    """ "data label" -> its options, as its parser shows them."""
    from importlib.metadata import entry_points

    found = {}
    for point in entry_points(group="qgf.verbs"):
        shown = io.StringIO()
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
            tyro.cli(_all_verbs(), args=[*point.name.split(), "--help"], config=STYLE)
        found[point.name] = set(re.findall(r"^\W*(--[a-z][\w-]*)", shown.getvalue(), re.MULTILINE))
    return found


@cache
def ours():
    """Names of topics and services of our nodes."""
    return {
        name
        for path in (ROOT / "qgf_ros").rglob("*.py")
        for name in re.findall(r"""["']~/(\w+)["']""", path.read_text())
    }


@cache
def services():
    """Of our nodes."""
    return {
        name
        for path in (ROOT / "qgf_ros").rglob("*.py")
        for name in re.findall(r"""create_service\(\s*\w+,\s*["']~/(\w+)["']""", path.read_text())
    } | RCLPY


@cache
def parameters():
    """Of the node, from the README, where another test holds them to the table in code."""
    section = (ROOT / "README.md").read_text().split("## Parameters\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE))


@cache
def launch_arguments():
    return set(re.findall(r'"(\w+)"', (ROOT / "launch/qgf_control.launch.py").read_text()))


def code_in(text):
    """Of a document: its blocks and spans of code, in which alone `qgf` is a command."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    rest = re.sub(r"```\w*\n.*?```", "", text, flags=re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`|<code>(.*?)</code>", rest, re.DOTALL)
    return "\n".join([*blocks, *(a or b for a, b in spans)])


def wrong(text, document=False):
    """What of the commands in a text is none, in words."""
    found = []
    code = code_in(text) if document else text
    for words in re.findall(r"(?<![\w/~.-])qgf ((?:[a-z]|--[a-z])[^`\n;|&]*)", code):
        found += of_qgf(words.partition("#")[0])
    for tool, words in re.findall(r"(?<![\w/~.-])(ros2) ([a-z]+[^`\n;|&]*)", text):
        found += [f"{tool} {words}: {why}" for why in of_ros2(words)]
    for span in re.findall(r"`([^`\n]+)`", text) + re.findall(
        r"^\s*([a-z].*)$", text, re.MULTILINE
    ):
        if target := re.match(r"make ([a-z][a-z-]*)(?=$| +[&#]| +[A-Z_]+=)", span):
            if not re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
                found.append(f"make {target[1]}")
    for file in re.findall(r"python3? ((?:bench|test|training|qgf_ros|cmake)/[\w./]+\.py)", text):
        if not (ROOT / file).exists():
            found.append(f"python {file}")
    for node, name in re.findall(r"(?<![\w.])/(qgf|qgf_gate|qgf_sim|qgf_trial)/(\w+)", text):
        if name not in ours() | RCLPY | OTHERS:
            found.append(f"/{node}/{name}")
    found += [
        f"~/{name}" for name in re.findall(r"~/(\w+)", text) if name not in ours() | RCLPY | OTHERS
    ]
    found += [f"call ~/{n}" for n in re.findall(r"\bcall ~/(\w+)", text) if n not in services()]
    return found


def of_qgf(words):
    verb, *rest = words.split() or [""]
    if verb.startswith("-"):
        return [] if verb in ("--help", "--debug", "--json") else [f"qgf {verb}"]
    name = re.match(r"[a-z]+", verb).group()
    if name in PROSE:
        return []
    if name in GROUPS:
        sub = re.match(r"[a-z]*", rest[0]).group() if rest else ""
        if not sub:
            return []
        name = f"{name} {sub}"
    if name not in verbs():
        return [f"qgf {name}"]
    given = re.findall(r"(?<![\w-])--[a-z][\w-]*", words)
    known = verbs()[name] | {"--help", "--debug", "--json"}
    return [f"qgf {name} {option}" for option in given if option.replace("_", "-") not in known]


def of_ros2(words):
    verb, *rest = re.split(r"\s+", words.strip())
    if verb not in ROS2:
        yield f"no verb {verb} of ros2 is used here"
    elif ROS2[verb] and rest and re.fullmatch(r"[a-z_]+", rest[0]):
        if rest[0] not in ROS2[verb]:
            yield f"no {verb} {rest[0]} of ros2 is used here"
        for option in re.findall(r"(?<![\w-])-{1,2}[a-z][\w-]*", words):
            if option not in ROS2[verb].get(rest[0], {option}):
                yield f"{option} is no option of it"
    if verb == "launch" and len(rest) > 1 and rest[0] == "qgf_ros":
        if not (ROOT / "launch" / rest[1]).exists():
            yield f"there is no {rest[1]}"
        for name in re.findall(r"(\w+):=", words):
            if name not in launch_arguments():
                yield f"{name} is no argument of it"
    if verb == "run" and len(rest) > 1 and rest[0] == "qgf_ros":
        name = re.match(r"\w+", rest[1])
        if name and f"qgf_executable({name.group()} " not in (ROOT / "CMakeLists.txt").read_text():
            yield f"there is no {rest[1]}"
    if verb == "param" and len(rest) > 2 and rest[1].startswith("/qgf"):
        if not rest[2].isupper() and rest[2] not in parameters():
            yield f"{rest[2]} is no parameter"


def test_every_command_that_is_named_exists():
    named = list(texts())
    assert len({file for file, _ in named}) > 150
    found = sorted(
        {
            f"{file}: {what}"
            for file, text in named
            for what in wrong(text, document=not file.endswith(".py"))
        }
    )
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", [
    "run `qgf check` on it", "qgf check POLICY", "see `qgf data look`", "try `qgf train --betta 3`",
    "`qgf replay BAG --policy P --set 1`", "`make everything`", "make chek\n", "python bench/none.py",
    "`ros2 param set /qgf betta 1`", "`ros2 service call /qgf/go std_srvs/srv/Trigger`",
    "`ros2 launch qgf_ros other.launch.py`", "ros2 launch qgf_ros qgf_control.launch.py wrld:=x",
    "`ros2 run qgf_ros qgf_other`", "`ros2 parm get /qgf beta`", "`ros2 topic inf -v`", "call ~/estop",
    "`ros2 topic info --loud`", "call ~/rest", "`qgf --verbose`",
])  # fmt: skip
def test_what_does_not_exist_is_found(text):
    assert wrong(text)


def test_what_does_not_exist_is_found_in_documents():
    assert wrong("Then:\n```bash\nqgf check P\n```\n", True) == ["qgf check"]
    assert (
        wrong("run `qgf check P`", True) == wrong("<code>qgf check</code>", True) == ["qgf check"]
    )
    assert not wrong("what qgf checks itself", True)


@pytest.mark.parametrize("text", [
    "run `qgf export P` again", "`qgf data`", "qgf data label BAGS --list", "make it so", "`qgf` node",
    "qgf evaluate ur5e_cube --world ur5e_cube --episodes 50 --ros  # how often", "with qgf at rest",
    "qgf trial --no-record --beta inf 0.1", "`make build && source env.sh`", "call ~/reset or /qgf/enable",
    "ros2 topic echo /qgf/status --field reason", "`ros2 param set /qgf guidance.slew 1`",
])  # fmt: skip
def test_what_exists_is_not(text):
    assert not wrong(text)


# What the table of reasons tells people to use, beside commands and topics: each is one.


@cache
def named():
    """Parameters of our nodes and of every node, keys of a contract, our executables."""
    keys = (ROOT / "docs/contract.md").read_text()
    executables = (ROOT / "CMakeLists.txt").read_text()
    return {
        *parameters(), *gate_parameters(), "use_sim_time",
        *re.findall(r"`(\w+)`", keys), *re.findall(r"qgf_executable\((\w+) ", executables),
    }  # fmt: skip


def gate_parameters():
    """Of qgf_gate, from its source: to import it takes the compiled messages."""
    source = (ROOT / "qgf_ros/ros/gate_node.py").read_text()
    return re.findall(r"""Spec\(\s*["'](\w+)["']""", source)


def unknown(text):
    """What of a row's words is no parameter, key, value, executable or tool."""
    for word in re.findall(r"(?<!/)\b[a-z0-9]+(?:_[a-z0-9]+)+\b", text):
        if word not in named():
            yield word
    for name, value in re.findall(r"\b(\w+):=(\w+)", text):
        row = re.search(rf"^\| `{name}` \|([^|]*)\|([^|]*)\|", readme(), re.MULTILINE)
        if row is None or (", " in row[2] and value not in row[2].strip().split(", ")):
            yield f"{name}:={value}"
    for span in re.findall(r"`([^`]+)`", text):
        if span.split()[0] not in {"ros2", "qgf", *TOOLS} and span not in named():
            yield span


@cache
def readme():
    return (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", REASONS)
def test_every_remedy_can_be_followed(code):
    row = REASONS[code]
    for text in (row.meaning, row.remedy):
        assert not wrong(text) and not list(unknown(text))


@pytest.mark.parametrize("text", [
    "Set max_ages.", "Start qgf_gat.", "Use gate:=insde.", "Use gat:=inside.", "Another `devices`.",
    "Ask `nvidia-sm`.",
])  # fmt: skip
def test_a_remedy_that_cannot_be_followed_is_found(text):
    assert list(unknown(text))
