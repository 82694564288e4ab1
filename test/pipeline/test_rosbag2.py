"""Bags: what is written comes back to the last bit; what does not fit is refused and named."""

import dataclasses
import shutil
import struct
import zlib

import numpy as np
import pytest
import yaml
from qgf_make import START, contract, twist_dict, velocity_dict

from qgf_ros.errors import DataRefused, QgfError, UsageError

pytest.importorskip("rosbags")

from qgf_bags import ARM, T, write

from qgf_ros.bags.sources import contract_sources
from training.pipeline.readers.load import load_episodes
from training.pipeline.readers.rosbag2 import Rosbag2Reader
from training.pipeline.writers.bag import BagWriter
from training.pipeline.writers.convert import convert


def test_what_was_written_comes_back_to_the_last_bit(tmp_path):
    written = write(tmp_path / "bag", ARM)
    got = Rosbag2Reader().read(tmp_path, "bag", ARM)
    assert set(got.streams) == {
        "joints",
        "goal",
        "obstacle",
        "arm",
        "reward",
        "success",
        "episode_start",
    }
    assert got.rejected == {}
    for name, rows in written.items():
        stream = got.streams[name]
        stamp, receipt, values = zip(*sorted(rows, key=lambda r: r[1]))
        assert stream.stamp.tolist() == list(stamp) and stream.receipt.tolist() == list(receipt), (
            name
        )
        if name != "episode_start":
            assert np.array_equal(stream.values, np.array(values)), name


def test_a_bag_becomes_an_episode(tmp_path):
    written = write(tmp_path / "bag", ARM)
    (episode,), report = load_episodes(tmp_path / "bag", ARM)
    assert len(episode) in (29, 30) and episode.terminal and episode.success is True
    commands = np.array([v for _, _, v in written["arm"]])
    assert np.array_equal(episode.action[:29], commands[:29])
    assert report.episodes == 1


def test_missing_topic_is_named_and_those_that_are_there(tmp_path):
    sources = {k: v for k, v in contract_sources(ARM).items() if k != "obstacle"}
    write(tmp_path / "bag", ARM, sources=sources)
    with pytest.raises(DataRefused, match=r"no topic 'obstacle'.*/joint_states"):
        Rosbag2Reader().read(tmp_path, "bag", ARM)


def test_topic_without_a_message_is_named(tmp_path):
    write(tmp_path / "bag", ARM, skip=("obstacle",))
    with pytest.raises(DataRefused, match="obstacle"):
        Rosbag2Reader().read(tmp_path, "bag", ARM)


def test_wrong_type_is_named_on_both_sides(tmp_path):
    sources = contract_sources(ARM)
    wrong = dataclasses.replace(
        sources["obstacle"], type="std_msgs/Float64", fields=("data",), stamp="receipt"
    )
    write(tmp_path / "bag", ARM, sources=sources | {"obstacle": wrong})
    with pytest.raises(
        DataRefused, match=r"obstacle.*std_msgs/Float64.*geometry_msgs/PointStamped"
    ):
        Rosbag2Reader().read(tmp_path, "bag", ARM)


def test_missing_bag_is_named(tmp_path):
    with pytest.raises(DataRefused, match="nowhere"):
        load_episodes(tmp_path / "nowhere", ARM)
    with pytest.raises(DataRefused, match="bag"):
        Rosbag2Reader().read(tmp_path, "bag", ARM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataRefused, match="empty"):
        load_episodes(tmp_path / "empty", ARM)


def test_existing_bag_is_not_written_over(tmp_path):
    write(tmp_path / "bag", ARM)
    with pytest.raises(UsageError, match="exists"):
        BagWriter(tmp_path / "bag", contract_sources(ARM))


def test_fault_010_012_messages_that_do_not_fit_are_counted_by_reason(tmp_path):
    """Ten messages of another robot on the same topic: rejected by name, the rest is kept."""
    own, other = contract(), velocity_dict()
    other["observations"][0]["names"] = ["x", "b"]
    with BagWriter(tmp_path / "bag", contract_sources(contract(other))) as bag:
        for k in range(10):
            bag.write("joints", START + k * T, START + k * T, np.zeros(4))
            bag.write("goal", START + k * T, START + k * T, np.zeros(1))
            bag.write("arm", START + k * T, START + k * T, np.zeros(2))
    with pytest.raises(DataRefused, match="joint_states"):
        Rosbag2Reader().read(tmp_path, "bag", own)


