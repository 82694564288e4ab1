"""A kind is a file and a line: kinds of our own in the tables, and who asks them."""

from dataclasses import replace

import numpy as np
import pytest
from qgf_make import SECOND, START, contract, position_dict, twist_dict, velocity_dict

from qgf_ros.control.assembler import Assembler, Observation
from qgf_ros.control.checks.frozen import FROZEN_AFTER, Frozen
from qgf_ros.control.gate import Candidate, Gate
from qgf_ros.errors import UsageError
from qgf_ros.spaces import actions, observations
from qgf_ros.spaces.actions.joint_velocity import JointVelocity
from qgf_ros.spaces.messages import TYPES
from qgf_ros.spaces.observations.vector import Vector
from training.pipeline.align import featured
from training.pipeline.streams import Recording, Stream

T = SECOND // 20
BODIES = ("geometry_msgs/PoseStamped",)


class JointStep(JointVelocity):
    """How far a joint shall move in a period."""

    name = "joint_step"
    representation = "step"
    field = "position"

    def travel(self, period):
        return 1.0

    def speed(self, limit, period):
        return super().speed(limit, period) / period


class PoseStep(JointStep):
    """How far a body shall move."""

    name = "pose_step"
    space = "pose"
    types = BODIES
    field = ""

    def check(self, spec):
        pass

    def path(self, spec, values, period):
        return np.concatenate([np.zeros((1, 3)), np.cumsum(values[:, :3], axis=0)])


class Parity(Vector):
    """Numbers that are whole, of which the policy sees whether they are odd."""

    name = "parity"
    bounded = False
    unusable = "not whole"

    def claims(self, source):
        return source.type == "std_msgs/Int32MultiArray"

    def features(self, source, values):
        return values % 2

    def usable(self, source, values, features):
        return super().usable(source, values, features) & (values == np.round(values)).all(axis=-1)

    def repeats(self, earlier, later):
        return False  # a parity says nothing of a sensor


@pytest.fixture
def more(monkeypatch):
    monkeypatch.setattr(actions, "KINDS", (*actions.KINDS, JointStep(), PoseStep()))
    monkeypatch.setattr(observations, "KINDS", (Parity(), *observations.KINDS))


def step_dict():
    value = velocity_dict()
    value["actions"][0] |= {"representation": "step"}
    return value


def test_a_step_holds_at_zero_and_is_limited_in_the_order_of_its_kind(more):
    own = contract(step_dict())
    assert own.actions[0].on_hold == "ramp_to_zero" and own.velocity_like.all()
    assert own.measured_positions.tolist() == own.relative_positions.tolist() == [-1, -1]
    gate = Gate(own)
    gate.begin_epoch(1, None)
    rate, sent = own.limits[2] * 0.05, []
    for k in range(8):
        at = START + k * T
        said = Candidate("us", k, 1, at, at, at + T, own.action_names, own.limits[1])
        sent.append(gate.step(at, said if k < 4 else None).values)
    steps = np.abs(np.diff(np.array(sent), axis=0))
    assert (steps <= rate + 1e-12).all() and (sent[3] > 0).all()
    assert (np.abs(sent[-1]) < np.abs(sent[3])).all(), "it is on its way to zero"


def test_a_step_that_nothing_answers_is_a_frozen_sensor(more):
    own = contract(step_dict())
    assert own.travel.tolist() == [1.0, 1.0]
    frozen, name = Frozen(own), own.observations[0].name
    for k in range(round(FROZEN_AFTER * 20) + 4):
        frozen.heard(name, np.zeros(4))
        frozen.sent(START + k * T, own.limits[1] / 2)
    assert frozen.seconds(name, START + k * T) >= FROZEN_AFTER


