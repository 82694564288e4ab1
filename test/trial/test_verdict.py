"""The contract's outcome topics as the judge, as training understands them."""

import numpy as np
import pytest

from qgf_ros.files.strict_yaml import load_yaml
from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract
from qgf_ros.trial.verdict import Judge


def judge(**outcome):
    content = load_yaml(world_folder("planar_arm") / "contract.yaml")
    content["outcome"] = {"objective": "time_to_success", "assume_success": True, **outcome}
    return Judge(Contract.from_dict(content))


def source(topic, **more):
    return {"topic": topic, "type": "std_msgs/Float64", "fields": ["data"], **more}


@pytest.mark.parametrize(
    "name, value, verdict",
    [("success", 1, "success"), ("success", 0, "failure"), ("failure", 1, "failure"), ("failure", 0, None)],
)  # fmt: skip
def test_success_says_both_and_failure_only_failure(name, value, verdict):
    found = judge(success=source("success"), failure=source("bumper"))
    found.hear(name, 0, np.array([float(value)]))
    assert found.verdict == verdict


def test_what_comes_first_counts_until_the_next_episode():
    found = judge(success=source("success"), failure=source("bumper"))
    found.hear("failure", 0, np.array([1.0]))
    found.hear("success", 1, np.array([1.0]))
    assert found.verdict == "failure"
    found.begin()
    assert found.verdict is None


def test_a_field_test_must_hold_for_its_time_without_a_gap():
    found = judge(success=source("force", test="data > 3 for 0.5 s", max_age=0.2))
    at = lambda s, value: found.hear("success", round(s * 1e9), np.array([value]))  # noqa: E731
    for s in (0.0, 0.1, 0.2, 0.3, 0.4):
        at(s, 5.0)
    at(0.45, 1.0)  # let go
    for s in (0.5, 0.6, 0.9, 1.0, 1.1, 1.2, 1.3):  # nothing is known between 0.6 and 0.9
        at(s, 5.0)
    assert found.verdict is None
    at(1.4, 5.0)
    assert found.verdict == "success"