def test_fault_016_unset_stamp_counts_by_receipt(tmp_path):
    own = contract()
    with BagWriter(tmp_path / "bag", contract_sources(own)) as bag:
        for k in range(5):
            bag.write("joints", 0, START + k * T, np.zeros(4))
            bag.write("goal", START + k * T, START + k * T, np.zeros(1))
            bag.write("arm", START + k * T, START + k * T, np.zeros(2))
    got = Rosbag2Reader().read(tmp_path, "bag", own)
    assert np.array_equal(got.streams["joints"].stamp, got.streams["joints"].receipt)


def test_bags_of_a_folder_are_read_in_a_fixed_order(tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path / "set" / name, ARM, seed=ord(name))
    assert Rosbag2Reader().recordings(tmp_path / "set") == ["a", "b", "c"]
    one, _ = load_episodes(tmp_path / "set", ARM)
    assert [e.name.split("#")[0] for e in one] == ["a", "b", "c"]


def test_fault_108_a_copied_bag_counts_once(tmp_path):
    write(tmp_path / "set" / "a", ARM)
    shutil.copytree(tmp_path / "set" / "a", tmp_path / "set" / "b")
    episodes, report = load_episodes(tmp_path / "set", ARM)
    assert len(episodes) == 1 and report.dropped["duplicate episode"] == 1


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 0.999])
def test_fault_098_truncated_bag_never_ends_in_a_traceback(tmp_path, share):
    write(tmp_path / "bag", ARM, ticks=200)
    file = next((tmp_path / "bag").glob("*.mcap"))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    try:
        Rosbag2Reader().read(tmp_path, "bag", ARM)
    except QgfError as error:
        assert "bag" in str(error)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_fault_098_truncated_bag_is_salvaged(tmp_path, share):
    """faults.md: what is there before the cut is read, and the loss is counted (exit 3)."""
    write(tmp_path / "bag", ARM, ticks=200)
    file = next((tmp_path / "bag").glob("*.mcap"))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    assert len(Rosbag2Reader().read(tmp_path, "bag", ARM).streams["joints"]) > 0


@pytest.mark.parametrize("content", [
    b"", b"not yaml: [", b"rosbag2_bagfile_information: 3",
    b"\xff\xfe",
])  # fmt: skip
def test_fault_101_damaged_metadata_never_ends_in_a_traceback(tmp_path, content):
    write(tmp_path / "bag", ARM)
    (tmp_path / "bag" / "metadata.yaml").write_bytes(content)
    try:
        Rosbag2Reader().read(tmp_path, "bag", ARM)
    except QgfError as error:
        assert "bag" in str(error)


def flip_and_read(folder, file, data, places):
    """Outcomes of single flipped bits: (silently other numbers, exceptions that are no QgfError)."""
    clean = Rosbag2Reader().read(folder, "bag", ARM)
    silent, crashed = 0, set()
    for at, bit in places:
        data[at] ^= 1 << bit
        file.write_bytes(data)
        data[at] ^= 1 << bit
        try:
            got = Rosbag2Reader().read(folder, "bag", ARM)
        except QgfError:
            continue
        except Exception as error:
            crashed.add(type(error).__name__)
            continue
        same = all(
            np.array_equal(getattr(got.streams[n], f), getattr(s, f))
            for n, s in clean.streams.items()
            for f in ("stamp", "receipt", "values")
        )
        silent += not same and not got.rejected
    return silent, crashed


def chunk_of(data):
    """(where the CRC is, first and last byte of the records) of the only chunk of an MCAP file."""
    at = 8
    while data[at] != 6:
        at += 9 + struct.unpack_from("<Q", data, at + 1)[0]
    crc = at + 9 + 24
    records = crc + 4 + 4 + struct.unpack_from("<I", data, crc + 4)[0] + 8
    return crc, records, at + 9 + struct.unpack_from("<Q", data, at + 1)[0]


