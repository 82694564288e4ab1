"""Poses stay where they may be until they stand: whatever is asked for, nothing that leaves the gate, a hold
included, is in a keep-out box, tilted too far, or led on while the arm does not follow."""

import numpy as np
import pytest
from qgf_make import SCALE, START, contract

from qgf_ros.control.gate import Candidate, Gate
from qgf_ros.control.workspace import tilt
from qgf_ros.errors import UsageError
from qgf_ros.spaces.actions.pose import LABELS

FIELDS = ["pose.position.x", "pose.position.y", "pose.position.z", "pose.orientation"]
TABLE, POST = {"min": [-2, -2, -2], "max": [2, 2, 0.1]}, {"min": [0.2, -0.1, -1], "max": [0.3, 0.1, 1]}
T = 50_000_000


def own(workspace, rate=1.0, acceleration=2.0, jerk=None):
    limit = {"min": -1.0, "max": 1.0, "rate": rate, "acceleration": acceleration, "jerk": jerk}
    limit = {k: v for k, v in limit.items() if v is not None}
    return contract({
        "contract": 1, "robot": "arm", "time": {"period": 0.05, "horizon": 4},
        "observations": [
            {"name": "tool", "topic": "tool", "type": "geometry_msgs/PoseStamped", "fields": FIELDS, "encoding": "rot6d"}
        ],
        "actions": [{
            "name": "arm", "topic": "target", "type": "geometry_msgs/PoseStamped", "fields": FIELDS, "space": "pose",
            "representation": "absolute", "frame": "base", "home": [0.0, 0.0, 0.0, 1.0], "measured": {"pose": "tool"},
            "limits": dict.fromkeys(LABELS, limit), "workspace": workspace,
        }],
        "outcome": {"objective": "time_to_success", "assume_success": True},
    })  # fmt: skip


class Drive:
    """A gate on a clock, and everything that left it."""

    def __init__(self, workspace, start, **limits):
        self.own = own(workspace, **limits)
        self.gate, self.now, self.sent, self.sequence = Gate(self.own), START, [], 0
        self.gate.begin_epoch(1, np.array(start, float))

    def send(self, values, wait=T, measured=None):
        self.now += wait
        self.sequence += 1
        ask = None
        if values is not None:
            names = self.own.action_names
            ask = Candidate("us", self.sequence, 1, self.now, self.now, self.now + T, names, np.array(values, float))
        output = self.gate.step(self.now, ask, measured=measured)
        if output.values is not None:
            self.sent.append(output.values)
        return output


def inside(points, box):
    return ((points >= box["min"]) & (points <= box["max"])).all(axis=-1)


def test_fault_184_nothing_that_leaves_the_gate_is_where_it_may_not_be():
    refused = moved = 0
    for seed in range(40 * SCALE):
        said, way = wandered(np.random.default_rng([184, seed]))
        refused, moved = refused + said, moved + (np.ptp(way[:, :3], axis=0).max() > 0.2)
    assert refused > 1000 * SCALE and moved > 20 * SCALE, "they moved, and were stopped"


def wandered(rng):
    """Refusals of one gate, and the way (N, 6) that it led."""
    limits = {"rate": 10 ** rng.uniform(-1, 1), "acceleration": 10 ** rng.uniform(-1, 2)}
    if rng.random() < 0.5:
        limits["jerk"] = limits["acceleration"] * 10 ** rng.uniform(0, 2)
    most = rng.uniform(0.2, 0.8)
    drive = Drive({"keep_out": {"table": TABLE, "post": POST}, "tilt": most}, [0, 0, 0.5, 0, 0, 0], **limits)
    refused, goal = 0, np.zeros(6)
    for _ in range(400):
        if rng.random() < 0.3:
            goal = rng.uniform([-1, -1, -0.3, -1, -1, -1], 1.0)
        wait = int(T * rng.choice([1.0, 0.9, 1.1, 0.3, 3.0], p=[0.8, 0.05, 0.05, 0.05, 0.05]))
        output = drive.send(goal if rng.random() < 0.95 else None, wait)
        refused += output.refused is not None
    sent = np.array(drive.sent)
    way = np.concatenate([sent[:-1] + share * np.diff(sent, axis=0) for share in np.linspace(0, 1, 5)])
    assert not inside(way[:, :3], TABLE).any() and not inside(way[:, :3], POST).any()
    assert (tilt(way[:, 3:]) <= most + 1e-9).all()
    return refused, way


def test_it_stops_before_the_box_and_says_which():
    drive = Drive({"keep_out": {"table": TABLE}}, [0, 0, 0.5, 0, 0, 0])
    said = [drive.send([0, 0, -0.5, 0, 0, 0]) for _ in range(60)]
    refused = [o.refused for o in said if o.refused is not None]
    assert refused and refused[0].code == "WORKSPACE" and "is in table" in refused[0].detail
    lowest = min(s[2] for s in drive.sent)
    assert 0.1 < lowest < 0.25, "the brake ends above it"


def test_along_a_box_it_goes_on():
    drive = Drive({"keep_out": {"table": TABLE}}, [-0.5, 0, 0.11, 0, 0, 0])
    assert all(drive.send([0.5, 0, 0.11, 0, 0, 0]).admitted for _ in range(60))
    assert drive.sent[-1][0] > 0.4


def test_a_turn_about_the_tools_axis_is_no_tilt():
    drive = Drive({"tilt": 0.2}, [0, 0, 0.5, 0, 0, 0])
    assert all(drive.send([0, 0, 0.5, 0, 0, 0.9]).admitted for _ in range(60))
    said = [drive.send([0, 0, 0.5, 0.6, 0, 0.9]) for _ in range(60)]
    assert any(o.refused is not None and "tilted by" in o.refused.detail for o in said)
    assert tilt(drive.sent[-1][3:]) <= 0.2


def test_an_arm_that_does_not_follow_is_not_led_on():
    drive = Drive({"lag": 0.1, "lag_rotation": 0.3}, [0, 0, 0.5, 0, 0, 0])
    stuck = np.array([0, 0, 0.5, 0, 0, 0])
    said = [drive.send([0.9, 0, 0.5, 0, 0, 0], measured=stuck) for _ in range(40)]
    refused = next(o.refused for o in said if o.refused is not None)
    assert refused.code == "WORKSPACE" and "from where it is measured; at most 0.1" in refused.detail
    brake = 1.0**2 / (2 * 2.0)
    assert drive.sent[-1][0] <= 0.1 + brake
    for unknown in (None, np.full(6, np.nan)):
        assert "not known" in drive.send([0.0, 0, 0.5, 0, 0, 0], measured=unknown).refused.detail


def test_a_start_within_a_box_moves_nothing():
    drive = Drive({"keep_out": {"post": POST}}, [0.25, 0, 0.5, 0, 0, 0])
    assert drive.send([0.26, 0, 0.5, 0, 0, 0]).refused.code == "WORKSPACE" and not drive.sent


WRONG = [
    ({}, "it says nothing; give keep_out, tilt, lag or lag_rotation"),
    ({"tilt": 0.0}, "tilt is 0.0 rad; allowed: above 0"),
    ({"lag": -1.0}, "lag is -1.0; allowed: above 0"),
    ({"keep_out": {"a": {"min": [0, 0], "max": [1, 1]}}}, "are no box"),
    ({"keep_out": {"a": {"min": [0, 0, 1], "max": [1, 1, 1]}}}, "are no box"),
]


@pytest.mark.parametrize("workspace, words", WRONG)
def test_a_workspace_that_makes_no_sense_is_refused(workspace, words):
    with pytest.raises(UsageError, match=words):
        own(workspace)
