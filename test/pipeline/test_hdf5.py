"""HDF5: the layouts of robomimic, ALOHA and Minari; what lies or leads elsewhere is refused unread."""

import json
import os
import zlib
from time import process_time

import numpy as np
import pytest
from qgf_make import contract, velocity_dict

from qgf_ros.errors import DataRefused

pytest.importorskip("pyarrow")
pytest.importorskip("h5py")

import h5py

from training.doctor.dataset import survey_dataset
from training.pipeline.readers import hdf5
from training.pipeline.readers.hdf5 import Hdf5Reader
from training.pipeline.readers.load import find_reader, load_episodes
from training.pipeline.writers.convert import convert

READER = Hdf5Reader()
LENGTHS = (12, 20)


def motion(steps, shift=0.0):
    """(steps + 1, 2) positions, and the (steps, 2) velocities between them."""
    at = np.linspace(0, 3, steps + 1)[:, None] + shift
    q = np.hstack([np.sin(at), np.cos(at)])
    return q, np.diff(q, axis=0) * 20


def robomimic(path, following=True, ends=True):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = '{"env_kwargs": {"control_freq": 20}}'
        for k, n in enumerate(LENGTHS):
            q, v = motion(n, k)
            demo = data.create_group(f"demo_{10 * k}")
            demo["obs/joint_pos"], demo["obs/image"] = q[:-1], np.zeros((n, 4, 4, 3), "u1")
            if following:
                demo["next_obs/joint_pos"] = q[1:]
            demo["actions"], demo["states"] = v, np.ones((n, 5))
            demo["rewards"] = demo["dones"] = np.eye(1, n, n - 1)[0] * ends


def aloha(path, steps=12):
    q, _ = motion(steps - 1)
    with h5py.File(path, "w", track_order=True) as file:
        file["observations/qpos"], file["observations/qvel"] = q, 2 * q
        file["observations/images/top"] = np.zeros((steps, 50), "u1")
        file["action"] = q + 0.01
        file.attrs["sim"] = False


def minari(path):
    with h5py.File(path, "w") as file:
        for k, n in enumerate(LENGTHS):
            q, v = motion(n, k)
            episode = file.create_group(f"episode_{k}")
            episode["observations/pos"], episode["actions"] = q, v
            episode["rewards"] = np.zeros(n)
            end = np.eye(1, n, n - 1, dtype=bool)[0]
            episode["terminations"], episode["truncations"] = end & (k == 0), end & (k == 1)


def own(observations, action, objective=None, **outcome):
    value = velocity_dict(period=0.05, horizon=2, execute=1)
    value["observations"] = [
        {"name": "joints", "topic": "joint_states", "type": "sensor_msgs/JointState",
         "fields": ["position"], "names": ["a", "b"], "column": observations},
    ]  # fmt: skip
    value["actions"][0]["column"] = action
    value["outcome"] = {"objective": "time_to_success", "assume_success": True} | outcome
    return contract(value)


ROBOMIMIC = own("obs.joint_pos", "actions")


def test_robomimic_every_action_counts_where_the_next_state_is_there(tmp_path):
    robomimic(tmp_path / "low_dim.hdf5")
    episodes, report = load_episodes(tmp_path / "low_dim.hdf5", ROBOMIMIC)
    assert [len(e) for e in episodes] == list(LENGTHS) and not any(report.dropped.values())
    for k, e in enumerate(episodes):
        q, v = motion(LENGTHS[k], k)
        assert e.obs == pytest.approx(q) and e.action == pytest.approx(v)


def test_robomimic_without_next_states_loses_the_last_action_and_no_more(tmp_path):
    robomimic(tmp_path / "low_dim.hdf5", following=False)
    episodes, _ = load_episodes(tmp_path / "low_dim.hdf5", ROBOMIMIC)
    for k, e in enumerate(episodes):
        q, v = motion(LENGTHS[k], k)
        rows = len(e)
        assert LENGTHS[k] - 1 <= rows <= LENGTHS[k]
        assert e.action == pytest.approx(v[:rows]) and e.obs[:rows] == pytest.approx(q[:rows])


def test_robomimic_success_by_the_column_that_the_contract_names(tmp_path):
    success = {"topic": "success", "type": "std_msgs/Bool", "fields": ["data"], "column": "dones"}
    told = own("obs.joint_pos", "actions", success=success, assume_success=False)
    for ends, said in ((True, True), (False, None)):
        robomimic(tmp_path / f"{ends}.hdf5", ends=ends)
        episodes, _ = load_episodes(tmp_path / f"{ends}.hdf5", told)
        assert [e.success for e in episodes] == [said, said]


def test_what_no_robot_measures_is_no_signal_and_said(tmp_path):
    robomimic(tmp_path / "low_dim.hdf5")
    data = survey_dataset(tmp_path / "low_dim.hdf5")
    assert set(data.signals) == {"actions", "obs.joint_pos", "rewards", "dones"} and data.rate == 20
    assert (
        data.others["obs.image"].startswith("images uint8")
        and "images" in data.unusable["obs.image"]
    )
    assert "simulator" in data.unusable["states"] and not data.rejected