@pytest.fixture
def bag_bytes(tmp_path):
    write(tmp_path / "bag", ARM, ticks=20)
    file = next((tmp_path / "bag").glob("*.mcap"))
    return file, bytearray(file.read_bytes())


def some_bits(first, last, count=40):
    rng = np.random.default_rng(0)
    return [(int(rng.integers(first, last)), int(rng.integers(8))) for _ in range(count)]


def test_fault_099_flipped_bit_in_a_checked_bag_is_never_silent(tmp_path, bag_bytes):
    """As `ros2 bag record` writes it, with a CRC per chunk."""
    file, data = bag_bytes
    crc, first, last = chunk_of(data)
    struct.pack_into("<I", data, crc, zlib.crc32(data[first:last]))
    file.write_bytes(data)
    silent, _ = flip_and_read(tmp_path, file, data, some_bits(first, last))
    assert silent == 0


def test_fault_099_flipped_bit_is_refused_and_not_a_traceback(tmp_path, bag_bytes):
    file, data = bag_bytes
    crc, first, last = chunk_of(data)
    struct.pack_into("<I", data, crc, zlib.crc32(data[first:last]))
    file.write_bytes(data)
    _, crashed = flip_and_read(tmp_path, file, data, some_bits(first, last))
    assert not crashed


def test_fault_099_bags_of_our_own_recorder_carry_a_crc(bag_bytes):
    """Without one a flipped bit in a recording is another number in training, and nobody sees it."""
    _, data = bag_bytes
    crc, first, last = chunk_of(data)
    assert struct.unpack_from("<I", data, crc)[0] == zlib.crc32(data[first:last])


def test_fault_104_junk_in_a_message_is_no_traceback(tmp_path, bag_bytes):
    """Serialised messages overwritten by noise: dropped or refused."""
    file, data = bag_bytes
    _, first, last = chunk_of(data)
    rng, crashed = np.random.default_rng(1), set()
    for _ in range(30):
        at = int(rng.integers(first, last - 16))
        kept = data[at : at + 16]
        data[at : at + 16] = rng.bytes(16)
        file.write_bytes(data)
        data[at : at + 16] = kept
        try:
            Rosbag2Reader().read(tmp_path, "bag", ARM)
        except QgfError:
            pass
        except Exception as error:
            crashed.add(type(error).__name__)
    assert not crashed


# Poses, twists, grippers.

TWIST = contract(twist_dict())


def frames(bag):
    """Every frame_id by topic."""
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_KILTED)) as reader:
        found = {}
        for connection, _, raw in reader.messages():
            msg = reader.deserialize(raw, connection.msgtype)
            if hasattr(msg, "header"):
                found.setdefault(connection.topic, set()).add(msg.header.frame_id)
    return found


def test_poses_and_twists_come_back_to_the_last_bit_and_say_their_frame(tmp_path):
    written = write(tmp_path / "bag", TWIST)
    got = Rosbag2Reader().read(tmp_path, "bag", TWIST)
    assert got.rejected == {}
    for name, rows in written.items():
        assert np.array_equal(got.streams[name].values, np.array([v for _, _, v in rows])), name
        assert got.streams[name].stamp.tolist() == [s for s, _, _ in rows], name
    assert got.streams["tool"].values.shape == (30, 6), "as the message has it: a quaternion"
    assert frames(tmp_path / "bag") == {
        "/joint_states": {""}, "/tool/pose": {""}, "/gripper/joint_states": {""}, "/servo/twist": {"base_link"},
    }  # fmt: skip


def test_unstamped_twists_come_back_too(tmp_path):
    value = twist_dict()
    value["actions"][0] |= {"type": "geometry_msgs/Twist", "fields": ["linear.x", "angular.z"], "frame": ""}  # fmt: skip
    value["actions"][0]["limits"] = {
        n: {"min": -1.0, "max": 1.0, "rate": 1.0} for n in ("linear.x", "angular.z")
    }
    own = contract(value)
    written = write(tmp_path / "bag", own)
    stream = Rosbag2Reader().read(tmp_path, "bag", own).streams["arm"]
    assert np.array_equal(stream.values, np.array([v for _, _, v in written["arm"]]))
    assert np.array_equal(stream.stamp, stream.receipt)


