"""The layouts for Foxglove and RViz: every panel is placed once, and shows what we publish."""

import json
import re
from pathlib import Path

import pytest
import yaml

from qgf_ros.files.share import find_policy
from qgf_ros.policy.folder import load_policy

ROOT = Path(__file__).parents[2]
LAYOUT = json.loads((ROOT / "config" / "foxglove" / "qgf.json").read_text())
PANELS = LAYOUT["configById"]
OURS = {
    "status": "Status",
    "q_values": "QValues",
    "command": "Command",
    "policy_info": "PolicyInfo",
}
# Keys of each panel's configuration that hold a message path.
PATHS = [
    path
    for config in PANELS.values()
    for path in [config.get("topicPath"), *(p["value"] for p in config.get("paths", []))]
    if path
]


def fields(message: str) -> dict[str, str]:
    """Name and type of each field of one of our messages."""
    lines = (ROOT / "msg" / f"{message}.msg").read_text().splitlines()
    found = (re.match(r"([\w/]+(?:\[\])?)\s+(\w+)\s*(?:#|$)", line) for line in lines)
    return {match[2]: match[1] for match in found if match}


def leaves(tree) -> list[str]:
    if isinstance(tree, str):
        return [tree]
    assert tree.keys() == {"direction", "first", "second", "splitPercentage"}
    assert tree["direction"] in ("row", "column") and 0 < tree["splitPercentage"] < 100
    return leaves(tree["first"]) + leaves(tree["second"])


def test_it_has_a_layouts_form():
    assert LAYOUT.keys() == {
        "configById",
        "globalVariables",
        "userNodes",
        "playbackConfig",
        "layout",
    }
    assert sorted(leaves(LAYOUT["layout"])) == sorted(PANELS)
    kinds = {name.split("!")[0] for name in PANELS}
    assert kinds == {
        "StateTransitions", "RawMessages", "Plot", "Parameters", "DiagnosticSummary", "RosOut",
        "CallService", "Publish", "3D",
    }  # fmt: skip


@pytest.mark.parametrize("path", [p for p in PATHS if p.startswith("/qgf/")])
def test_our_fields_exist_and_lists_are_opened(path):
    topic, _, rest = path.removeprefix("/qgf/").partition(".")
    known = fields(OURS[topic])
    if rest:
        name, _, slice_ = rest.partition("[")
        plotted = any(path == p["value"] for c in PANELS.values() for p in c.get("paths", []))
        assert name in known
        assert not plotted or known[name].endswith("[]") == (slice_ == ":]")


def test_what_is_not_ours_is_the_planar_arms_command_or_a_line():
    (command,) = {a.topic for a in load_policy(find_policy("planar_arm")).contract.actions}
    others = {p for p in PATHS if not p.startswith("/qgf/")}
    assert others == {f"/{command}.data[:]", "1"}


def test_buttons_only_stop():
    """A layout is opened by whoever looks on: nothing in it starts a motion."""
    calls = {n: c for n, c in PANELS.items() if n.startswith(("CallService", "Publish"))}
    told = {
        (c.get("serviceName") or c["topicName"]): json.loads(c.get("requestPayload") or c["value"])
        for c in calls.values()
    }
    assert told == {"/qgf/enable": {"data": False}, "/qgf/estop": {"data": True}}


def test_both_show_the_chunk_where_the_node_draws_it():
    """Relative to the node in code, by its full name in the files."""
    drawn = {t for c in PANELS.values() for t in c.get("topics", {})}
    rviz = yaml.safe_load((ROOT / "config" / "rviz" / "qgf.rviz").read_text())
    displays = rviz["Visualization Manager"]["Displays"]
    arrays = {d["Topic"]["Value"] for d in displays if d["Class"].endswith("MarkerArray")}
    assert drawn == arrays == {"/qgf/markers"}
    source = "".join(path.read_text() for path in (ROOT / "qgf_ros/ros").glob("*.py"))
    assert 'MarkerArray, "~/markers"' in source
