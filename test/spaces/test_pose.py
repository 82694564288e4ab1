"""Poses as actions: messages, numbers of the gate and numbers of the policy are inverses of each other, and
what a contract of them lacks is refused with what to do. Pinned: the frame is said, never guessed."""

import copy

import numpy as np
import pytest
from qgf_make import START, Rig, constant, contract, description, policy_in_memory

from qgf_ros.control.measured import MeasuredPositions
from qgf_ros.errors import UsageError
from qgf_ros.spaces.actions.codec import ActionCodec, Origin, commands_of, rows_of
from qgf_ros.spaces.actions.pose import LABELS
from qgf_ros.spaces.normalizer import Normalizer
from qgf_ros.spaces.rotation import (
    euler_of,
    product,
    quaternion_of,
    rot6d,
    rotation_vector,
    turned,
    unit,
)

RNG = np.random.default_rng(7)
FIELDS = ["pose.position.x", "pose.position.y", "pose.position.z", "pose.orientation"]
HOME = [0.0, 1.0, 0.0, 0.0]  # a tool that points down
WAYS = [("absolute", ""), ("delta_observed", "base"), ("delta_observed", "tool"), ("delta_last", "base"), ("delta_last", "tool")]  # fmt: skip


def pose_dict(representation="absolute", axes="", rate=100.0, **time):
    place = {"min": -1.0, "max": 1.0, "rate": rate}
    action = {
        "name": "arm", "topic": "target_pose", "type": "geometry_msgs/PoseStamped", "fields": FIELDS, "space": "pose",
        "representation": representation, "frame": "base_link", "home": HOME, "measured": {"pose": "tool"},
        "limits": {n: place for n in LABELS},
    }  # fmt: skip
    return {
        "contract": 1, "robot": "arm", "time": {"period": 0.05, "horizon": 4, "execute_steps": 2} | time,
        "observations": [
            {"name": "other", "topic": "other", "type": "std_msgs/Float64MultiArray", "names": ["x"]},
            {"name": "tool", "topic": "tool_pose", "type": "geometry_msgs/PoseStamped", "fields": FIELDS,
             "encoding": "rot6d"},
        ],
        "actions": [action | ({"axes": axes} if axes else {})],
        "outcome": {"objective": "time_to_success", "assume_success": True},
    }  # fmt: skip


def poses(*shape):
    """Numbers of poses, up to one and a half rad from home."""
    return np.concatenate([RNG.uniform(-1, 1, (*shape, 3)), RNG.uniform(-0.85, 0.85, (*shape, 3))], axis=-1)


def origin(own, count, known=True):
    spec, last = own.actions[0], poses(count)
    message = spec.kind.message(spec, poses(count))
    obs = np.concatenate([np.zeros((count, 1)), message[:, :3], rot6d(message[:, 3:])], axis=1)
    return Origin(obs, last if known else np.full_like(last, np.nan))


def test_a_message_and_its_numbers_are_inverses_and_a_quaternions_sign_means_nothing():
    own = contract(pose_dict())
    spec = own.actions[0]
    numbers = poses(500)
    message = spec.kind.message(spec, numbers)
    assert np.allclose(np.linalg.norm(message[:, 3:], axis=1), 1)
    assert np.allclose(spec.kind.numbers(spec, message), numbers)
    message[:, 3:] *= -2.0
    assert np.allclose(spec.kind.numbers(spec, message), numbers)
    assert np.allclose(spec.kind.numbers(spec, np.array([1, 2, 3, *HOME])), [1, 2, 3, 0, 0, 0])
    assert np.isnan(spec.kind.numbers(spec, np.zeros(7))).any(), "a rotation that is none"


def test_the_angular_speed_is_no_more_than_the_rotation_vectors():
    spec = contract(pose_dict()).actions[0]
    one, step = poses(2000), 1e-5 * RNG.normal(size=(2000, 3))
    other = one + np.concatenate([np.zeros((2000, 3)), step], axis=1)
    a, b = (spec.kind.message(spec, x)[:, 3:] for x in (one, other))
    angle = 2 * np.arctan2(np.linalg.norm(b - a, axis=1), np.linalg.norm(b + a, axis=1)) * 1.0
    assert (angle <= np.linalg.norm(step, axis=1) * (1 + 1e-4)).all()


