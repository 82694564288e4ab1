"""`qgf watch` beside a real node: what it says once, how it ends, and that it is no burden.

Pinned: an answer to --once before the latched policy had come.
"""

import json
import signal
import sys

import ros_harness as ros

WATCH = [sys.executable, "-m", "qgf_ros.cli", "watch"]


def once(domain, *options):
    """Exit code and document."""
    watch = ros.run_to_end([*WATCH, "--once", "--json", *options], domain, timeout=60.0)
    assert watch.out, watch.log
    return watch.process.returncode, json.loads("\n".join(watch.out))


def offered(robot, name):
    said = robot.node.get_publisher_names_and_types_by_node(name, "/")
    return {topic for topic, _ in said}


def test_once_it_says_all_that_a_running_node_says_and_ends_by_its_state(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.drive(proc)
        for _ in range(5):  # a machine that is busy makes the state stale, or the answer late
            code, found = once(domain)
            if found["state"] == "RUN" and found["beta"]["asked"] and not found["waits_for"]:
                break
        assert code == 0 and found["node"] == "/qgf" and found["gate"] is None, found
        assert found["beta"]["in_effect"] == found["beta"]["asked"] == 0.11
        assert found["beta"]["zone"] == "firm" and found["policy"]["name"] == "planar_arm"
        assert found["q"]["q_sampled"] is not None and found["waits_for"] == []
        assert set(found["topic_age"]) == set(ros.STATE_TOPICS)

        lines = ros.Proc(WATCH, domain)
        try:
            lines.wait_line("/qgf RUN | beta 0.11 firm")
            robot.set(beta=0.5)
            lines.wait_line("beta 0.5 gentle")
            robot.estop(True)
            lines.wait_line("/qgf FAULT")
            name = f"qgf_watch_{lines.process.pid}"
            robot.wait(lambda: name in robot.node.get_node_names(), 10.0, name)
            robot.wait(lambda: offered(robot, name), 10.0, "what it publishes")
            assert offered(robot, name) == {"/parameter_events"}, "it publishes nothing of its own"
            lines.send(signal.SIGINT)
            assert lines.wait(10.0) == 0, lines.log
        finally:
            lines.close()
        robot.estop(False)
    code, found = once(domain, "--node", "other")
    assert code == 2 and found["life"] == "never" and found["state"] is None
