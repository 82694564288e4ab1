"""The SROS2 policy: of the schema's form, without wildcards, and by the planar arm's contract.

That the lists are those of running nodes: test/ros/test_sros2_graph.py.
"""

from pathlib import Path
from xml.etree import ElementTree

from qgf_ros.files.share import find_policy
from qgf_ros.policy.folder import load_policy

FILE = Path(__file__).parents[2] / "config" / "sros2" / "qgf.policy.xml"
ROOT = ElementTree.parse(FILE).getroot()
# sros2's policy.xsd, version 0.2.0: what each element may hold, and the attributes it may have.
CHILDREN = {
    "policy": {"enclaves"},
    "enclaves": {"enclave"},
    "enclave": {"profiles"},
    "profiles": {"profile"},
    "profile": {"topics", "services"},
    "topics": {"topic"},
    "services": {"service"},
    "topic": set(),
    "service": set(),
}
ATTRIBUTES = {
    "policy": {"version"},
    "enclave": {"path"},
    "profile": {"ns", "node"},
    "topics": {"publish", "subscribe"},
    "services": {"reply", "request"},
}


def allowed(enclave: str, what: str, right: str) -> set[str]:
    """Names as written: topics or services that the enclave may `right`."""
    return {
        (name.text or "").strip()
        for group in ROOT.findall(f"enclaves/enclave[@path='{enclave}']/profiles/profile/{what}")
        if group.get(right) == "ALLOW"
        for name in group
    }


def test_it_has_the_schemas_form():
    assert ROOT.tag == "policy" and ROOT.attrib == {"version": "0.2.0"}
    for element in ROOT.iter():
        assert {child.tag for child in element} <= CHILDREN[element.tag]
        assert set(element.attrib) <= ATTRIBUTES.get(element.tag, set())
        if element.tag in ("topics", "services"):
            assert len(element) and set(element.attrib.values()) == {"ALLOW"}
        elif element.tag == "profile":
            assert element.attrib.keys() == ATTRIBUTES["profile"]


def test_nothing_is_allowed_by_a_pattern():
    """DDS permissions know * and ?, which would open more than anybody read."""
    names = [(e.text or "").strip() for e in ROOT.iter() if e.tag in ("topic", "service")]
    assert len(names) > 40 and all(names)
    assert not [n for n in names if set(n) & set("*?[")]


def test_state_and_commands_are_the_contracts():
    contract = load_policy(find_policy("planar_arm")).contract
    observed = {o.topic for o in contract.observations}
    commanded = {a.topic for a in contract.actions}
    assert observed <= allowed("/qgf", "topics", "subscribe")
    assert commanded <= allowed("/qgf_gate", "topics", "publish")
    assert observed <= allowed("/qgf_sim", "topics", "publish")


def test_only_the_gate_commands_and_only_the_node_proposes():
    speakers = {
        e.get("path", ""): allowed(e.get("path", ""), "topics", "publish")
        for e in ROOT.iter("enclave")
    }
    assert [e for e, said in speakers.items() if "velocity_controller/commands" in said] == [
        "/qgf_gate"
    ]
    assert [e for e, said in speakers.items() if said & {"~/command", "qgf/command"}] == ["/qgf"]


def test_the_operator_reaches_only_what_the_node_has():
    heard, said = (allowed("/qgf_operator", "topics", r) for r in ("subscribe", "publish"))
    gates = {n.replace("~", "qgf_gate") for n in allowed("/qgf_gate", "topics", "publish")}
    assert heard <= allowed("/qgf", "topics", "publish") | gates
    assert said <= allowed("/qgf", "topics", "subscribe")
    assert allowed("/qgf_operator", "services", "request") <= allowed("/qgf", "services", "reply")
    assert {"~/enable", "~/reset"} <= allowed("/qgf_operator", "services", "request")