def test_a_converted_bag_is_the_bag_it_came_from(tmp_path):
    """Message for message, and also what alignment would drop."""
    write(tmp_path / "bag", TWIST)
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(twist_dict()))
    counts = convert(tmp_path / "bag", tmp_path / "contract.yaml", tmp_path / "out", 0)
    assert counts["servo/twist"] == counts["tool/pose"] == 30
    one, other = (Rosbag2Reader().read(tmp_path, n, TWIST) for n in ("bag", "out"))
    for name, stream in one.streams.items():
        for part in ("stamp", "receipt", "values"):
            assert np.array_equal(getattr(stream, part), getattr(other.streams[name], part)), name
    a, b = (load_episodes(tmp_path / n, TWIST)[0][0] for n in ("bag", "out"))
    assert np.array_equal(a.obs, b.obs) and np.array_equal(a.action, b.action)


def framed(path, frame):
    """A bag whose twists are along the axes of `frame`."""
    arm = dataclasses.replace(TWIST.actions[0], frame=frame)
    write(path, TWIST, sources=contract_sources(TWIST) | {"arm": arm})


@pytest.mark.parametrize("frame", ["base_link", "/base_link"])
def test_twists_in_the_frame_of_the_contract_are_read(tmp_path, frame):
    framed(tmp_path / "bag", frame)
    assert len(Rosbag2Reader().read(tmp_path, "bag", TWIST).streams["arm"]) == 30


def test_twists_along_other_axes_are_rejected_and_counted(tmp_path):
    """Forward of the tool is not forward of the base: the policy would learn another motion."""
    framed(tmp_path / "bag", "tool0")
    got = Rosbag2Reader().read(tmp_path, "bag", TWIST)
    ((reason, count),) = got.rejected.items()
    assert count == 30 and all(t in reason for t in ("servo/twist", "'tool0'", "'base_link'"))
    assert len(got.streams["arm"]) == 0
    with pytest.raises(DataRefused):
        load_episodes(tmp_path / "bag", TWIST)


def test_two_sources_may_read_one_topic(tmp_path):
    """Arm and gripper in one joint_states, as most drivers have it."""
    both, value = velocity_dict(), velocity_dict()
    value["observations"][0]["names"] = ["a"]
    extra = value["observations"][0] | {"name": "other", "names": ["b"], "fields": ["position"]}
    value["observations"].append(extra)
    written = write(tmp_path / "bag", contract(both))
    got = Rosbag2Reader().read(tmp_path, "bag", contract(value))
    raw = np.array([v for _, _, v in written["joints"]])  # position a, b, velocity a, b
    assert np.array_equal(got.streams["joints"].values, raw[:, [0, 2]])
    assert np.array_equal(got.streams["other"].values, raw[:, [1]])
    with pytest.raises(UsageError, match=r"joints \(joint_states\), other \(joint_states\) share"):
        BagWriter(tmp_path / "out", contract_sources(contract(value)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "empty, surplus, whole",
    [(1, b"", True), (1, b"\xa8\x7f\0\0\1\2\3\4", True), (0, b"\1\2\3\4\5\6\7\x08", False), (1, bytes(20), False)],
)  # fmt: skip
def test_bytes_behind_a_message_with_an_empty_array_are_no_damage(tmp_path, empty, surplus, whole):
    """rclpy's serialize_message leaves 8 of them, which mean nothing; other recorders write them."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store, kind = get_typestore(Stores.ROS2_KILTED), "sensor_msgs/msg/JointState"
    make, numbers = store.types, np.arange(2.0)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection("/joint_states", kind, typestore=store)
        header = make["std_msgs/msg/Header"](make["builtin_interfaces/msg/Time"](1, 0), "")
        effort = np.empty(0) if empty else numbers
        message = make[kind](header, ["a", "b"], numbers, numbers, effort)
        bag.write(connection, START, bytes(store.serialize_cdr(message, kind)) + surplus)
    found = Rosbag2Reader().survey(tmp_path, "bag")
    assert (not found.rejected) == whole
    if whole:
        assert list(found.signals["/joint_states"].stream.values[0][:4]) == [0, 1, 0, 1]
