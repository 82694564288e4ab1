"""What a survey finds in a bag without a contract; types of one's own; messages that are noise."""

import base64
import struct

import numpy as np
import pytest
from qgf_make import SCALE, START, contract, twist_dict, velocity_dict

pytest.importorskip("rosbags")

from qgf_bags import ARM, T, channel, chunk, copy_bag, custom, mcap, message, write
from rosbags.rosbag2 import StoragePlugin, Writer

from qgf_ros.bags.damage import MAX_REASONS
from qgf_ros.bags.sources import contract_sources
from training.doctor import bag_survey
from training.doctor.cameras import LABELS, Look
from training.doctor.examine import _uri
from training.pipeline.readers.rosbag2 import Rosbag2Reader

READER = Rosbag2Reader()
STORE = custom("test_msgs/msg/Wrench", """
std_msgs/Header header
string note
test_msgs/Part[2] parts
test_msgs/Part left
float32[3] fixed
uint8[] bytes
float64[] free
bool on
int64 from
uint8 SOME_CONSTANT=3
================================================================================
MSG: test_msgs/Part
float64 x
geometry_msgs/Vector3 v
""")  # fmt: skip


def make(kind, **fields):
    package, name = kind.split("/")
    return STORE.types[f"{package}/msg/{name}"](**fields)


