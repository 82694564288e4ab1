"""Where a contract says that recordings are read between messages, and how episodes end."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from qgf_make import ARM_FILE, contract, twist_dict, velocity_dict

from qgf_ros.control.assembler import Assembler, Observation
from qgf_ros.errors import UsageError
from qgf_ros.files.share import find_policy
from qgf_ros.policy.description import DESCRIPTION
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from training.pipeline.labels import read_labels

FORCE = {"topic": "gripper/force", "type": "std_msgs/Float64", "fields": ["data"]}
POINT = {"topic": "cube", "type": "geometry_msgs/PointStamped", "fields": ["point.x", "point.z"]}


def refused(value, *parts):
    with pytest.raises(UsageError) as caught:
        Contract.from_dict(value, "robot.yaml")
    for part in parts:
        assert part in str(caught.value), caught.value


def with_outcome(**outcome):
    return velocity_dict() | {"outcome": {"objective": "time_to_success"} | outcome}


def resampled(how, base=velocity_dict, source=0):
    value = base()
    value["observations"][source]["resample"] = how
    return value


# Contracts that were written before.


@pytest.mark.parametrize("name", ["planar_arm", "ur5e_cube"])
def test_contract_of_a_shipped_policy_keeps_its_hash(name):
    stored = yaml.safe_load((find_policy(name) / DESCRIPTION).read_text())
    own = Contract.from_dict(stored["contract"])
    assert own.hash == stored["provenance"]["contract_sha256"]
    assert own.to_dict() == stored["contract"]
    assert Contract.load(world_folder(name) / "contract.yaml").hash == own.hash


def test_a_key_that_is_written_out_with_its_default_is_the_same_contract():
    plain, written = yaml.safe_load(ARM_FILE.read_text()), yaml.safe_load(ARM_FILE.read_text())
    written["observations"][0]["resample"] = "hold"
    written["outcome"] |= {"labels": "", "failure": None}
    written["outcome"]["success"] |= {"test": "", "max_age": 0.0}
    assert Contract.from_dict(written).hash == Contract.from_dict(plain).hash


def test_new_keys_round_trip_and_change_the_hash():
    value = resampled("linear")
    value["outcome"] = {
        "objective": "time_to_success",
        "success": FORCE | {"test": "/gripper/force > 3 N for 0.5 s", "max_age": 0.2},
        "failure": POINT | {"test": "point.z < 0.1"},
        "labels": "mine.yaml",
    }
    own = contract(value)
    assert Contract.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    hashes = {own.hash}
    for path in (("observations", 0, "resample"), ("outcome", "failure"), ("outcome", "labels"), ("outcome", "success", "max_age")):  # fmt: skip
        other = copy.deepcopy(value)
        at = other
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]
        hashes.add(contract(other).hash)
    assert len(hashes) == 5


# resample.


@pytest.mark.parametrize("how", ["hold", "linear", "nearest"])
def test_numbers_are_held_linear_or_nearest(how):
    assert contract(resampled(how)).observations[0].resample == how
    refused(resampled("slerp"), "resample is slerp", "do not hold an orientation", "linear")


@pytest.mark.parametrize("how", ["hold", "slerp", "nearest"])
def test_orientations_are_held_slerped_or_nearest(how):
    assert contract(resampled(how, twist_dict, 1)).observations[1].resample == how
    refused(resampled("linear", twist_dict, 1), "no straight way", "slerp")


def test_resample_of_another_kind_is_refused():
    refused(resampled("cubic"), "cubic", "hold, linear, slerp, nearest")


def test_goal_is_what_was_last_said():
    value = resampled("linear", source=1)
    value["outcome"] = {
        "objective": "reach_goal",
        "goal": {"observation": "goal", "achieved": ["joints.position.a"], "radius": 0.1},
    }
    refused(value, "resample of goal is linear", "give hold")


@pytest.mark.parametrize("value", [resampled("linear"), resampled("slerp", twist_dict, 1)])
def test_the_node_holds_whatever_recordings_do(value):
    """One slot for each source: what it gives is the newest message as it is."""
    own, held = contract(value), copy.deepcopy(value)
    for source in held["observations"]:
        source.pop("resample", None)
    boxes = [Assembler(own), Assembler(contract(held))]
    for box in boxes:
        for source in own.observations:
            for at in (1_000_000_000, 1_040_000_000):
                numbers = at * 1e-9 + np.arange(len(source.labels))
                turn = np.array(["orientation" in label for label in source.labels])
                numbers[turn] /= np.linalg.norm(numbers[turn]) if turn.any() else 1.0
                box.push(source.name, at, at, numbers)
    a, b = (box.assemble(1_050_000_000) for box in boxes)
    assert isinstance(a, Observation) and a.vector.tolist() == b.vector.tolist()


# How episodes end.


@pytest.mark.parametrize(
    "name", ["data", "gripper/force", "/gripper/force", "gripper/force.data", "/gripper/force.data", "grip.force"]
)  # fmt: skip
def test_one_number_is_named_by_its_field_its_topic_or_its_column(name):
    source = FORCE | {"test": f"{name} > 3 N for 0.5 s", "column": "grip.force"}
    condition = contract(with_outcome(success=source)).outcome.success.condition
    assert condition.comparisons[0].index == 0 and condition.seconds == 0.5


def test_several_numbers_are_named_by_their_fields():
    source = POINT | {"test": "point.z > 0.2 m and /cube.point.x < 1"}
    condition = contract(with_outcome(success=source)).outcome.success.condition
    assert [c.index for c in condition.comparisons] == [1, 0]
    refused(with_outcome(success=POINT | {"test": "cube > 0.2"}), "'cube' is not known", "point.x")


def test_broken_tests_are_refused_where_they_stand():
    refused(
        with_outcome(success=FORCE | {"test": "data >> 3"}), "robot.yaml.outcome.success", "test"
    )
    refused(
        with_outcome(success=FORCE, failure=FORCE | {"test": "z > 3"}), "robot.yaml.outcome.failure"
    )
    refused(with_outcome(success=FORCE | {"max_age": -1.0}), "max_age is -1.0 s; allowed: 0 to")


def test_without_a_test_an_outcome_is_one_number():
    refused(with_outcome(success=POINT), "success is one number", "or give a test")
    refused(with_outcome(success=FORCE, failure=POINT), "failure is one number")


def test_time_to_success_may_go_by_labels_alone():
    assert contract(with_outcome(labels="labels.yaml")).outcome.labels == "labels.yaml"
    refused(with_outcome(), "success source, labels, or assume_success")
    refused(with_outcome(failure=FORCE), "success source, labels, or assume_success")


def test_failure_is_taken_as_a_name_only_where_it_is_a_source():
    value = with_outcome(success=FORCE)
    value["observations"][0]["name"] = "failure"
    contract(value)
    value["outcome"]["failure"] = FORCE
    refused(value, "failure is used twice")


def test_tested_topic_is_as_old_as_an_observation_may_be():
    own = contract(with_outcome(success=FORCE | {"test": "data > 3"}))
    assert own.max_age(own.outcome.success) == pytest.approx(0.15)
    own = contract(with_outcome(success=FORCE | {"test": "data > 3", "max_age": 1.0}))
    assert own.max_age(own.outcome.success) == 1.0


def test_examples_of_the_documentation_are_what_is_read(tmp_path):
    text = (Path(__file__).resolve().parents[2] / "docs" / "contract.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    whole, *_, tested, labels = blocks
    assert Contract.from_dict(yaml.safe_load(whole)).outcome.failure is not None
    outcome = contract(velocity_dict() | yaml.safe_load(tested)).outcome
    assert outcome.success.condition.seconds == 0.5
    assert [c.index for c in outcome.failure.condition.comparisons] == [1, 0]
    (tmp_path / "labels.yaml").write_text(labels)
    assert len(read_labels(tmp_path / "labels.yaml").entries) == 3