@pytest.mark.parametrize("representation, axes", WAYS)
@pytest.mark.parametrize("known", [True, False])
def test_a_policys_numbers_and_the_robots_are_inverses(representation, axes, known):
    own = contract(pose_dict(representation, axes))
    where, commands = origin(own, 50, known), poses(50, 4)
    scale = {n: RNG.uniform(0.1, 1, 6) for n in ("action_center", "action_half_range")}
    codec = ActionCodec(own, Normalizer(np.zeros(10), np.ones(10), **scale))
    assert np.allclose(codec.decode(codec.encode(commands, where, clip=False), where), commands, atol=2e-6)
    near = np.concatenate([RNG.normal(size=(50, 4, 3)), RNG.uniform(-0.1, 0.1, (50, 4, 3))], axis=-1) / 2
    plain = ActionCodec(own, Normalizer(np.zeros(10), np.ones(10), np.zeros(6), np.ones(6)))
    again = plain.encode(plain.decode(near, where), where, clip=False)
    if representation != "absolute":
        assert np.allclose(again, near, atol=2e-6)


@pytest.mark.parametrize("axes", ["base", "tool"])
def test_a_change_is_along_the_axes_that_it_says(axes):
    own = contract(pose_dict("delta_observed", axes))
    spec = own.actions[0]
    turn = quaternion_of(np.array([0, 0, np.pi / 2]))  # the tool has turned a quarter about the base's z
    q = product(turn, np.array(HOME))
    obs = np.concatenate([[0.0], [0.1, 0.2, 0.3], rot6d(q)])
    codec = ActionCodec(own, Normalizer(np.zeros(10), np.ones(10), np.zeros(6), np.ones(6)))
    said = np.tile([0.1, 0, 0, 0, 0, 0.2], (4, 1))
    found = spec.kind.message(spec, codec.decode(said, Origin(obs, np.full(6, np.nan))))[0]
    way = [0.1, 0, 0] if axes == "base" else turned(q, np.array([0.1, 0, 0]))
    more = quaternion_of(np.array([0, 0, 0.2]))
    wanted = product(more, q) if axes == "base" else product(q, more)
    assert np.allclose(found[:3], np.array([0.1, 0.2, 0.3]) + way)
    assert abs(abs(found[3:] @ wanted) - 1) < 1e-9


@pytest.mark.parametrize("representation, axes", WAYS[1:])
def test_a_change_past_half_a_turn_stays_at_the_limit_and_does_not_lead_all_the_way_back(representation, axes):
    own = contract(pose_dict(representation, axes))
    spec = own.actions[0]
    start = np.array([0, 0, 0, 0, 0, 3.0])
    message = spec.kind.message(spec, start)
    here = Origin(np.concatenate([[0.0], message[:3], rot6d(message[3:])]), start)
    codec = ActionCodec(own, Normalizer(np.zeros(10), np.ones(10), np.zeros(6), np.ones(6)))
    said = np.tile([0, 0, 0, 0, 0, -0.2 if axes == "base" else 0.2], (4, 1))  # home is upside down
    found = codec.decode(said, here)
    assert (found[:, 5] > 3.1).all(), "on past pi, not to -3.08"


@pytest.mark.parametrize("representation, axes", WAYS[1:])
@pytest.mark.parametrize("rotation", ["", "euler_xyz"])
def test_rows_of_a_table_and_commands_are_inverses(representation, axes, rotation):
    told = pose_dict(representation, axes)
    if rotation:
        told["actions"][0]["rotation"] = rotation
    spec = contract(told).actions[0]
    commands, measured = poses(30), poses(30)
    changes = rows_of(spec, commands, measured)
    row = spec.kind.to_row(spec, changes)
    if rotation:
        assert np.allclose(row[:, 3:], euler_of(quaternion_of(changes[:, 3:])))
    assert np.allclose(commands_of(spec, spec.kind.from_row(spec, row), measured), commands)
    before = measured[0] if representation == "delta_last" else measured[1]
    before = commands[0] if representation == "delta_last" else before
    a, b = (spec.kind.message(spec, x) for x in (before, commands[1]))
    way = b[:3] - a[:3]
    assert np.allclose(changes[1, :3], way if axes == "base" else turned(a[3:] * [-1, -1, -1, 1], way))


def test_where_it_is_measured_is_read_from_the_observation_that_is_named():
    own = contract(pose_dict())
    spec, number = own.actions[0], poses(1)[0]
    message = spec.kind.message(spec, number)
    vector = np.concatenate([[9.0], message[:3], rot6d(message[3:])])
    assert np.allclose(own.measured(vector), number)
    seen = MeasuredPositions(own)
    assert [o.name for o in seen.sources] == ["tool"] and np.isnan(seen.at(START)).all()
    seen.push(own.observations[1], START, START, message)
    assert np.allclose(seen.at(START), number)
    assert np.isnan(seen.at(START + 10**10)).all(), "older than its max_age"
    seen.push(own.observations[1], START, START, np.array([0, 0, 0, 0, 0, 0, 0.0]))
    assert np.isnan(seen.at(START)[3:]).all()