def header(stamp=0):
    time = make("builtin_interfaces/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return make("std_msgs/Header", stamp=time, frame_id="base")


def joints(names, position=(), velocity=(), effort=(), stamp=0):
    arrays = {"position": position, "velocity": velocity, "effort": effort}
    return make("sensor_msgs/JointState", header=header(stamp), name=list(names),
                **{k: np.array(v, np.float64) for k, v in arrays.items()})  # fmt: skip


def floats(*values):
    layout = make("std_msgs/MultiArrayLayout", dim=[], data_offset=0)
    return make("std_msgs/Float64MultiArray", layout=layout, data=np.array(values, np.float64))


def wrench(free=(1.0, 2.0), stamp=START):
    vector = make("geometry_msgs/Vector3", x=1.0, y=2.0, z=3.0)
    part = make("test_msgs/Part", x=0.5, v=vector)
    return make("test_msgs/Wrench", header=header(stamp), note="text", parts=[part, part], left=part,
                fixed=np.array([7, 8, 9], np.float32), bytes=np.zeros(2, np.uint8),
                free=np.array(free), on=True, from_=-5)  # fmt: skip


def survey(tmp_path, storage="mcap", **topics):
    """A survey of messages on topics, 1 ns apart."""
    path = tmp_path / "bag"
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        at = START
        for topic, messages in topics.items():
            kind = messages[0].__msgtype__
            target = writer.add_connection(f"/{topic}", kind, typestore=STORE)
            for one in messages:
                writer.write(target, at, STORE.serialize_cdr(one, kind))
                at += 1
    return READER.survey(tmp_path, "bag")


def test_a_survey_of_a_written_bag_says_what_was_written(tmp_path):
    written = write(tmp_path / "bag", ARM)
    got = READER.survey(tmp_path, "bag")
    assert got.name == "bag" and got.rejected == {}
    assert got.others == {}
    moments = got.signals["/episode_start"].stream.receipt
    assert moments.tolist() == [receipt for _, receipt, _ in written["episode_start"]]
    for name, source in contract_sources(ARM).items():
        if name == "episode_start":
            continue
        signal = got.signals[f"/{source.topic}"]
        assert signal.topic == f"/{source.topic}" and signal.type == source.type
        stamp, receipt, values = zip(*written[name])
        assert signal.stream.receipt.tolist() == list(receipt)
        assert signal.stream.stamp.tolist() == list(stamp)
        labels = [f"data.{i}" for i in range(2)] if name == "arm" else source.labels
        columns = [signal.labels.index(label) for label in labels]
        assert np.array_equal(signal.stream.values[:, columns], np.array(values))


def test_poses_and_twists_are_named_as_contracts_name_them(tmp_path):
    own = contract(twist_dict())
    write(tmp_path / "bag", own)
    signals = READER.survey(tmp_path, "bag").signals
    assert signals["/tool/pose"].labels == tuple(
        f"pose.{p}" for p in ("position.x", "position.y", "position.z",
                              "orientation.x", "orientation.y", "orientation.z", "orientation.w")
    )  # fmt: skip
    assert signals["/servo/twist"].labels[:3] == tuple(f"twist.linear.{c}" for c in "xyz")


def test_joints_go_by_name_and_are_nan_where_a_message_has_them_not(tmp_path):
    got = survey(tmp_path, joints=[
        joints("ab", position=[1, 2], velocity=[3, 4]),
        joints("ba", position=[20, 10]),
        joints("c", position=[5], effort=[6], stamp=77),
    ])  # fmt: skip
    signal = got.signals["/joints"]
    assert signal.labels == (
        "position.a",
        "position.b",
        "position.c",
        "velocity.a",
        "velocity.b",
        "effort.c",
    )
    nan = np.nan
    expected = [[1, 2, nan, 3, 4, nan], [10, 20, nan, nan, nan, nan], [nan, nan, 5, nan, nan, 6]]
    np.testing.assert_array_equal(signal.stream.values, expected)
    assert signal.stream.stamp.tolist() == [START, START + 1, 77], "no stamp is the receipt"


def test_joint_states_that_contradict_themselves_are_counted(tmp_path):
    good = joints("ab", position=[1, 2])
    got = survey(tmp_path, joints=[good, joints("aa", [1, 2]), joints("ab", [1, 2, 3]), good])
    assert len(got.signals["/joints"].stream) == 2
    assert got.rejected == {
        "joints: SchemaError: joint names appear twice": 1,
        "joints: SchemaError: position has 3 values for 2 joint names": 1,
    }


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_numbers_of_a_type_of_ones_own_are_found_by_the_bags_definition(tmp_path, storage):
    got = survey(tmp_path, storage, wrench=[wrench(), wrench()])
    signal = got.signals["/wrench"]
    assert signal.type == "test_msgs/Wrench" and got.rejected == {}
    assert dict(zip(signal.labels, signal.stream.values[0])) == {
        "left.x": 0.5, "left.v.x": 1, "left.v.y": 2, "left.v.z": 3,
        "fixed.0": 7, "fixed.1": 8, "fixed.2": 9, "bytes.0": 0, "bytes.1": 0,
        "free.0": 1, "free.1": 2, "on": 1, "from_": -5,
    }  # fmt: skip


def test_definitions_may_be_written_in_idl(tmp_path):
    text = (
        "=" * 80 + "\nIDL: odd_msgs/msg/Odd\n"
        "module odd_msgs { module msg { struct Odd { double x; int32 n[2]; }; }; };\n"
    )
    raw = b"\0\1\0\0" + struct.pack("<dii", 0.5, 3, 4)
    parts = channel(1, "/odd", "odd_msgs/msg/Odd", text, schema="ros2idl"), message(1, START, raw)
    signal = file_of(tmp_path, *parts).signals["/odd"]
    assert dict(zip(signal.labels, signal.stream.values[0])) == {"x": 0.5, "n.0": 3, "n.1": 4}


def test_elements_of_an_array_count_only_where_it_is_as_long_in_every_message(tmp_path):
    signal = survey(tmp_path, wrench=[wrench((1.0,)), wrench((1.0, 2.0))]).signals["/wrench"]
    assert not any(label.startswith("free") for label in signal.labels)
    assert "fixed.2" in signal.labels and not np.isnan(signal.stream.values).any()


def test_what_is_no_state_is_named_only(tmp_path):
    image = make("sensor_msgs/Image", header=header(), height=1, width=1, encoding="rgb8",
                 is_bigendian=0, step=3, data=np.zeros(3, np.uint8))  # fmt: skip
    got = survey(
        tmp_path,
        image=[image],
        large=[floats(*range(10)), floats(*np.zeros(5000))],
        text=[make("std_msgs/String", data="x")],
        state=[floats(1.0)],
    )
    assert list(got.signals) == ["/image", "/state"] and got.rejected == {}
    assert got.signals["/image"].labels == LABELS, "a few numbers of each image"
    assert got.others == {
        "/large": "std_msgs/Float64MultiArray",
        "/text": "std_msgs/String",
    }


def test_numbers_of_a_survey_are_bounded(tmp_path, monkeypatch):
    """What does not fit any more is counted: a survey shows how a bag begins."""
    monkeypatch.setattr(bag_survey, "MAX_NUMBERS", 10)
    got = survey(tmp_path, state=[floats(1.0, 2.0)] * 8)
    assert len(got.signals["/state"].stream) == 5
    assert got.rejected == {"only the first 10 numbers of a bag are surveyed": 3}


def test_a_damaged_bag_is_surveyed_as_far_as_it_is_whole(tmp_path):
    write(tmp_path / "bag", ARM, ticks=300)
    file = tmp_path / "bag" / "bag.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    got = READER.survey(tmp_path, "bag")
    read = READER.read(tmp_path, "bag", ARM)
    assert got.rejected == read.rejected != {}
    assert len(got.signals["/joint_states"].stream) == len(read.streams["joints"])


def test_split_files_and_storages_survey_alike(tmp_path):
    write(tmp_path / "bag", ARM)
    copy_bag(tmp_path / "bag", tmp_path / "copy")
    one, other = (READER.survey(tmp_path, name) for name in ("bag", "copy"))
    assert one.signals.keys() == other.signals.keys()
    for topic, signal in one.signals.items():
        assert signal.labels == other.signals[topic].labels
        assert np.array_equal(signal.stream.values, other.signals[topic].stream.values)


# Noise, and definitions that are more than one.


def file_of(tmp_path, *parts):
    (tmp_path / "x.mcap").write_bytes(mcap(chunk(b"".join(parts))))
    return READER.survey(tmp_path / "x.mcap", ".")


def test_fault_104_noise_as_messages_is_counted_and_bounded(tmp_path):
    """Random bytes, half of them behind the four that begin a message of these types."""
    kinds = {
        1: "sensor_msgs/msg/JointState", 2: "std_msgs/msg/Float64MultiArray",
        3: "geometry_msgs/msg/PoseStamped", 4: "test_msgs/msg/Wrench",
    }  # fmt: skip
    parts = [
        channel(n, f"/t{n}", k, STORE.generate_msgdef(k, ros_version=2)[0])
        for n, k in kinds.items()
    ]
    rng = np.random.default_rng(0)
    total = 3000 * SCALE
    for k in range(total):
        raw = rng.bytes(int(rng.integers(0, 200)))
        parts.append(message(1 + k % 4, START + k, (b"\0\1\0\0" if k % 8 < 4 else b"") + raw))
    got = file_of(tmp_path, *parts)
    read = sum(len(s.stream) for s in got.signals.values())
    assert sum(got.rejected.values()) + read == total
    assert len(got.rejected) <= MAX_REASONS + 1
    assert all(len(reason) <= 200 and reason.isprintable() for reason in got.rejected)


def test_fault_104_a_type_that_nobody_defines_is_named(tmp_path):
    good = channel(1, "/good", "std_msgs/msg/Float64", "") + message(
        1, START, b"\0\1\0\0" + bytes(8)
    )
    got = file_of(
        tmp_path, good, channel(2, "/odd", "odd_msgs/msg/Odd", ""), message(2, START, b"x")
    )
    assert list(got.signals) == ["/good"] and got.others == {"/odd": "odd_msgs/Odd"}


@pytest.mark.parametrize("kind, definition", [
    ("odd_msgs/msg/Odd", "float64 x y z"),
    ("odd_msgs/msg/Odd", "float64[1000000000] x\nodd_msgs/Odd[1000000000] y"),
    ("odd_msgs/msg/Odd", "std_msgs/String[100000000] x"),
    ("odd_msgs/msg/Odd", "string[100000000] x"),
    ("odd_msgs/msg/Odd", "odd_msgs/Odd x"),
    ("odd_msgs/msg/Odd", "missing_msgs/Missing x"),
    ("odd_msgs/msg/Odd", "float64 x\n" * 100_000),
    ("odd_msgs/msg/Odd", "float64 class\nfloat64 __init__\n"),
    ("odd_msgs/msg/Odd", "uint8 A='\"; import os; os.mkdir(\"/tmp/x\")'\nfloat64 x\n"),
    ("odd_msgs/msg/Odd\nimport os", "float64 x"),
    ("../../msg/Odd", "float64 x"),
    ("", "float64 x"),
])  # fmt: skip
def test_fault_104_a_definition_that_is_none_is_named_and_not_run(tmp_path, kind, definition):
    good = channel(1, "/good", "std_msgs/msg/Float64", "") + message(
        1, START, b"\0\1\0\0" + bytes(8)
    )
    got = file_of(
        tmp_path, good, channel(2, "/odd", kind, definition), message(2, START, bytes(200))
    )
    assert list(got.signals) == ["/good"] and list(got.others) == ["/odd"]


def test_a_topic_that_changes_its_type_is_counted(tmp_path):
    parts = [
        channel(1, "/x", "std_msgs/msg/Float64", ""),
        message(1, START, b"\0\1\0\0" + bytes(8)),
        channel(2, "/x", "std_msgs/msg/Bool", ""),
        message(2, START + T, b"\0\1\0\0\1"),
    ]
    got = file_of(tmp_path, *parts)
    assert got.rejected == {"/x carries std_msgs/Bool, and before std_msgs/Float64": 1}
    assert len(got.signals["/x"].stream) == 1


JOINTS32 = """
std_msgs/Header header
string[] name
float32[] position
float32[] velocity
float32[] effort
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
"""


def joints32(sec, *positions):
    """Two joints of a JointState as JOINTS32 has it."""
    body = struct.pack("<iIIB3x", sec, 0, 1, 0) + struct.pack("<I", 2)
    body += struct.pack("<I2s2xI2s2x", 2, b"a", 2, b"b") + struct.pack("<I2f", 2, *positions)
    return b"\0\1\0\0" + body + struct.pack("<I2fI", 2, 0.0, 0.0, 0)


def test_a_bag_may_define_known_types_in_its_own_way(tmp_path):
    """Numbers of another width are the same numbers, in every message; a time that is none is
    counted, and nothing is shifted by it."""
    kind = "sensor_msgs/msg/JointState"
    value = velocity_dict()
    value["observations"] = value["observations"][:1]
    own = contract(value)
    text = STORE.generate_msgdef("std_msgs/msg/Float64MultiArray", ros_version=2)[0]
    parts = [
        channel(1, "/joint_states", kind, JOINTS32),
        channel(2, "/commands", "std_msgs/msg/Float64MultiArray", text),
        message(1, START, joints32(5, 0.5, 1.5)),
        message(1, START + 2, joints32(6, 2.5, 3.5)),
        message(1, 2**63 + 1, joints32(6, 7.0, 7.0)),
    ]
    signal = file_of(tmp_path, *parts).signals["/joint_states"]
    assert signal.stream.values.tolist() == [[0.5, 1.5, 0, 0], [2.5, 3.5, 0, 0]]
    got = READER.read(tmp_path / "x.mcap", ".", own)
    assert got.streams["joints"].values.tolist() == [[0.5, 1.5, 0, 0], [2.5, 3.5, 0, 0]]
    assert got.streams["joints"].stamp.tolist() == [5 * 10**9, 6 * 10**9]
    assert sum(got.rejected.values()) == 1


def test_the_pictures_of_a_camera_are_in_colour():
    """Red and blue that changed places are a common fault of drivers, and are seen by nothing else."""
    pytest.importorskip("simplejpeg")
    look = Look("sensor_msgs/Image")
    red = np.zeros((48, 64, 3), np.uint8)
    red[...] = (200, 10, 20)
    look.at(red)
    (picture,) = look.pictures
    assert picture.shape == (36, 48, 3) and (picture == (200, 10, 20)).all()
    data = base64.b64decode(_uri(picture).split(",")[1])
    assert np.abs(simplejpeg_decoded(data) - (200.0, 10.0, 20.0)).max() < 6
    look = Look("sensor_msgs/Image")
    look.at(np.full((48, 64, 1), 90, np.uint8))
    assert look.pictures[0].shape == (36, 48, 1) and _uri(look.pictures[0]).startswith(
        "data:image/jpeg"
    )


def simplejpeg_decoded(data):
    import simplejpeg

    return simplejpeg.decode_jpeg(data)
