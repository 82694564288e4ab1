"""A robot behind `qgf_gate`, and the processes before it, for the tests of both."""

import contextlib
import time

import ros_harness as ros
from ros_gaps import listen

ZERO = [0.0, 0.0]
COMMANDS = "velocity_controller/commands"


class Robot(ros.FakeRobot):
    """A robot that does not get where the policy wants it, and hears the gate's reports too."""

    def __init__(self, domain, **kwargs):
        super().__init__(domain, **kwargs)
        self.passed = self.record(ros.Command, "qgf_gate/passed", 1000)
        self.gate_statuses = self.record(ros.Status, "qgf_gate/status", 1000)
        self.sent = listen(self, ros.Float64MultiArray, COMMANDS)
        self.freeze()

    def connect(self, gate):
        self.wait(lambda: self.gate_statuses, 10, "the gate's status", gate)
        count = self.node.count_publishers
        self.wait(lambda: count(COMMANDS) and count("qgf_gate/passed"), 10, "the gate", gate)

    def run(self, proc):
        """Enabled, and the node's commands reach the robot."""
        began = time.monotonic()
        self.drive(proc)
        self.wait(lambda: self.moves(began), 8, "motion", proc)

    def moves(self, after):
        last = self.commands[-1] if self.commands else None
        return last is not None and last.at > after and max(map(abs, last.values)) > 0.5

    def stopped(self, after):
        """When the command to rest arrived that stood from then on [s, steady], None: not yet."""
        moving = [c.at for c in self.commands if c.values != ZERO]
        rest = [c.at for c in self.commands if c.values == ZERO and c.at > max([after, *moving])]
        return rest[0] if rest else None


@contextlib.contextmanager
def gate_of(domain, **parameters):
    """A running gate for the shipped arm; in the end it obeys SIGTERM."""
    arguments = ros.ros_args(policy="planar_arm", **parameters)
    gate = ros.Proc([*ros.node_command("qgf_gate"), *arguments], domain, deadline=300.0)
    try:
        gate.wait_line("qgf_gate: READY")
        yield gate
        gate.stop()
    finally:
        gate.close()


@contextlib.contextmanager
def robot_of(domain, gate, **options):
    """A robot that has found the gate. In the end, no command was outside the envelope."""
    robot = Robot(domain, **options)
    try:
        robot.connect(gate)
        yield robot
        robot.refuse_violations()
    finally:
        robot.close()


@contextlib.contextmanager
def gate_and_robot(domain, **parameters):
    with gate_of(domain, **parameters) as gate, robot_of(domain, gate) as robot:
        yield gate, robot


@contextlib.contextmanager
def node(domain, command=(), **parameters):
    """A node that leaves the robot to the gate."""
    arguments = ros.ros_args(policy="planar_arm", gate="outside", **parameters)
    proc = ros.Proc([*(command or ros.node_command()), *arguments], domain)
    try:
        proc.wait_line("qgf: READY")
        yield proc
    finally:
        proc.close()
