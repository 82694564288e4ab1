"""The pictures of a chunk say what will be sent, and where twists lead.

Pinned: positions that were shown as velocities; a path that ignored that a base turns.
"""

import numpy as np
import pytest
from qgf_make import START, contract, position_dict, twist_dict

from qgf_ros.control.chunk import Chunk


@pytest.fixture(scope="module")
def views():
    from qgf_ros.ros import views

    return views


def chunk(own, actions):
    return Chunk(START, np.asarray(actions, dtype=float).reshape(own.time.horizon, -1), 1, 1)


def test_a_trajectory_has_the_names_of_the_commands_and_the_times_of_the_actions(views):
    own = contract(position_dict())
    said = views.trajectory(own, chunk(own, np.arange(10)))
    assert said.joint_names == ["arm.a", "arm.b"]
    assert (said.header.stamp.sec, said.header.stamp.nanosec) == (START // 10**9, START % 10**9)
    assert [p.time_from_start.nanosec for p in said.points] == [i * 50_000_000 for i in range(5)]
    assert list(said.points[2].positions) == [4.0, 5.0] and not said.points[2].velocities


def test_velocities_and_positions_of_one_robot_are_told_apart(views):
    own = contract(twist_dict())
    point = views.trajectory(own, chunk(own, np.arange(20))).points[1]
    np.testing.assert_equal(list(point.velocities), [4.0, 5.0, 6.0, np.nan])
    np.testing.assert_equal(list(point.positions), [np.nan, np.nan, np.nan, 7.0])


def test_a_tools_path_is_the_sum_of_its_velocities_in_axes_that_stand_still(views):
    own = contract(twist_dict())
    actions = np.tile([0.2, -0.1, 1.0, 0.5], (5, 1))
    line, points = views.markers(own, chunk(own, actions)).markers
    assert line.header.frame_id == "base_link" and line.ns == "arm"
    ends = [(p.x, p.y, p.z) for p in line.points]
    np.testing.assert_allclose(ends[-1], (0.2 * 0.25, 0.0, -0.1 * 0.25))
    assert len(line.points) == len(line.colors) == len(points.points) == 6


def test_a_base_that_turns_drives_an_arc(views):
    own = twist_dict()
    own["actions"][0] |= {
        "type": "geometry_msgs/Twist",
        "fields": ["linear.x", "angular.z"],
        "limits": {
            "linear.x": {"min": -1, "max": 1, "rate": 2},
            "angular.z": {"min": -4, "max": 4, "rate": 9},
        },
    }
    spec = contract(own).actions[0]
    speed, turn, steps, period = 0.5, 2.0, 200, 0.005
    end = spec.kind.path(spec, np.tile([speed, turn], (steps, 1)), period)[-1]
    angle, radius = turn * steps * period, speed / turn
    expected = (radius * np.sin(angle), radius * (1 - np.cos(angle)), 0.0)
    np.testing.assert_allclose(end, expected, atol=1e-4)


def test_joints_alone_have_no_markers(views):
    own = contract()
    assert views.markers(own, chunk(own, np.zeros(10))).markers == []
