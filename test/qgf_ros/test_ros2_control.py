"""The ros2_control examples: controller and contract of a pair speak of the same joints, topics and times."""

from pathlib import Path

import pytest
import yaml

from qgf_ros.spaces.contract import Contract

FOLDER = Path(__file__).parents[2] / "examples" / "ros2_control"
PAIRS = {
    "velocity": ("forward_velocity_controller", "commands"),
    "trajectory": ("joint_trajectory_controller", "joint_trajectory"),
}


def parameters(kind: str, node: str) -> dict:
    return yaml.safe_load((FOLDER / f"{kind}_controllers.yaml").read_text())[node][
        "ros__parameters"
    ]


@pytest.fixture(params=PAIRS)
def pair(request) -> tuple[Contract, dict, dict]:
    """Contract, the controller's parameters, the controller manager's."""
    kind = request.param
    contract = Contract.load(FOLDER / f"{kind}_contract.yaml")
    return contract, parameters(kind, PAIRS[kind][0]), parameters(kind, "controller_manager")


def test_joints_are_the_same_and_in_the_same_order(pair):
    contract, controller, _ = pair
    assert list(contract.actions[0].names) == controller["joints"]
    assert list(contract.observations[0].names) == controller["joints"]


def test_the_contract_commands_the_controllers_topic(pair):
    contract, _, manager = pair
    name, topic = contract.actions[0].topic.split("/")
    assert (name, topic) in PAIRS.values()
    assert name in manager and "joint_state_broadcaster" in manager
    assert contract.observations[0].topic == "joint_states"


def test_the_interface_is_what_the_contract_commands(pair):
    contract, controller, _ = pair
    commanded = {"velocity": "velocity", "absolute": "position"}[contract.actions[0].representation]
    assert commanded in (
        controller.get("interface_name"),
        *controller.get("command_interfaces", []),
    )


def test_the_controller_is_updated_more_often_than_it_is_commanded(pair):
    contract, _, manager = pair
    assert manager["update_rate"] * contract.time.period > 2


def test_the_trajectory_controllers_timeout_is_on_and_not_ignored():
    """A timeout that is not above goal_time is ignored; one below two periods trips by itself."""
    controller = parameters("trajectory", "joint_trajectory_controller")
    period = Contract.load(FOLDER / "trajectory_contract.yaml").time.period
    assert controller["cmd_timeout"] > controller["constraints"]["goal_time"]
    assert 2 * period < controller["cmd_timeout"] <= 5 * period


def test_every_file_is_named_in_the_readme():
    text = (FOLDER / "README.md").read_text()
    assert not [f.name for f in FOLDER.glob("*.yaml") if f"({f.name})" not in text]


def test_guesses_are_marked_in_the_contracts():
    for path in FOLDER.glob("*_contract.yaml"):
        guesses = [
            line for line in path.read_text().splitlines()
            if line.strip().startswith(("topic:", "period:", "names:")) or "{min:" in line
        ]  # fmt: skip
        assert len(guesses) > 8
        assert all("# confirm" in line for line in guesses), path.name
