"""What is a bag, and which files belong to it, whatever metadata.yaml says."""

import os
import shutil
import sys

import numpy as np
import pytest
import yaml

from qgf_ros.errors import DataRefused

pytest.importorskip("rosbags")

from qgf_bags import ARM, copy_bag, count, fingerprint, same, write

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from training.pipeline.readers.load import load_episodes
from training.pipeline.readers.rosbag2 import Rosbag2Reader

READER = Rosbag2Reader()


@pytest.fixture
def bag(tmp_path):
    """(folder, what is in it)."""
    write(tmp_path / "bag", ARM)
    return tmp_path / "bag", READER.read(tmp_path, "bag", ARM)


def metadata(folder, **changes):
    path = folder / "metadata.yaml"
    document = yaml.safe_load(path.read_text())
    document["rosbag2_bagfile_information"] |= changes
    path.write_text(yaml.safe_dump(document))


def split(source, target, storage="mcap", suffix="mcap", parts=(0, 30, 90, None)):
    """One bag as three files, as a recorder splits it; returns their names."""
    target.mkdir()
    names = []
    for number, (begin, end) in enumerate(zip(parts, parts[1:])):
        part = target.parent / f"part_{target.name}_{number}"
        copy_bag(source, part, storage, messages=slice(begin, end))
        names.append(f"{target.name}_{number}.{suffix}")
        next(part.glob(f"*.{suffix}")).rename(target / names[-1])
        document = yaml.safe_load((part / "metadata.yaml").read_text())
        shutil.rmtree(part)
    (target / "metadata.yaml").write_text(yaml.safe_dump(document))
    metadata(target, relative_file_paths=names, files=[])
    return names


@pytest.mark.parametrize("storage, compression", [
    *(("mcap", c) for c in ("none", "file", "message", "storage")),
    *(("sqlite3", c) for c in ("none", "file", "message")),
])  # fmt: skip
def test_every_storage_and_compression_holds_the_same_data(tmp_path, bag, storage, compression):
    folder, whole = bag
    copy_bag(folder, tmp_path / "copy", storage, compression)
    before = fingerprint(tmp_path)
    got = READER.read(tmp_path, "copy", ARM)
    assert got.rejected == {} and same(got, whole)
    (tmp_path / "copy" / "metadata.yaml").unlink()
    got = READER.read(tmp_path, "copy", ARM)
    assert got.rejected == {} and same(got, whole)
    del before["copy/metadata.yaml"]
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("storage, suffix", [("mcap", "mcap"), ("sqlite3", "db3")])
def test_fault_101_split_bags_are_read_in_order_with_and_without_metadata(
    tmp_path, bag, storage, suffix
):
    folder, whole = bag
    split(folder, tmp_path / "run", storage, suffix)
    assert same(READER.read(tmp_path, "run", ARM), whole)
    (tmp_path / "run" / "metadata.yaml").unlink()
    assert READER.recordings(tmp_path / "run") == ["."]
    assert same(READER.read(tmp_path, "run", ARM), whole)


def test_fault_101_the_tenth_file_of_a_split_bag_is_not_the_second(tmp_path, bag):
    folder, whole = bag
    parts = (*range(0, 110, 10), None)
    split(folder, tmp_path / "run", parts=parts)
    (tmp_path / "run" / "metadata.yaml").unlink()
    assert same(READER.read(tmp_path, "run", ARM), whole)


@pytest.mark.parametrize("content", [
    b"", b"not yaml: [", b"rosbag2_bagfile_information: 3", b"\xff\xfe", b"[" * 100_000,
    b"rosbag2_bagfile_information: {relative_file_paths: [3, [], {}, null]}",
    b"a: " + b"x" * 2**21,
])  # fmt: skip
def test_fault_101_damaged_metadata_changes_nothing(bag, content):
    folder, whole = bag
    (folder / "metadata.yaml").write_bytes(content)
    got = READER.read(folder, ".", ARM)
    assert got.rejected == {} and same(got, whole)


