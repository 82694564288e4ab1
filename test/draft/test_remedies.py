"""What cannot be read says what it is and what to do; what merely looks odd is read."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from qgf_bags import ARM, write
from qgf_make import contract, velocity_dict

from qgf_ros.errors import DataRefused
from qgf_ros.replay.run import _bags
from training.pipeline.readers.load import find_reader, load_episodes
from training.pipeline.readers.rosbag2 import Rosbag2Reader
from training.pipeline.writers.lerobot import LeRobotWriter
from training.pipeline.writers.table import TableEpisode, layout

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 82515\n".format("0" * 64)


def table_contract():
    value = velocity_dict()
    value["observations"] = [
        {"name": "joints", "topic": "joint_states", "type": "sensor_msgs/JointState",
         "fields": ["position"], "names": ["a", "b"], "column": "observation.state"},
    ]  # fmt: skip
    value["actions"][0]["column"] = "action"
    return contract(value)


def write_lerobot(path, **info):
    """Two episodes of LeRobot 2.1; `info` is put into meta/info.json."""
    rng = np.random.default_rng(0)
    writer = LeRobotWriter(path, "v2.1", 20.0, layout(table_contract()), "arm", "reach")
    for _ in range(2):
        rows = rng.normal(size=(2, 15, 2)).astype(np.float32)
        writer.add(TableEpisode({"observation.state": rows[0], "action": rows[1]}, True))
    writer.close()
    file = path / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | info))


@pytest.mark.parametrize("name", ["x.mcap", "x.db3", "x.npz", "x.hdf5", "bag"])
def test_git_lfs_pointers_are_named(tmp_path, name):
    path = tmp_path / name
    if name == "bag":
        write(path, ARM)
        (path / "bag.mcap").write_text(POINTER)
    else:
        path.write_text(POINTER)
    with pytest.raises(DataRefused, match=r"Git LFS pointer, not the file: run `git lfs pull`"):
        load_episodes(path, ARM)


@pytest.mark.parametrize("file", ["data/chunk-000/episode_000000.parquet", "meta/info.json"])
def test_git_lfs_pointers_of_lerobot_are_named(tmp_path, file):
    write_lerobot(tmp_path / "set")
    (tmp_path / "set" / file).write_text(POINTER)
    with pytest.raises(DataRefused, match=r"Git LFS pointer.*`git lfs pull`"):
        load_episodes(tmp_path / "set", table_contract())


def test_the_other_versions_name_of_a_chunk_is_understood(tmp_path):
    slip = "data/chunk-{chunk_index:03d}/episode_{episode_index:06d}.parquet"
    write_lerobot(tmp_path / "set", data_path=slip)
    write_lerobot(tmp_path / "right")
    a, b = (load_episodes(tmp_path / n, table_contract())[0] for n in ("set", "right"))
    assert [e.digest for e in a] == [e.digest for e in b]


@pytest.mark.parametrize(
    "path", ["data/{chunk}/{episode}.parquet", "data/{file_index}.parquet", "data/{}.parquet"]
)
def test_placeholders_that_are_none_say_which_there_are(tmp_path, path):
    write_lerobot(tmp_path / "set", data_path=path)
    with pytest.raises(DataRefused, match=r"v2.*\{episode_chunk\} and \{episode_index\}.*as in"):
        load_episodes(tmp_path / "set", table_contract())


FOREIGN = {
    "run.bag": "rosbags-convert --src run.bag",
    "demos.pkl": "pickle",
    "model.pt": "pickle",
    "set.tar": "unpack",
    "rows.csv": "npz",
    "x.tfrecord-00000-of-00010": "RLDS",
    "replay.zarr/.zgroup": "Zarr",
    "1.0.0/dataset_info.json": "RLDS",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_is_told_the_same_as_what_is_in_it(tmp_path, name):
    file = tmp_path / "set" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"#ROSBAG V2.0\n")
    if name.endswith("dataset_info.json"):
        file.with_name("features.json").touch()
    entry = tmp_path / "set" / name.partition("/")[0]
    said = []
    for path in (entry, tmp_path / "set"):
        with pytest.raises(DataRefused, match=FOREIGN[name]) as found:
            find_reader(path)
        said.append(str(found.value))
    assert said[0] == said[1]


def test_replay_of_a_ros_1_bag_says_how_to_convert_it(tmp_path):
    (tmp_path / "run.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(DataRefused, match="rosbags-convert"):
        _bags(tmp_path / "run.bag")


# Row 112: links, and those of the Hugging Face cache.


def cached(tmp_path, source, repository="datasets--someone--arm"):
    """A dataset as huggingface_hub keeps it: names that are links to contents."""
    place = tmp_path / "hub" / repository
    target = place / "snapshots" / "abc123"
    (place / "blobs").mkdir(parents=True)
    for k, file in enumerate(sorted(p for p in source.rglob("*") if p.is_file())):
        blob = place / "blobs" / f"{k:064x}"
        blob.write_bytes(file.read_bytes())
        link = target / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        depth = len(link.relative_to(place).parts) - 1
        link.symlink_to("/".join([".."] * depth + ["blobs", blob.name]))
    return target


def test_a_lerobot_dataset_in_the_hugging_face_cache_is_read(tmp_path):
    write_lerobot(tmp_path / "set")
    root = cached(tmp_path, tmp_path / "set")
    a, b = (load_episodes(p, table_contract())[0] for p in (root, tmp_path / "set"))
    assert [e.digest for e in a] == [e.digest for e in b]


def test_a_bag_in_the_hugging_face_cache_is_read(tmp_path):
    write(tmp_path / "bags" / "run", ARM)
    root = cached(tmp_path, tmp_path / "bags")
    assert len(Rosbag2Reader().read(root, "run", ARM).streams["joints"])
    assert Rosbag2Reader().recordings(root) == ["run"]


@pytest.mark.parametrize("what", ["another repository", "not a blob", "no repository", "a folder"])
def test_fault_112_other_links_out_of_a_snapshot_are_refused(tmp_path, what):
    np.savez(tmp_path / "secret.npz", observations=np.zeros((9, 3)), actions=np.zeros((9, 2)))
    (tmp_path / "set").mkdir()
    shutil.copy(tmp_path / "secret.npz", tmp_path / "set" / "a.npz")
    name = "someone--arm" if what == "no repository" else "datasets--someone--arm"
    root = cached(tmp_path, tmp_path / "set", name)
    link, place = root / "a.npz", root.parent.parent
    if what == "another repository":
        other = place.parent / "datasets--secret" / "blobs" / ("0" * 64)
        other.parent.mkdir(parents=True)
        shutil.copy(tmp_path / "secret.npz", other)
        link.unlink()
        link.symlink_to(other)
    elif what == "not a blob":
        shutil.copy(tmp_path / "secret.npz", place / "blobs" / "secret.npz")
        link.unlink()
        link.symlink_to(place / "blobs" / "secret.npz")
    elif what == "a folder":
        shutil.move(place / "blobs", tmp_path / "elsewhere")
        (place / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataRefused, match="outside of"):
        load_episodes(root, table_contract())
