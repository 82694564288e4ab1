"""The one place that publishes on the robot's topics, and the last words of a process.

Pinned: a command that is led back into the state; an end that waits for a robot that does not come
to rest.
"""

import types

import numpy as np
import pytest
from qgf_fake_node import FakeNode
from qgf_make import START, contract, position_dict, twist_dict, velocity_dict

from qgf_ros.errors import UsageError
from qgf_ros.ros import robot_commands
from qgf_ros.ros.robot_commands import RobotCommands, bring_to_rest


def output(values):
    return types.SimpleNamespace(values=None if values is None else np.array(values, float))


def test_fault_067_each_action_gets_its_own_numbers():
    own = contract(twist_dict())
    node = FakeNode()
    robot = RobotCommands(node, own)
    size = len(own.action_names)
    robot.send(output(np.arange(1.0, size + 1)), START)
    tool, gripper = (p.messages for p in node.publishers)
    assert len(tool) == len(gripper) == 1
    fields = own.actions[0].labels_of_joints
    sent = tool[0].twist if hasattr(tool[0], "twist") else tool[0]
    for value, path in enumerate(fields, 1):
        part, axis = path.removeprefix("twist.").split(".")
        assert getattr(getattr(sent, part), axis) == value
    assert list(gripper[0].data) == [float(size)]


def test_fault_113_nothing_is_sent_where_the_gate_puts_nothing_out():
    node = FakeNode()
    RobotCommands(node, contract()).send(output(None), START)
    assert node.publishers[0].messages == []


@pytest.mark.parametrize(
    "remaps",
    [
        {"/commands": "/joint_states"},
        {"/joint_states": "/commands"},
        {"/goal": "/elsewhere", "/commands": "/elsewhere"},
    ],
)
def test_fault_083_a_command_that_is_remapped_into_the_state_is_refused(remaps):
    with pytest.raises(UsageError, match="remapping, /[a-z_]+ is observed and commanded"):
        RobotCommands(FakeNode(remaps=remaps), contract())


def test_fault_083_of_several_commands_the_one_that_leads_back_is_named():
    own = contract(twist_dict())
    one, other = (f"/{a.topic}" for a in own.actions)
    state = f"/{own.observations[0].topic}"
    with pytest.raises(UsageError) as refused:
        RobotCommands(FakeNode(remaps={one: state}), own)
    assert f"remapping, {state} is observed" in str(refused.value)
    assert other not in str(refused.value)


def test_fault_083_two_commands_that_are_remapped_onto_one_topic_are_refused():
    own = contract(twist_dict())
    one, other = (f"/{a.topic}" for a in own.actions)
    with pytest.raises(UsageError, match=f"remapping, {one}, {one} is observed .* commanded twice"):
        RobotCommands(FakeNode(remaps={other: one}), own)
    RobotCommands(FakeNode(), own)


def test_fault_079_a_topic_on_which_somebody_else_publishes_is_named():
    own = contract()
    for count, names in ((0, []), (1, []), (2, ["/commands"]), (3, ["/commands"])):
        node = FakeNode(counts={"/commands": count})
        assert RobotCommands(node, own).shared_topics() == names


def test_fault_072_last_words_are_waited_for_before_the_publishers_go():
    node = FakeNode()
    robot = RobotCommands(node, contract(position_dict()))
    robot.deliver()
    assert node.publishers[0].waited == [robot_commands.DELIVERY]
    robot.destroy()
    assert node.destroyed == node.publishers


class Gate:
    """Comes to rest after so many brakes; `falls_silent` after so many more."""

    def __init__(self, steps, silent_after=None):
        self.steps, self.silent_after, self.braked, self.stopped = steps, silent_after, 0, 0

    @property
    def at_rest(self):
        return self.braked >= self.steps

    def brake(self):
        self.braked += 1
        silent = self.silent_after is not None and self.braked > self.silent_after
        return output(None if silent else [self.braked])

    def stop(self):
        self.stopped += 1
        return output([-1.0])


def rest(gate, sent):
    bring_to_rest(gate, gate.brake, gate.stop, lambda o: sent.append(float(o.values[0])), 0.001)
    return sent


def test_fault_072_a_process_brakes_until_the_robot_rests():
    gate = Gate(4)
    assert rest(gate, []) == [1, 2, 3, 4] and gate.stopped == 0


def test_fault_072_a_robot_that_was_not_commanded_is_not_braked():
    assert rest(Gate(4, silent_after=0), []) == []


def test_fault_072_a_hold_that_ends_ends_the_last_words():
    assert rest(Gate(9, silent_after=2), []) == [1, 2]


def test_fault_077_a_ramp_that_takes_too_long_ends_with_a_stop(monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 1.0))
    steady = types.SimpleNamespace(monotonic=lambda: float(next(clock)), sleep=lambda _: None)
    monkeypatch.setattr(robot_commands, "time", steady)
    gate = Gate(10**9)
    sent = rest(gate, [])
    assert gate.stopped == 1 and sent[-1] == -1.0
    assert sent[:-1] == [1, 2, 3, 4], "LAST_WORDS of it, a second each"


def test_the_velocity_arm_is_commanded_in_the_order_of_its_contract():
    node = FakeNode()
    RobotCommands(node, contract(velocity_dict())).send(output([0.25, -0.5]), START)
    assert list(node.publishers[0].messages[0].data) == [0.25, -0.5]
