"""`qgf trial` beside a real node and a fake robot; the operator is a script on the topic.

Pinned: a robot that goes on when the trial was killed; a trial that does not go on where it was; bags
that training cannot read; an episode with another beta than the one it is counted for.
"""

import math
import signal
import sys

import ros_harness as ros
from std_msgs.msg import String

from qgf_ros.control.supervisor import State
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from qgf_ros.trial.record import load
from training.pipeline.align import align
from training.pipeline.labels import load_labels
from training.pipeline.readers.load import find_reader
from training.pipeline.report import Report

RELIABLE = ros.QoSProfile(depth=1000) if not ros.MISSING else None
FLOOR = 0.014  # of the shipped policy
PATIENCE = 40.0  # s for a process to start, and for a trial to take a step


def test_a_status_in_a_state_that_nobody_knows_is_as_if_it_had_not_come():
    """Anybody may publish there, and a trial that ends by an error leaves the robot to its guard."""
    from qgf_ros.ros.trial import RobotLink

    link = RobotLink.__new__(RobotLink)
    link._status, link._holds, link._heard_at = None, 0, 0.0
    link._on_status(ros.Status(state=int(State.HOLD)))
    link._on_status(ros.Status(state=99))
    assert link.view().state is State.HOLD and link.view().holds == 1


class Operator:
    """Hears the trial's state, and says words."""

    def __init__(self, robot):
        self.robot = robot
        latched = ros.QoSProfile(
            depth=1,
            reliability=ros.ReliabilityPolicy.RELIABLE,
            durability=ros.DurabilityPolicy.TRANSIENT_LOCAL,
        )
        self.states = robot.record(String, "qgf_trial/state", latched)
        self.words = robot.node.create_publisher(String, "qgf_trial/operator", 10)

    def wait(self, phase, proc):
        """Until the trial has come to a phase, such as "waiting 2"."""
        self.robot.wait(
            lambda: any(s.msg.data == phase for s in self.states), PATIENCE, phase, proc
        )
        self.states.clear()

    def say(self, word, until, proc):
        """A word, again and again until it is understood: on topics the first may get lost."""
        for _ in range(20):
            self.words.publish(String(data=word))
            try:
                self.robot.wait(until, 2.0, f"the answer to {word}", proc)
                return
            except ros.TimedOut:
                continue
        raise ros.TimedOut(f"nobody answers to {word}\n{proc.log}")

    def start(self, number, proc):
        """An episode begins, and the robot is commanded."""
        self.wait(f"waiting {number}", proc)
        before = len(self.robot.q_values)
        moves = lambda: any(s.msg.data == f"running {number}" for s in self.states)  # noqa: E731
        self.say("start", moves, proc)
        self.robot.wait(lambda: len(self.robot.q_values) >= before + 3, 10, "three chunks", proc)
        return {q.msg.beta for q in self.robot.q_values[before:]}

    def judge(self, word, following, proc):
        done = lambda: any(s.msg.data == following for s in self.states)  # noqa: E731
        self.say(word, done, proc)


def trial(domain, folder, *more):
    command = [sys.executable, "-m", "qgf_ros.cli", "trial", "--out", str(folder)]
    return ros.Proc([*command, "--episodes", "1", "--seed", "3", *more], domain)


def refused(domain, folder, *betas):
    proc = trial(domain, folder, "--beta", *betas)
    try:
        assert proc.wait(PATIENCE) == 2, proc.log
        return proc.err[-1]
    finally:
        proc.close()


def test_a_trial_that_is_killed_stops_the_robot_and_goes_on_where_it_was(domain, tmp_path):
    with ros.node_and_robot(domain) as (node, robot):
        operator = Operator(robot)
        robot.drive(node)
        assert "/qgf is enabled" in refused(domain, tmp_path, "inf", "0.11")
        robot.enable(False)
        robot.wait_state(ros.READY)
        assert f"below the policy's floor of {FLOOR}" in refused(domain, tmp_path, "inf", "0.001")
        commands = len(robot.commands)

        first = trial(domain, tmp_path, "--beta", "inf", "0.11")
        try:
            ran = [operator.start(1, first)]
            assert len(robot.commands) > commands
            operator.judge("success", "waiting 2", first)
            robot.wait_state(ros.READY, 10, node)  # stopped by the verdict
            ran.append(operator.start(2, first))
            first.send(signal.SIGKILL)
            stopped = lambda: not robot.statuses[-1].msg.enabled  # noqa: E731
            robot.wait(stopped, 10, "the guard's stop", node)
            robot.wait_state(ros.READY, 10, node)
        finally:
            first.close()
        assert len(load(tmp_path).episodes) == 1

        again = trial(domain, tmp_path, "--beta", "inf", "0.11", "--json")
        try:
            assert operator.start(2, again) == ran[1], "the same beta again"
            operator.judge("failure", "over 0", again)
            assert again.wait(PATIENCE) == 0, again.log
        finally:
            again.close()
        assert robot.get("beta") == [0.11], "as it was before the trial"

    record = load(tmp_path)
    assert [{e.beta} for e in record.episodes] == ran
    assert {e.beta for e in record.episodes} == {math.inf, 0.11}
    assert [e.outcome for e in record.episodes] == ["success", "failure"]
    assert '"finished": true' in "\n".join(again.out)
    episodes = read(tmp_path / "bags")
    assert [(e.success, e.terminal) for e in episodes] == [(True, True), (False, True)]
    assert all(len(e) >= 10 and (e.action != 0).any() for e in episodes)


def read(folder):
    """What training sees in the bags."""
    contract = Contract.load(world_folder("planar_arm") / "contract.yaml")
    reader = find_reader(folder)
    names = reader.recordings(folder)
    labels = load_labels(folder, contract).by_recording(folder, names)
    found = []
    for name in names:
        report = Report()
        found += align(reader.read(folder, name, contract), contract, report, labels[name])
        assert report.lost == 0, report.dropped
    return found


def test_the_simulation_waits_until_its_scene_is_put_back(domain):
    robot = ros.Wire(domain, "person")
    starts = robot.record(ros.Header, "episode_start", RELIABLE)
    joints = robot.record(ros.JointState, "joint_states", RELIABLE)
    commands = robot.node.create_publisher(ros.Float64MultiArray, "velocity_controller/commands", 1)
    reset = robot.node.create_client(ros.Trigger, "qgf_sim/reset")
    sim = ros.Proc(
        [*ros.node_command("qgf_sim"), *ros.ros_args(wait_for_reset=True, real_time_factor=10.0)],
        domain,
    )
    drive = lambda v: commands.publish(ros.Float64MultiArray(data=[v, 0.0]))  # noqa: E731
    taken = lambda: commands.get_subscription_count() > 0  # noqa: E731

    def began(number):
        drive(1.0)
        return len(starts) == number + 1

    def lasts():
        said = len(joints)
        robot.wait(lambda: len(joints) > said + 50, 20, "half a second of state", sim)

    def begins(number):
        lasts()
        drive(2.0)
        lasts()
        assert len(starts) == number, "a command alone begins nothing"
        assert robot.call(reset, ros.Trigger.Request(), 10).success
        drive(2.0)
        lasts()
        assert len(starts) == number, "the last word of before begins nothing"
        robot.wait(lambda: began(number), 20, "the episode", sim)

    try:
        robot.wait(taken, 20, "the simulation's ear", sim)
        begins(0)
        begins(1)
        sim.stop()
    finally:
        sim.close()
        robot.close()
