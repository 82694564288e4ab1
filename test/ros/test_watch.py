"""`qgf watch` beside a real node: what it says once, how it ends, and that it is no burden.

Pinned: an answer to --once before the latched policy had come.
"""

import json
import signal
import sys

import ros_harness as ros

WATCH = [sys.executable, "-m", "qgf_ros.cli", "watch"]


def test_once_it_says_all_that_a_running_node_says_and_ends_by_its_state(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.drive(proc)
        watch = ros.run_to_end([*WATCH, "--once", "--json"], domain)
        found = json.loads("\n".join(watch.out))
        assert watch.process.returncode == 0, watch.log
        assert found["state"] == "RUN" and found["node"] == "/qgf" and found["gate"] is None
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
            own = {name for name, _ in robot.node.get_node_names_and_namespaces()}
            (mine,) = [name for name in own if name.startswith("qgf_watch")]
            said = robot.node.get_publisher_names_and_types_by_node(mine, "/")
            assert {name for name, _ in said} <= {"/parameter_events"}, "it publishes nothing"
            lines.send(signal.SIGINT)
            assert lines.wait(10.0) == 0, lines.log
        finally:
            lines.close()
        robot.estop(False)
    silent = ros.run_to_end([*WATCH, "--once", "--json", "--node", "other"], domain)
    assert silent.process.returncode == 2 and json.loads("\n".join(silent.out))["life"] == "never"
    assert "qgf: error[2]: /other was not heard" in silent.err[-1]
