"""Joints that are learnt as changes: what a policy says and what a robot is sent are inverses of each other,
in chunks and in the rows of tables. Pinned: what goes to the robot is a position, and the gate judges it."""

import numpy as np
import pytest
from qgf_make import (
    Rig,
    constant,
    contract,
    description,
    policy_in_memory,
    position_dict,
    velocity_dict,
)

from qgf_ros.errors import UsageError
from qgf_ros.spaces.actions.codec import ActionCodec, Origin, commands_of, rows_of
from qgf_ros.spaces.normalizer import Normalizer

RNG = np.random.default_rng(5)
DELTAS = ("delta_observed", "delta_last")


def delta(representation, rate=100.0, **time):
    told = position_dict(rate=rate, **time)
    told["actions"][0]["representation"] = representation
    return contract(told)


def origin(own, count, known=True):
    last = RNG.uniform(-1, 1, (count, 2))
    return Origin(
        RNG.uniform(-1, 1, (count, len(own.observation_names))),
        last if known else np.full_like(last, np.nan),
    )


@pytest.mark.parametrize("representation", DELTAS)
@pytest.mark.parametrize("known", [True, False])
def test_a_policys_numbers_and_the_robots_are_inverses(representation, known):
    own = delta(representation)
    for _ in range(50):
        commands, where = RNG.uniform(-1, 1, (7, 5, 2)), origin(own, 7, known)
        scale = {n: RNG.uniform(0.1, 1, 2) for n in ("action_center", "action_half_range")}
        codec = ActionCodec(own, Normalizer(np.zeros(5), np.ones(5), **scale))
        again = codec.decode(codec.encode(commands, where, clip=False), where)
        assert np.allclose(again, commands, atol=1e-6)
        said = RNG.uniform(-1, 1, (7, 5, 2)).astype(np.float32)
        assert np.allclose(codec.encode(codec.decode(said, where), where), said, atol=1e-5)


@pytest.mark.parametrize("representation", DELTAS)
def test_a_chunk_begins_where_its_representation_says(representation):
    own = delta(representation)
    codec = ActionCodec(own, Normalizer(np.zeros(5), np.ones(5), np.zeros(2), np.ones(2)))
    said = np.full((5, 2), 0.1, np.float32)
    obs = np.array([0.4, 0.2, 0, 0, 0])
    where = Origin(obs, np.array([0.3, np.nan]))
    found = codec.decode(said, where)
    if representation == "delta_observed":
        assert np.allclose(found, [[0.5, 0.3]] * 5)
    else:  # the second joint was never sent anything: it begins where it is measured
        assert np.allclose(found[:, 0], 0.3 + 0.1 * np.arange(1, 6), atol=1e-6)
        assert np.allclose(found[:, 1], 0.2 + 0.1 * np.arange(1, 6), atol=1e-6)


@pytest.mark.parametrize("representation", DELTAS)
def test_what_a_policy_can_ask_for_is_within_its_bounds(representation):
    own = delta(representation)
    low, high, _ = own.limits
    for _ in range(200):
        normalizer = Normalizer(
            np.zeros(5), np.ones(5), RNG.uniform(-0.2, 0.2, 2), RNG.uniform(0, 0.5, 2)
        )
        codec = ActionCodec(own, normalizer)
        obs = np.zeros(5)
        obs[own.measured_positions] = RNG.uniform(low, high)
        found = codec.decode(RNG.choice([-1.0, 1.0], (5, 2)), Origin(obs, RNG.uniform(low, high)))
        least, most = codec.bounds()
        assert (found >= least - 1e-9).all() and (found <= most + 1e-9).all()


@pytest.mark.parametrize("representation", DELTAS)
def test_rows_of_a_table_and_commands_are_inverses(representation):
    spec = delta(representation).actions[0]
    commands, measured = RNG.normal(size=(30, 2)), RNG.normal(size=(30, 2))
    rows = rows_of(spec, commands, measured)
    assert np.allclose(commands_of(spec, rows, measured), commands)
    before = measured if representation == "delta_observed" else np.vstack([measured[:1], commands[:-1]])
    assert np.allclose(rows, commands - before)
    assert commands_of(spec, rows[:0], measured[:0]).shape == (0, 2)
    rows[10, 0] = np.nan
    lost = np.isnan(commands_of(spec, rows, measured)[:, 0])
    assert lost[10] and lost.sum() == (1 if representation == "delta_observed" else 20)


def rig(representation, plan, **keys):
    own = delta(representation, **keys)
    plain = description(own).normalizer
    scale = {"action_center": (0.0, 0.0), "action_half_range": (1.0, 1.0)}
    return Rig(own, plan, policy=policy_in_memory(own, normalizer=plain | scale, schema=1))


def test_the_robot_is_sent_positions_from_where_it_is_measured():
    robot = rig("delta_observed", constant([0.25, -0.5]))
    robot.state["joints"] = np.array([0.4, 0.1, 7.0, 7.0])
    robot.step(3)
    assert all(s.values == pytest.approx([0.65, -0.4]) for s in robot.sent)


def test_a_change_from_the_last_command_goes_on_from_what_was_sent():
    """Not from what is measured: a joint that sags would sag on."""
    robot = rig("delta_last", constant([0.02, -0.01]), horizon=4, execute=2)
    robot.state["joints"] = np.array([0.4, 0.1, 7.0, 7.0])
    robot.step(6)
    sent = np.array([s.values for s in robot.sent])
    steps = np.arange(1, 7)[:, None]
    assert np.allclose(sent, [0.4, 0.1] + steps * [0.02, -0.01], atol=1e-6)


def test_what_the_gate_has_cut_is_where_the_next_chunk_begins():
    robot = rig("delta_last", constant([0.5, 0.0]), rate=1.0, horizon=4, execute=1)
    robot.step(5)
    sent = np.array([s.values for s in robot.sent])[:, 0]
    assert np.allclose(np.diff(sent), 0.05), "the rate, at each tick"
    asked = robot.ticks[-1].candidate.values[0]
    assert asked == pytest.approx(sent[-2] + 0.5), "and no more than one change ahead of it"


def test_it_holds_where_it_was_sent_and_begins_anew_where_it_is_measured():
    robot = rig("delta_last", constant([0.02, 0.0]), horizon=4, execute=2)
    robot.step(4)
    robot.core.enable(False)
    robot.step(40)
    assert robot.core.gate.silent
    robot.state["joints"] = np.array([-0.7, 0.3, 0.0, 0.0])
    robot.core.enable(True)
    robot.step(2)
    assert robot.sent[-1].values == pytest.approx([-0.66, 0.3], abs=1e-6)


def test_it_needs_a_measured_start_as_any_position_does():
    for representation in DELTAS:
        told = velocity_dict()
        told["observations"][0]["fields"] = ["velocity"]
        told["actions"][0] |= {"representation": representation}
        told["actions"][0] |= {"type": "trajectory_msgs/JointTrajectory", "fields": ["position"]}
        with pytest.raises(UsageError, match="commanded but not observed"):
            contract(told)
