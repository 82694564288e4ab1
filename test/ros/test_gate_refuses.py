"""A gate that lives and passes nothing: the node does not run on without a robot, and a new gate
does not set it in motion. Pinned: RUN for minutes, and a robot that moves when a gate is restarted."""

import contextlib

import ros_harness as ros


@contextlib.contextmanager
def process(executable, domain, **parameters):
    arguments = ros.ros_args(policy="planar_arm", **parameters)
    proc = ros.Proc([*ros.node_command(executable), *arguments], domain)
    try:
        proc.wait_line("READY")
        yield proc
        proc.stop()
    finally:
        proc.close()


def test_fault_113_a_gate_that_is_restarted_moves_nothing(domain):
    robot = ros.FakeRobot(domain)
    try:
        robot.speak()
        with process("qgf_node", domain, gate="outside") as node:
            with process("qgf_gate", domain, owners="teleop"):
                robot.wait_state(ros.READY, 15, node)
                robot.enabled()
                robot.wait_state(ros.HOLD, 5, node, reason="GATE_REFUSES")
                robot.wait_state(ros.FAULT, 10, node, reason="GATE_REFUSES")
            with process("qgf_gate", domain):
                robot.wait_statuses(10)  # a second in which it has the say
                assert robot.state == ros.FAULT and not robot.commands
                assert robot.reset().success
                robot.wait_state(ros.READY, 5, node)
                robot.enabled()
                robot.wait_commands(5)
    finally:
        robot.close()


def test_fault_113_a_gate_that_dies_in_motion_and_begins_anew_waits_for_enable(domain):
    robot = ros.FakeRobot(domain)
    try:
        robot.speak()
        with process("qgf_node", domain, gate="outside") as node:
            first = ros.Proc(
                [*ros.node_command("qgf_gate"), *ros.ros_args(policy="planar_arm")], domain
            )
            try:
                robot.drive(node)
                robot.wait_commands(20)  # its status has told of some
                begun = len(robot.statuses)
                first.kill()
                first.process.wait(5)
                with process("qgf_gate", domain):

                    def held():  # missing, where the new one is heard more than a second later
                        words = ("GATE_RESTARTED", "GATE_MISSING")
                        return any(s.msg.reason in words for s in robot.statuses[begun:])

                    robot.wait(held, 10, "a hold", node)
                    robot.wait_state(ros.READY, 10, node)
                    robot.wait_statuses(5)
                    assert robot.state == ros.READY and not robot.statuses[-1].msg.enabled
                    robot.enabled()
                    robot.wait_commands(5)
            finally:
                first.close()
    finally:
        robot.close()