@pytest.mark.parametrize("changes", [
    {"storage_identifier": ""}, {"storage_identifier": "sqlite3"}, {"version": 99},
    {"topics_with_message_count": []}, {"message_count": 0}, {"compression_mode": "FILE"},
    {"relative_file_paths": ["bag/bag.mcap"]}, {"relative_file_paths": []},
    {"relative_file_paths": ["renamed.mcap"]},
])  # fmt: skip
def test_fault_101_reindexed_and_odd_metadata_changes_nothing(bag, changes):
    folder, whole = bag
    metadata(folder, **changes)
    got = READER.read(folder, ".", ARM)
    assert got.rejected == {} and same(got, whole)


def test_fault_101_an_mcap_file_without_an_index_holds_the_same_data(bag):
    folder, whole = bag
    file = folder / "bag.mcap"
    data = bytearray(file.read_bytes())
    begin = int.from_bytes(data[-28:-20], "little")  # of the summary
    file.write_bytes(data[:begin] + data[-37:-28] + bytes(20) + data[-8:])
    got = READER.read(folder, ".", ARM)
    assert got.rejected == {} and same(got, whole)


@pytest.mark.parametrize("storage, suffix", [("mcap", "mcap"), ("sqlite3", "db3")])
def test_fault_101_a_bare_file_is_a_bag(tmp_path, bag, storage, suffix):
    folder, whole = bag
    copy_bag(folder, tmp_path / "copy", storage)
    file = (tmp_path / "copy" / f"copy.{suffix}").rename(tmp_path / f"bare.{suffix}")
    assert READER.recognises(file) and READER.recordings(file) == ["."]
    assert same(READER.read(file, ".", ARM), whole)
    assert READER.files(file, ".") == [file]


def test_a_missing_file_of_a_split_bag_is_counted(tmp_path, bag):
    folder, whole = bag
    names = split(folder, tmp_path / "run")
    metadata(tmp_path / "run", files=[{"path": n, "message_count": 60} for n in names])
    (tmp_path / "run" / names[1]).unlink()
    got = READER.read(tmp_path, "run", ARM)
    assert got.rejected == {"file missing: run_1.mcap": 60} and count(got) == count(whole) - 60


def test_a_damaged_file_of_a_split_bag_leaves_the_others(tmp_path, bag):
    folder, whole = bag
    names = split(folder, tmp_path / "run")
    (tmp_path / "run" / names[1]).write_bytes(b"")
    got = READER.read(tmp_path, "run", ARM)
    assert got.rejected == {"file unreadable: run_1.mcap is empty": 1}
    assert count(got) == count(whole) - 60


def test_bags_of_every_shape_in_one_dataset_are_in_a_fixed_order(tmp_path, bag):
    folder, _ = bag
    data = tmp_path / "data"
    data.mkdir()
    shutil.copytree(folder, data / "c")
    shutil.copytree(folder, data / "a")
    (data / "a" / "metadata.yaml").unlink()
    split(folder, data / "d")
    shutil.copy(folder / "bag.mcap", data / "b.mcap")
    (data / "two").mkdir()
    for name in ("left.mcap", "right.mcap"):
        shutil.copy(folder / "bag.mcap", data / "two" / name)
    (data / "notes").mkdir()
    (data / "notes" / "read.me").write_text("no bag")
    names = ["a", "b.mcap", "c", "d", "two/left.mcap", "two/right.mcap"]
    assert READER.recordings(data) == names
    recordings = [READER.read(data, name, ARM) for name in names]
    assert all(same(r, recordings[0]) for r in recordings)
    _, report = load_episodes(data, ARM)
    assert report.dropped["duplicate episode"] == 5