def test_aloha_an_episode_per_file_in_the_order_of_their_numbers(tmp_path):
    for k in (0, 2, 10):
        aloha(tmp_path / f"episode_{k}.hdf5", 12 + k)
    names = READER.recordings(tmp_path)
    assert names == ["episode_0.hdf5#0", "episode_2.hdf5#0", "episode_10.hdf5#0"]
    episodes, _ = load_episodes(tmp_path, own("observations.qpos", "action"))
    assert [e.name.partition("#")[0] for e in episodes] == ["episode_0", "episode_2", "episode_10"]
    assert episodes[0].obs[:-1] == pytest.approx(motion(11)[0][: len(episodes[0])])


def test_minari_folder_and_how_episodes_ended(tmp_path):
    (tmp_path / "data").mkdir()
    minari(tmp_path / "data" / "main_data.hdf5")
    mine = own("observations.pos", "actions")
    recordings = [READER.read(tmp_path, n, mine) for n in READER.recordings(tmp_path)]
    assert [r.cut for r in recordings] == [False, True]
    episodes, _ = load_episodes(tmp_path, mine)
    assert [len(e) for e in episodes] == list(LENGTHS)
    assert [e.terminal for e in episodes] == [True, False]
    assert episodes[1].obs == pytest.approx(motion(LENGTHS[1], 1)[0])


@pytest.mark.parametrize("to", ["npz", "lerobot-v2.1", "mcap"])
def test_converted_files_hold_the_same_episodes(tmp_path, to):
    robomimic(tmp_path / "low_dim.hdf5")
    mine = tmp_path / "contract.yaml"
    mine.write_text(json.dumps(ROBOMIMIC.to_dict()))
    convert(tmp_path / "low_dim.hdf5", mine, tmp_path / "out", None, to)
    was, _ = load_episodes(tmp_path / "low_dim.hdf5", ROBOMIMIC)
    now, _ = load_episodes(tmp_path / "out", ROBOMIMIC)
    assert [len(e) for e in now] == [len(e) for e in was]
    for a, b in zip(was, now):
        assert b.obs == pytest.approx(a.obs, abs=1e-6)


# Row 103: what is damaged, lies, or leads elsewhere.


