"""The tests' own tools: a ROS domain that is nobody else's, and what counts as the machine's fault.

Pinned: a publisher of somebody else's in the domain that a test had to itself; a node that was blamed
for what the machine did not let it do.
"""

import os
import socket
import subprocess
import sys
import time

import pytest
import ros_harness as ros
from ros_gaps import gaps, silent

BURN = "while True: pass"


def bound(domain):
    """What a DDS participant opens first."""
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", 7410 + 250 * domain))
    return taken


@pytest.fixture
def next_domain(monkeypatch):
    """Makes a domain the next one that is looked at; all that it gives are given back."""
    before = set(ros._domain_locks)  # the fixture `domain`'s, which gives its own back

    def set_next(domain):
        monkeypatch.setattr(ros, "_taken", (domain - 1) % ros.DOMAINS)
        monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)

    yield set_next
    for domain in set(ros._domain_locks) - before:
        ros.free_domain(domain)


def test_a_domain_with_a_participant_that_no_test_knows_of_is_not_given(domain, next_domain):
    """`domain` was ours, and is free again but for somebody who has not asked."""
    ros.free_domain(domain)
    with bound(domain):
        next_domain(domain)
        assert ros.take_domain() != domain
    next_domain(domain)
    assert ros.take_domain() == domain, "now that it is empty; the fixture gives it back"


def test_a_domain_that_another_process_holds_is_not_given(next_domain):
    code = "import ros_harness as r; print(r.take_domain(), flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], env=ros.environment(0, PYTHONPATH=":".join(sys.path)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        theirs = int(other.stdout.readline())
        next_domain(theirs)
        assert ros.take_domain() != theirs
    finally:
        other.communicate("\n")


def test_whoever_stays_in_a_domain_is_named_when_it_is_given_back(monkeypatch):
    domain = ros.take_domain()
    with bound(domain), pytest.raises(AssertionError, match=f"domain {domain}: .*'{os.getpid()} "):
        monkeypatch.setattr(ros, "LEAVES_WITHIN", 0.0)
        ros.free_domain(domain)
    assert not ros.ports(domain) and domain not in ros._domain_locks


def test_no_domain_reaches_into_the_ports_that_the_system_gives_away():
    assert 7400 + 250 * ros.DOMAINS + 249 < 32768


def test_a_process_that_does_not_get_its_turn_is_the_machines_fault():
    """Three that want the same core: each waits for two thirds of the time."""
    command = ["taskset", "-c", "0", sys.executable, "-c", BURN]
    procs = [ros.Proc(command, 1, deadline=20.0) for _ in range(3)]
    try:
        until = time.monotonic() + 15.0
        while not ros.stalled(0.02):
            assert time.monotonic() < until, "nobody waited"
            time.sleep(0.01)
        assert ros.slack() > 0.03
    finally:
        for proc in procs:
            proc.close()


def test_a_command_that_got_lost_on_its_way_is_no_silence_and_silence_is_none_less_for_it():
    ms, period = 10**6, 0.05
    found = gaps([0, 50 * ms, 151 * ms, 201 * ms, 360 * ms], period)
    assert found == [(50 * ms, 151 * ms), (201 * ms, 360 * ms)]
    assert silent(found, [1 * ms, 51 * ms, 152 * ms, 202 * ms, 361 * ms], period) == found
    assert silent(found, [100 * ms], period) == found[1:]
    assert silent(found, [100 * ms, 250 * ms], period) == found[1:], "110 ms are left"
    assert silent(found, [100 * ms, 260 * ms], period) == []
