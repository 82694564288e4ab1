"""A world that another package adds: it records, trains and is evaluated by its name."""

import numpy as np
import pytest

from qgf_ros.errors import UsageError
from qgf_ros.plugins import Kinds
from qgf_ros.sim.world import WORLDS, Outcome, make_world, world_folder
from qgf_ros.spaces.contract import Contract
from training.pipeline.record import record

pytestmark = pytest.mark.xdist_group("plugins")


def test_it_is_found_by_its_name_and_drives(installed):
    assert "slider" in WORLDS.names and "slider" not in WORLDS.own
    world = make_world("slider")
    world.reset(3)
    teacher = world.demonstrator(3)
    while world.outcome is Outcome.RUNNING:
        world.command(teacher.act())
        for _ in range(round(world.control_period / world.step_time)):
            world.step()
    assert world.outcome is Outcome.SUCCESS and world.time < 5


def test_its_recordings_become_a_policy(installed, tmp_path):
    counts = record(tmp_path / "bags", "slider", 12, seed=1)
    assert counts["success"] >= 10
    contract = Contract.load(world_folder("slider") / "contract.yaml")
    assert contract.robot == "slider"
    assert np.array_equal(contract.limits[0], [-1.0])


def test_an_unknown_world_is_refused_with_those_there_are(installed):
    with pytest.raises(
        UsageError, match=r"'sliders' is not known; allowed: planar_arm.*slider.*qgf\.worlds"
    ):
        make_world("sliders")


def test_a_package_that_cannot_be_imported_is_named_and_takes_nobody_down(tmp_path, monkeypatch):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[qgf.worlds]\nbroken = no_such_module\nplanar_arm = x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UsageError, match="world 'broken' of broken cannot be imported from no_such"
    ):
        make_world("broken")
    assert make_world("pointmaze") is not None
    assert world_folder("planar_arm").parts[-3:-1] == ("qgf_ros", "sim")  # ours stays ours


def test_names_are_ours_and_then_the_others_sorted(installed):
    kinds = Kinds("world", "qgf.worlds", {"z": "a", "b": "c"})
    assert kinds.names == ("z", "b", "slider")
