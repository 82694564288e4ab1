"""The SROS2 policy lists exactly what the running nodes publish, hear and offer."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
import ros_harness as ros

FILE = Path(__file__).parents[2] / "config" / "sros2" / "qgf.policy.xml"
NODES = {
    "qgf": ("qgf_node", {"policy": "planar_arm", "gate": "outside", "use_sim_time": True}),
    "qgf_gate": ("qgf_gate", {"policy": "planar_arm", "use_sim_time": True}),
    "qgf_sim": ("qgf_sim", {}),
}
# What the policy calls it, and what rclpy calls it.
RIGHTS = {
    ("topics", "publish"): "get_publisher_names_and_types_by_node",
    ("topics", "subscribe"): "get_subscriber_names_and_types_by_node",
    ("services", "reply"): "get_service_names_and_types_by_node",
    ("services", "request"): "get_client_names_and_types_by_node",
}


def allowed(node: str, what: str, right: str) -> set[str]:
    """Full names, expanded as sros2 does it."""
    path = f"enclaves/enclave[@path='/{node}']/profiles/profile[@node='{node}']/{what}"
    names = {
        (name.text or "").strip()
        for group in ElementTree.parse(FILE).getroot().findall(path)
        if group.get(right) == "ALLOW"
        for name in group
    }
    return {n if n.startswith("/") else f"/{n.replace('~', node)}" for n in names}


@pytest.fixture(scope="module")
def graph(module_domain):
    """All three nodes, and a node that looks at them."""
    procs, wire = [], None
    try:
        for executable, parameters in NODES.values():
            command = [ros.installed(executable), *ros.ros_args(**parameters)]
            procs.append(ros.Proc(command, module_domain))
        for proc in procs:
            proc.wait_line("READY")
        wire = ros.Wire(module_domain, "onlooker")
        yield wire
        for proc in procs:
            proc.stop()
    finally:
        for proc in procs:
            proc.close()
        if wire is not None:
            wire.close()


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(("what", "right"), RIGHTS)
def test_the_lists_are_those_of_the_running_node(graph, node, what, right):
    ask, listed = getattr(graph.node, RIGHTS[what, right]), allowed(node, what, right)

    def found() -> set[str]:
        try:
            return {name for name, _ in ask(node, "/")}
        except Exception:  # rclpy raises for a node that is not discovered yet
            return set()

    # A list may be empty; every node has services, so it is discovered when these are.
    graph.wait(lambda: found() >= listed, 20.0, f"{node} to {right} {sorted(listed - found())}")
    assert found() == listed
