"""What is set for the middleware before a process that commands a robot begins to talk."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from qgf_ros.ros.transport import ONLY, PROFILES, RANGE, TRANSPORTS, share_no_memory

NAMES = (TRANSPORTS, *PROFILES, RANGE, ONLY, "ROS_STATIC_PEERS")


@pytest.fixture
def told(monkeypatch):
    """The environment of a process that is told this, after it was asked to share no memory."""

    def after(**given):
        for name in NAMES:  # set first, so that what the function sets is undone
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        share_no_memory()
        return {name: os.environ[name] for name in NAMES if name in os.environ}

    return after


@pytest.mark.parametrize("given", [{}, {RANGE: "SUBNET"}, {RANGE: "OFF"}, {RANGE: "SYSTEM_DEFAULT"}])
def test_fault_169_udp_alone_where_nothing_was_chosen(told, given):
    assert told(**given) == given | {TRANSPORTS: "UDPv4"}


@pytest.mark.parametrize("given", [{RANGE: "LOCALHOST"}, {ONLY: "1"}, {ONLY: "1", RANGE: "SUBNET"}])
def test_fault_169_this_machine_alone_comes_from_a_profile(told, given):
    found = told(**given)
    assert found[RANGE] == "SYSTEM_DEFAULT" and ONLY not in found
    text = Path(found[PROFILES[0]]).read_text()
    assert {e.text for e in ElementTree.fromstring(text).iter() if e.tag.endswith("}address")} == {"127.0.0.1"}
    assert "<useBuiltinTransports>false<" in text and "SHM" not in text


@pytest.mark.parametrize("name", [TRANSPORTS, *PROFILES])
def test_what_a_person_chose_stands(told, name):
    given = {name: "mine", RANGE: "LOCALHOST"}
    assert told(**given) == given


def test_static_peers_are_kept_with_the_range_that_they_belong_to(told):
    given = {RANGE: "LOCALHOST", "ROS_STATIC_PEERS": "10.0.0.7"}
    assert told(**given) == given | {TRANSPORTS: "UDPv4"}
