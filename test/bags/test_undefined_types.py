"""Types that a bag does not define, as in Humble's sqlite3 bags: said, and read from .msg files."""

import os
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from qgf_bags import custom
from qgf_make import START, velocity_dict
from rosbags.rosbag2 import StoragePlugin, Writer

pytest.importorskip("pyarrow")

from qgf_ros import cli
from qgf_ros.bags.damage import Damage
from qgf_ros.bags.msg_files import VARIABLE, find_msg, use_folder
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.spaces.contract import Contract
from training.draft.draft import draft
from training.pipeline.keys import key_of
from training.pipeline.readers.rosbag2 import Rosbag2Reader

POSE = "float32 x\nfloat32 y\nturtle_msgs/Leg[2] legs\n"
LEG = "# how far it is stretched\nfloat32 reach\n"
READER = Rosbag2Reader()
COUNT = 40


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """No workspace, and no folder."""
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture
def bags(tmp_path):
    """A folder with one bag whose tables have no definitions, as Humble writes it."""
    store = custom("turtle_msgs/msg/Leg", LEG)
    store.register(custom("turtle_msgs/msg/Pose", POSE.replace("turtle_msgs/Leg", "Leg")).fielddefs)
    types = store.types
    with Writer(tmp_path / "bags" / "run", version=9, storage_plugin=StoragePlugin.SQLITE3) as bag:
        pose = bag.add_connection("/pose", "turtle_msgs/msg/Pose", typestore=store)
        command = bag.add_connection("/commands", "std_msgs/msg/Float64MultiArray", typestore=store)
        layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        for k in range(COUNT):
            legs = [types["turtle_msgs/msg/Leg"](reach=float(i + k)) for i in range(2)]
            for at, name, msg in (
                (pose, "turtle_msgs/msg/Pose", types["turtle_msgs/msg/Pose"](x=0.5 * k, y=-1.0, legs=legs)),
                (command, "std_msgs/msg/Float64MultiArray",
                 types["std_msgs/msg/Float64MultiArray"](layout=layout, data=np.array([0.1 * k, 0.2]))),
            ):  # fmt: skip
                bag.write(at, START + k * 50_000_000, store.serialize_cdr(msg, name))
    (file,) = (tmp_path / "bags" / "run").glob("*.db3")
    with closing(sqlite3.connect(file)) as database:
        database.execute("DROP TABLE message_definitions")
        database.commit()
    return tmp_path / "bags"


def msg_files(folder, **texts):
    for name, text in {"Pose": POSE, "Leg": LEG, **texts}.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.msg").write_text(text)
    return folder


def own_contract():
    value = velocity_dict()
    value["observations"] = [
        {"name": "pose", "topic": "pose", "type": "turtle_msgs/Pose", "stamp": "receipt",
         "fields": ["x", "legs.1.reach"]},
    ]  # fmt: skip
    return Contract.from_dict(value)


WHY = "40 messages of /pose cannot be decoded, its type turtle_msgs/msg/Pose is not defined in the bag"


def test_inspect_says_what_cannot_be_decoded(bags, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "inspect", str(bags), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert ended.value.code == 3
    document = (tmp_path / "out" / "inspect.json").read_text()
    assert WHY in document and "--msgs" in document
    assert WHY in (tmp_path / "out" / "inspect.html").read_text()
    assert "cannot be" in capsys.readouterr().err


def test_a_draft_says_the_same_words(bags, tmp_path):
    text = draft(bags, tmp_path / "c.yaml").text
    assert WHY in text and "holds no numbers" not in text


def test_training_says_them_too(bags):
    with pytest.raises(DataRefused, match="turtle_msgs/msg/Pose is not defined in the bag; source"):
        READER.read(bags, "run", own_contract())


def test_types_of_the_sourced_workspace_are_read(bags, tmp_path, monkeypatch):
    msg_files(tmp_path / "install" / "share" / "turtle_msgs" / "msg")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere{os.pathsep}{tmp_path / 'install'}")
    signal = READER.survey(bags, "run").signals["/pose"]
    assert signal.labels == ("x", "y", "legs.0.reach", "legs.1.reach")[: len(signal.labels)]
    got = READER.read(bags, "run", own_contract()).streams["pose"].values
    assert got.tolist() == [[0.5 * k, 1.0 + k] for k in range(COUNT)]


@pytest.mark.parametrize("place", ["turtle_msgs/msg", "src/deep/turtle_msgs/msg", "flat"])
def test_a_folder_of_msg_files_is_read(bags, tmp_path, place):
    msg_files(tmp_path / "msgs" / place)
    use_folder(tmp_path / "msgs")
    assert len(READER.read(bags, "run", own_contract()).streams["pose"]) == COUNT


def test_the_option_reaches_the_processes_that_read(bags, tmp_path):
    msg_files(tmp_path / "turtle_msgs" / "msg")
    options = ["--msgs", str(tmp_path / "turtle_msgs"), "--out", str(tmp_path / "out")]
    cli.main(["data", "inspect", str(bags), *options])
    assert '"turtle_msgs/Pose"' in (tmp_path / "out" / "inspect.json").read_text()


def test_another_definition_is_another_piece_of_the_cache(bags, tmp_path):
    keys = []
    for text in (LEG, LEG.replace("float32", "float64")):
        msg_files(tmp_path / "msgs", Leg=text)
        use_folder(tmp_path / "msgs")
        keys.append(key_of(READER, bags, "run", own_contract(), {}))
    assert keys[0] != keys[1]


@pytest.mark.parametrize("files, why", [
    ({"Leg": "turtle_msgs/Pose again\n"}, "holds itself"),
    ({"Leg": "float64 x!\n"}, "definition of"),
    ({"Leg": "".join(f"float64 x{i}\n" for i in range(10_000))}, "more than 4096 lines"),
    ({"Leg": "x" * 2**21}, "too long"),
    ({"Leg": "float64[0] reach\n"}, "an array of 0 elements"),
    ({"Pose": "other_msgs/Thing x\n"}, "holds other_msgs/msg/Thing, which is not defined"),
])  # fmt: skip
def test_fault_137_msg_files_are_trusted_no_more_than_bags(bags, tmp_path, files, why):
    msg_files(tmp_path / "msgs", **files)
    use_folder(tmp_path / "msgs")
    with pytest.raises(DataRefused, match=why):
        READER.read(bags, "run", own_contract())
    assert READER.survey(bags, "run").unusable["/pose"].startswith("pose: ")


def test_two_files_that_differ_are_named(tmp_path):
    msg_files(tmp_path / "a" / "turtle_msgs" / "msg")
    msg_files(tmp_path / "b" / "turtle_msgs" / "msg", Leg="float64 other\n")
    use_folder(tmp_path)
    assert find_msg("turtle_msgs/msg/Pose") == POSE
    with pytest.raises(Damage, match="defined twice.*/a/.*/b/"):
        find_msg("turtle_msgs/msg/Leg")


@pytest.mark.parametrize(
    "name",
    ["../x/msg/Leg", "a/b/msg/Leg", "turtle_msgs/msg/../Leg", "turtle_msgs/srv/Leg", "", "/"],
)
def test_fault_112_a_type_is_a_name_and_no_path(tmp_path, monkeypatch, name):
    msg_files(tmp_path / "share" / "turtle_msgs" / "msg")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert find_msg("turtle_msgs/msg/Leg") == LEG and find_msg(name) is None


def test_a_folder_without_msg_files_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds no \.msg file"):
        use_folder(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        use_folder(tmp_path / "nowhere")
