"""Links that lead nowhere, pipes, devices and folders where a file of a dataset is expected: each is
refused by its name, none is left out without a word, and nobody waits for it."""

import os
import signal
import stat
from contextlib import contextmanager

import numpy as np
import pytest
import qgf_bags
from qgf_make import contract, velocity_dict

pytest.importorskip("h5py")
pytest.importorskip("pyarrow")
import h5py
from qgf_lerobot import table_contract, write, write_v3

from qgf_ros.bags import files
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.files.atomic import replaced_file, replaced_folder
from qgf_ros.files.regular import NotRegular, lock_file, open_regular
from qgf_ros.spaces.contract import Contract
from training.pipeline.readers.load import find_reader, load_episodes
from training.pipeline.store import prepare

OWN = contract(velocity_dict())
NOWHERE = "/nowhere/run"


@contextmanager
def no_waiting():
    """To open a pipe would wait for its writer for ever: that is broken off."""

    def late(*_):
        raise AssertionError("waited for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(5)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(path, *texts, own=OWN):
    with no_waiting(), pytest.raises(DataRefused) as caught:
        reader = find_reader(path)
        for name in reader.recordings(path):
            reader.read(path, name, own)
    assert all(text in str(caught.value) for text in texts), caught.value


@pytest.fixture
def bags(tmp_path):
    """A folder of three recordings."""
    for k in range(3):
        qgf_bags.write(tmp_path / "data" / f"run_{k}", OWN, ticks=4, seed=k)
    return tmp_path / "data"


def files_of(bag):
    return sorted(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))


@pytest.mark.parametrize("target", [NOWHERE, "run_9", "run_1"])
def test_fault_112_a_bag_whose_link_leads_nowhere_is_refused(bags, target):
    os.rename(bags / "run_1", bags.parent / "aside")
    (bags / "run_1").symlink_to(target)
    refused(bags, "run_1", "leads nowhere")


@pytest.mark.parametrize("target", [NOWHERE, "other.mcap"])
@pytest.mark.parametrize("piece", [0, 1, 2])
def test_fault_112_a_piece_of_a_split_bag_whose_link_leads_nowhere_is_refused(bags, target, piece):
    (file,) = files_of(bags / "run_0")
    (bags / "split").mkdir()
    for k in range(3):
        at = bags / "split" / f"split_{k}{file.suffix}"
        if k == piece:
            at.symlink_to(target)
        else:
            at.write_bytes(file.read_bytes())
    refused(bags / "split", f"split_{piece}", "leads nowhere")
    refused(bags, f"split_{piece}", "leads nowhere")


def test_fault_112_a_piece_that_the_metadata_names_and_leads_nowhere_is_refused(bags):
    (file,) = files_of(bags / "run_0")
    file.unlink()
    file.symlink_to(NOWHERE)
    refused(bags / "run_0", file.name, "leads nowhere")


@pytest.mark.parametrize("name", ["metadata.yaml", "-wal", "-journal"])
def test_fault_112_what_belongs_to_a_bag_and_leads_nowhere_is_refused(bags, name):
    (file,) = files_of(bags / "run_0")
    at = bags / "run_0" / name if name[0] != "-" else file.with_name(file.name + name)
    at.unlink(missing_ok=True)
    at.symlink_to(NOWHERE)
    refused(bags / "run_0", at.name, "leads nowhere")


def test_fault_112_a_link_to_nowhere_in_a_folder_without_bags_is_nobodys(tmp_path):
    (tmp_path / "latest").symlink_to(NOWHERE)
    assert files.names(tmp_path) == []


def hdf5(file, seed=0):
    with h5py.File(file, "w") as source:
        rng = np.random.default_rng(seed)
        source["observations/qpos"], source["action"] = rng.normal(size=(2, 5, 2))


@pytest.mark.parametrize("folder", [".", "data"])
@pytest.mark.parametrize("target", [NOWHERE, "other.hdf5", "episode_1.hdf5"])
def test_fault_112_hdf5_whose_link_leads_nowhere_is_refused(tmp_path, folder, target):
    (tmp_path / "set" / folder).mkdir(parents=True)
    for k in (0, 2):
        hdf5(tmp_path / "set" / folder / f"episode_{k}.hdf5", k)
    (tmp_path / "set" / folder / "episode_1.hdf5").symlink_to(target)
    refused(tmp_path / "set", "episode_1.hdf5")