@pytest.mark.parametrize("representation, axes", WAYS)
def test_the_robot_is_sent_poses_from_where_it_is_measured(representation, axes):
    own = contract(pose_dict(representation, axes))
    plain = description(own).normalizer
    scale = {"action_center": (0.0,) * 6, "action_half_range": (1.0,) * 6}
    robot = Rig(own, constant([0.01, 0, 0, 0, 0, 0.02]), policy=policy_in_memory(own, normalizer=plain | scale))
    start = np.array([0.3, -0.2, 0.5, 0.1, 0.2, -0.3])
    spec = own.actions[0]
    robot.state["tool"], robot.state["other"] = spec.kind.message(spec, start), np.zeros(1)
    robot.step(4)
    sent = np.array([s.values for s in robot.sent])
    assert len(sent) == 4
    if representation == "absolute":
        assert np.allclose(sent, [0.01, 0, 0, 0, 0, 0.02])
    elif representation == "delta_observed":
        assert np.allclose(sent, sent[0]) and 0.005 < np.linalg.norm(sent[0, :3] - start[:3]) < 0.011
    else:
        steps = np.diff(np.concatenate([start[None], sent])[:, :3], axis=0)
        assert np.allclose(np.linalg.norm(steps, axis=1), 0.01, atol=1e-6)


WRONG = [
    ({"frame": None}, "frame is ''; a pose means nothing without the frame"),
    ({"home": None}, r"home is \[\]; give the orientation that turns are counted from"),
    ({"home": [0.0, 0.0, 0.0, 0.0]}, "a quaternion .x, y, z, w. of length 1"),
    ({"fields": FIELDS[:3]}, "a pose is commanded whole"),
    ({"measured": None}, "measured.pose is ''; without a measured start the first command would jump"),
    ({"measured": {"pose": "other"}}, r"measured.pose is 'other'.*there are \['tool'\]"),
    ({"measured": {"rotation.x": "tool"}}, "measured names rotation.x, which this action does not have; it has pose"),
    ({"representation": "delta_observed"}, "axes is ''; a change of a pose is along the axes of its frame"),
    ({"axes": "tool"}, "axes is 'tool', which is of changes"),
    ({"rotation": "euler_xyz"}, "rotation is 'euler_xyz', which is of changes"),
    ({"limits": {n: {"min": -2.0, "max": 2.0, "rate": 1.0} for n in LABELS}}, "allow a turn of 3.46 rad from home"),
    ({"limits": None}, "limits are missing for pose.position.x"),
    ({"on_hold": "ramp_to_zero"}, "it is hold_last_sent"),
]  # fmt: skip


@pytest.mark.parametrize("changes, words", WRONG, ids=[next(iter(c)) + str(k) for k, (c, _) in enumerate(WRONG)])
def test_a_pose_that_lacks_something_is_refused_with_what_to_do(changes, words):
    told = copy.deepcopy(pose_dict())
    told["actions"][0] |= changes
    told["actions"][0] = {k: v for k, v in told["actions"][0].items() if v is not None}
    with pytest.raises(UsageError, match=words):
        contract(told)


def test_keys_of_poses_are_of_poses():
    told = pose_dict()
    joints = {"name": "j", "topic": "j", "type": "std_msgs/Float64MultiArray", "names": ["a"], "representation": "velocity",
              "limits": {"a": {"min": -1.0, "max": 1.0, "rate": 1.0}}}  # fmt: skip
    for key, value in (("home", HOME), ("axes", "base"), ("rotation", "euler_xyz")):
        with pytest.raises(UsageError, match=f"{key} is given, which is of poses"):
            contract(told | {"actions": [*told["actions"], joints | {key: value}]})


def test_functions_of_rotations_are_inverses():
    q = unit(RNG.normal(size=(2000, 4)))
    assert np.allclose(np.abs((quaternion_of(rotation_vector(q)) * q).sum(1)), 1)
    v = RNG.normal(size=(2000, 3)) * 1e-9
    assert np.allclose(rotation_vector(quaternion_of(v)), v, rtol=1e-6, atol=0)
