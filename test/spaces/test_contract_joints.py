"""Joints under other names, in several messages, and in several actions of one topic."""

from types import SimpleNamespace

import numpy as np
import pytest
from qgf_make import position_dict, twist_dict, velocity_dict

from qgf_ros.control.measured import MeasuredPositions
from qgf_ros.errors import UsageError
from qgf_ros.spaces.contract import Contract


def leader(**measured):
    """Commands of a leader whose joints have other names than the follower's."""
    value = position_dict()
    action = value["actions"][0]
    action["names"] = ["pan.pos", "lift.pos"]
    action["limits"] = {n: {"min": -2.0, "max": 2.0, "rate": 2.0} for n in action["names"]}
    if measured:
        action["measured"] = {f"{name}.pos": where for name, where in measured.items()}
    return value


def refused(value, *parts):
    with pytest.raises(UsageError) as caught:
        Contract.from_dict(value)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize("lift", ["a", "joints.position.a"])
def test_a_command_begins_at_the_number_that_measured_names(lift):
    contract = Contract.from_dict(leader(pan="b", lift=lift))
    assert contract.measured_positions.tolist() == [1, 0]
    assert contract.relative_positions.tolist() == [1, 0]
    gate = MeasuredPositions(contract)
    gate.push(contract.observations[0], 5, 5, np.array([0.1, 0.2, 0.3, 0.4]))
    assert gate.at(5).tolist() == [0.2, 0.1]
    assert Contract.from_dict(contract.to_dict()) == contract


def test_measured_refuses_what_would_pair_wrongly():
    refused(leader(), "not observed", "measured")
    refused(leader(pan="a", lift="c"), "measured.lift.pos", "'c'", "['a', 'b']")
    refused(leader(pan="a", lift="a"), "another command")
    refused(leader(pan="a", lift="joints.position.a"), "another command")
    refused(leader(pan="a", elbow="b"), "elbow.pos", "pan.pos, lift.pos")
    value = velocity_dict()
    value["actions"][0]["measured"] = {"a": "b"}
    refused(value, "measured", "velocity")
    value = position_dict()
    value["actions"][0]["measured"] = {"a": "b"}  # and b is measured by b too
    refused(value, "observed by its own name", "b")


def test_new_keys_leave_hashes_of_contracts_that_do_not_use_them_alone():
    for value in (velocity_dict(), position_dict(), twist_dict()):
        text = str(Contract.from_dict(value).to_dict())
        assert not any(f"'{key}'" in text for key in ("merge", "measured", "silence"))


def test_merge_and_silence_refuse_where_they_mean_nothing():
    value = velocity_dict()
    value["observations"][1]["merge"] = "joints"
    refused(value, "merge is joints", "does not name its joints")
    value = velocity_dict()
    value["observations"][0] |= {"merge": "joints", "resample": "linear"}
    refused(value, "resample is linear", "hold")
    for silence, said in (
        ({"after": 0.0}, "after is 0.0"),
        ({"after": 0.5, "value": 3.0}, "beyond the limits"),
        ({"value": 0.0}, "after"),
        ({"after": 0.5, "valeu": 0.0}, "did you mean 'value'"),
    ):
        value = velocity_dict()
        value["actions"][0]["silence"] = silence
        refused(value, said)
    value = position_dict()
    value["actions"][0]["silence"] = {"after": 0.5}
    refused(value, "silence is given", "absolute")


def arms(kind="sensor_msgs/JointState", names=(["a"], ["b"])):
    value = velocity_dict()
    one = dict(value["actions"][0], type=kind)
    if kind != "std_msgs/Float64MultiArray":
        one["fields"] = ["velocity"]
    value["actions"] = [
        one | {"name": f"arm{i}", "names": n, "limits": {x: one["limits"]["a"] for x in n}}
        for i, n in enumerate(names)
    ]
    return value


def test_two_actions_share_a_topic_where_names_tell_them_apart():
    for kind in ("sensor_msgs/JointState", "trajectory_msgs/JointTrajectory"):
        assert Contract.from_dict(arms(kind)).action_names == ("arm0.a", "arm1.b")
    refused(arms("std_msgs/Float64MultiArray"), "two actions", "does not say whose", "JointState")
    refused(arms(names=(["a"], ["b", "a"])), "two actions", "both a")
    value = arms()
    value["actions"][1]["type"] = "trajectory_msgs/JointTrajectory"
    refused(value, "two actions", "a topic has one type")


def test_only_what_was_sent_for_an_action_of_a_shared_topic_is_ones_own():
    pytest.importorskip("rclpy")
    from qgf_ros.ros.peers import ForeignCommands

    contract = Contract.from_dict(arms())

    def message(**joints):
        return SimpleNamespace(
            name=list(joints), position=[], velocity=list(joints.values()), effort=[]
        )

    node = SimpleNamespace(
        count_publishers=lambda topic: 1,
        get_publishers_info_by_topic=lambda topic: [],
        get_fully_qualified_name=lambda: "/qgf",
    )
    foreign = ForeignCommands(node, contract)
    foreign.sent(np.array([0.5, -0.5]))
    for own in (message(b=-0.5), message(a=0.5)):  # in any order, each once
        foreign._on_message("commands", own)
        assert foreign.problem() is None
    for other in (message(a=0.5), message(a=0.5, b=-0.5), message(c=0.5), message()):
        foreign = ForeignCommands(node, contract)
        if list(other.name) != ["a"]:
            foreign.sent(np.array([0.5, -0.5]))
        foreign._on_message("commands", other)
        assert foreign.problem() is not None, other


def test_one_publisher_per_topic_and_one_message_per_action():
    pytest.importorskip("rclpy")
    from qgf_ros.ros.robot_commands import RobotCommands

    sent, made = [], []

    def publisher(kind, topic, profile):
        made.append(topic)
        return SimpleNamespace(publish=lambda msg: sent.append((topic, msg)))

    node = SimpleNamespace(
        create_publisher=publisher,
        resolve_topic_name=lambda topic: f"/{topic}",
        count_publishers=lambda topic: made.count(topic.strip("/")),
    )
    robot = RobotCommands(node, Contract.from_dict(arms()))
    robot.send(SimpleNamespace(values=np.array([0.5, -0.5])), 7)
    assert made == ["commands"] and robot.shared_topics() == []
    assert [(list(m.name), list(m.velocity)) for _, m in sent] == [(["a"], [0.5]), (["b"], [-0.5])]