def test_a_type_that_a_kind_owns_becomes_a_command_and_says_the_kind(more):
    assert "geometry_msgs/PoseStamped" in actions.command_types()
    assert not TYPES["geometry_msgs/PoseStamped"].command
    value = twist_dict()
    fields = [f"pose.position.{axis}" for axis in "xyz"]
    arm = value["actions"][0]
    limits = {n: {"min": -0.1, "max": 0.1, "rate": 1.0} for n in fields}
    arm |= {"type": BODIES[0], "fields": fields, "limits": limits}
    arm |= {"representation": "step", "space": "pose"}
    spec = contract(value).actions[0]
    assert spec.kind.name == "pose_step"
    path = spec.kind.path(spec, np.full((4, 3), 0.1), 0.05)
    assert path.shape == (5, 3) and path[-1] == pytest.approx([0.4] * 3)
    for wrong in ({"space": "twist", "representation": "velocity"}, {"space": "joint"}):
        with pytest.raises(UsageError, match="space pose goes with geometry_msgs/PoseStamped"):
            contract(value | {"actions": [arm | wrong]})
    with pytest.raises(UsageError, match="of space pose it must be .*step"):
        contract(value | {"actions": [arm | {"representation": "velocity"}]})


@pytest.mark.parametrize("key,wrong", [("space", "arm"), ("representation", "torque")])
def test_a_space_or_representation_of_no_kind_is_named_with_what_is_allowed(key, wrong):
    value = position_dict()
    value["actions"][0][key] = wrong
    allowed = dict.fromkeys(getattr(k, key) for k in actions.KINDS)
    with pytest.raises(UsageError, match=f"{key} is '{wrong}'; allowed: {', '.join(allowed)}"):
        contract(value)


def parity_contract():
    value = velocity_dict()
    value["observations"][1] |= {
        "name": "counts", "topic": "counts", "type": "std_msgs/Int32MultiArray", "names": ["n"],
        "fields": [], "stamp": "receipt"}  # fmt: skip
    return contract(value)


def test_robot_and_training_ask_the_same_kind_what_is_usable_and_what_is_seen(more):
    own = parity_contract()
    counts = own.observations[1]
    assert counts.kind.name == "parity" and not own.bounded[own.observation_slices["counts"]].any()
    said = np.array([3.0, 4.0, 4.5, np.nan, 7.0])[:, None]
    at = START + T * np.arange(5)
    streams = {"counts": Stream(at, at, said)}
    seen = featured(Recording("r", streams), own)["counts"].values[:, 0]
    assert np.array_equal(seen, [1, 0, np.nan, np.nan, 1], equal_nan=True)
    box = Assembler(own)
    robot = []
    for stamp, values in zip(at, said):
        box.push("joints", int(stamp), int(stamp), np.zeros(4))
        before = box.dropped
        box.push("counts", int(stamp), int(stamp), values)
        got = box.assemble(int(stamp))
        assert isinstance(got, Observation)
        robot.append(np.nan if box.dropped > before else got.vector[own.observation_slices["counts"]][0])  # fmt: skip
    assert np.array_equal(robot, seen, equal_nan=True)


def test_what_was_not_usable_is_said_in_the_words_of_its_kind(more):
    own = parity_contract()
    box = Assembler(own)
    box.push("joints", START, START, np.full(4, np.nan))
    box.push("counts", START, START, np.array([0.5]))
    got = box.assemble(START)
    assert "on joint_states came only messages that were not finite" in got.detail
    assert "on counts came only messages that were not whole" in got.detail


def test_slices_are_where_the_names_say():
    own = contract(twist_dict())
    for sources, slices, names in (
        (own.observations, own.observation_slices, own.observation_names),
        (own.actions, own.action_slices, own.action_names),
    ):
        assert list(slices) == [s.name for s in sources]
        for name, part in slices.items():
            assert all(n.startswith(f"{name}.") for n in names[part])
        assert sum((names[part] for part in slices.values()), ()) == names


def test_a_kind_stays_with_its_contract_when_that_is_changed():
    spec = contract(twist_dict()).actions[1]
    assert spec.kind.name == "gripper"
    assert replace(spec, representation="velocity", on_hold="").kind.name == "gripper_velocity"
