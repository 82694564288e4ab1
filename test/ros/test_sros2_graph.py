"""The SROS2 policy lists exactly what the running nodes publish, hear and offer; of qgf_encoder:
test_encoder_node.py."""

import pytest
import ros_harness as ros
from sros2_policy import RIGHTS, allowed

NODES = {
    "qgf": ("qgf_node", {"policy": "planar_arm", "gate": "outside", "use_sim_time": True}),
    "qgf_gate": ("qgf_gate", {"policy": "planar_arm", "use_sim_time": True}),
    "qgf_sim": ("qgf_sim", {}),
}


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