def test_files_are_what_a_recording_depends_on(tmp_path, bag):
    folder, _ = bag
    names = split(folder, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("")
    found = READER.files(tmp_path, "run")
    assert found == sorted(tmp_path / "run" / n for n in (*names, "metadata.yaml"))


# What leads out of the dataset.


@pytest.fixture
def dataset(tmp_path, bag):
    """A bag in a dataset beside which there is another one."""
    folder, whole = bag
    shutil.copytree(folder, tmp_path / "data" / "bag")
    shutil.copytree(folder, tmp_path / "elsewhere")
    return tmp_path / "data", whole


@pytest.mark.parametrize("name", [
    "../elsewhere/bag.mcap", "../../elsewhere/bag.mcap", "/etc/passwd", "bag.mcap\nother.mcap",
    "..", ".", "", "a\0b", "\udcff",
])  # fmt: skip
def test_fault_112_names_in_the_metadata_lead_nowhere(dataset, name):
    data, whole = dataset
    (data / "bag" / "bag.mcap").rename(data / "bag" / "own.mcap")
    metadata(data / "bag", relative_file_paths=[name, "own.mcap"], files=[])
    got = READER.read(data, "bag", ARM)
    assert same(got, whole), "and not twice"
    assert [f.name for f in READER.files(data, "bag")] == ["metadata.yaml", "own.mcap"]
    assert all(reason.isprintable() for reason in got.rejected)


@pytest.mark.parametrize("name", ["bag.mcap", "metadata.yaml"])
def test_fault_112_a_link_out_of_the_dataset_is_refused(tmp_path, dataset, name):
    data, _ = dataset
    (data / "bag" / name).unlink()
    (data / "bag" / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(DataRefused, match="outside"):
        READER.read(data, "bag", ARM)
    with pytest.raises(DataRefused, match="outside"):
        READER.files(data, "bag")


def test_fault_112_a_linked_folder_is_refused_and_not_left_out(tmp_path, dataset):
    data, _ = dataset
    (data / "other").symlink_to(tmp_path / "elsewhere")
    assert READER.recognises(data)
    with pytest.raises(DataRefused, match="outside"):
        READER.recordings(data)
    with pytest.raises(DataRefused, match="outside"):
        READER.read(data, "../elsewhere", ARM)


def test_a_link_within_the_dataset_and_to_the_dataset_are_followed(tmp_path, dataset):
    data, whole = dataset
    (data / "again").symlink_to(data / "bag")
    (tmp_path / "link").symlink_to(data)
    assert READER.recordings(tmp_path / "link") == ["again", "bag"]
    assert same(READER.read(tmp_path / "link", "again", ARM), whole)


def test_fault_112_odd_names_are_read_and_said_in_one_line(tmp_path, bag):
    folder, whole = bag
    odd = tmp_path / "data" / "a\nqgf: error[0]: \x1b[31m"
    odd.mkdir(parents=True)
    file = odd / "b\nc.mcap"
    shutil.copy(folder / "bag.mcap", file)
    assert same(READER.read(tmp_path / "data", odd.name, ARM), whole)
    file.write_bytes(file.read_bytes()[:-1])
    got = READER.read(tmp_path / "data", odd.name, ARM)
    assert got.rejected and all(reason.isprintable() for reason in got.rejected)


def test_what_is_no_file_is_not_opened(tmp_path, bag):
    folder, whole = bag
    os.mkfifo(folder / "pipe.mcap")  # opening it would wait for ever
    (folder / "folder.mcap").mkdir()
    (folder / "metadata.yaml").unlink()
    assert same(READER.read(folder, ".", ARM), whole)


def test_fault_112_a_folder_of_very_many_files_takes_no_time(tmp_path):
    for number in range(5_000):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "bag", ARM, ticks=3)
    assert READER.recordings(tmp_path) == []
    assert READER.recordings(tmp_path / "a") == ["bag"]
    assert not READER.recognises(tmp_path)


@pytest.mark.parametrize("storage, suffix", [("mcap", "mcap"), ("sqlite3", "db3")])
def test_fault_098_a_compressed_file_that_is_cut_is_read_as_far_as_it_goes(
    tmp_path, storage, suffix
):
    write(tmp_path / "bag", ARM, ticks=1500)
    whole = READER.read(tmp_path, "bag", ARM)
    if storage == "sqlite3":
        copy_bag(tmp_path / "bag", tmp_path / "copy")
        shutil.rmtree(tmp_path / "bag")
        (tmp_path / "copy").rename(tmp_path / "bag")
    (plain,) = (tmp_path / "bag").glob(f"*.{suffix}")
    packed = zstd.compress(plain.read_bytes())
    plain.unlink()
    file = tmp_path / "bag" / f"{plain.name}.zstd"
    file.write_bytes(packed[: len(packed) * 7 // 10])
    (tmp_path / "bag" / "metadata.yaml").unlink()
    before = fingerprint(tmp_path)
    got = READER.read(tmp_path, "bag", ARM)
    assert f"file cut short: {file.name} ends inside of its compressed data" in got.rejected
    joints = got.streams["joints"].values
    assert 100 < len(joints) < 1500
    assert np.array_equal(joints, whole.streams["joints"].values[: len(joints)])
    assert fingerprint(tmp_path) == before
