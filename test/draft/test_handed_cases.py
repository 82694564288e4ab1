"""Small recordings of what users met, each by the command that they typed. They lie beside the repository."""

import json
import os
import shutil
from pathlib import Path

import pytest
from qgf_drafts import filled_in, trained

from qgf_ros.cli import main
from qgf_ros.errors import UsageError
from qgf_ros.spaces.contract import Contract

CASES = (
    Path(os.environ.get("QGF_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "cases"
)
pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason="the handed cases do not lie beside the repository"
)


@pytest.fixture
def qgf(tmp_path, monkeypatch, capsys):
    """Runs a verb in a copy of a case: exit code and what was said, without line breaks."""

    def run(case, *arguments):
        here = tmp_path / case
        if not here.exists():
            shutil.copytree(CASES / case, here)
        monkeypatch.chdir(here)
        try:
            code = (
                main([*arguments, "--workers", "1"]) or 0
            )  # one process: to start others takes longer
        except SystemExit as ended:
            code = ended.code or 0
        out, err = capsys.readouterr()
        return code, " ".join((out + err).split())

    return run


def drafted(qgf, case, data="data"):
    out = f"{Path(data).name}.yaml" if data != "data" else "c.yaml"
    code, said = qgf(case, "data", "init", data, "--out", out)
    assert code == 0, said
    return Path(out).read_text(), said


def checks(qgf, case, data="data", *more):
    code, said = qgf(case, "data", "inspect", data, *more)
    found = json.loads(Path("inspect/inspect.json").read_text())["checks"]
    return code, {c["name"]: c for c in found}, said


def test_commanded_poses_and_grippers_are_no_observations(qgf):
    text, _ = drafted(qgf, "commands_drafted_as_observations", "data/pose_commands")
    assert any("/gripper/close" in x and "looks like a command" in x for x in text.splitlines())
    observed, commanded = text.split("\nactions:")
    assert "topic: target_frame" not in observed and "topic: gripper" not in text
    assert "topic: target_frame" in commanded and "space: pose" in commanded


def test_a_constant_forward_speed_stays(qgf):
    text, _ = drafted(qgf, "constant_forward_speed_dropped")
    assert "fields: [linear.x, angular.z]" in text and "linear.x was always 0.5" in text


def test_positions_of_other_names_do_not_become_velocities(qgf):
    text, _ = drafted(qgf, "drafted_velocity_for_positions")
    assert "representation: FILL_IN" in text
    code, said = qgf("drafted_velocity_for_positions", "train", "data", "--contract", "c.yaml", "--out", "run")  # fmt: skip
    assert code == 2 and "FILL_IN stands for what only you can know" in said
    Path("c.yaml").write_text(filled_in(text, "absolute"))
    assert Contract.load("c.yaml").actions[0].measured
    _, found, _ = checks(qgf, "drafted_velocity_for_positions", "data", "--contract", "c.yaml")
    assert found["contract"]["verdict"] == "ok" and found["limits"]["verdict"] == "ok", found
    assert trained("data", "c.yaml", "run").lost == 0


def test_duplicate_names_are_numbered(qgf):
    text, _ = drafted(qgf, "duplicate_names")
    assert text.count("names: [x, gripper_0, gripper_1]") == 2
    Contract.load("c.yaml")


def test_git_lfs_pointers_are_named(qgf):
    for data in ("data/lfs_lerobot", "data/lfsbag"):
        code, said = qgf("git_lfs_pointers", "data", "inspect", data)
        assert code == 5 and "is a Git LFS pointer" in said and "git lfs pull" in said


def test_mirrored_signs_are_bad(qgf):
    _, found, _ = checks(qgf, "mirrored_signs")
    assert found["lead"]["verdict"] == "bad"
    assert "s.pos, e.pos are measured with the opposite sign" in found["lead"]["found"]
    assert "representation: FILL_IN" in drafted(qgf, "mirrored_signs")[0]


def test_one_name_for_a_vector_is_none(qgf):
    text, _ = drafted(qgf, "one_name_for_a_vector", "data/names_one_for_all")
    assert "[state_0, state_1, state_2]" in text and "[action_0, action_1, action_2]" in text
    text, said = drafted(qgf, "one_name_for_a_vector", "data/names_too_few")
    todo = "features.observation.state has 3 numbers and 2 names; name each number, or give names: null"
    assert f"{todo}; then draft again, or do without it" in text and todo in said
    with pytest.raises(UsageError, match="FILL_IN"):
        Contract.load("names_too_few.yaml")


def test_arms_that_are_commanded_apart_are_two_actions(qgf):
    drafted(qgf, "partial_commands")
    own = Contract.load("c.yaml")
    assert [a.names for a in own.actions] == [("left_1", "left_2"), ("right_1", "right_2")]
    (joints,) = own.observations
    assert joints.names == ("left_1", "left_2", "right_1", "right_2") and joints.merge == "joints"
    assert own.time.period == 0.05
    _, found, _ = checks(qgf, "partial_commands", "data", "--contract", "c.yaml")
    assert (
        found["contract"]["verdict"] == "ok"
        and "119 ticks kept (100.0%)" in found["contract"]["found"]
    )
    assert found["finite"]["verdict"] == found["limits"]["verdict"] == "ok"
    assert trained("data", "c.yaml", "run").lost == 0


def test_a_topic_of_several_frames_is_asked_about(qgf):
    text, said = drafted(qgf, "rejected_commands_bridged")
    assert "frame: FILL_IN" in text and "tool0 in 60 messages" in said
    Path("c.yaml").write_text(filled_in(text, frame="base_link"))
    _, found, _ = checks(qgf, "rejected_commands_bridged", "data", "--contract", "c.yaml")
    assert (
        "60 messages cannot be used" in found["contract"]["found"]
        and found["frames"]["verdict"] == "warn"
    )
    assert trained("data", "c.yaml", "run").lost == 60


def test_an_empty_first_message_is_counted(qgf):
    drafted(qgf, "jointstate_empty_first_message")
    _, found, _ = checks(qgf, "jointstate_empty_first_message", "data", "--contract", "c.yaml")
    assert "238 ticks kept" in found["contract"]["found"]
    assert "4 messages cannot be used" in found["contract"]["found"]


def test_hdf5_in_a_folder_is_read_as_the_file_is(qgf):
    for data in ("data", "data/demo.hdf5"):
        assert "readable" in checks(qgf, "folder_of_hdf5", data)[1]


def test_a_type_that_the_bag_does_not_define_is_bad(qgf):
    code, found, _ = checks(qgf, "humble_sqlite_custom_type")
    assert code == 3 and "bad" in [c["verdict"] for c in found.values()]
    text, _ = drafted(qgf, "humble_sqlite_custom_type")
    assert "/turtle1/pose" in text and "holds no numbers" not in text


def test_index_names_are_kept(qgf):
    text, _ = drafted(qgf, "index_names_renamed")
    assert text.count("[joint_0, joint_1, joint_2]") == 2 and "representation: absolute" in text


def test_simulated_stamps_make_no_max_age(qgf):
    text, _ = drafted(qgf, "sim_time_stamps_wall_receipt")
    assert "max_age: 0.16 " in text
    _, found, _ = checks(qgf, "sim_time_stamps_wall_receipt", "data", "--contract", "c.yaml")
    assert "receipts are led to simulated time by /clock" in found["clocks"]["found"]
    assert " 0 ticks kept" not in found["contract"]["found"]


def test_trajectories_of_several_points_are_said(qgf):
    text, _ = drafted(qgf, "trajectory_several_points", "data/trajectory_multi")
    assert "several points are not read" in text
    text, _ = drafted(qgf, "trajectory_several_points", "data/array_empty_first")
    assert "std_msgs/Float64MultiArray" in text and "holds no numbers" not in text