def zeros(count):
    """A zlib stream of so many zeros, a multiple of 2**20, in pieces that are all the same: no time to compress."""
    pieces = zlib.compressobj()
    first, more = (
        pieces.compress(bytes(2**20)) + pieces.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    end = zlib.compressobj(wbits=-15).flush()
    checksum = (count % 65521 << 16 | 1).to_bytes(4, "big")
    return first + more * (count // 2**20 - 1) + end + checksum


def test_zeros_are_zeros():
    assert zlib.decompress(zeros(3 * 2**20)) == bytes(3 * 2**20)


def hostile(path, what):
    aloha(path)
    raw = path.read_bytes()
    if what == "cut short":
        path.write_bytes(raw[:-500])
    elif what == "noise":
        path.write_bytes(hdf5.MAGIC + os.urandom(1000))
    elif what == "empty":
        path.write_bytes(b"")
    if what in ("cut short", "noise", "empty"):
        return
    with h5py.File(path, "r+") as file:
        del file["action"]
        if what == "eight terabytes":
            file.create_dataset("action", (2**40,), "f8", chunks=(2**20,))
        elif what == "a chunk of gigabytes":
            array = file.create_dataset(
                "action", (2**29,), "u1", chunks=(2**29,), compression="gzip"
            )
            array.id.write_direct_chunk((0,), zeros(2**29))
        elif what == "a link to a file":
            file["action"] = h5py.ExternalLink("/etc/passwd", "/x")
        elif what == "a link inside":
            file["action"] = h5py.SoftLink("/observations/qpos")
        elif what == "a group that is a link":
            del file["observations"]
            file["action"], file["observations"] = np.zeros((12, 2)), h5py.ExternalLink("x.h5", "/")
        elif what == "numbers in another file":
            (path.parent / "raw").write_bytes(bytes(192))
            file.create_dataset(
                "action", (12, 2), "f8", external=[(str(path.parent / "raw"), 0, 192)]
            )
        elif what == "a virtual array":
            layout = h5py.VirtualLayout((12, 2), "f8")
            layout[:] = h5py.VirtualSource("/etc/passwd", "x", (12, 2))
            file.create_virtual_dataset("action", layout)
        elif what == "objects":
            file.create_dataset("action", (12,), h5py.vlen_dtype(np.float64))
        elif what == "a group in itself":
            file["action"] = np.zeros((12, 2))
            for k in range(50):
                file[f"observations/again{k}"] = file["observations"]
        elif what == "nothing":
            file["action"] = h5py.Empty("f8")
        elif what == "a text":
            file["action"] = "run"


WHAT = [
    "cut short", "noise", "empty", "eight terabytes", "a chunk of gigabytes", "a link to a file",
    "a link inside", "a group that is a link", "numbers in another file", "a virtual array", "objects",
    "a group in itself", "nothing", "a text",
]  # fmt: skip


@pytest.mark.parametrize("what", WHAT)
def test_fault_103_hdf5_that_is_damaged_or_leads_outside_is_refused(tmp_path, what):
    begin = process_time()
    hostile(tmp_path / "x.hdf5", what)
    with pytest.raises(DataRefused):
        load_episodes(tmp_path / "x.hdf5", own("observations.qpos", "action"))
    with pytest.raises(DataRefused):
        survey_dataset(tmp_path / "x.hdf5")
    assert process_time() - begin < 20


def test_fault_103_a_chunk_with_flipped_bits_refuses_its_episode_and_no_other(tmp_path):
    robomimic(tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        v = file["data/demo_0/actions"][:]
        del file["data/demo_0/actions"]
        array = file["data/demo_0"].create_dataset(
            "actions", data=v, chunks=v.shape, fletcher32=True
        )
        at = array.id.get_chunk_info(0).byte_offset
    raw = bytearray((tmp_path / "x.hdf5").read_bytes())
    raw[at + 3] ^= 0x40
    (tmp_path / "x.hdf5").write_bytes(raw)
    with pytest.raises(DataRefused, match="cannot be read"):
        READER.read(tmp_path / "x.hdf5", "x.hdf5#0", ROBOMIMIC)
    assert len(READER.read(tmp_path / "x.hdf5", "x.hdf5#1", ROBOMIMIC).streams["arm"])
    assert [bool(r.refused) for r in survey_dataset(tmp_path / "x.hdf5").recordings] == [
        True,
        False,
    ]


@pytest.mark.parametrize("chunks, written", [(True, 0), (True, 1), (False, 0)])
def test_fault_103_what_was_never_written_is_not_zeros(tmp_path, chunks, written):
    """Who makes arrays first and fills them later may die between. An array in one piece is
    allocated whole, and what is missing within it cannot be told."""
    robomimic(tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        v = file["data/demo_0/actions"][:]
        del file["data/demo_0/actions"]
        array = file["data/demo_0"].create_dataset(
            "actions", v.shape, v.dtype, chunks=(4, *v.shape[1:]) if chunks else None
        )
        array[: 4 * written] = v[: 4 * written]
    with pytest.raises(DataRefused, match="was not written whole"):
        READER.read(tmp_path / "x.hdf5", "x.hdf5#0", ROBOMIMIC)
    assert len(READER.read(tmp_path / "x.hdf5", "x.hdf5#1", ROBOMIMIC).streams["arm"])


def test_fault_112_a_link_out_of_a_folder_of_hdf5_is_refused(tmp_path):
    aloha(tmp_path / "secret.hdf5")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "episode_0.hdf5").symlink_to(tmp_path / "secret.hdf5")
    with pytest.raises(DataRefused, match="outside"):
        load_episodes(tmp_path / "set", own("observations.qpos", "action"))


def test_a_file_of_another_layout_says_what_it_has(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(DataRefused, match="robomimic.*Minari.*ALOHA.*weights"):
        find_reader(tmp_path / "x.h5").recordings(tmp_path / "x.h5")


@pytest.mark.parametrize("fps", [
    0, -1, 1e-300, 2e5, np.nan, np.inf, "30", True, [30, 30], h5py.Empty("f8"), b"x",
], ids=str)  # fmt: skip
@pytest.mark.parametrize("place", ["/", "/data"])
def test_fault_103_a_rate_that_is_none_is_refused_and_named(tmp_path, fps, place):
    robomimic(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file[place].attrs["fps"] = fps
    with pytest.raises(DataRefused, match="fps is .*0.001 to 100000"):
        READER.recordings(tmp_path / "a.hdf5")


@pytest.mark.parametrize("rate", ["0", "-5", "1e-300", "NaN", '"20"', "[20]", "null", "true"])
def test_fault_103_a_control_freq_that_is_none_is_refused(tmp_path, rate):
    robomimic(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["data"].attrs["env_args"] = f'{{"env_kwargs": {{"control_freq": {rate}}}}}'
    with pytest.raises(DataRefused, match="control_freq of env_args is"):
        READER.recordings(tmp_path / "a.hdf5")


@pytest.mark.parametrize("said", ["{", "[]", '{"env_kwargs": {}}', '{"env_kwargs": 3}'])
def test_a_simulator_that_says_no_rate_is_none(tmp_path, said):
    robomimic(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["data"].attrs["env_args"] = said
    assert len(READER.recordings(tmp_path / "a.hdf5")) == len(LENGTHS)


def test_a_rate_in_an_array_of_one_is_taken(tmp_path):
    robomimic(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file.attrs["fps"] = [50]
    assert survey_dataset(tmp_path / "a.hdf5").rate == 50
