"""npz: OGBench's layout, and ours with names; what lies about its size is refused before it is read."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from qgf_make import contract, velocity_dict

from qgf_ros.errors import DataRefused

pytest.importorskip("pyarrow")

from training.doctor.cameras import LABELS
from training.pipeline.readers import npz
from training.pipeline.readers.load import load_episodes
from training.pipeline.readers.npz import NpzReader
from training.pipeline.readers.row_times import rate_of

LENGTHS = (5, 8, 3)  # rows of each episode, the last one is only a state


def npz_dict(observations="observations[0:2]", goal="observations[2:3]", actions="actions"):
    value = velocity_dict(period=0.05)
    value["observations"] = [
        {"name": "joints", "topic": "joint_states", "type": "sensor_msgs/JointState", "fields": ["position"],
         "names": ["a", "b"], "column": observations},
        {"name": "goal", "topic": "goal", "type": "std_msgs/Float64", "fields": ["data"], "column": goal},
    ]  # fmt: skip
    value["actions"][0]["column"] = actions
    return value


OWN = contract(npz_dict())


def arrays(seed=0, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    rows = sum(lengths)
    terminals = np.zeros(rows, bool)
    terminals[np.cumsum(lengths) - 1] = True
    return {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": rng.normal(size=(rows, 2)).astype(np.float32),
        "terminals": terminals,
    }


def pieces(data, lengths=LENGTHS):
    ends = np.cumsum(lengths)
    return [slice(e - n, e) for e, n in zip(ends, lengths)]


def test_ogbench_layout_the_last_row_of_an_episode_is_only_a_state(tmp_path):
    data = arrays()
    np.savez_compressed(tmp_path / "play.npz", **data)
    episodes, report = load_episodes(tmp_path / "play.npz", OWN)
    assert [len(e) for e in episodes] == [4, 7, 2] and not any(report.dropped.values())
    for e, rows in zip(episodes, pieces(data)):
        assert np.array_equal(e.obs, data["observations"][rows].astype(float))
        assert np.array_equal(e.action, data["actions"][rows][:-1].astype(float))
    assert [e.name for e in episodes] == ["play#0", "play#1", "play#2"]


def test_ogbench_own_loader_pairs_the_same_states_and_actions(tmp_path):
    load_dataset = pytest.importorskip("ogbench.utils").load_dataset
    np.savez_compressed(tmp_path / "play.npz", **arrays())
    theirs = load_dataset(str(tmp_path / "play.npz"))
    episodes, _ = load_episodes(tmp_path / "play.npz", OWN)
    for key, ours in (
        ("observations", [e.obs[:-1] for e in episodes]),
        ("next_observations", [e.obs[1:] for e in episodes]),
        ("actions", [e.action for e in episodes]),
    ):
        assert np.array_equal(theirs[key], np.concatenate(ours).astype(np.float32)), key


def test_rows_that_are_transitions_all_count(tmp_path):
    """With next_observations nothing is left over: the last action has a state after it."""
    whole = arrays()
    inside = ~whole["terminals"]
    after = np.concatenate([[False], inside[:-1]])
    data = {
        "observations": whole["observations"][inside],
        "next_observations": whole["observations"][after],
        "actions": whole["actions"][inside],
        "terminals": np.concatenate([whole["terminals"][1:], [True]])[inside],
    }
    np.savez(tmp_path / "flat.npz", **data)
    np.savez(tmp_path / "compact.npz", **whole)
    flat, compact = (load_episodes(tmp_path / f"{n}.npz", OWN)[0] for n in ("flat", "compact"))
    for a, b in zip(flat, compact, strict=True):
        assert np.array_equal(a.obs, b.obs) and np.array_equal(a.action, b.action)


def test_folder_of_files_without_terminals_is_an_episode_each(tmp_path):
    for name, seed in (("b", 1), ("a", 0), ("c\nd", 2)):
        data = arrays(seed)
        del data["terminals"]
        np.savez(tmp_path / f"{name}.npz", **data)
    episodes, _ = load_episodes(tmp_path, OWN)
    assert [e.name for e in episodes] == ["a#0", "b#0", "c\nd#0"]
    assert [len(e) for e in episodes] == [16, 16, 16], "every action counts"


def named(tmp_path, names, **more):
    data = arrays()
    np.savez(tmp_path / "set.npz", **data, names=np.array(json.dumps(names)), **more)
    return data


def test_names_are_matched_whatever_their_order(tmp_path):
    data = named(tmp_path, {"observations": ["b", "data", "a"], "actions": ["b", "a"]})
    value = npz_dict("observations", "observations")
    episodes, _ = load_episodes(tmp_path / "set.npz", contract(value))
    for e, rows in zip(episodes, pieces(data)):
        assert np.array_equal(e.obs, data["observations"][rows][:, [2, 0, 1]].astype(float))
        assert np.array_equal(e.action, data["actions"][rows][:-1, ::-1].astype(float))


def test_names_hold_within_a_part_too(tmp_path):
    named(tmp_path, {"observations": ["b", "data", "a"]})
    with pytest.raises(DataRefused, match=r"set.npz.*has no a; it has b, data"):
        load_episodes(tmp_path / "set.npz", OWN)


def test_without_names_a_part_must_be_said(tmp_path):
    np.savez(tmp_path / "set.npz", **arrays())
    with pytest.raises(DataRefused, match="3 numbers, the contract names 2: a, b"):
        load_episodes(tmp_path / "set.npz", contract(npz_dict("observations")))
    with pytest.raises(DataRefused, match=r"has no \[2:9\]: it has 3 numbers"):
        load_episodes(tmp_path / "set.npz", contract(npz_dict(goal="observations[2:9]")))
    with pytest.raises(DataRefused, match=r"no column 'states\[0:2\]'.*observations, actions"):
        load_episodes(tmp_path / "set.npz", contract(npz_dict("states[0:2]")))


def test_fault_109_files_of_other_robots_are_mapped_by_name_or_refused_and_named(tmp_path):
    for name, order, seed in (("one", ["a", "b", "data"], 0), ("two", ["data", "b", "a"], 1)):
        np.savez(tmp_path / f"{name}.npz", **arrays(seed), names=np.array(json.dumps({"observations": order})))  # fmt: skip
    own = contract(npz_dict("observations", "observations"))
    episodes, _ = load_episodes(tmp_path, own)
    assert np.array_equal(
        episodes[3].obs, arrays(1)["observations"][:5][:, [2, 1, 0]].astype(float)
    )
    np.savez(tmp_path / "zzz.npz", **arrays(2), names=np.array(json.dumps({"observations": list("axy")})))  # fmt: skip
    with pytest.raises(DataRefused, match="zzz.npz: column 'observations' has no b"):
        load_episodes(tmp_path, own)


def test_rate_of_the_file_counts_before_that_of_the_contract(tmp_path):
    named(tmp_path, {}, fps=np.float64(10.0))
    episodes, _ = load_episodes(tmp_path / "set.npz", OWN)  # the contract ticks at 20 Hz
    assert [len(e) for e in episodes] == [7, 13, 3]
    reader = NpzReader()
    found = reader.survey(tmp_path / "set.npz", reader.recordings(tmp_path / "set.npz")[0])
    assert found.rate == 10.0
    assert np.diff(found.signals["actions"].stream.stamp).tolist() == [100_000_000] * 4


def test_masks_tell_a_failure_from_a_cut(tmp_path):
    value = npz_dict() | {
        "outcome": {"objective": "time_to_success",
                    "success": {"topic": "s", "type": "std_msgs/Bool", "fields": ["data"], "column": "success"}},
    }  # fmt: skip
    masks, success = np.ones((2, sum(LENGTHS)), bool)
    success[:] = False
    masks[3:5], success[3] = False, True  # the first episode succeeds, the second fails
    masks[11:13] = False
    np.savez(tmp_path / "set.npz", **arrays(), masks=masks, success=success)
    episodes, _ = load_episodes(tmp_path / "set.npz", contract(value))
    assert [(e.terminal, e.success) for e in episodes] == [
        (True, True),
        (True, False),
        (False, None),
    ]
    assumed, _ = load_episodes(tmp_path / "set.npz", OWN)
    assert [e.terminal for e in assumed] == [True, True, False], "a cut is no success"
    assert assumed[2].reward.sum() == 0


def test_survey_has_the_arrays_with_numbers(tmp_path):
    images = np.zeros((16, 4, 4, 3), np.uint8)
    named(
        tmp_path,
        {"actions": ["b", "a"]},
        images=images,
        rewards=np.arange(16.0),
        meta=np.array("x"),
    )
    reader = NpzReader()
    names = reader.recordings(tmp_path / "set.npz")
    assert names == ["set.npz#0", "set.npz#1", "set.npz#2"]
    found = reader.survey(tmp_path / "set.npz", names[1])
    assert set(found.signals) == {"observations", "actions", "rewards", "terminals", "images"}
    assert found.signals["images"].labels == LABELS, "a few numbers of each image"
    assert found.signals["actions"].labels == ("b", "a")
    assert found.signals["observations"].labels == ("0", "1", "2")
    assert found.signals["rewards"].stream.values[:, 0].tolist() == list(range(5, 13))
    assert found.others == {"meta": "<U1[]"}
    assert found.rate == 0 and found.one_episode
    assert reader.files(tmp_path / "set.npz", names[1]) == [tmp_path / "set.npz"]


# Hostile files.


def header(shape, dtype="<f4"):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(f"{name}.npy", data)


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def refused(path, text=None):
    with pytest.raises(DataRefused, match=text) as found:
        load_episodes(path, OWN)
    assert path.name in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    "shape", ["(10**12, 3)", "(-4, 3)", "(2**62, 2**62, 2**62)", "(4, 3)", "'x'"]
)
def test_fault_100_header_that_lies_about_its_size_is_refused(tmp_path, shape):
    shape = str(tuple(eval(shape))) if shape != "'x'" else shape
    rest = {k: npy(v) for k, v in arrays().items() if k != "observations"}
    archive(tmp_path / "set.npz", observations=header(shape) + b"\0" * 100, **rest)
    refused(tmp_path / "set.npz")


def test_fault_100_zip_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """64 MB of zeros in 64 kB: honest about its size, and larger than what is read."""
    monkeypatch.setattr(npz, "BUDGET", 2**24)
    rows = 2**24
    data = {"observations": header(f"({rows // 3}, 3)") + b"\0" * (rows // 3 * 12)}
    archive(tmp_path / "bomb.npz", **data, actions=npy(np.zeros((rows // 3, 2), np.int8)))
    assert (tmp_path / "bomb.npz").stat().st_size < 200_000
    import tracemalloc

    tracemalloc.start()
    refused(tmp_path / "bomb.npz", f"more than {2**24} bytes would have to be read")
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_fault_100_zip_that_lies_about_a_member_is_refused(tmp_path):
    """The directory says 100 bytes more than there are, and the header agrees with the directory."""
    data = arrays()
    archive(tmp_path / "set.npz", **{k: npy(v) for k, v in data.items()})
    raw = bytearray((tmp_path / "set.npz").read_bytes())
    at = raw.index(b"PK\x01\x02")
    (size,) = struct.unpack_from("<I", raw, at + 24)
    struct.pack_into("<I", raw, at + 24, size + 100)
    (tmp_path / "set.npz").write_bytes(raw)
    refused(tmp_path / "set.npz", "another size")


def test_pickled_objects_are_not_read(tmp_path):
    fired = tmp_path / "fired"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(fired),)

    data = arrays()
    data["actions"] = np.array([[Trap(), Trap()]] * 16, object)
    np.savez(tmp_path / "set.npz", **data)
    refused(tmp_path / "set.npz", "Python objects")
    assert not fired.exists()


@pytest.mark.parametrize("damage", ["empty", "junk", "half", "no zip"])
def test_damaged_file_refused_and_named(tmp_path, damage):
    np.savez(tmp_path / "set.npz", **arrays())
    raw = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(
        {"empty": b"", "junk": b"PK\x03\x04" + os.urandom(500), "half": raw[: len(raw) // 2], "no zip": b"x" * 99}[damage]
    )  # fmt: skip
    refused(tmp_path / "set.npz", "cannot be read")


@pytest.mark.parametrize("change", [
    {"terminals": np.zeros(15, bool)}, {"masks": np.zeros((16, 2))}, {"fps": np.float64(0)}, {"fps": np.float64(np.nan)},
    {"fps": np.arange(3)}, {"fps": np.array("fast")}, {"names": np.array("{")}, {"names": np.array("[]")},
    {"names": np.arange(3)}, {"names": np.array('{"actions": ["a", "b", "c"]}')}, {"names": np.array('{"actions": 3}')},
    {"names": np.array("[" * 100_000)},
], ids=lambda c: str(c)[:40])  # fmt: skip
def test_what_makes_no_sense_is_refused(tmp_path, change):
    np.savez(tmp_path / "set.npz", **(arrays() | change))
    refused(tmp_path / "set.npz")


def test_fault_112_link_out_of_the_folder_refused(tmp_path):
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "secret.npz", **arrays())
    (tmp_path / "set" / "a.npz").symlink_to(tmp_path / "secret.npz")
    with pytest.raises(DataRefused, match="outside"):
        load_episodes(tmp_path / "set", OWN)


@pytest.mark.parametrize("fps", [
    0, -20, 1e-300, 1e-4, 2e5, np.nan, np.inf, "30", True, [20, 20], [], 20 + 1j,
], ids=str)  # fmt: skip
def test_a_rate_that_is_none_is_refused_and_named(tmp_path, fps):
    np.savez(
        tmp_path / "set.npz",
        observations=np.zeros((5, 5)),
        actions=np.zeros((5, 2)),
        fps=np.array(fps),
    )
    with pytest.raises(DataRefused, match="fps is .*0.001 to 100000"):
        NpzReader().recordings(tmp_path / "set.npz")


@pytest.mark.parametrize("fps", [1e-3, 20, np.float16(30), [50], 1e5], ids=str)
def test_a_sane_rate_is_taken(tmp_path, fps):
    assert rate_of(np.array(fps)) == rate_of(fps if not isinstance(fps, list) else fps[0])


def test_names_with_a_key_twice_are_refused(tmp_path):
    names = '{"actions": ["a", "b"], "actions": ["b", "a"]}'
    np.savez(
        tmp_path / "set.npz", observations=np.zeros((5, 5)), actions=np.zeros((5, 2)), names=names
    )
    with pytest.raises(DataRefused, match="'actions' is there twice"):
        NpzReader().recordings(tmp_path / "set.npz")


@pytest.mark.parametrize("change", ["fewer episodes", "a pipe"])
def test_fault_153_a_file_that_changes_between_survey_and_reading_is_refused(tmp_path, change):
    file, reader = tmp_path / "x.npz", NpzReader()
    np.savez(file, **arrays())
    names = reader.recordings(file)
    reader.survey(file, names[0])
    file.unlink()
    if change == "a pipe":
        os.mkfifo(file)
    else:
        np.savez(file, **arrays(lengths=LENGTHS[:1]))
    with pytest.raises(DataRefused, match="while it was read" if change != "a pipe" else "x.npz"):
        reader.survey(file, names[-1])


def test_fault_153_arrays_are_those_whose_headers_were_read(tmp_path):
    """They are read when they are asked for, and the file may be another one by then."""
    file = tmp_path / "x.npz"
    np.savez(file, **arrays())
    opened = npz.NpzArchive(file)
    np.savez(file, **{k: v[:-3] for k, v in arrays().items()})
    with opened.episode(0) as table, pytest.raises(DataRefused, match="written to while it was"):
        table.rows(1).column(table.columns[0])