@pytest.mark.parametrize("target", [NOWHERE, "other.jsonl"])
def test_fault_112_a_list_of_episodes_that_leads_nowhere_is_refused(tmp_path, target):
    write(tmp_path / "set")
    (tmp_path / "set/meta/episodes.jsonl").symlink_to(target)
    refused(tmp_path / "set", "episodes.jsonl", own=table_contract())


@pytest.mark.parametrize(
    "what", ["meta/episodes/chunk-000", "meta/episodes/chunk-000/file-001.parquet"]
)
@pytest.mark.parametrize("target", [NOWHERE, "other"])
def test_fault_112_a_list_of_version_3_that_leads_nowhere_is_refused(tmp_path, what, target):
    write_v3(tmp_path / "set")
    write_v3(tmp_path / "whole")
    at = tmp_path / "set" / what
    os.rename(at, tmp_path / "aside")
    at.symlink_to(target)
    refused(tmp_path / "set", "meta/episodes", own=table_contract())


# Pipes, folders and devices.


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
@pytest.mark.parametrize("name", ["a.npz", "a.hdf5", "a.h5"])
def test_what_is_no_file_is_refused_and_not_opened(tmp_path, kind, name):
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set" / "b.npz", observations=np.zeros((5, 5)), actions=np.zeros((5, 2)))
    hdf5(tmp_path / "set" / "b.hdf5")
    for other in {"b.npz", "b.hdf5"} - {
        "b." + name[2:].replace("h5", "hdf5").replace("hdfhdf5", "hdf5")
    }:
        (tmp_path / "set" / other).unlink()
    odd(tmp_path / "set" / name, kind)
    if kind == "folder" and name != "a.npz":
        return  # a folder may be called anything
    refused(tmp_path / "set", name, "regular file")


def odd(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.mkdir()


@pytest.mark.parametrize(
    "name", ["meta/info.json", "meta/episodes.jsonl", "data/chunk-000/episode_000001.parquet"]
)
def test_a_pipe_in_a_lerobot_dataset_is_refused_and_not_opened(tmp_path, monkeypatch, name):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "set")
    (tmp_path / "set" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "set" / name)
    for read in (load_episodes, prepare):
        with no_waiting(), pytest.raises(DataRefused):
            read(tmp_path / "set", table_contract())


def test_a_pipe_as_metadata_changes_nothing(bags):
    whole = files.open_bag(bags, "run_0").files
    (bags / "run_0" / "metadata.yaml").unlink()
    os.mkfifo(bags / "run_0" / "metadata.yaml")
    with no_waiting():
        assert files.open_bag(bags, "run_0").files == whole


def test_only_regular_files_are_opened(tmp_path):
    file, link, pipe = (tmp_path / n for n in ("file", "link", "pipe"))
    file.write_text("kept")
    link.symlink_to(file)
    os.mkfifo(pipe)
    with open_regular(file) as a, open_regular(link) as b:
        assert a.read() == b.read() == b"kept"
    os.close(lock_file(file))
    os.close(lock_file(tmp_path / "new"))
    with no_waiting():
        for path in (pipe, tmp_path, "/dev/zero"):
            with pytest.raises(NotRegular):
                open_regular(path)
        for path in (pipe, tmp_path, link):
            with pytest.raises(NotRegular):
                lock_file(path)
        with pytest.raises(NotRegular):
            open_regular(link, follow=False)
        with pytest.raises(UsageError, match="pipe, not a regular file"):
            Contract.load(pipe)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    assert file.read_text() == "kept"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_lies_where_a_file_is_prepared_is_not_written_through(tmp_path, kind):
    """The name of a file before it is whole can be guessed; a link there leads anywhere."""
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.write_text("kept")
    for target in (out, tmp_path / "folder"):
        staging = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        staging.symlink_to(precious) if kind == "link" else os.mkfifo(staging)
    with no_waiting(), replaced_file(out) as file:
        file.write(b"new")
    with no_waiting(), replaced_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("new")
    assert precious.read_text() == "kept" and out.read_text() == "new" and not out.is_symlink()
    assert (tmp_path / "folder" / "a").read_text() == "new"
