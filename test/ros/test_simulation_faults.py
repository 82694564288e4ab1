"""qgf_sim under people who are in a hurry: stopped while it builds its world, reset twice, no disk.

Pinned: ten seconds deaf to SIGTERM while MuJoCo compiled a scene; an empty episode for a reset that was
asked for twice; a file of results that could not be written, said after an episode, or, where it was a
pipe, never: the world stood still.
"""

import os
import signal
import sys
import time

import pytest
import ros_harness as ros

SLOW_WORLD = """
import sys, time
import qgf_ros.ros.sim_node as node
def slow(name):
    print("building", flush=True)
    time.sleep(30.0)  # goes on after a handler of Python's, as native code does
node.make_world = slow
sys.exit(node.main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_fault_180_a_simulation_that_builds_its_world_ends_at_a_signal(domain, number):
    sim = ros.Proc([sys.executable, "-c", SLOW_WORLD], domain)
    try:
        sim.wait_line("building")
        at = sim.send(number)
        assert sim.wait(25.0) == 0, sim.log
        assert time.monotonic() - at < 10.0, "30 s are what the world takes"
        assert "READY" not in "".join(sim.out)
    finally:
        sim.close()


def test_fault_180_a_reset_that_is_asked_for_again_is_no_episode(domain):
    hear = ros.Wire(domain, "hurried", spin=False)
    starts = hear.record(ros.Header, "episode_start", 100)
    joints = hear.record(ros.JointState, "joint_states", 100)
    command = hear.node.create_publisher(
        ros.Float64MultiArray, "velocity_controller/commands", 1
    )
    reset = hear.node.create_client(ros.Trigger, "qgf_sim/reset")
    hear.begin()
    parameters = ros.ros_args(wait_for_reset=True, real_time_factor=10.0, seed=7)
    sim = ros.Proc([*ros.node_command("qgf_sim"), *parameters], domain)

    def steps(number):
        begin = len(joints)
        hear.wait(lambda: len(joints) > begin + number, 10, "steps of the world", sim)

    try:
        hear.wait(lambda: joints and command.get_subscription_count(), 15, "the simulation", sim)
        hear.wait(reset.service_is_ready, 10, "its service", sim)
        for _ in range(5):
            assert hear.call(reset, ros.Trigger.Request()).success
            steps(10)
        command.publish(ros.Float64MultiArray(data=[0.1, 0.0]))
        hear.wait(lambda: starts, 10, "an episode", sim)
        steps(50)
        assert [s.msg.frame_id for s in starts] == ["7"], "one episode, and it goes on"
        assert hear.call(reset, ros.Trigger.Request()).success
        steps(10)
        command.publish(ros.Float64MultiArray(data=[0.2, 0.0]))
        hear.wait(lambda: len(starts) == 2, 10, "the next one", sim)
        assert starts[1].msg.frame_id == "8"
        sim.stop()
    finally:
        sim.close()
        hear.close()


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "in no folder"])
def test_fault_180_results_that_cannot_be_written_are_said_at_start(domain, tmp_path, kind):
    results = tmp_path / "results.jsonl"
    if kind == "a folder":
        results.mkdir()
    elif kind == "a pipe":
        os.mkfifo(results)
    else:
        results = tmp_path / "nowhere" / "results.jsonl"
    parameters = ros.ros_args(results=results, wait_for_command=False, real_time_factor=100.0)
    sim = ros.Proc([*ros.node_command("qgf_sim"), *parameters], domain, deadline=30.0)
    try:
        assert sim.wait(20.0) == 7, sim.log
        assert "READY" not in "".join(sim.out) and results.name in sim.err[-1]
        assert "Traceback" not in sim.log
    finally:
        sim.close()
